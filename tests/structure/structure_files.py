"""Structures of every kind that people bring, made from the demo's closed state, as real files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.commands.demo import closed_state

Atoms = Sequence[tuple[str, str, Sequence[float]]]


def protein() -> gemmi.Structure:
    """The demo's closed state as gemmi reads it."""
    return gemmi.read_structure(str(closed_state()))


def bare(structure: gemmi.Structure) -> gemmi.Structure:
    """The same without entities, label names and sequences, as a PDB file without SEQRES leaves it."""
    while len(structure.entities):
        del structure.entities[0]
    for chain in structure[0]:
        for residue in chain:
            residue.subchain, residue.entity_id, residue.label_seq = "", "", None
            residue.entity_type = gemmi.EntityType.Unknown
    return structure


def residue(name: str, number: int, atoms: Atoms, het: str = "H", code: str = " ") -> gemmi.Residue:
    """A residue of atoms (name, element, position)."""
    made = gemmi.Residue()
    made.name, made.het_flag, made.seqid = name, het, gemmi.SeqId(number, code)
    for label, element, position in atoms:
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos, atom.occ = label, gemmi.Element(element), gemmi.Position(*position), 1.0
        atom.b_iso = 20.0
        made.add_atom(atom)
    return made


def added(structure: gemmi.Structure, chain: str, residues: Sequence[gemmi.Residue]) -> None:
    """Append residues as a block of a chain."""
    block = gemmi.Chain(chain)
    for one in residues:
        block.add_residue(one)
    structure[0].add_chain(block)


def place(structure: gemmi.Structure, number: int, atom: str) -> np.ndarray:
    """Position of an atom of the first chain."""
    found = next(one for one in structure[0][0] if one.seqid.num == number)
    return np.array(found.find_atom(atom, "*").pos.tolist())


def shifted(position: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """A position moved by so many Å."""
    return position + np.array([x, y, z])


def outward(structure: gemmi.Structure, position: np.ndarray) -> np.ndarray:
    """Unit vector from the centre of the protein to a position."""
    atoms = [atom.pos.tolist() for chain in structure[0] for one in chain for atom in one]
    direction = position - np.mean(atoms, axis=0)
    return direction / np.linalg.norm(direction)


def free_spot(structure: gemmi.Structure, position: np.ndarray, distance: float, room: float) -> np.ndarray:
    """A position at a distance from another that is farthest from all atoms, at least ``room``."""
    atoms = np.array([atom.pos.tolist() for chain in structure[0] for one in chain for atom in one])
    directions = np.random.default_rng(0).normal(size=(500, 3))
    spots = position + distance * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    # The nearest may be the atom that it is bonded to.
    nearest = cKDTree(atoms).query(spots, k=2)[0][:, 1]
    assert nearest.max() > room
    return spots[nearest.argmax()]


def sugar(name: str, number: int, root: np.ndarray, direction: np.ndarray) -> gemmi.Residue:
    """A six-ring of sugar with C1 at ``root`` and O4 across it, along ``direction``; bond lengths about right."""
    x = direction / np.linalg.norm(direction)
    y = np.cross(x, [0.3, 0.5, 0.8])
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    ring = {"C1": (0, 0, 0), "C2": (0.7, 1.25, 0.25), "C3": (2.15, 1.25, -0.25), "C4": (2.9, 0, 0.25),
            "C5": (2.15, -1.25, -0.25), "O5": (0.7, -1.2, 0.25), "O4": (4.3, 0, 0), "N2": (0.1, 2.4, -0.4),
            "C6": (2.8, -2.5, 0.3)}  # fmt: skip
    return residue(name, number, [(label, label[0], root + a * x + b * y + c * z) for label, (a, b, c) in ring.items()])


def nucleotides(names: Sequence[str], first: int, root: np.ndarray, direction: np.ndarray) -> list[gemmi.Residue]:
    """A stretched strand, its backbone a zigzag of 1.5 Å bonds."""
    x = direction / np.linalg.norm(direction)
    y = np.cross(x, [0.1, 0.9, 0.4])
    y /= np.linalg.norm(y)
    made, row = [], 0
    for number, name in enumerate(names, start=first):
        atoms = []
        for label in ("P", "O5'", "C5'", "C4'", "C3'", "O3'"):
            atoms.append((label, label[0], root + 1.3 * row * x + (0.75 if row % 2 else 0) * y))
            row += 1
        made.append(residue(name, number, atoms, het="A"))
    return made


def renamed(
    structure: gemmi.Structure, number: int, name: str, atoms: dict[str, tuple[str, str]] | None = None
) -> None:
    """Make a residue of the first chain a modified one: its name, HETATM, and atoms (old name: new name, element)."""
    found = next(one for one in structure[0][0] if one.seqid.num == number)
    found.name, found.het_flag = name, "H"
    for old, (new, element) in (atoms or {}).items():
        atom = found.find_atom(old, "*")
        atom.name, atom.element = new, gemmi.Element(element)


def grown(structure: gemmi.Structure, number: int, atom: str, name: str, element: str, bond: float) -> None:
    """Add an atom to a residue of the first chain, bonded to one of its atoms, where there is room."""
    found = next(one for one in structure[0][0] if one.seqid.num == number)
    spot = free_spot(structure, place(structure, number, atom), bond, 1.2)
    found.add_atom(residue("X", 1, [(name, element, spot)])[0].clone())


def saved(structure: gemmi.Structure, path: Path) -> Path:
    """Write as mmCIF with all that gemmi knows, or as PDB, as the path says."""
    if path.suffix == ".pdb":
        path.write_text(structure.make_pdb_string())
        return path
    structure.setup_entities()
    structure.assign_label_seq_id()
    structure.make_mmcif_document().write_file(str(path))
    return path


def without(path: Path, dropped: Callable[[str], bool]) -> Path:
    """Drop the columns of ``_atom_site`` that are so, and every other category but the atoms."""
    block = gemmi.cif.read(str(path)).sole_block()
    bare_document = gemmi.cif.Document()
    kept = bare_document.add_new_block("bare")
    items = block.get_mmcif_category("_atom_site.")
    kept.set_mmcif_category("_atom_site.", {name: values for name, values in items.items() if not dropped(name)})
    bare_document.write_file(str(path))
    return path
