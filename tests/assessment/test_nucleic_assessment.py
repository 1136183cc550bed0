"""Figures of nucleic acids: pucker of sugars, matching of strands, RMSD of C1', pairs that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocofold.assessment.comparison import assess, assess_nucleic_acids, sugar_phases
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def dna() -> Model:
    return read_model(DATA / "3mht.cif.gz")


@pytest.fixture(scope="module")
def rna() -> Model:
    return read_model(DATA / "6zu5_5s.cif.gz")


def _shifted(model: Model, chain: str, shift: float) -> Model:
    """A model of which one chain lies elsewhere."""
    of_chain = np.array([model.residues[row].chain == chain for row in model.residue_of_atom])
    return model.moved_to(model.positions + of_chain[:, None] * [shift, 0.0, 0.0])


def test_sugars_of_rna_are_c3_endo_and_of_dna_c2_endo(rna: Model, dna: Model) -> None:
    of_rna, of_dna = assess_nucleic_acids(rna), assess_nucleic_acids(dna)
    assert of_rna is not None
    assert of_dna is not None
    assert of_rna.c3_endo > 0.8 * of_rna.nucleotides
    assert of_dna.c2_endo > of_dna.c3_endo
    assert of_rna.c3_endo + of_rna.c2_endo + of_rna.other_puckers == of_rna.nucleotides == 119


@pytest.mark.parametrize("phase", [18.0, 90.0, 162.0, 270.0])
def test_the_phase_is_that_of_the_torsions(phase: float, rna: Model) -> None:
    """Torsions of a ring follow ``amplitude cos(phase + 144 degrees (j - 2))``; a ring of such z is made."""
    row = int(rna.nucleotides()[0][40])
    ring = [rna.atoms_named(name)[row] for name in ("C1'", "C2'", "C3'", "C4'", "O4'")]
    # Displacements out of the mean plane (Cremer & Pople) of a ring with the atom O4' first go with twice the angle.
    around = 2 * np.pi * np.arange(5) / 5
    positions = rna.positions.copy()
    lift = 0.4 * np.cos(np.radians(phase - 90) + 2 * (2 * np.pi * ((np.arange(5) + 1) % 5) / 5))
    positions[ring] = np.stack([1.25 * np.cos(around), -1.25 * np.sin(around), lift], axis=1)
    found = {mirrored: sugar_phases(rna.moved_to(positions * [1, 1, mirrored]))[row] for mirrored in (1, -1)}
    # The mirror image of a pucker is the opposite one.
    assert abs((found[1] - found[-1]) % 360 - 180) < 1
    assert min(abs((one - phase + 180) % 360 - 180) for one in found.values()) < 6


def test_a_strand_elsewhere_is_measured_by_c1(dna: Model) -> None:
    found = assess_nucleic_acids(_shifted(dna, "D", 3.0), dna)
    assert found is not None
    assert found.matched_nucleotides == 25
    strand = sum(key.chain == "D" for key in dna.residues)
    assert found.c1_rmsd_in_place == pytest.approx(3 * np.sqrt(strand / 25), abs=1e-6)
    assert found.p_rmsd_in_place == pytest.approx(3 * np.sqrt(strand / 25), rel=0.05)
    assert found.c1_rmsd is not None
    assert 0 < found.c1_rmsd < found.c1_rmsd_in_place
    assert found.same_puckers == 25
    assert found.reference_base_pairs == 11
    # The protein's figures do not feel it.
    assert assess(_shifted(dna, "D", 3.0), dna).ca_rmsd_in_place == 0


def test_strands_under_other_names_find_their_partners(dna: Model) -> None:
    structure = dna.structure.clone()
    names = {"C": "X", "D": "C"}
    for chain in structure[0]:
        chain.name = names.get(chain.name, chain.name)
    renamed = Model.of(structure)
    found = assess_nucleic_acids(renamed, dna)
    assert found is not None
    assert found.matched_nucleotides == 25
    assert found.c1_rmsd_in_place == pytest.approx(0, abs=1e-9)
    assert found.kept_base_pairs == found.reference_base_pairs == 11


def test_pairs_of_the_reference_that_are_lost_are_not_counted(rna: Model) -> None:
    numbers = np.array([rna.residues[row].number for row in rna.residue_of_atom])
    opened = rna.moved_to(rna.positions + (numbers <= 9)[:, None] * [0, 12.0, 0])
    found = assess_nucleic_acids(opened, rna)
    assert found is not None
    assert found.kept_base_pairs == 48 - 9
    assert found.reference_base_pairs == 48


def test_rna_alone_is_assessed_by_the_command(rna: Model, tmp_path: Path, command: Callable[..., int]) -> None:
    write_model(tmp_path / "model.cif", rna.moved_to(rna.positions + np.array([0, 1.0, 0])))
    write_model(tmp_path / "truth.cif", rna)
    arguments = ["--model", tmp_path / "model.cif", "--reference", tmp_path / "truth.cif"]
    written = tmp_path / "figures.json"
    assert command("assess", *arguments, "--start", tmp_path / "truth.cif", "--json", written) == 0
    figures = json.loads(written.read_text())
    assert figures["trace_atom"] == "C1'"
    assert figures["ca_rmsd_in_place"] == pytest.approx(1.0, abs=2e-3)
    assert figures["ca_rmsd"] == pytest.approx(0.0, abs=2e-3)
    assert figures["matched_residues"] == 119
    assert figures["geometry"]["peptides"] == 0
    assert figures["nucleic_acids"]["kept_base_pairs"] == 48


def test_a_protein_has_no_nucleic_acids(dna: Model) -> None:
    protein = dna.only(np.array([key.chain == "A" for key in dna.residues]))
    assert assess_nucleic_acids(protein, dna) is None
    assert assess(protein, dna).trace_atom == "CA"
    # Of a reference without nucleic acids only the model's own figures are left.
    found = assess_nucleic_acids(dna, protein)
    assert found is not None
    assert found.matched_nucleotides is None
