"""Which residues are unlikely to be ordered, and what B factors are."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
from disordered_models import burial, with_b_factors, with_helix, with_loop, with_tail

from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning.options import Options
from cocofold.structure.confidence import (
    B_FACTOR_KINDS,
    judge_order,
    only_ordered,
    ordered_atoms,
    ordered_residues,
    read_order,
    with_order,
)
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError


@pytest.fixture(scope="module")
def core() -> Model:
    return read_model(open_state())


@pytest.fixture(scope="module")
def tailed(core: Model) -> Model:
    """30 residues before the first of the core."""
    return with_tail(core, 30, "N")


def _plddt(model: Model, n_tail: int) -> np.ndarray:
    """As a prediction has it: low in the tail, high in the core, highest where it is packed."""
    values = 70 + np.minimum(burial(model), 25)
    values[:n_tail] = np.linspace(25, 45, n_tail)
    return values


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_low_plddt_of_either_scale(tailed: Model, scale: float) -> None:
    order = judge_order(with_b_factors(tailed, scale * _plddt(tailed, 30)))
    assert order.stretches == ("A -29-0",)
    assert order.plddt is not None
    assert order.plddt[0] == pytest.approx(25, abs=0.01)
    assert "rise with the packing" in order.known_from
    assert "A -29-0 (30)" in order.lines()[0]
    assert "A -29-0" in order.describe()


def test_plddt_decides_against_contacts(tailed: Model) -> None:
    """A tail that a prediction is sure of is ordered; a packed stretch that it does not believe in is not."""
    values = _plddt(tailed, 30)
    values[:30] = 75
    values[100:120] = 40
    assert judge_order(tailed, plddt=values).stretches == ("A 71-90",)
    values[100:120] = 49.99
    values[112:] = 90
    assert judge_order(tailed, plddt=values).stretches == ("A 71-82",)
    values[109:] = 90  # nine residues
    assert judge_order(tailed, plddt=values).stretches == ()


def test_b_factors_of_a_crystal_are_none(tailed: Model) -> None:
    closed = read_model(closed_state())
    order = judge_order(closed)
    assert order.plddt is None
    assert "fall with the packing" in order.known_from
    assert not order.disordered.any()
    # The same for constant values within residues, low where the chain is packed, and below 50 everywhere
    falling = with_b_factors(tailed, 48 - burial(tailed))
    assert judge_order(falling).stretches == ()
    assert judge_order(falling, "plddt").plddt is not None


def test_what_the_file_says_goes_before_values(tailed: Model, tmp_path: Path) -> None:
    model = with_b_factors(tailed, _plddt(tailed, 30))
    path = tmp_path / "model.pdb"
    for header, kind in (
        ("EXPDTA    ELECTRON MICROSCOPY\n", "ELECTRON MICROSCOPY"),
        ("TITLE     PREDICTED CHAIN A OF A KINASE\n", "rise with the packing"),
        ("TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR KINASE\n", "the file names ALPHAFOLD"),
        ("REMARK   2 RESOLUTION.    3.10 ANGSTROMS.\n", "resolution of 3.1"),
        ("REMARK   3   PROGRAM     : REFMAC 5.8.0430\n", "refinement by REFMAC"),
    ):
        path.write_text(header + model.structure.make_pdb_string())
        assert kind in judge_order(read_model(path)).known_from
    path.write_text("TITLE     ALPHAFOLD\n" + with_b_factors(tailed, 80 - burial(tailed)).structure.make_pdb_string())
    assert judge_order(read_model(path)).plddt is not None
    model.structure[0][0][0][0].aniso = gemmi.SMat33f(0.2, 0.3, 0.4, 0, 0, 0)
    path.write_text(model.structure.make_pdb_string())
    assert "anisotropic" in judge_order(read_model(path)).known_from


@pytest.mark.parametrize(
    "name",
    ["AlphaFold", "ColabFold", "OpenFold", "ESMFold", "Boltz-2", "Chai-1", "RoseTTAFold", "OmegaFold", "Protenix"],
)
def test_a_predictor_that_the_file_names(name: str, tailed: Model, tmp_path: Path) -> None:
    model = with_b_factors(tailed, 80 - burial(tailed))
    (tmp_path / "x.pdb").write_text(f"TITLE     {name.upper()} MODEL\n" + model.structure.make_pdb_string())
    order = judge_order(read_model(tmp_path / "x.pdb"))
    assert "the file names" in order.known_from
    assert order.plddt is not None


def test_metrics_of_modelcif(tailed: Model, tmp_path: Path) -> None:
    """As our own writer has them, and as another form of ModelCIF, from 0 to 1; B factors say something else."""
    values, path = _plddt(tailed, 30), tmp_path / "model.cif"
    write_model(path, tailed, plddt=values)
    text = path.read_text()
    document = gemmi.cif.read_string(text)
    column = document[0].find_values("_atom_site.B_iso_or_equiv")
    for row in range(len(column)):
        column[row] = "20.00"
    path.write_text(document.as_string())
    order = judge_order(read_model(path))
    assert order.plddt is not None
    assert np.abs(order.plddt - values).max() < 0.006
    assert "_ma_qa_metric_local" in order.known_from
    for row in document[0].find("_ma_qa_metric_local.", ["metric_value"]):
        row[0] = f"{float(row[0]) / 100:.4f}"
    for row in document[0].find("_ma_qa_metric.", ["type"]):
        row[0] = "'pLDDT in [0,1]'"
    path.write_text(document.as_string())
    again = judge_order(read_model(path)).plddt
    assert again is not None
    assert np.abs(again - values).max() < 0.01
    assert judge_order(read_model(path), "experimental").plddt is None


def test_one_asks_where_it_cannot_be_told_and_matters(core: Model) -> None:
    values = np.random.default_rng(0).uniform(60, 90, len(core.residues))
    assert judge_order(with_b_factors(core, values)).plddt is None
    values[50:70] = 45
    unclear = with_b_factors(core, values)
    with pytest.raises(InputError, match=r"cannot be told, and it matters: .* A 51-70 .*--b-factors experimental"):
        judge_order(unclear)
    assert judge_order(unclear, "plddt").stretches == ("A 51-70",)
    assert judge_order(unclear, "experimental").stretches == ()
    # From atom to atom only displacements differ, where packing does not tell.
    assert "within residues" in judge_order(with_b_factors(core, values, per_atom=0.5)).known_from


def test_what_cannot_be_is_refused(core: Model) -> None:
    with pytest.raises(InputError, match="--b-factors isotropic: give auto, plddt or experimental"):
        judge_order(core, "isotropic")
    high = with_b_factors(core, np.linspace(20, 130, len(core.residues)))
    with pytest.raises(InputError, match="B factors from 20 to 130"):
        judge_order(high, "plddt")
    assert "which pLDDT does not" in judge_order(high).known_from
    below = with_b_factors(core, np.linspace(-5, 80, len(core.residues)))
    assert "which pLDDT does not" in judge_order(below).known_from
    with pytest.raises(InputError, match="--remove-below 30: the model has no pLDDT"):
        judge_order(core).require_plddt(30)
    judge_order(core).require_plddt(None)


@pytest.mark.parametrize("end", ["N", "C"])
@pytest.mark.parametrize("length", [30, 50])
def test_tails_that_touch_nothing(core: Model, length: int, end: str) -> None:
    """By geometry alone, as all B factors are equal: all but the residues next to the core, and none of the core."""
    for seed in range(3):
        found = judge_order(with_tail(core, length, end, seed)).disordered
        tail, kept = (found[:length], found[length:]) if end == "N" else (found[-length:], found[:-length])
        assert tail.sum() >= length - 8
        assert not kept.any()


@pytest.mark.parametrize("after", [40, 75, 150])
def test_a_loop_that_touches_nothing(core: Model, after: int) -> None:
    found = judge_order(with_loop(core, 40, after)).disordered
    assert found[after + 1 : after + 41].sum() >= 25
    assert not found[: after + 1].any()
    assert not found[after + 41 :].any()


def test_folded_proteins_are_ordered(core: Model) -> None:
    for model in (core, read_model(closed_state())):
        assert not judge_order(with_b_factors(model, np.full(len(model.residues), 50.0))).stretches


def test_a_helix_by_itself_is_ordered(core: Model) -> None:
    assert not judge_order(with_helix(core, 40)).stretches


def test_what_holds_a_tail_orders_it(tailed: Model) -> None:
    """Another chain or a nucleic acid along it; here six atoms beside each of its residues."""
    structure = tailed.structure.clone()
    chain = gemmi.Chain("B")
    alpha = tailed.positions[tailed.atoms_named("CA")][:30]
    for number, place in enumerate(alpha):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "U", gemmi.SeqId(number + 1, " ")
        for shift in range(12):
            atom = gemmi.Atom()
            atom.name, atom.element = f"C{shift + 1}", gemmi.Element("C")
            atom.pos = gemmi.Position(place[0] + 4.0, place[1] + 0.3 * shift, place[2])
            residue.add_atom(atom)
        chain.add_residue(residue)
    structure[0].add_chain(chain)
    assert judge_order(tailed).stretches
    assert not judge_order(Model.of(structure)).stretches


def test_a_model_with_too_little_order_counts_whole(core: Model) -> None:
    values = np.full(len(core.residues), 40.0)
    values[:29] = 90
    assert not judge_order(core, plddt=values).disordered.any()
    values[29] = 90
    assert judge_order(core, plddt=values).disordered.sum() == len(values) - 30


def test_marks_come_back_from_files(tailed: Model, tmp_path: Path) -> None:
    """As occupancies of 0, and in the category that the dictionary has for them."""
    marked, order = read_order(with_b_factors(tailed, _plddt(tailed, 30)))
    assert np.array_equal(~ordered_residues(marked), order.disordered)
    assert ordered_atoms(marked).sum() == (tailed.residue_of_atom >= 30).sum()
    assert len(only_ordered(marked).residues) == 214
    write_model(tmp_path / "marked.cif", marked)
    table = gemmi.cif.read(str(tmp_path / "marked.cif"))[0].find(
        "_pdbx_unobs_or_zero_occ_residues.", ["auth_seq_id", "occupancy_flag"]
    )
    assert [row.str(0) for row in table] == [str(number) for number in range(-29, 1)]
    again = read_model(tmp_path / "marked.cif")
    assert np.array_equal(ordered_residues(again), ordered_residues(marked))
    # Marks stay, whatever B factors are said to be.
    assert judge_order(again, "experimental").stretches == ("A -29-0",)


def test_models_without_marks_stay_as_they_are(core: Model, tmp_path: Path) -> None:
    assert with_order(core, judge_order(core)) is core
    assert only_ordered(core) is core
    write_model(tmp_path / "core.cif", core)
    assert "zero_occ" not in (tmp_path / "core.cif").read_text()
    structure = core.structure.clone()
    for residue in structure[0][0]:
        for atom in residue:
            atom.occ = 0.0
    assert ordered_residues(Model.of(structure)).all()


def test_single_atoms_without_occupancy_count(core: Model) -> None:
    structure = core.structure.clone()
    for residue in structure[0][0]:
        residue[-1].occ = 0.0
    model = Model.of(structure)
    assert len(model) == len(core)
    assert ordered_atoms(read_order(model)[0]).all()


def test_the_command_offers_what_there_is() -> None:
    for kind in B_FACTOR_KINDS:
        assert Options(particles="x.star", model="m.cif", b_factors=kind).b_factors == kind
    with pytest.raises(InputError, match="--b-factors"):
        Options(particles="x.star", model="m.cif", b_factors="none")
