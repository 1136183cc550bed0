"""A model of atoms: read from mmCIF or PDB, written as mmCIF."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from cocofold import __version__
from cocofold.errors import InputError
from cocofold.files import appearing_whole


class ResidueKey(NamedTuple):
    """What names a residue in the input file: author's chain, number, insertion code, and residue name."""

    chain: str
    number: int
    insertion_code: str
    name: str


@dataclass(frozen=True)
class Model:
    """Atoms of the first model of a file; of alternate conformations the first.

    Attributes
    ----------
    structure : gemmi.Structure
        The file's content, kept for writing: names, numbers, entities.
    positions : (n_atoms, 3) float64
        Å.
    atomic_numbers : (n_atoms,) int
    atom_names : (n_atoms,) str
    residue_of_atom : (n_atoms,) int
        Row in ``residues``.
    residues : tuple of ResidueKey
    """

    structure: gemmi.Structure
    positions: np.ndarray
    atomic_numbers: np.ndarray
    atom_names: np.ndarray
    residue_of_atom: np.ndarray
    residues: tuple[ResidueKey, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def moved_to(self, positions: np.ndarray) -> Model:
        """The same atoms at other positions, (n_atoms, 3) Å."""
        return replace(self, positions=np.asarray(positions, dtype=float))

    def atoms_named(self, name: str) -> np.ndarray:
        """For each residue the row of its atom of this name, or -1; (n_residues,) int."""
        rows = np.full(len(self.residues), -1)
        found = np.flatnonzero(self.atom_names == name)
        rows[self.residue_of_atom[found]] = found
        return rows

    def backbone(self) -> tuple[np.ndarray, np.ndarray]:
        """Residues with N, CA and C, in file order, and the rows of these atoms.

        Returns
        -------
        residues : (n,) int
            Rows in ``residues``.
        atoms : (n, 3) int
            Rows of N, CA and C.
        """
        atoms = np.stack([self.atoms_named(name) for name in ("N", "CA", "C")], axis=1)
        # A calcium ion is called CA too, but has no N and C.
        residues = np.flatnonzero((atoms >= 0).all(axis=1))
        return residues, atoms[residues]


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read an mmCIF or PDB file.

    Raises
    ------
    InputError
        If the file is missing, unreadable, holds no atoms, no protein backbone or positions that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model {path}: no such file; give an mmCIF or PDB file")
    try:
        structure = gemmi.read_structure(str(path), merge_chain_parts=False)
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise InputError(f"model {path}: not readable as mmCIF or PDB ({error})") from error
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(f"model {path}: holds no atoms; give an mmCIF or PDB file with a protein model")
    while len(structure) > 1:
        del structure[1]
    structure.setup_entities()
    structure.remove_alternative_conformations()
    structure.remove_empty_chains()
    model = _from_structure(structure)
    if not np.isfinite(model.positions).all():
        raise InputError(f"model {path}: {int((~np.isfinite(model.positions)).any(1).sum())} atoms have no position")
    if len(model.backbone()[0]) == 0:
        raise InputError(
            f"model {path}: no residue has the backbone atoms N, CA and C; a protein model with its backbone is needed"
        )
    return model


def _from_structure(structure: gemmi.Structure) -> Model:
    positions, numbers, names, owner = [], [], [], []
    residues: list[ResidueKey] = []
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                positions.append(atom.pos.tolist())
                numbers.append(atom.element.atomic_number)
                names.append(atom.name)
                owner.append(len(residues))
            residues.append(ResidueKey(chain.name, residue.seqid.num or 0, residue.seqid.icode.strip(), residue.name))
    return Model(
        structure,
        np.array(positions, dtype=float),
        np.array(numbers),
        np.array(names),
        np.array(owner),
        tuple(residues),
    )


def write_model(
    path: str | os.PathLike[str],
    model: Model,
    amplitudes: np.ndarray | None = None,
    widths_angstrom: np.ndarray | None = None,
    details: str | None = None,
) -> None:
    """Write a model as mmCIF, with the chain names, residue numbers and B factors (or pLDDT) of its input.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    model : Model
    amplitudes, widths_angstrom : (n_atoms,) float, optional
        Learned Gaussians, written in a category ``_cocofold_gaussian`` of their own.
    details : str, optional
        One line on what was done, for ``_struct.pdbx_descriptor``.
    """
    structure = model.structure.clone()
    atoms = [atom for chain in structure[0] for residue in chain for atom in residue]
    for serial, (atom, position) in enumerate(zip(atoms, model.positions), start=1):
        atom.pos = gemmi.Position(*position)
        atom.serial = serial
    document = structure.make_mmcif_document()
    block = document.sole_block()
    software = block.init_mmcif_loop("_software.", ["pdbx_ordinal", "name", "version", "classification"])
    software.add_row(["1", "cocofold", __version__, "refinement"])
    if details:
        block.set_pair("_struct.entry_id", gemmi.cif.quote(structure.name))
        block.set_pair("_struct.pdbx_descriptor", gemmi.cif.quote(details))
    if amplitudes is not None and widths_angstrom is not None:
        loop = block.init_mmcif_loop("_cocofold_gaussian.", ["atom_site_id", "amplitude", "width_angstrom"])
        for serial, (amplitude, width) in enumerate(zip(amplitudes, widths_angstrom), start=1):
            loop.add_row([str(serial), f"{amplitude:.4f}", f"{width:.4f}"])
    with appearing_whole(path) as partial:
        document.write_file(str(partial))
