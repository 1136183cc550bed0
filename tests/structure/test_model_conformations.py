"""Alternate conformations as programs write them: of each residue the first is kept whole, and the user is told."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
from structure_files import bare, protein, saved

from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

PLAIN = 1656
BACKBONE = ("N", "CA", "C", "O")
NOTE = "1 residues have alternate conformations; the first of each is taken"


def with_alternates(row: int, letters: tuple[str, str], names: tuple[str, ...] | None, atom_by_atom: bool):
    """The demo with a second conformation, 0.8 Å aside, of a residue's atoms; letters of the first and the second."""
    structure = bare(protein())
    chain = structure[0][0]
    residue = chain[row].clone()
    twice = [atom for atom in chain[row] if names is None or atom.name in names]
    assert len(twice) > 0
    while len(residue):
        del residue[0]
    second = []
    for atom in chain[row]:
        own = atom.clone()
        if atom in twice:
            own.altloc = letters[0]
            other = atom.clone()
            other.altloc, other.occ = letters[1], 0.3
            other.pos = gemmi.Position(atom.pos.x + 0.8, atom.pos.y, atom.pos.z)
            second.append(other)
        residue.add_atom(own)
        if atom_by_atom and atom in twice:
            residue.add_atom(second.pop())
    for atom in second:
        residue.add_atom(atom)
    del chain[row]
    chain.add_residue(residue, row)
    return structure


def assert_is_plain(model: Model, tmp_path: Path) -> None:
    plain = read_model(saved(bare(protein()), tmp_path / "plain.pdb"))
    assert model.residues == plain.residues
    assert model.atom_names.tolist() == plain.atom_names.tolist()
    np.testing.assert_allclose(model.positions, plain.positions, atol=2e-3)
    write_model(tmp_path / "out.cif", model)
    written = gemmi.cif.read(str(tmp_path / "out.cif")).sole_block()
    assert set(written.find_loop("_atom_site.label_alt_id")) == {"."}
    assert len(read_model(tmp_path / "out.cif")) == len(plain)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("atom_by_atom", [True, False])
@pytest.mark.parametrize("letters", [("\0", "A"), ("\0", "\0"), ("A", "B"), ("B", "A"), ("1", "2"), ("A", "\0")])
@pytest.mark.parametrize("names", [None, ("CB", "CG", "CD1", "CD2"), ("CB",), BACKBONE])
def test_the_first_of_two_conformations_is_kept(
    names: tuple[str, ...] | None, letters: tuple[str, str], atom_by_atom: bool, suffix: str, tmp_path: Path
) -> None:
    structure = with_alternates(4, letters, names, atom_by_atom)
    model = read_model(saved(structure, tmp_path / f"x{suffix}"))
    assert model.notes == (NOTE,)
    assert_is_plain(model, tmp_path)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("letters", [("A", "B"), ("\0", "B"), ("\0", "\0"), ("A", "\0")])
@pytest.mark.parametrize("others", [("SER",), ("SER", "VAL")])
def test_the_first_of_several_residues_at_one_position_is_kept(
    others: tuple[str, ...], letters: tuple[str, str], suffix: str, tmp_path: Path
) -> None:
    structure = bare(protein())
    chain = structure[0][0]
    for number, name in enumerate(others, start=1):
        residue = chain[4].clone()
        residue.name = name
        residue.trim_to_alanine()
        for atom in residue:
            atom.altloc = letters[1] if letters[1] == "\0" else chr(ord(letters[1]) + number - 1)
            atom.pos = gemmi.Position(atom.pos.x + 0.4, atom.pos.y, atom.pos.z)
        chain.add_residue(residue, 4 + number)
    for atom in chain[4]:
        atom.altloc = letters[0]
    model = read_model(saved(structure, tmp_path / f"x{suffix}"))
    assert model.notes == (NOTE,)
    assert_is_plain(model, tmp_path)


def test_neighbours_of_one_number_are_no_alternates(tmp_path: Path) -> None:
    """A file that numbers two neighbours alike has two residues, and a ligand may have many atoms of one name."""
    structure = bare(protein())
    first = next(row for row in range(100) if structure[0][0][row].name != structure[0][0][row + 1].name)
    structure[0][0][first + 1].seqid = structure[0][0][first].seqid
    ligand = gemmi.Residue()
    ligand.name, ligand.het_flag, ligand.seqid = "LIG", "H", gemmi.SeqId(900, " ")
    for step in range(3):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = "C", gemmi.Element("C"), gemmi.Position(90 + 1.5 * step, 0, 0)
        ligand.add_atom(atom)
    structure[0][0].add_residue(ligand)
    model = read_model(saved(structure, tmp_path / "x.pdb"))
    assert len(model) == PLAIN + 3
    assert model.notes == ()
    # Two of one name too are one residue for programs, and nothing tells whose side chain is whose.
    same = next(row for row in range(100) if structure[0][0][row].name == structure[0][0][row + 1].name)
    structure[0][0][same + 1].seqid = structure[0][0][same].seqid
    with pytest.raises(InputError, match="have the atom N more than once"):
        read_model(saved(structure, tmp_path / "y.pdb"))


def test_files_of_others(cases: Path) -> None:
    models = cases / "models"
    plain = read_model(models / "assess_free_ligand" / "base.pdb")
    for name in ("dup_sidechain/dup_sidechain.pdb", "altloc_blank_then_A/altloc_blank_then_A.pdb"):
        model = read_model(models / name)
        assert model.residues == plain.residues
        np.testing.assert_allclose(model.positions, plain.positions, atol=2e-3)
        assert model.notes == (NOTE,)
    real = read_model(models / "dup_sidechain" / "1ake.pdb")
    assert NOTE in real.notes
    arginine = [
        name
        for name, row in zip(real.atom_names, real.residue_of_atom)
        if real.residues[row].number == 167 and real.residues[row].name == "ARG"
    ]
    assert len(arginine) == len(set(arginine)) == 11
