"""Amino acids: AlphaFold's numbers of them, their atoms, and the rigid groups that torsions turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Tuple

import numpy as np

from cocofold.network.residue_table import TABLE

ATOMS_PER_RESIDUE, GROUPS_PER_RESIDUE, TORSIONS_PER_RESIDUE = 14, 8, 7
BACKBONE_GROUP, PHI_GROUP, PSI_GROUP, CHI1_GROUP = 0, 2, 3, 4


@dataclass(frozen=True)
class AminoAcid:
    """Ideal geometry of one amino acid.

    Attributes
    ----------
    name : str
        Three letters.
    chi_atoms : tuple of str
        N, CA, CB and the atoms that follow: each four in a row are one chi angle.
    groups : dict of str to int
        Rigid group of each atom, in the order of atom14.
    positions : dict of str to (3,) float
        Å, in the frame of the atom's group.
    """

    name: str
    chi_atoms: Tuple[str, ...]
    groups: Dict[str, int]
    positions: Dict[str, np.ndarray]

    @classmethod
    def parse(cls, header: str, atoms: str) -> AminoAcid:
        """One entry of the table: its first line, and the lines below it."""
        name, *ends = header.split()
        groups, positions = {}, {}
        for atom in atoms.split(";"):
            label, group, *position = atom.split()
            groups[label] = int(group)
            positions[label] = np.array([float(number) for number in position])
        return cls(name, ("N", "CA", "CB", *ends), groups, positions)

    def group_frames(self) -> np.ndarray:
        """Each group's frame with its torsion at zero, (8, 3, 4): rotation and origin in that of its parent.

        The parent of chi 2 to 4 is the chi group before, of the others the backbone. The x axis is the bond that
        turns, the origin its far end. Groups that the residue does not have are the identity.
        """
        frames = np.tile(np.eye(3, 4), (GROUPS_PER_RESIDUE, 1, 1))
        n, ca, c = (self.positions[atom] for atom in ("N", "CA", "C"))
        frames[PHI_GROUP] = _frame(n - ca, np.array([1.0, 0, 0]), n)
        frames[PSI_GROUP] = _frame(c - ca, ca - n, c)
        for chi in range(len(self.chi_atoms) - 3):
            end = self.positions[self.chi_atoms[chi + 2]]
            # From chi 2 on the bond starts at the origin of the parent, and what precedes it lies at negative x.
            frames[CHI1_GROUP + chi] = _frame(end, np.array([-1.0, 0, 0]) if chi else n - ca, end)
        return frames


def _frame(x: np.ndarray, towards: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Right-handed axes and origin, (3, 4): x along ``x``, y in the half plane of ``towards``."""
    x = x / np.linalg.norm(x)
    y = towards - (towards @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y), origin], axis=1)


def _parse(table: str) -> Tuple[AminoAcid, ...]:
    entries: List[List[str]] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            entries[-1].append(line)
        else:
            entries.append([line])
    return tuple(AminoAcid.parse(header, "".join(atoms)) for header, *atoms in entries)


AMINO_ACIDS = _parse(TABLE)
"""The twenty, in AlphaFold's order."""

UNKNOWN = len(AMINO_ACIDS)
"""AlphaFold's number of a residue that is none of the twenty; it has no atoms."""

RESIDUE_NAMES = (*(amino_acid.name for amino_acid in AMINO_ACIDS), "UNK")
"""Three-letter names by AlphaFold's number."""

ATOM14_NAMES = (*(tuple(amino_acid.groups) for amino_acid in AMINO_ACIDS), ())
"""Names of the atoms by AlphaFold's number: those of the first columns of atom14, the others stay empty."""


@dataclass(frozen=True)
class ResidueTables:
    """The amino acids as arrays, by AlphaFold's number of them; row 20 is of the unknown one.

    Attributes
    ----------
    exists : (21, 14) bool
    group : (21, 14) int
        Rigid group of each atom.
    position : (21, 14, 3) float64
        Å, in the frame of the group.
    frame : (21, 8, 3, 4) float64
        See ``AminoAcid.group_frames``.
    """

    exists: np.ndarray
    group: np.ndarray
    position: np.ndarray
    frame: np.ndarray

    @classmethod
    def build(cls) -> ResidueTables:
        """Fill the arrays."""
        count = len(RESIDUE_NAMES)
        exists = np.zeros((count, ATOMS_PER_RESIDUE), dtype=bool)
        group = np.zeros((count, ATOMS_PER_RESIDUE), dtype=np.int64)
        position = np.zeros((count, ATOMS_PER_RESIDUE, 3))
        frame = np.tile(np.eye(3, 4), (count, GROUPS_PER_RESIDUE, 1, 1))
        for row, amino_acid in enumerate(AMINO_ACIDS):
            atoms = len(amino_acid.groups)
            exists[row, :atoms] = True
            group[row, :atoms] = list(amino_acid.groups.values())
            position[row, :atoms] = list(amino_acid.positions.values())
            frame[row] = amino_acid.group_frames()
        return cls(exists, group, position, frame)


TABLES = ResidueTables.build()
