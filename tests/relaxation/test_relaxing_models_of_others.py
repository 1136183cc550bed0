"""Relaxation of chains that are no plain chain: rings, residues alone between gaps, names of others, companions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import gemmi
import numpy as np
import pytest

pytest.importorskip("openmm", reason="OpenMM is not installed (extra 'engine')")

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.assessment.comparison import assess
from cocofold.relaxation import RelaxedResidues, are_sugars, minimization
from cocofold.relaxation.force_field import load_force_field
from cocofold.relaxation.minimization import RelaxSettings, relax
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow

Fragment = Callable[..., Model]
QUICK = RelaxSettings(device="cpu", threads=1)
Atoms = list[tuple[str, str, tuple[float, float, float]]]


@pytest.fixture(scope="module", autouse=True)
def one_force_field() -> Iterator[None]:
    """Files of the force field are read once: it takes longer than to relax a fragment, and nothing changes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimization, "load_force_field", lru_cache(None)(load_force_field))
        yield


def edited(model: Model, edit: Callable[[gemmi.Structure], None], path: Path) -> Model:
    """The model after a change, written by gemmi as the path says and read again."""
    structure = model.structure.clone()
    for atom, position in zip((a for chain in structure[0] for one in chain for a in one), model.positions):
        atom.pos = gemmi.Position(*position)
    edit(structure)
    structure.setup_entities()
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    return read_model(path)


def with_companion(name: str, atoms: Atoms, number: int) -> Callable[[gemmi.Structure], None]:
    """Add a residue in a chain of its own, its atoms placed by their distances (Å) from a corner of the model."""

    def edit(structure: gemmi.Structure) -> None:
        corner = np.max([a.pos.tolist() for chain in structure[0] for one in chain for a in one], axis=0)
        made = gemmi.Residue()
        made.name, made.seqid, made.het_flag = name, gemmi.SeqId(number, " "), "H"
        for label, element, place in atoms:
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = label, gemmi.Element(element), gemmi.Position(*(corner + place))
            made.add_atom(atom)
        chain = gemmi.Chain("X")
        chain.add_residue(made)
        structure[0].add_chain(chain)

    return edit


STRAND: Atoms = [(name, name[0], (1.3 * row, 0.75 * (row % 2), 0)) for row, name in
                 enumerate(("P", "O5'", "C5'", "C4'", "C3'", "O3'"))]  # fmt: skip
# What lies beside a chain in models of other people: name, atoms, number
COMPANIONS: dict[str, tuple[str, Atoms, int]] = {
    "water": ("HOH", [("O", "O", (0, 0, 0))], 501),
    "sodium": ("NA", [("NA", "Na", (0, 0, 0))], 1),
    "calcium named as an alpha carbon": ("CA", [("CA", "Ca", (0, 0, 0))], 1),
    "ligand": ("LIG", [("C1", "C", (0, 0, 0)), ("O1", "O", (1.4, 0, 0))], 900),
    "ligand with a backbone's names": ("LIG", [("N", "N", (0, 0, 0)), ("CA", "C", (1.5, 0, 0))], 900),
    "nucleotide of DNA": ("DA", STRAND, 1),
    "nucleotide of RNA": ("U", STRAND, 1),
    "residue 0": ("LIG", [("C1", "C", (0, 0, 0))], 0),
    "negative number": ("HOH", [("O", "O", (0, 0, 0))], -3),
}


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("kind", COMPANIONS)
def test_companions_change_no_figure_and_stay(kind: str, suffix: str, fragment: Fragment, tmp_path: Path) -> None:
    alone = edited(fragment(1, 4), lambda _: None, tmp_path / f"alone{suffix}")
    model = edited(alone, with_companion(*COMPANIONS[kind]), tmp_path / f"x{suffix}")
    assert len(model) == len(alone) + len(COMPANIONS[kind][1])
    assert measure_geometry(model) == measure_geometry(alone)
    assert measure_geometry(model, model) == measure_geometry(alone, alone)
    assert assess(model, model).ca_rmsd == pytest.approx(0, abs=1e-6)
    if suffix == ".pdb":
        found = relax(model, QUICK).model
        assert found.residues == model.residues
        np.testing.assert_array_equal(found.positions[len(alone) :], model.positions[len(alone) :])


def ring(count: int, cut: float = 0.0) -> gemmi.Structure:
    """A head-to-tail ring of glycines: a zigzag of 1.45 Å bonds around a circle, opened by so many Å."""
    structure, chain = gemmi.Structure(), gemmi.Chain("A")
    structure.add_model(gemmi.Model(1))
    n_atoms = 3 * count
    radius = 1.17 / (2 * np.sin(np.pi / n_atoms))
    for row in range(count):
        made = gemmi.Residue()
        made.name, made.seqid = "GLY", gemmi.SeqId(row + 1, " ")
        for place, name in enumerate(("N", "CA", "C", "O")):
            step = 3 * row + min(place, 2)
            angle = 2 * np.pi * step / n_atoms * (1 - cut / (2 * np.pi * radius))
            outward = radius + (1.23 if name == "O" else 0)
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(name[0])
            atom.pos = gemmi.Position(outward * np.cos(angle), outward * np.sin(angle), 0.42 * (-1) ** step)
            made.add_atom(atom)
        chain.add_residue(made)
    structure[0].add_chain(chain)
    structure.setup_entities()
    return structure


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("count", [6, 8, 10, 14, 30])
def test_rings_of_any_size_are_known_and_open_ones_are_not(count: int, suffix: str, tmp_path: Path) -> None:
    for cut, is_ring in ((0.0, True), (4.0, False)):
        structure, path = ring(count, cut), tmp_path / f"ring{suffix}"
        structure.write_pdb(str(path)) if suffix == ".pdb" else structure.make_mmcif_document().write_file(str(path))
        model = read_model(path)
        residues = RelaxedResidues.of(model)
        assert residues.held.tolist() == ([0, count - 1] if is_ring else [])
        assert any("close a ring" in note for note in residues.describe(model, 0)) == is_ring


@pytest.mark.parametrize("count", [14, 20])
def test_a_ring_is_relaxed_and_stays_closed(count: int) -> None:
    start = Model.of(ring(count))
    found = relax(start, QUICK).model
    ends = [start.atoms_named("N")[0], start.atoms_named("C")[-1]]
    np.testing.assert_array_equal(found.positions[ends], start.positions[ends])
    assert np.linalg.norm(found.positions - start.positions, axis=1).max() > 0.05


@pytest.mark.parametrize(
    ("last", "without", "numbered", "alone"),
    [
        (7, (3, 5), lambda number: (number, " "), ["4"]),
        (7, (2,), lambda number: (number, " "), ["1"]),
        (7, (6,), lambda number: (number, " "), ["7"]),
        (9, (3, 5, 7), lambda number: (number, " "), ["4", "6"]),
        (7, (2,), lambda number: (number - 1, " "), ["0"]),
        (7, (3, 5), lambda number: (number - 7, " "), ["-3"]),
        (7, (3, 5), lambda number: (number, "B" if number == 4 else " "), ["4B"]),
    ],
    ids=["between", "first", "last", "two", "residue 0", "negative", "insertion code"],
)
def test_residues_alone_stay_and_are_named(
    last: int, without: tuple[int, ...], numbered: Callable, alone: list[str], fragment: Fragment, tmp_path: Path
) -> None:
    def number_anew(structure: gemmi.Structure) -> None:
        for one in structure[0][0]:
            one.seqid = gemmi.SeqId(*numbered(one.seqid.num))

    model = edited(fragment(1, last, without=without, noise=0.05), number_anew, tmp_path / "x.pdb")
    found = relax(model, QUICK)
    rows = [row for row, key in enumerate(model.residues) if f"{key.number}{key.insertion_code}".strip() in alone]
    still = np.isin(model.residue_of_atom, rows)
    assert len(rows) == len(alone)
    np.testing.assert_array_equal(found.model.positions[still], model.positions[still])
    assert not np.allclose(found.model.positions[~still], model.positions[~still], atol=1e-2)
    (note,) = (note for note in found.notes if "stand alone" in note)
    assert all(f" {number} {model.residues[row].name}" in note for number, row in zip(alone, rows))


@pytest.mark.parametrize(
    ("standard", "name"),
    [("HIS", name) for name in ("HID", "HIE", "HIP", "HSD", "HSE", "HSP")]
    + [("CYS", "CYX"), ("CYS", "CYM"), ("ASP", "ASH"), ("GLU", "GLH"), ("LYS", "LYN")],
)
def test_names_of_molecular_dynamics_one_by_one(
    standard: str, name: str, whole: Model, fragment: Fragment, tmp_path: Path
) -> None:
    place = next(key.number for key in whole.residues if key.name == standard and key.number > 2)
    start = fragment(place - 2, place + 2)

    def rename(structure: gemmi.Structure) -> None:
        structure[0][0][2].name = name

    renamed = edited(start, rename, tmp_path / "x.pdb")
    assert [key.name for key in renamed.residues].count(name) == 1
    plain = edited(start, lambda _: None, tmp_path / "plain.pdb")
    found, known = RelaxedResidues.of(renamed), RelaxedResidues.of(plain)
    assert (found.names, found.pieces) == (known.names, known.pieces)
    assert not found.left_out.any()


@pytest.mark.parametrize("name", ["NAG", "NDG", "BMA", "MAN", "FUC", "GAL", "SIA", "BGC", "GLC"])
def test_sugars_are_known_by_their_names(name: str, fragment: Fragment, tmp_path: Path) -> None:
    atoms: Atoms = [("C1", "C", (0, 0, 0)), ("O5", "O", (9, 0, 0))]
    model = edited(fragment(1, 5), with_companion(name, atoms, 301), tmp_path / "x.pdb")
    assert are_sugars(model).tolist() == [False] * 5 + [True]
