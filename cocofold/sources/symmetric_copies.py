"""Atoms of an assembly whose copies of a subunit share all parameters."""

from __future__ import annotations

import numpy as np
import torch

from cocofold.sources.base import AtomSource, Stage


class SymmetricCopies:
    """Atoms of an assembly whose copies share all parameters (implements ``cocofold.sources.base.AtomSource``).

    Parameters
    ----------
    subunit : AtomSource
    rotations : (c, 3, 3) float
        The identity first.
    centre : (3,) float
        Å, on all axes.
    """

    def __init__(self, subunit: AtomSource, rotations: np.ndarray, centre: np.ndarray) -> None:
        self._subunit = subunit
        self._rotations, self._centre = rotations, centre

    def stages(self) -> list[Stage]:
        """Those of the subunit."""
        return self._subunit.stages()

    def begin(self, stage: int) -> list[dict]:
        """See ``AtomSource``."""
        return self._subunit.begin(stage)

    def positions(self) -> torch.Tensor:
        """Positions of the atoms of all copies, (c n, 3) Å, differentiable."""
        first = self._subunit.positions()
        rotations, centre = (torch.as_tensor(part).to(first) for part in (self._rotations, self._centre))
        # The first copy is the subunit, bit by bit.
        others = torch.matmul(first - centre, rotations[1:].mT) + centre
        return torch.cat([first, others.flatten(0, 1)])

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``; copies are no more than their positions."""
        return self._subunit.step_memory_bytes()

    def uses_all_cores(self) -> bool:
        """If the subunit is."""
        return self._subunit.uses_all_cores()

    def confidence(self) -> torch.Tensor | None:
        """The subunit's, for each copy."""
        known = self._subunit.confidence()
        return None if known is None else known.repeat(len(self._rotations))

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """The subunit's: a mean over its atoms, as restraints are over the assembly's."""
        return self._subunit.prior(positions[: len(positions) // len(self._rotations)])

    def revert_stage(self) -> None:
        """See ``AtomSource``."""
        self._subunit.revert_stage()

    def state(self) -> dict[str, torch.Tensor]:
        """See ``AtomSource``."""
        return self._subunit.state()

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """See ``AtomSource``."""
        return self._subunit.restore(stage, state)
