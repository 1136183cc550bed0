"""Models, frames, torsions and restraints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cocofold.commands.demo import closed_state
from cocofold.sources.motion_field import SideChainTorsions
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone, covalent_bonds, residue_frames
from cocofold.system.errors import InputError

CHI = {
    "ARG": 4, "LYS": 4, "MET": 3, "GLU": 3, "GLN": 3, "ASP": 2, "ASN": 2, "ILE": 2, "LEU": 2, "HIS": 2, "TRP": 2,
    "TYR": 2, "PHE": 2, "CYS": 1, "SER": 1, "THR": 1, "VAL": 1, "ALA": 0, "GLY": 0, "PRO": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def closed() -> Model:
    return read_model(closed_state())


def _edited(tmp_path: Path, edit: object) -> Path:
    """The demo's closed state after ``edit(structure)``, as a file."""
    structure = gemmi.read_structure(str(closed_state()))
    edit(structure)  # type: ignore[operator]
    structure.setup_entities()
    path = tmp_path / "edited.cif"
    structure.make_mmcif_document().write_file(str(path))
    return path


def _add_residue(structure: gemmi.Structure, name: str, atoms: dict[str, tuple[str, list[float]]], chain: str) -> None:
    residue = gemmi.Residue()
    residue.name, residue.het_flag = name, "H"
    residue.seqid = gemmi.SeqId(900, " ")
    for label, (element, position) in atoms.items():
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = label, gemmi.Element(element), gemmi.Position(*position)
        residue.add_atom(atom)
    new = gemmi.Chain(chain)
    new.add_residue(residue)
    structure[0].add_chain(new)


def test_names_numbers_and_b_factors_survive_a_round_trip(closed: Model, tmp_path: Path) -> None:
    moved = closed.moved_to(closed.positions + 1.5)
    write_model(tmp_path / "out.cif", moved, np.full(len(closed), 7.25), np.full(len(closed), 0.5), "a note")
    again = read_model(tmp_path / "out.cif")
    assert again.residues == closed.residues
    assert again.atom_names.tolist() == closed.atom_names.tolist()
    np.testing.assert_allclose(again.positions, closed.positions + 1.5, atol=1e-3)
    b_factors = [[atom.b_iso for c in m.structure[0] for r in c for atom in r] for m in (again, closed)]
    assert b_factors[0] == b_factors[1]
    block = gemmi.cif.read(str(tmp_path / "out.cif")).sole_block()
    table = block.find("_cocofold_gaussian.", ["atom_site_id", "amplitude", "width_angstrom"])
    assert len(table) == len(closed)
    assert list(table[0]) == ["1", "7.2500", "0.5000"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.cif"]


def test_insertion_codes_and_first_alternate_conformation(closed: Model, tmp_path: Path) -> None:
    def edit(structure: gemmi.Structure) -> None:
        structure[0][0][10].seqid = gemmi.SeqId(10, "A")
        atom = structure[0][0][5].find_atom("CB", "*")
        other = atom.clone()
        atom.altloc, other.altloc = "A", "B"
        other.pos = gemmi.Position(0, 0, 0)
        structure[0][0][5].add_atom(other)

    model = read_model(_edited(tmp_path, edit))
    assert len(model) == len(closed)
    assert model.residues[10].insertion_code == "A"
    np.testing.assert_allclose(model.positions, closed.positions, atol=2e-3)


def test_pdb_is_read_like_mmcif(closed: Model, tmp_path: Path) -> None:
    (tmp_path / "model.pdb").write_text(closed.structure.make_pdb_string())
    model = read_model(tmp_path / "model.pdb")
    assert [residue[1:] for residue in model.residues] == [residue[1:] for residue in closed.residues]
    np.testing.assert_allclose(model.positions, closed.positions, atol=2e-3)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "no such file"),
        ("", "model"),
        ("nonsense", "model"),
        ("data_x\nloop_\n_atom_site.id\n", "model"),
        ("HETATM    1 CA    CA A   1       1.000   2.000   3.000  1.00  0.00          CA\n", "N, CA and C"),
    ],
)
def test_unusable_models_give_a_message(tmp_path: Path, content: str | None, word: str) -> None:
    path = tmp_path / ("model.pdb" if content and content.startswith("HETATM") else "model.cif")
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=word):
        read_model(path)


def test_backbone_finds_breaks_termini_and_detached_residues(closed: Model, tmp_path: Path) -> None:
    def edit(structure: gemmi.Structure) -> None:
        for row in (101, 100):
            del structure[0][0][row]
        _add_residue(structure, "CA", {"CA": ("Ca", [60.0, 60.0, 60.0])}, "X")
        _add_residue(structure, "HEX", {"C1": ("C", [200, 80, 80]), "C2": ("C", [201.5, 80, 80])}, "Y")

    model = read_model(_edited(tmp_path, edit))
    backbone = Backbone.of(model)
    assert len(backbone) == len(closed.residues) - 2
    assert np.flatnonzero(~backbone.linked[: len(backbone)]).tolist() == [99, len(backbone) - 1]
    assert [model.residues[row].name for row in backbone.detached_residues] == ["CA", "HEX"]
    assert not backbone.linked[len(backbone) :].any()
    assert backbone.frame_of_atom[-3:].tolist() == [len(backbone), len(backbone) + 1, len(backbone) + 1]


def test_links_never_join_chains(shared_data: Path) -> None:
    backbone = Backbone.of(read_model(shared_data / "tcr/truth.cif"))
    before = np.flatnonzero(backbone.linked)
    assert (backbone.chain[before] == backbone.chain[before + 1]).all()
    assert int(backbone.chain.max()) == 4


def test_frames_are_right_handed_and_turn_with_the_atoms(closed: Model) -> None:
    positions = closed.positions[Backbone.of(closed).atoms]
    axes = residue_frames(positions)
    np.testing.assert_allclose(np.linalg.det(axes), 1)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(residue_frames(positions @ turn.T), turn @ axes, atol=1e-12)


def test_side_chains_have_the_torsions_that_their_residues_should(closed: Model) -> None:
    torsions = SideChainTorsions.of(closed, Backbone.of(closed))
    found = Counter(closed.residue_of_atom[torsions.axes[:, 0]].tolist())
    for row, residue in enumerate(closed.residues):
        assert found[row] == CHI[residue.name], residue


def test_cystines_do_not_turn(shared_data: Path) -> None:
    model = read_model(shared_data / "tcr/truth.cif")
    torsions = SideChainTorsions.of(model, Backbone.of(model))
    turning = set(model.residue_of_atom[torsions.axes[:, 0]].tolist())
    bonds = covalent_bonds(model)
    bridges = bonds[(model.atomic_numbers[bonds] == 16).all(1)]
    assert len(bridges) >= 5
    assert not turning & set(model.residue_of_atom[bridges].ravel().tolist())


def _restraints(model: Model, weight: float = 0.0) -> Restraints:
    return Restraints(model, Backbone.of(model), weight)


def test_restraints_are_small_at_a_good_model_and_grow_when_it_breaks(closed: Model) -> None:
    restraints = _restraints(closed, 0.03)
    good = torch.as_tensor(closed.positions, dtype=torch.float32)
    torn = good.clone()
    torn[closed.residue_of_atom >= 100] += 0.5
    assert restraints.energy(good) < 0.05
    assert restraints.energy(torn) > restraints.energy(good) + 0.02
    assert restraints.worst_link(good) < 0.05
    assert restraints.worst_link(torn) > 0.2


def test_without_peptides_another_bond_is_no_peptide(shared_data: Path) -> None:
    """Two cysteines that a bridge joins, and nothing else."""
    whole = read_model(shared_data / "tcr/truth.cif")
    bonds = covalent_bonds(whole)
    bridge = bonds[(whole.atomic_numbers[bonds] == 16).all(1)][0]
    model = whole.only(np.isin(np.arange(len(whole.residues)), whole.residue_of_atom[bridge]))
    restraints = _restraints(model)
    start = torch.as_tensor(model.positions, dtype=torch.float32)
    torn = start.clone()
    torn[model.residue_of_atom == 1] += 3.0
    assert restraints.energy(torn) > restraints.energy(start) + 1
    assert restraints.worst_link(torn) == 0
    assert restraints.link_rms(torn) == 0


def test_a_break_in_the_chain_is_not_pulled_together(closed: Model, tmp_path: Path) -> None:
    def edit(structure: gemmi.Structure) -> None:
        for row in range(104, 99, -1):
            del structure[0][0][row]

    model = read_model(_edited(tmp_path, edit))
    restraints = _restraints(model)
    good = torch.as_tensor(model.positions, dtype=torch.float32)
    apart = good.clone()
    apart[model.residue_of_atom >= 100] += torch.tensor([0.0, 0.0, 40.0])
    assert restraints.energy(apart) <= restraints.energy(good) + 1e-4


def test_a_cis_peptide_stays_cis(closed: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    proline = next(row for row, residue in enumerate(closed.residues) if residue.number == 87)
    alpha = Backbone.of(closed).atoms[:, 1]
    assert np.linalg.norm(closed.positions[alpha[proline - 1]] - closed.positions[alpha[proline]]) < 3.2
    positions = torch.as_tensor(closed.positions, dtype=torch.float32)
    as_it_is = _restraints(closed).energy(positions)
    monkeypatch.setattr("cocofold.structure.restraints._MAX_CIS_CA_CA_ANGSTROM", 0.0)
    assert _restraints(closed).energy(positions) > as_it_is + 0.01


def test_atoms_that_clash_are_pushed_apart(closed: Model) -> None:
    alpha = Backbone.of(closed).atoms[:, 1]
    first, second = alpha[10], alpha[150]
    positions = torch.as_tensor(closed.positions, dtype=torch.float64)
    moved = closed.residue_of_atom == closed.residue_of_atom[second]
    positions[moved] += positions[first] - positions[second] + torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64)
    positions.requires_grad_()
    restraints = _restraints(closed)
    restraints.refresh(positions)
    restraints.energy(positions).backward()
    assert positions.grad is not None
    assert positions.grad[torch.as_tensor(moved)].sum(0)[2] < 0


def test_restraint_gradient_agrees_with_finite_differences(closed: Model) -> None:
    restraints = _restraints(closed, 0.03)
    torch.manual_seed(0)
    positions = torch.as_tensor(closed.positions) + 0.2 * torch.randn(len(closed), 3, dtype=torch.float64)
    restraints.refresh(positions)
    positions.requires_grad_()
    restraints.energy(positions).backward()
    direction = torch.randn_like(positions)
    with torch.no_grad():
        step = 1e-5
        difference = restraints.energy(positions + step * direction) - restraints.energy(positions - step * direction)
    assert positions.grad is not None
    expected = float((positions.grad * direction).sum())
    assert float(difference) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_large_changes_between_domains_cost_little_more_than_medium_ones(closed: Model) -> None:
    def cost(shift: float) -> float:
        positions = torch.as_tensor(closed.positions, dtype=torch.float32)
        positions[torch.as_tensor(closed.residue_of_atom >= 110)] += shift
        with_neighbours, without = (_restraints(closed, weight).energy(positions) for weight in (1.0, 0.0))
        return float(with_neighbours - without)

    assert cost(0.0) == pytest.approx(0, abs=1e-4)
    assert cost(0.5) > 0.05
    # A spring would cost (40^2 - 20^2) / (1^2 - 0.5^2) = 1,600 times as much for the last 20 Å as for half an Å.
    assert cost(40.0) - cost(20.0) < 5 * (cost(1.0) - cost(0.5))
