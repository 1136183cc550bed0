"""What fine-tuning asks of a source of atoms, its stages and their optimiser; sources that wrap another one; copies."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch.optim.adam import adam


@dataclass(frozen=True)
class Stage:
    """A part of the way from coarse to fine.

    Attributes
    ----------
    name : str
        Name in the log.
    steps : int
        Number of optimiser steps; ignored where ``epochs`` is not 0.
    resolution_angstrom : float
        Finest resolution compared with the images; 0 for all that the run asks for.
    batches : int
        Number of batches of images in a step: more where the source costs more than the images. With 0 the images are
        not asked, and the source's prior leads; the Gaussians can then not be trained.
    trains_gaussians : bool
        Whether the optimiser changes amplitudes and widths too.
    revert_unless_better : bool
        Whether the stage is taken back unless it explains the images better, at all rings, than what was before it.
    epochs : int
        Number of passes over the particles, in place of ``steps``, with rates that do not fall.
    warm_up_steps : int
        Number of steps in which rates rise from zero.
    max_gradient_norm : float
        Norm to which a longer gradient is cut; 0 for none.
    allows_overlaps : bool
        Whether atoms may pass through each other: bodies that lie in each other's place have to.
    until_settled : bool
        Whether it is left out if the stage before it has settled, or was left out.
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
    allows_overlaps: bool = False
    until_settled: bool = False


# Share of the full learning rates at which a stage ends, on a half cosine; larger leaves more of the batches' noise.
_FINAL_RATE_FACTOR = 0.05


def counted_in_steps(stage: Stage, n_work: int, batch_size: int) -> Stage:
    """A stage whose length is known in steps."""
    return replace(stage, steps=math.ceil(stage.epochs * n_work / batch_size)) if stage.epochs else stage


def coarse_steps(stages: Sequence[Stage], refines_poses: bool) -> int:
    """Number of steps before the last stages that compare all rings, or in which poses may be refined.

    Up to there it makes no difference whether all particles are fitted or most of them. It is 0 where the number of
    steps depends on that of particles.
    """

    def is_fine(stage: Stage) -> bool:
        return stage.epochs > 0 or (stage.trains_gaussians if refines_poses else not stage.resolution_angstrom)

    return sum(stage.steps for stage in itertools.dropwhile(is_fine, reversed(stages)))


class ParameterGroup(TypedDict):
    """Parameters that an optimiser changes at one learning rate, in the form that ``torch.optim`` takes."""

    params: list[torch.Tensor]
    lr: float


class Adam:
    """Adam as torch computes it, without ``torch.optim.Adam``, which imports torch's compiler: seconds of every run.

    Parameters
    ----------
    groups : list of ParameterGroup
        Their learning rates may be changed between steps.
    betas : (float, float)
        Shares of the moments that a step keeps.
    """

    def __init__(self, groups: list[ParameterGroup], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.groups = [ParameterGroup(params=list(group["params"]), lr=group["lr"]) for group in groups]
        self.parameters = [values for group in self.groups for values in group["params"]]
        self._betas = betas
        self._moments: dict[int, dict[str, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for values in self.parameters:
            values.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by their gradients; those that have none stay."""
        number = 0
        for group in self.groups:
            rows = []
            for values in group["params"]:
                if values.grad is not None:
                    rows.append((values, values.grad, self._moments_of(number, values)))
                number += 1
            adam(
                [values for values, _, _ in rows],
                [gradient for _, gradient, _ in rows],
                [moments["exp_avg"] for _, _, moments in rows],
                [moments["exp_avg_sq"] for _, _, moments in rows],
                [],
                [moments["step"] for _, _, moments in rows],
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )

    def _moments_of(self, number: int, values: torch.Tensor) -> dict[str, torch.Tensor]:
        if number not in self._moments:
            zeros = torch.zeros_like(values)
            self._moments[number] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        return self._moments[number]

    def state(self) -> dict[str, torch.Tensor]:
        """Moments, by the names that they have in a checkpoint."""
        return {
            f"{number}.{name}": values for number, moments in self._moments.items() for name, values in moments.items()
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with the moments that ``state`` returned; ``ValueError`` if they are of other parameters."""
        self._moments = {}
        for name, values in state.items():
            number, _, key = name.partition(".")
            # The number of steps is asked by the processor.
            device = values.device if key == "step" else self.parameters[int(number)].device
            if key != "step" and values.shape != self.parameters[int(number)].shape:
                raise ValueError("it is of an older version, whose parameters were others")
            self._moments.setdefault(int(number), {})[key] = values.to(device, copy=True)


class StageOptimiser(Adam):
    """Adam on the parameters of a stage, with rates that rise and fall as the stage says.

    Parameters
    ----------
    stage : Stage
    groups : list of ParameterGroup
        With their full learning rates.
    """

    def __init__(self, stage: Stage, groups: list[ParameterGroup]) -> None:
        super().__init__(groups)
        self._stage = stage
        self._full_rates = [group["lr"] for group in groups]

    def begin_step(self, within: int) -> None:
        """Set the learning rates of a step of the stage, and forget the gradients of the last."""
        for group, rate in zip(self.groups, self._full_rates):
            group["lr"] = rate * self._share_of_rates(within)
        self.zero_grad()

    def _share_of_rates(self, within: int) -> float:
        stage = self._stage
        if stage.epochs:
            return 1.0
        falling = _FINAL_RATE_FACTOR + (1 - _FINAL_RATE_FACTOR) * 0.5 * (1 + math.cos(math.pi * within / stage.steps))
        return falling * min(1.0, (within + 1) / stage.warm_up_steps) if stage.warm_up_steps else falling

    def step(self) -> None:
        """Change the parameters by their gradients, which are cut to the norm that the stage allows."""
        if self._stage.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._stage.max_gradient_norm)
        super().step()


class AtomSource(ABC):
    """Where atoms come from: positions that depend on parameters, through which gradients reach these.

    A run calls ``begin_stage`` once for each stage in order, or ``restore`` to go on within one, and between them
    ``positions`` and the optimiser's steps.
    """

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""

    @abstractmethod
    def begin_stage(self, stage: int) -> list[ParameterGroup]:
        """Set up the parameters of a stage, starting where the last one ended.

        Parameters
        ----------
        stage : int
            Row in ``stages``.

        Returns
        -------
        list of ParameterGroup
            Parameters of the stage for an optimiser, with their full learning rates.
        """

    @abstractmethod
    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable; before the first step those of the input model."""

    @abstractmethod
    def step_memory_bytes(self) -> int:
        """Memory that positions, their gradient and an optimiser step take beyond what is held, roughly."""

    @abstractmethod
    def revert_stage(self) -> None:
        """Go back to where the stage began.

        Parameters may be other tensors afterwards: before the next step of an optimiser the caller begins a stage or
        restores a state. After ``restore``, only sources that have a stage with ``revert_unless_better`` go back to
        where that stage began; others may go back to the restored state.
        """

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage: copies, which later steps do not change."""

    @abstractmethod
    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[ParameterGroup]:
        """Go back to a state within a stage; returns parameters for an optimiser, as ``begin_stage`` does."""

    @abstractmethod
    def describe(self) -> str:
        """What moves the atoms, as a sentence or two for the methods section of a paper."""

    @property
    def copies(self) -> int:
        """Number of equal copies of a molecule that follow each other in the atoms and share all that is learned."""
        return 1

    def uses_all_cores(self) -> bool:
        """Whether a pass takes so long that more of a processor's cores shorten it; by default it does not."""
        return False

    def confidence(self) -> torch.Tensor | None:
        """Predicted lDDT-CA of each residue of the model, (n_residues,) from 0 to 100; None if the source has none."""
        return None

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy of the parameters, and of the positions they give, added to the geometry restraints; by default 0.

        Parameters
        ----------
        positions : (n_atoms, 3) float
            Å, from ``positions``.
        """
        return positions.new_zeros(())


class WrappedSource(AtomSource):
    """A source that changes the atoms of an inner source, and asks that one for all else.

    Parameters
    ----------
    inner : AtomSource
    """

    def __init__(self, inner: AtomSource) -> None:
        self._inner = inner

    def stages(self) -> list[Stage]:
        """Stages of the inner source."""
        return self._inner.stages()

    def begin_stage(self, stage: int) -> list[ParameterGroup]:
        """See ``AtomSource``."""
        return self._inner.begin_stage(stage)

    def positions(self) -> torch.Tensor:
        """See ``AtomSource``."""
        return self._inner.positions()

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``."""
        return self._inner.step_memory_bytes()

    def revert_stage(self) -> None:
        """See ``AtomSource``."""
        self._inner.revert_stage()

    def state(self) -> dict[str, torch.Tensor]:
        """See ``AtomSource``."""
        return self._inner.state()

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[ParameterGroup]:
        """See ``AtomSource``."""
        return self._inner.restore(stage, state)

    def describe(self) -> str:
        """See ``AtomSource``."""
        return self._inner.describe()

    def uses_all_cores(self) -> bool:
        """Whether the inner source does."""
        return self._inner.uses_all_cores()

    def confidence(self) -> torch.Tensor | None:
        """See ``AtomSource``."""
        return self._inner.confidence()

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """The inner source's, of the positions that are given."""
        return self._inner.prior(positions)


class SymmetricCopies(WrappedSource):
    """Atoms of an assembly whose copies share all parameters of one subunit, and amplitudes and widths of its atoms.

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

    @property
    def copies(self) -> int:
        """Their number."""
        return len(self._rotations)

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
