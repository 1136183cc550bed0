"""Rotatable bonds of side chains, found from the atoms' bonds rather than from names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cocofold.structure.backbone import Backbone
from cocofold.structure.bonds import covalent_bonds
from cocofold.structure.model import Model

_DEEPEST = 4


@dataclass(frozen=True)
class Torsions:
    """Side-chain torsions chi 1 ... chi 4, ordered so that a torsion comes after those nearer to the backbone.

    Attributes
    ----------
    axes : (n_torsions, 2) int
        Atoms of each rotatable bond, the one nearer to the backbone first.
    turned : tuple of 4 pairs
        For each depth the torsion and the atom, both (n_turned,) int, of every atom that a torsion of that depth turns.
    """

    axes: np.ndarray
    turned: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __len__(self) -> int:
        return len(self.axes)

    @classmethod
    def of(cls, model: Model, backbone: Backbone) -> Torsions:
        """Torsions of every side chain that hangs on its backbone alone.

        Rings, prolines, cystines and side chains bonded to another residue have none beyond what leaves these
        bonds in place, and planar groups at the end of a chain of four torsions do not turn.
        """
        pairs = covalent_bonds(model)
        owner = model.residue_of_atom
        tied = set(np.unique(pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]))
        neighbours: dict[int, list[int]] = {}
        for first, second in pairs[owner[pairs[:, 0]] == owner[pairs[:, 1]]]:
            neighbours.setdefault(int(first), []).append(int(second))
            neighbours.setdefault(int(second), []).append(int(first))
        axes: list[tuple[int, int]] = []
        turned: list[tuple[list[int], list[int]]] = [([], []) for _ in range(_DEEPEST)]
        beta = model.atoms_named("CB")[backbone.residues]
        for (_, alpha, _), base in zip(backbone.atoms.tolist(), beta.tolist()):
            if base >= 0:
                _descend(alpha, base, 0, neighbours, tied, model.atomic_numbers, axes, turned)
        return cls(
            np.array(axes, dtype=int).reshape(-1, 2),
            tuple((np.array(torsion, dtype=int), np.array(atom, dtype=int)) for torsion, atom in turned),
        )


def _descend(
    near: int,
    far: int,
    depth: int,
    neighbours: dict[int, list[int]],
    tied: set[int],
    atomic_numbers: np.ndarray,
    axes: list[tuple[int, int]],
    turned: list[tuple[list[int], list[int]]],
) -> None:
    """Add the torsion about near-far, if the bond is rotatable, and those behind it."""
    beyond = _beyond(near, far, neighbours)
    if beyond is None or depth == _DEEPEST:
        return
    heavy = [atom for atom in beyond if atomic_numbers[atom] > 1]
    if heavy and not tied.intersection([*beyond, far]):
        torsions, atoms = turned[depth]
        torsions.extend([len(axes)] * len(beyond))
        atoms.extend(beyond)
        axes.append((near, far))
    for atom in sorted(neighbours[far]):
        if atom != near and atomic_numbers[atom] > 1:
            _descend(far, atom, depth + 1, neighbours, tied, atomic_numbers, axes, turned)


def _beyond(near: int, far: int, neighbours: dict[int, list[int]]) -> list[int] | None:
    """Atoms that hang on ``far`` when the bond near-far is cut; None if the bond lies in a ring."""
    seen, stack = {far}, [far]
    while stack:
        current = stack.pop()
        for atom in neighbours[current]:
            if atom == near and current != far:
                return None
            if atom != near and atom not in seen:
                seen.add(atom)
                stack.append(atom)
    return sorted(seen - {far})
