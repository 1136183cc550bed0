"""Bonds between residues: of chemistry or listed in the file, never of atoms that clash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
import structure_files

from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone, covalent_bonds

Atom = tuple[str, str, int, str]


def between(model: Model) -> set[frozenset[Atom]]:
    """Bonds between residues other than those along chains: chain, residue, number and atom at both ends."""
    backbone = Backbone.of(model)
    bonds = covalent_bonds(model)
    owner = model.residue_of_atom[bonds]
    follows = np.isin(owner[:, 0], backbone.residues) & (np.abs(np.diff(owner, axis=1))[:, 0] == 1)
    names = [
        (model.residues[row].chain, model.residues[row].name, model.residues[row].number, str(name))
        for row, name in zip(model.residue_of_atom, model.atom_names)
    ]
    return {frozenset((names[one], names[other])) for one, other in bonds[(owner[:, 0] != owner[:, 1]) & ~follows]}


def copied(by: tuple[float, float, float]) -> gemmi.Structure:
    """The protein, and a second chain moved by so much."""
    structure = structure_files.protein()
    second = structure[0][0].clone()
    second.name = "B"
    for residue in second:
        for atom in residue:
            atom.pos += gemmi.Position(*by)
    structure[0].add_chain(second)
    return structure


@pytest.mark.parametrize("by", [(1.5, 0.3, 0.0), (7.0, -3.0, 2.0)])
def test_chains_that_overlap_are_not_bonded(by: tuple[float, float, float], tmp_path: Path) -> None:
    model = read_model(structure_files.saved(copied(by), tmp_path / "x.cif"))
    pairs = np.array([[*row] for row in Restraints(model, Backbone.of(model), 0.0).state()["pairs"].T.tolist()])
    chains = np.array([model.residues[row].chain for row in model.residue_of_atom])[pairs]
    near = np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1) < 1.7
    # They are near, and watched as contacts.
    assert (near & (chains[:, 0] != chains[:, 1])).sum() > 50
    assert between(model) == set()


def cyclic(structure: gemmi.Structure) -> set[frozenset[Atom]]:
    """C of the last residue at the N of the first, as in a ring."""
    chain = structure[0][0]
    for _ in range(len(chain) - 12):
        del chain[12]
    first = np.array(chain[0]["N"][0].pos.tolist())
    away = first - np.array(chain[0]["CA"][0].pos.tolist())
    spot = first + 1.33 * away / np.linalg.norm(away)
    shift = spot - np.array(chain[11]["C"][0].pos.tolist())
    for atom in chain[11]:
        atom.pos += gemmi.Position(*shift)
    return {frozenset((("A", chain[0].name, 1, "N"), ("A", chain[11].name, 12, "C")))}


def isopeptide(structure: gemmi.Structure) -> set[frozenset[Atom]]:
    """A lysine's nitrogen on an aspartate that has lost an oxygen."""
    lysine, aspartate = (next(one for one in structure[0][0] if one.seqid.num == row) for row in (13, 33))
    assert (lysine.name, aspartate.name) == ("LYS", "ASP")
    aspartate.remove_atom("OD2", "\0")
    spot = structure_files.free_spot(structure, structure_files.place(structure, 33, "CG"), 1.33, 1.8)
    lysine["NZ"][0].pos = gemmi.Position(*spot)
    return {frozenset((("A", "LYS", 13, "NZ"), ("A", "ASP", 33, "CG")))}


def cofactor(structure: gemmi.Structure) -> set[frozenset[Atom]]:
    """A ligand on a lysine's nitrogen, and another that clashes with a leucine."""
    lysine, leucine = (next(one.seqid.num for one in structure[0][0] if one.name == name) for name in ("LYS", "LEU"))
    end = structure_files.place(structure, lysine, "NZ")
    spot = structure_files.free_spot(structure, end, 1.35, 2.0)
    structure_files.added(structure, "L", [structure_files.residue("PLP", 1, [("C4A", "C", spot)])])
    clash = structure_files.shifted(structure_files.place(structure, leucine, "CD1"), 0.9, 0.9, 0.0)
    structure_files.added(structure, "M", [structure_files.sugar("LIG", 1, clash, np.array([1.0, 0.2, 0.1]))])
    return {frozenset((("A", "LYS", lysine, "NZ"), ("L", "PLP", 1, "C4A")))}


@pytest.mark.parametrize("edit", [cyclic, isopeptide, cofactor])
def test_bonds_of_chemistry_are_found(edit: Callable[[gemmi.Structure], set[frozenset[Atom]]], tmp_path: Path) -> None:
    structure = structure_files.protein()
    expected = edit(structure)
    assert between(read_model(structure_files.saved(structure, tmp_path / "x.cif"))) == expected


@pytest.mark.parametrize("listed", ["CONECT", "LINK", "struct_conn"])
def test_bonds_that_the_file_lists_are_found(listed: str, tmp_path: Path) -> None:
    """A ligand on a methionine's sulfur, where few are."""
    structure = structure_files.protein()
    sulfur = structure_files.place(structure, 1, "SD")
    spot = structure_files.free_spot(structure, sulfur, 1.8, 1.9)
    structure_files.added(structure, "L", [structure_files.residue("LIG", 1, [("C1", "C", spot)])])
    path = tmp_path / ("x.cif" if listed == "struct_conn" else "x.pdb")
    assert between(read_model(structure_files.saved(structure, path))) == set()
    if listed == "CONECT":
        serials = [atom.serial for chain in (structure[0][0], structure[0][1]) for one in chain for atom in one]
        lines = path.read_text().splitlines()
        rows = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
        ends = [int(line[6:11]) for line in rows if line[12:16].strip() in ("SD", "C1") and line[22:26].strip() == "1"]
        assert len(ends) == 2
        assert len(rows) == len(serials)
        path.write_text("\n".join([*lines[:-1], f"CONECT{ends[0]:5d}{ends[1]:5d}", "END"]) + "\n")
    else:
        link = gemmi.Connection()
        link.name, link.type = "covale1", gemmi.ConnectionType.Covale
        link.partner1 = gemmi.AtomAddress("A", gemmi.SeqId("1"), "MET", "SD")
        link.partner2 = gemmi.AtomAddress("L", gemmi.SeqId("1"), "LIG", "C1")
        structure.connections.append(link)
        structure_files.saved(structure, path)
        assert ("LINK" if listed == "LINK" else "_struct_conn.") in path.read_text()
    found = between(read_model(path))
    assert found == {frozenset((("A", "MET", 1, "SD"), ("L", "LIG", 1, "C1")))}
