"""Which particles are fitted and which held out, what is known of each cycle, and what the data support."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

_ONE_PASS_FROM = 500
_FEWEST_TO_HOLD_OUT = 20
_CLEAR_IN_ERRORS = 3.0


@dataclass
class Cycle:
    """What is known at the end of a cycle; cycle 0 is the start.

    ``frc_work`` and ``frc_heldout`` are mean correlations over rings and a fixed set of particles; ``moved_angstrom``
    is the root mean square displacement of CA atoms from the start, ``worst_link_angstrom`` the largest deviation of
    a C-N bond.
    """

    number: int
    step: int
    stage: str
    seconds: float
    frc_work: float
    frc_heldout: float | None
    moved_angstrom: float
    worst_link_angstrom: float


@dataclass
class Pass:
    """One way through the stages: which particles are fitted, which are held out, and what came of it."""

    work: torch.Tensor
    heldout: torch.Tensor
    last_cycle: int | None = None
    cycles: list[Cycle] = field(default_factory=list)
    best: int = 0
    best_images: list[float] = field(default_factory=list)
    start_images: list[float] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        content = {name: value for name, value in vars(self).items() if name not in ("work", "heldout")}
        return {**content, "cycles": [asdict(cycle) for cycle in self.cycles]}

    def recall(self, facts: dict[str, Any]) -> None:
        """Take back what ``facts`` gave."""
        vars(self).update({**facts, "cycles": [Cycle(**cycle) for cycle in facts["cycles"]]})


def split_into_passes(n_particles: int, seed: int) -> list[Pass]:
    """Which particles are fitted and which held out, in one or two passes."""
    order = torch.as_tensor(np.random.default_rng([seed, 1]).permutation(n_particles))
    everything = torch.arange(n_particles)
    if n_particles < _FEWEST_TO_HOLD_OUT:
        return [Pass(everything, everything[:0])]
    count = max(50, round(0.05 * n_particles)) if n_particles >= _ONE_PASS_FROM else n_particles // 5
    first = Pass(order[count:].sort().values, order[:count].sort().values)
    return [first] if n_particles >= _ONE_PASS_FROM else [first, Pass(everything, everything[:0])]


def verdict_of(judged: Pass) -> str:
    """Whether held-out particles are explained better than by the start, image by image."""
    if not judged.start_images:
        return "undecided"
    if judged.best == 0:
        return "not supported"
    gain = np.array(judged.best_images) - np.array(judged.start_images)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return "supported" if gain.mean() > _CLEAR_IN_ERRORS * error else "undecided"
