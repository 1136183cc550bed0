"""Atoms of an assembly whose copies of a subunit share all parameters."""

from __future__ import annotations

import numpy as np
import torch

from cocofold.sources.base import AtomSource, WrappedSource


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
