"""What fine-tuning asks of a source of atoms; it does not care which one it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Stage:
    """A part of the way from coarse to fine.

    Attributes
    ----------
    name : str
        For the log.
    steps : int
        Optimiser steps; not counted where there are epochs.
    resolution_angstrom : float
        Finest resolution compared with the images; 0 for all that is asked for.
    batches : int
        Batches of images in a step: more where the source costs more than the images. With none the images are not
        asked, and the source's prior leads.
    gaussians_free : bool
        Whether amplitudes and widths are learned too.
    tentative : bool
        Whether the stage is taken back unless it explains the images better, at all rings, than what was before it.
    epochs : int
        Passes over the particles instead of steps, with rates that do not fall.
    warm_up : int
        Steps in which rates rise from zero.
    longest_gradient : float
        Norm to which a longer gradient is cut; 0 for none.
    """

    name: str
    steps: int
    resolution_angstrom: float
    batches: int = 1
    trains_gaussians: bool = False
    revert_unless_better: bool = False
    epochs: int = 0
    warm_up_steps: int = 0
    max_gradient_norm: float = 0.0


class AtomSource(Protocol):
    """Where atoms come from: positions that depend on parameters, and a gradient taken back to these."""

    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""
        ...

    def begin(self, stage: int) -> list[dict]:
        """Set up the parameters of a stage, starting where the last one ended; groups for an optimiser, with rates."""
        ...

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable; before the first step those of the input model."""
        ...

    def step_memory_bytes(self) -> int:
        """About the memory that positions, their gradient and a step of the optimiser take beyond what is held."""
        ...

    def uses_all_cores(self) -> bool:
        """Whether a pass is so long that more of a processor's cores shorten it."""
        ...

    def confidence(self) -> torch.Tensor | None:
        """Predicted lDDT-CA of each residue of the model, (n_residues,) from 0 to 100, if the source knows it."""
        ...

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy of the parameters, and of the positions they give, added to the geometry restraints."""
        ...

    def revert_stage(self) -> None:
        """Go back to where the stage began."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        ...

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        ...
