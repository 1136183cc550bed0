"""Copies of a subunit about a map's symmetry axes: the assembly's model, and its atoms with shared parameters."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import numpy as np
import torch

from cocofold.sources.base import AtomSource, WrappedSource
from cocofold.structure.model import Model


def copy_positions(positions: np.ndarray, rotations: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Positions of all copies, one copy after the other.

    Parameters
    ----------
    positions : (n, 3) float
        Å.
    rotations : (c, 3, 3) float
        The identity first.
    centre : (3,) float
        Å, on all axes.

    Returns
    -------
    (c n, 3) float
    """
    return (np.einsum("cij,nj->cni", rotations, positions - centre) + centre).reshape(-1, 3)


def build_assembly(subunit: Model, rotations: np.ndarray, centre: np.ndarray) -> Model:
    """The model of all copies: the subunit's atoms, then each copy's in the same order, under new chain names."""
    structure = subunit.structure.clone()
    names = [chain.name for chain in structure[0]]
    generator = gemmi.Assembly.Gen()
    generator.chains = list(dict.fromkeys(names))
    for rotation in rotations:
        operator = gemmi.Assembly.Operator()
        transform = gemmi.Transform()
        transform.mat.fromlist(rotation.tolist())
        transform.vec.fromlist((centre - rotation @ centre).tolist())
        operator.transform = transform
        generator.operators.append(operator)
    assembly = gemmi.Assembly("all")
    assembly.generators.append(generator)
    structure.assemblies.clear()
    structure.assemblies.append(assembly)
    # Every atom has its copies, even if it lies on an axis.
    structure.transform_to_assembly("all", gemmi.HowToNameCopiedChain.Short, merge_dist=0)
    model = Model.of(structure)
    positions = copy_positions(subunit.positions, rotations, centre)
    return replace(model, positions=positions, notes=subunit.notes, described=subunit.described)


class SymmetricCopies(WrappedSource):
    """Atoms of an assembly whose copies share all parameters of one subunit.

    Parameters
    ----------
    inner : AtomSource
        The subunit.
    rotations : (c, 3, 3) float
        The identity first.
    centre : (3,) float
        Å, on all axes.
    """

    def __init__(self, inner: AtomSource, rotations: np.ndarray, centre: np.ndarray) -> None:
        super().__init__(inner)
        self._rotations, self._centre = rotations, centre

    def positions(self) -> torch.Tensor:
        """Positions of the atoms of all copies, (c n, 3) Å, differentiable."""
        first = self._inner.positions()
        rotations, centre = (torch.as_tensor(part).to(first) for part in (self._rotations, self._centre))
        # The first copy is the subunit, bit by bit.
        others = torch.matmul(first - centre, rotations[1:].mT) + centre
        return torch.cat([first, others.flatten(0, 1)])

    def describe(self) -> str:
        """See ``AtomSource``."""
        return f"{self._inner.describe()} The {len(self._rotations)} copies of the subunit shared its parameters."

    def confidence(self) -> torch.Tensor | None:
        """The subunit's, for each copy."""
        known = self._inner.confidence()
        return None if known is None else known.repeat(len(self._rotations))

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """The subunit's: it is a mean over the subunit's atoms, as restraints are means over the assembly's."""
        return self._inner.prior(positions[: len(positions) // len(self._rotations)])
