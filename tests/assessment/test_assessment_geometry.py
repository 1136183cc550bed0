"""Figures of backbone geometry against known changes and gemmi's."""

from typing import Callable

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.structure.model import Model
from cocofold.system.errors import InputError


def _part(model: Model, chain: str, first: int, last: int) -> np.ndarray:
    """Atoms of residues in a range of numbers; bool."""
    inside = np.array([key.chain == chain and first <= key.number <= last for key in model.residues])
    return inside[model.residue_of_atom]


def _row(model: Model, chain: str, number: int, name: str) -> int:
    residue = [key[:3] for key in model.residues].index((chain, number, ""))
    return int(model.atoms_named(name)[residue])


def _turn_about(model: Model, atoms: np.ndarray, first: int, second: int, degrees: float) -> Model:
    """Turn atoms about the axis from one atom to another."""
    origin = model.positions[first]
    axis = model.positions[second] - origin
    turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    moved = model.positions.copy()
    moved[atoms] = (moved[atoms] - origin) @ turn.T + origin
    return model.moved_to(moved)


def test_a_crystal_structure_has_no_faults(adk_open: Model) -> None:
    figures = measure_geometry(adk_open, adk_open)
    assert figures.peptides == 213
    assert figures.bonds_within_tolerance == 1
    assert figures.chiral_residues == sum(key.name != "GLY" for key in adk_open.residues)
    assert figures.d_residues == figures.cis_other == figures.twisted == figures.close_alphas == ()
    assert figures.cis_proline == ("A 87 PRO",)
    assert figures.new_d == figures.new_cis == figures.new_twisted == figures.new_close_alphas == ()


def test_cis_and_hand_agree_with_gemmi(tcr: Model) -> None:
    cis, hands = [], []
    for chain in tcr.structure[0]:
        residues = list(chain)
        hands += [
            gemmi.calculate_dihedral(*(residue.find_atom(name, "*").pos for name in ("CA", "N", "C", "CB"))) > 0
            for residue in residues
            if residue.find_atom("CB", "*")
        ]
        for residue, following in zip(residues, residues[1:]):
            near = residue.find_atom("C", "*").pos.dist(following.find_atom("N", "*").pos) < 2
            if near and abs(gemmi.calculate_omega(residue, following)) < np.pi / 6:
                cis.append(f"{chain.name} {following.seqid} {following.name}")
    figures = measure_geometry(tcr)
    assert sorted(figures.cis_proline + figures.cis_other) == sorted(cis)
    assert figures.n_cis == 5
    # All residues have one hand, in gemmi's improper as in ours.
    assert len(set(hands)) == 1
    assert figures.d_residues == ()
    assert figures.chiral_residues == len(hands)


def test_water_beside_the_protein_changes_nothing(adk_open: Model) -> None:
    structure = adk_open.structure.clone()
    water, oxygen = gemmi.Residue(), gemmi.Atom()
    water.name, water.seqid, water.entity_type = "HOH", gemmi.SeqId("501"), gemmi.EntityType.Water
    oxygen.name, oxygen.element, oxygen.pos = "O", gemmi.Element("O"), gemmi.Position(1, 2, 3)
    water.add_atom(oxygen)
    structure[0][0].add_residue(water)
    assert measure_geometry(Model.of(structure)) == measure_geometry(adk_open)
    assert measure_geometry(Model.of(structure), adk_open) == measure_geometry(adk_open, adk_open)


@pytest.mark.parametrize("with_start", [True, False])
def test_a_ligand_with_names_of_backbone_atoms_makes_no_peptide(adk_open: Model, with_start: bool) -> None:
    """Its N is as near to the last residue's C as in a peptide, and its number is the next one."""
    structure = adk_open.structure.clone()
    last = structure[0][0][-1]
    assert (last.entity_type, measure_geometry(Model.of(structure)).peptides) == (gemmi.EntityType.Polymer, 213)
    last.name, last.entity_type = "LIG", gemmi.EntityType.NonPolymer
    model = Model.of(structure)
    figures = measure_geometry(model, model if with_start else None)
    assert figures.peptides == 212
    # Without types of entities the name decides
    for residue in structure[0][0]:
        residue.entity_type = gemmi.EntityType.Unknown
    last.name = "ATP"
    assert measure_geometry(Model.of(structure)).peptides == 212


def test_a_gap_whose_residues_are_numbered_on_is_no_bond(adk_open: Model) -> None:
    """The sequence in the file tells that residues are missing; the author's numbers alone do not."""
    structure = adk_open.structure.clone()
    chain = structure[0][0]
    for _ in range(10):
        del chain[50]
    for number, residue in enumerate(chain, start=1):
        residue.seqid = gemmi.SeqId(str(number))
    assert (chain[49].label_seq, chain[50].label_seq) == (50, 61)
    figures = measure_geometry(Model.of(structure))
    assert (figures.peptides, figures.bad_bonds) == (202, ())
    for residue in chain:
        residue.label_seq = None
    figures = measure_geometry(Model.of(structure))
    assert (figures.peptides, figures.bad_bonds) == (203, (f"A 51 {chain[50].name}",))


def test_gaps_are_no_bonds(tcr: Model) -> None:
    assert measure_geometry(tcr).peptides == 815 - 5 - 2
    assert measure_geometry(tcr, tcr).peptides == 815 - 5 - 2


@pytest.mark.parametrize("with_start", [True, False])
def test_a_torn_bond_is_a_bad_bond_not_a_gap(adk_open: Model, with_start: bool) -> None:
    moved = adk_open.positions + np.where(_part(adk_open, "A", 101, 300)[:, None], [30.0, 0, 0], 0)
    figures = measure_geometry(adk_open.moved_to(moved), adk_open if with_start else None)
    assert figures.peptides == 213
    assert figures.bad_bonds == (f"A 101 {adk_open.residues[100].name}",)
    assert figures.bonds_within_tolerance == pytest.approx(212 / 213)
    assert figures.bond_deviation_worst_angstrom > 25


def test_a_bond_just_out_of_tolerance_counts(adk_open: Model) -> None:
    carbon, nitrogen = _row(adk_open, "A", 100, "C"), _row(adk_open, "A", 101, "N")
    bond = adk_open.positions[nitrogen] - adk_open.positions[carbon]
    unit = bond / np.linalg.norm(bond)
    for length, share in ((1.429, 1.0), (1.431, 212 / 213), (1.231, 1.0), (1.229, 212 / 213)):
        moved = adk_open.positions + np.where(
            _part(adk_open, "A", 101, 300)[:, None], (length - np.linalg.norm(bond)) * unit, 0
        )
        figures = measure_geometry(adk_open.moved_to(moved), adk_open)
        assert figures.bonds_within_tolerance == pytest.approx(share)


def test_a_gap_in_the_start_stays_a_gap(adk_open: Model) -> None:
    apart = adk_open.moved_to(adk_open.positions + np.where(_part(adk_open, "A", 101, 300)[:, None], [30.0, 0, 0], 0))
    # The model has a bond there; its start had none, so it is not judged.
    assert measure_geometry(adk_open, apart).peptides == 212


def test_residues_taken_out_of_the_model_leave_a_gap(adk_open: Model, rewritten: Callable[..., Model]) -> None:
    def cut(structure: gemmi.Structure) -> None:
        for place in reversed(range(60, 65)):
            del structure[0][0][place]

    model = rewritten(adk_open, cut)
    assert measure_geometry(model, adk_open).peptides == measure_geometry(model).peptides == 213 - 6


def test_a_mirrored_model_is_of_d_amino_acids(adk_open: Model) -> None:
    mirrored = adk_open.moved_to(adk_open.positions * [1, 1, -1])
    figures = measure_geometry(mirrored, adk_open)
    assert len(figures.d_residues) == figures.chiral_residues
    assert figures.new_d == figures.d_residues
    assert measure_geometry(mirrored, mirrored).new_d == ()


def test_one_inverted_residue_is_named(adk_open: Model) -> None:
    rows = [_row(adk_open, "A", 50, name) for name in ("N", "CA", "C", "CB")]
    nitrogen, alpha, carbon, beta = adk_open.positions[rows]
    normal = np.cross(nitrogen - alpha, carbon - alpha)
    normal /= np.linalg.norm(normal)
    moved = adk_open.positions.copy()
    moved[rows[3]] = beta - 2 * ((beta - alpha) @ normal) * normal
    figures = measure_geometry(adk_open.moved_to(moved), adk_open)
    name = next(key.name for key in adk_open.residues if key.number == 50)
    assert figures.d_residues == figures.new_d == (f"A 50 {name}",)


@pytest.mark.parametrize(
    ("degrees", "kind"), [(180, "cis"), (160, "cis"), (130, "twisted"), (90, "twisted"), (40, "twisted"), (10, "")]
)
def test_a_turned_peptide_is_named(adk_open: Model, degrees: float, kind: str) -> None:
    carbon, nitrogen = _row(adk_open, "A", 100, "C"), _row(adk_open, "A", 101, "N")
    # All behind the bond turns, so that only this omega changes.
    model = _turn_about(adk_open, _part(adk_open, "A", 101, 300), carbon, nitrogen, degrees)
    figures = measure_geometry(model, adk_open)
    key = next(key for key in adk_open.residues if key.number == 101)
    name = (f"A 101 {key.name}",)
    assert key.name != "PRO"
    assert figures.cis_other == (name if kind == "cis" else ())
    assert figures.new_cis == (name if kind == "cis" else ())
    assert figures.new_twisted == (name if kind == "twisted" else ())
    assert figures.cis_proline == ("A 87 PRO",)


def test_close_residues_are_contacts_unless_bonded(adk_open: Model) -> None:
    shift = adk_open.positions[_row(adk_open, "A", 10, "CA")] - adk_open.positions[_row(adk_open, "A", 150, "CA")]
    moved = adk_open.positions + np.where(_part(adk_open, "A", 150, 150)[:, None], shift + np.array([2.0, 0, 0]), 0)
    figures = measure_geometry(adk_open.moved_to(moved), adk_open)
    first, second = (next(key.name for key in adk_open.residues if key.number == n) for n in (10, 150))
    assert f"A 10 {first} - A 150 {second}" in figures.close_alphas
    assert figures.new_close_alphas == figures.close_alphas


def test_a_start_of_another_molecule_is_refused(adk_open: Model, tcr: Model) -> None:
    with pytest.raises(InputError, match="the start shares"):
        measure_geometry(tcr, adk_open)
