"""Relaxation of DNA and RNA, alone and with protein, and of residues that bind a sugar.

The DNA is that of PDB 3MHT, six pairs at one end of it, and the RNA helix V of the 5S RNA of PDB 6ZU5 (tests/structure
says more of both files).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

pytest.importorskip("openmm", reason="OpenMM is not installed (extra 'engine')")

from openmm import Context, NonbondedForce, Platform, VerletIntegrator, app, unit
from typer.testing import CliRunner

from cocofold.__main__ import app as command
from cocofold.relaxation import RelaxedResidues, are_sugars
from cocofold.relaxation.force_field import build_parts, build_system, load_force_field
from cocofold.relaxation.minimization import RelaxSettings, relax
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import find_base_pairs

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data"
QUICK = RelaxSettings(device="cpu", threads=1)
DISTORTED_ANGSTROM = 0.2
# Means (Å) of crystal structures: Gelbin et al., J. Am. Chem. Soc. 118, 519 (1996); + marks atoms of the next residue
IDEAL_BONDS = {
    ("P", "OP1"): 1.485, ("P", "OP2"): 1.485, ("P", "O5'"): 1.593, ("O5'", "C5'"): 1.440, ("C5'", "C4'"): 1.511,
    ("C4'", "C3'"): 1.525, ("C3'", "O3'"): 1.427, ("O3'", "+P"): 1.607, ("C4'", "O4'"): 1.449, ("O4'", "C1'"): 1.416,
    ("C1'", "C2'"): 1.522, ("C2'", "C3'"): 1.521,
}  # fmt: skip
WITHIN_ANGSTROM = 0.05
# Atoms around carbons of the sugar, in an order that tells which hand they are of
SUGAR_CENTRES = {"C1'": ("O4'", "C2'", "base"), "C3'": ("O3'", "C2'", "C4'"), "C4'": ("C5'", "C3'", "O4'")}


def numbered(file: str, *ranges: range) -> Model:
    """Nucleotides of a file by their numbers."""
    model = read_model(DATA / file)
    kept = np.isin(np.arange(len(model.residues)), model.nucleotides()[0])
    return model.only(kept & np.array([any(key.number in one for one in ranges) for key in model.residues]))


@pytest.fixture(scope="module")
def dna() -> Model:
    """Twelve nucleotides; the first strand has a phosphate at its 5'-end, as has the second, where it is cut."""
    return numbered("3mht.cif.gz", range(402, 408), range(428, 434))


@pytest.fixture(scope="module")
def rna() -> Model:
    return numbered("6zu5_5s.cif.gz", range(78, 99))


def distorted(model: Model, length: float = DISTORTED_ANGSTROM) -> Model:
    """Each atom moved by this length (Å) in a direction of its own."""
    moves = np.random.default_rng(3).normal(size=model.positions.shape)
    return model.moved_to(model.positions + length * moves / np.linalg.norm(moves, axis=1, keepdims=True))


def backbone_bonds(model: Model) -> np.ndarray:
    """Lengths of the bonds of backbones and sugars less their ideals, (n,) Å."""
    found = []
    rows_of = {name: model.atoms_named(name) for pair in IDEAL_BONDS for name in (pair[0], pair[1].lstrip("+"))}
    for (one, other), ideal in IDEAL_BONDS.items():
        step = int(other.startswith("+"))
        for row in range(len(model.residues) - step):
            atoms = rows_of[one][row], rows_of[other.lstrip("+")][row + step]
            key, after = model.residues[row], model.residues[row + step]
            if min(atoms) >= 0 and (key.chain, key.number + step) == (after.chain, after.number):
                found.append(np.linalg.norm(np.subtract(*model.positions[list(atoms)])) - ideal)
    return np.array(found)


def hands(model: Model) -> np.ndarray:
    """Signs of the volumes at the carbons of sugars, (n,)."""
    signs = []
    for row in model.nucleotides()[0]:
        place = {str(model.atom_names[atom]): atom for atom in np.flatnonzero(model.residue_of_atom == row)}
        place["base"] = place.get("N9", place["N1"])
        for centre, around in SUGAR_CENTRES.items():
            rays = model.positions[[place[name] for name in around]] - model.positions[place[centre]]
            signs.append(np.sign(np.linalg.det(rays)))
    return np.array(signs)


def row_of(model: Model, number: int, name: str) -> int:
    """The atom of this name of the first residue of this number."""
    return next(
        row
        for row, owner in enumerate(model.residue_of_atom)
        if model.residues[owner].number == number and model.atom_names[row] == name
    )


def length(model: Model, one: int, other: int) -> float:
    return float(np.linalg.norm(model.positions[one] - model.positions[other]))


@pytest.mark.parametrize("name", ["dna", "rna"])
def test_distorted_strands_get_ideal_bonds_and_keep_their_pairs(name: str, request: pytest.FixtureRequest) -> None:
    true = request.getfixturevalue(name)
    start = distorted(true)
    assert np.abs(backbone_bonds(start)).max() > 4 * WITHIN_ANGSTROM
    found = relax(start, QUICK)
    assert len(backbone_bonds(found.model)) == len(backbone_bonds(start)) > 11 * len(true.nucleotides()[0]) - 12
    assert np.abs(backbone_bonds(found.model)).max() < WITHIN_ANGSTROM
    np.testing.assert_array_equal(find_base_pairs(found.model), find_base_pairs(true))
    assert len(find_base_pairs(true)) >= 5
    np.testing.assert_array_equal(hands(found.model), hands(true))
    moved = np.linalg.norm(found.model.positions - start.positions, axis=1)
    assert 0.1 < np.sqrt((moved**2).mean()) < 0.5
    assert moved.max() < 2.0
    assert moved.min() > 0
    assert found.model.residues == start.residues
    np.testing.assert_array_equal(found.model.atom_names, start.atom_names)
    assert found.added_atoms == 0
    of_sugars = moved[true.atoms_named("C1'")]
    assert found.moved_angstrom == pytest.approx(np.sqrt((of_sugars**2).mean()), abs=1e-4)
    assert len(found.after.clashes) <= len(found.before.clashes)


def energy(model: Model, path: Path) -> float:
    """kJ/mol in OpenMM's own words, from a file, with hydrogens that OpenMM places, in vacuum without a cutoff."""
    write_model(path, model)
    given = app.PDBxFile(str(path))
    field = app.ForceField("amber14/DNA.OL15.xml")
    modeller = app.Modeller(given.topology, given.positions)
    modeller.addHydrogens(field, platform=Platform.getPlatformByName("CPU"))
    system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
    context = Context(system, VerletIntegrator(0.001), Platform.getPlatformByName("Reference"))
    context.setPositions(modeller.positions)
    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def without_phosphates_at_ends(model: Model, *numbers: int) -> Model:
    structure = model.structure.clone()
    for chain in structure[0]:
        for residue in chain:
            if residue.seqid.num in numbers:
                for name in ("P", "OP1", "OP2"):
                    residue.remove_atom(name, "\0")
    return Model.of(structure)


def test_energy_goes_down_and_ends_without_a_phosphate_are_known(dna: Model, tmp_path: Path) -> None:
    bare = without_phosphates_at_ends(dna, 402, 428)
    assert len(bare) == len(dna) - 6
    start = distorted(bare)
    found = relax(start, QUICK)
    np.testing.assert_array_equal(found.model.atom_names, start.atom_names)
    assert np.abs(backbone_bonds(found.model)).max() < WITHIN_ANGSTROM
    before, after = energy(start, tmp_path / "before.cif"), energy(found.model, tmp_path / "after.cif")
    assert after < before - 5000
    assert after < energy(bare, tmp_path / "crystal.cif")


@pytest.mark.parametrize("name", ["dna", "rna"])
def test_a_phosphate_at_an_end_is_one_in_the_force_field(name: str, request: pytest.FixtureRequest) -> None:
    """A strand of n nucleotides has n negative charges if it begins with a phosphate, one of which is protonated."""
    model = request.getfixturevalue(name)
    field = load_force_field()
    parts = build_parts(model, field, Platform.getPlatformByName("CPU"))
    atoms = list(parts.topology.atoms())
    bonded = defaultdict(set)
    for one, other in parts.topology.bonds():
        bonded[one].add(other.name)
        bonded[other].add(one.name)
    firsts = {next(chain.residues()) for chain in parts.topology.chains()}
    for atom in atoms:
        if atom.name == "P":
            oxygens = {"OP1", "OP2", "O5'", "OP3" if atom.residue in firsts else "O3'"}
            assert bonded[atom] == oxygens
    assert not any(atom.name == "HO5'" for atom in atoms)
    ends = [atom.name for atom, stands_in in zip(atoms, parts.is_stand_in) if stands_in]
    assert sorted(ends) == sorted(["OP3"] * len(firsts))
    system = build_system(parts, field, model, image_force=False)
    force = next(one for one in system.getForces() if isinstance(one, NonbondedForce))
    charges = [force.getParticleParameters(atom.index)[0].value_in_unit(unit.elementary_charge) for atom in atoms]
    assert sum(charges) == pytest.approx(-len(model.residues), abs=2e-3)


def test_an_oxygen_at_the_end_is_kept_and_hydrogens_come_on_demand(dna: Model) -> None:
    structure = dna.structure.clone()
    end = structure[0][0][0]
    place = {atom.name: np.array(atom.pos.tolist()) for atom in end}
    away = sum((place["P"] - place[name]) / np.linalg.norm(place["P"] - place[name]) for name in ("OP1", "OP2", "O5'"))
    oxygen = gemmi.Atom()
    oxygen.name, oxygen.element = "OP3", gemmi.Element("O")
    oxygen.pos = gemmi.Position(*(place["P"] + 1.8 * away / np.linalg.norm(away)))
    end.add_atom(oxygen)
    start = Model.of(structure)
    found = relax(start, replace(QUICK, hydrogens=True)).model
    heavy = found.atomic_numbers > 1
    assert sorted(zip(found.residue_of_atom[heavy], found.atom_names[heavy])) == sorted(
        zip(start.residue_of_atom, start.atom_names)
    )
    assert length(found, row_of(found, 402, "P"), row_of(found, 402, "OP3")) == pytest.approx(1.61, abs=0.05)
    hydrogens = defaultdict(set)
    for row in np.flatnonzero(~heavy):
        hydrogens[found.residues[found.residue_of_atom[row]].number].add(str(found.atom_names[row]))
    inside = {"H5'", "H5''", "H4'", "H3'", "H2'", "H2''", "H1'"}
    assert hydrogens[403] == inside | {"H8", "H2", "H61", "H62"}
    assert hydrogens[402] == inside | {"H8", "H1", "H21", "H22"}
    assert hydrogens[407] - hydrogens[403] == {"HO3'", "H41", "H42", "H5", "H6"}


def test_nucleotides_that_are_modified_or_incomplete_stay_and_are_named(rna: Model) -> None:
    structure = rna.structure.clone()
    modified, short = structure[0][0][8], structure[0][0][14]
    modified.name = "PSU"
    atoms_gone = [name for name in ("C5", "C4") if short.find_atom(name, "*")]
    for name in atoms_gone:
        short.remove_atom(name, "\0")
    start = distorted(Model.of(structure), 0.1)
    found = relax(start, QUICK)
    keys = [start.residues[row] for row in (8, 14)]
    (note,) = (one for one in found.notes if "modified" in one)
    for key, odd in zip(keys, ("", " without C4, C5")):
        assert f"{key.chain} {key.number} {key.name}{odd}" in note
    stays = np.isin(start.residue_of_atom, (8, 14))
    assert np.array_equal(found.model.positions[stays], start.positions[stays])
    moved = np.linalg.norm(found.model.positions - start.positions, axis=1)
    assert (moved > 0.02).sum() > 100
    np.testing.assert_array_equal(found.model.atom_names, start.atom_names)
    for row in (8, 14):
        for one, other in ((row - 1, row), (row, row + 1)):
            ends = start.atoms_named("O3'")[one], start.atoms_named("P")[other]
            assert length(found.model, *ends) == pytest.approx(length(start, *ends), abs=1e-3)


def test_a_nucleotide_of_rna_without_its_hydroxyl_is_no_dna(rna: Model) -> None:
    """But a strand in which none has it is DNA, as old files name it, which has no uracil."""

    def chosen_without_hydroxyls(*places: int) -> RelaxedResidues:
        structure = rna.structure.clone()
        for place in places:
            structure[0][0][place].remove_atom("O2'", "\0")
        return RelaxedResidues.of(Model.of(structure))

    one = chosen_without_hydroxyls(8)
    assert one.odd_nucleotides == {8: " without O2'"}
    assert set(one.names.values()) == {"A", "C", "G", "U"}
    every = chosen_without_hydroxyls(*range(len(rna.residues)))
    assert [rna.residues[row].name for row in every.odd_nucleotides] == ["U"] * len(every.odd_nucleotides)
    assert set(every.names.values()) == {"DA", "DC", "DG"}


def test_strands_that_a_bond_joins_out_of_order_are_not_torn(dna: Model) -> None:
    structure = dna.structure.clone()
    first = structure[0][0]
    second = gemmi.Chain("E")
    for residue in [first[place].clone() for place in range(3, 6)]:
        second.add_residue(residue)
    for place in range(5, 2, -1):
        del first[place]
    structure[0].add_chain(second)
    start = distorted(Model.of(structure), 0.1)
    found = relax(start, QUICK)
    ends = row_of(start, 404, "O3'"), row_of(start, 405, "P")
    assert length(found.model, *ends) == pytest.approx(length(start, *ends), abs=1e-6)
    (note,) = (one for one in found.notes if "bonded to" in one)
    one, other = (start.residues[start.residue_of_atom[end]] for end in ends)
    assert f"C 404 {one.name} bonded to E 405 {other.name}" in note
    assert f"E 405 {other.name} bonded to C 404 {one.name}" in note


def test_protein_and_dna_move_together(dna: Model) -> None:
    whole = read_model(DATA / "3mht.cif.gz")
    near = np.array([key.chain == "A" and 250 <= key.number <= 258 for key in whole.residues])
    strands = np.array(
        [key.number in (*range(405, 409), *range(427, 431)) and key.chain in "CD" for key in whole.residues]
    )
    start = distorted(whole.only(near | strands), 0.1)
    found = relax(start, QUICK)
    assert found.notes[0].startswith("1 piece of protein")
    assert "nucleotides" in found.notes[1]
    assert len(found.notes) == 2
    moved = np.linalg.norm(found.model.positions - start.positions, axis=1)
    of_dna = np.isin(start.residue_of_atom, start.nucleotides()[0])
    contacts = np.linalg.norm(start.positions[~of_dna, None] - start.positions[of_dna], axis=2).min(1) < 4.5
    assert contacts.any()
    assert moved[of_dna].min() > 0
    assert moved[~of_dna][contacts].min() > 0
    assert np.abs(backbone_bonds(found.model)).max() < WITHIN_ANGSTROM


def test_images_pull_nucleic_acids(dna: Model) -> None:
    start = distorted(dna, 0.1)
    target = start.positions + np.array([0.6, 0.0, 0.0])
    alone, pulled = relax(start, QUICK), relax(start, QUICK, lambda positions: target - positions)
    shift = (pulled.model.positions - alone.model.positions)[:, 0]
    assert shift.mean() > 0.15
    assert np.abs(backbone_bonds(pulled.model)).max() < WITHIN_ANGSTROM


def test_the_command_relaxes_dna_alone(dna: Model, tmp_path: Path) -> None:
    start = distorted(dna)
    write_model(tmp_path / "start.cif", start)
    words = ["relax", "--model", str(tmp_path / "start.cif"), "--out", str(tmp_path / "out.cif"), "--device", "cpu"]
    result = CliRunner().invoke(command, [*words, "--threads", "1", "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "2 strands of nucleic acid without gaps, 12 nucleotides" in result.output
    assert "Ramachandran" not in result.output
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["trace_atom"] == "C1'"
    assert 0.05 < facts["ca_rmsd"] < 0.5
    assert facts["nucleic_acids"]["kept_base_pairs"] == facts["nucleic_acids"]["reference_base_pairs"] >= 5
    written = read_model(tmp_path / "out.cif")
    np.testing.assert_array_equal(written.atom_names, start.atom_names)
    assert np.abs(backbone_bonds(written)).max() < WITHIN_ANGSTROM


def with_sugar(model: Model, number: int) -> Model:
    """A model with a six-ring called NAG on ND2 of an asparagine: C1 at 1.45 Å, 120 degrees from CG, on OD1's side."""
    nitrogen, carbon, oxygen = (model.positions[row_of(model, number, name)] for name in ("ND2", "CG", "OD1"))
    along = (nitrogen - carbon) / np.linalg.norm(nitrogen - carbon)
    aside = oxygen - carbon - np.dot(oxygen - carbon, along) * along
    x = np.cos(np.pi / 3) * along + np.sin(np.pi / 3) * aside / np.linalg.norm(aside)
    y = np.cross(x, nitrogen - carbon)
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    ring = {"C1": (0, 0, 0), "C2": (0.7, 1.25, 0.25), "C3": (2.15, 1.25, -0.25), "C4": (2.9, 0, 0.25),
            "C5": (2.15, -1.25, -0.25), "O5": (0.7, -1.2, 0.25)}  # fmt: skip
    sugar = gemmi.Residue()
    sugar.name, sugar.het_flag, sugar.seqid = "NAG", "H", gemmi.SeqId("301")
    for name, (a, b, c) in ring.items():
        atom = gemmi.Atom()
        atom.name, atom.element = name, gemmi.Element(name[0])
        atom.pos = gemmi.Position(*(nitrogen + 1.45 * x + a * x + b * y + c * z))
        sugar.add_atom(atom)
    structure = model.structure.clone()
    chain = gemmi.Chain("G")
    chain.add_residue(sugar)
    structure[0].add_chain(chain)
    return Model.of(structure)


def test_a_residue_that_binds_a_sugar_relaxes_and_is_not_torn_from_it(fragment: Callable[..., Model]) -> None:
    glycosylated = with_sugar(fragment(132, 144), 138)
    noise = np.random.default_rng(0).normal(0, 0.08, glycosylated.positions.shape)
    noise[glycosylated.atom_names == "C1"] = 0
    start = glycosylated.moved_to(glycosylated.positions + noise)
    found = relax(start, QUICK)
    assert "A 138 ASN with NAG" in next(note for note in found.notes if "sugar" in note)
    np.testing.assert_array_equal(found.model.atom_names, start.atom_names)
    of_sugar = np.array([start.residues[row].name == "NAG" for row in start.residue_of_atom])
    np.testing.assert_array_equal(found.model.positions[of_sugar], start.positions[of_sugar])
    bond = row_of(start, 138, "ND2"), row_of(start, 301, "C1")
    assert length(found.model, *bond) == pytest.approx(length(start, *bond), abs=1e-4)
    moved = np.linalg.norm(found.model.positions - start.positions, axis=1)
    assert all(moved[row_of(start, 138, name)] > 0.02 for name in ("N", "CA", "C", "O", "CB", "OD1"))
    assert all(moved[row_of(start, 138, name)] < 1e-4 for name in ("ND2", "CG"))
    with_hydrogens = relax(start, replace(QUICK, hydrogens=True)).model
    (row,) = (row for row, key in enumerate(with_hydrogens.residues) if key.number == 138)
    names = set(with_hydrogens.atom_names[with_hydrogens.residue_of_atom == row].tolist())
    assert len(names & {"HD21", "HD22"}) == 1
    (left,) = (row_of(with_hydrogens, 138, name) for name in names & {"HD21", "HD22"})
    assert length(with_hydrogens, left, row_of(with_hydrogens, 301, "C1")) > 1.7


def test_sugars_are_known_by_their_ring_or_their_name(fragment: Callable[..., Model]) -> None:
    """Other ligands have atoms of the same names."""
    for name, gap, is_sugar in (("UNK", 0.0, True), ("UNK", 2.0, False), ("NAG", 2.0, True)):
        structure = with_sugar(fragment(132, 144), 138).structure
        ligand = structure[0]["G"][0]
        ligand.name = name
        ligand["O5"][0].pos += gemmi.Position(0, 0, gap)
        found = are_sugars(Model.of(structure))
        assert found.tolist() == [False] * (len(found) - 1) + [is_sugar]


def test_names_of_molecular_dynamics_and_of_old_files_are_known(dna: Model, tmp_path: Path) -> None:
    structure = dna.structure.clone()
    old = {"OP1": "O1P", "OP2": "O2P", "C7": "C5M"}
    for chain in structure[0]:
        residues = list(chain)
        for place, residue in enumerate(residues):
            residue.name += {0: "5", len(residues) - 1: "3"}.get(place, "")
            for atom in residue:
                atom.name = old.get(atom.name, atom.name)
    structure.setup_entities()
    (tmp_path / "old.pdb").write_text(structure.make_pdb_string())
    renamed = read_model(tmp_path / "old.pdb")
    assert {"DG5", "DC3"} <= {key.name for key in renamed.residues}
    found = relax(renamed, QUICK)
    assert found.notes == ("2 strands of nucleic acid without gaps, 12 nucleotides",)
    assert found.model.residues == renamed.residues
    np.testing.assert_array_equal(found.model.atom_names, renamed.atom_names)
    expected = relax(dna.moved_to(renamed.positions), QUICK).model.positions
    np.testing.assert_allclose(found.model.positions, expected, atol=1e-3)
