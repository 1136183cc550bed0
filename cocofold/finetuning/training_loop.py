"""The optimiser's loop, one pass through the source a step, images in chunks, coarse to fine; and its checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cocofold.finetuning.holdout import mean_of_finite, spread_draw
from cocofold.finetuning.options import TrainingOptions
from cocofold.finetuning.run_folder import ModelState
from cocofold.imaging.fourier import RingPixels, ring_count
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient
from cocofold.likelihood.image_comparison import Comparison, PoseRefiner
from cocofold.likelihood.observed_images import Observations
from cocofold.sources.base import AtomSource, ParameterGroup, Stage, StageOptimiser, coarse_steps, counted_in_steps
from cocofold.structure.restraints import Restraints
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError
from cocofold.system.hardware import is_out_of_memory

# Steps between searches for pairs of atoms that may clash: atoms move by a fraction of their size meanwhile. Larger
# saves time and lets atoms meet that the restraints do not know of.
_CONTACT_REFRESH_STEPS = 25
# Number of fitted images by which a tentative stage is kept or taken back; more decide more surely, and take longer.
_IMAGES_TO_JUDGE_STAGE = 200
# A stage has settled if it moved no atom by more than this share of the finest resolution that it compares: what noise
# in the images moves lies below it. A smaller share takes more rounds.
_SETTLED_SHARE = 0.1
# Number of rings at least that a coarse stage compares, as far as there are so many: fewer tell next to nothing.
_FEWEST_RINGS = 3
# The order of particles in an epoch is drawn with ``seed * _SEED_STRIDE + epoch``, so that no two seeds share an order.
_SEED_STRIDE = 1_000_003


class TrainingLoop:
    """State of a fine-tuning pass, advanced step by step.

    Parameters
    ----------
    source : AtomSource
    restraints : Restraints
    gaussians : AtomGaussians
        At the start.
    counted : (n_atoms,) bool
        Atoms whose Gaussians the penalty of paper eq. 4 concerns.
    observations : Observations
    comparison : Comparison
        Of atoms with these.
    work : (n_work,) int
        Rows of the particles that are fitted.
    settings : TrainingOptions
    images_at_once : int
        Number of images compared at once; part of the result's rounding.
    judges : bool
        Whether there are held-out images, so that refined poses leave rings to judge by.
    """

    def __init__(
        self,
        source: AtomSource,
        restraints: Restraints,
        gaussians: AtomGaussians,
        counted: torch.Tensor,
        observations: Observations,
        comparison: Comparison,
        work: torch.Tensor,
        settings: TrainingOptions,
        images_at_once: int,
        judges: bool = True,
    ) -> None:
        self.source = source
        self.restraints = restraints
        self.gaussians = gaussians
        self.step = 0
        self._penalised_atoms = counted
        self._observations = observations
        self._comparison = comparison
        self._work = work
        self._settings = settings
        self._chunk = images_at_once
        self._stages = [counted_in_steps(stage, len(work), settings.batch_size) for stage in source.stages()]
        self._starts = [sum(stage.steps for stage in self._stages[:row]) for row in range(len(self._stages))]
        self.total_steps = sum(stage.steps for stage in self._stages)
        self._of_copy = gaussians
        self._optimiser: StageOptimiser | None = None  # until the first step
        self._orders: dict[int, torch.Tensor] = {}
        self._images_left_out = 0
        self._stage_start = source.positions().detach()
        self.poses = PoseRefiner.of_run(
            settings.refine_poses, comparison, observations, work, self._all_rings(), images_at_once, not judges
        )

    def advance(self, to_step: int, on_step: Callable[[float], None]) -> None:
        """Take steps up to ``to_step``; ``on_step`` gets the mean correlation of each batch and may raise."""
        while self.step < to_step:
            stage, within = self._stage_of(self.step)
            if within == 0:
                self._begin(stage)
            if within % _CONTACT_REFRESH_STEPS == 0 and not self._stages[stage].allows_overlaps:
                self.restraints.refresh(self.positions())
            if self.step + 1 < self.total_steps:
                coming = self._batch(self.step + 1)
                if len(coming):
                    self._comparison.prefetch(coming, self._chunk)
            correlation = self._take_step(self._stages[stage], within)
            self.step += 1
            if within == self._stages[stage].steps - 1:
                self._end(stage)
            on_step(correlation)

    def _end(self, stage: int) -> None:
        """Take a stage back if it made nothing better; leave out further rounds of it if it has settled."""
        if self._stages[stage].revert_unless_better:
            self._keep_if_better(stage)
        rounds = list(itertools.takewhile(lambda one: one.until_settled, self._stages[stage + 1 :]))
        if rounds and self._moved_angstrom() < _SETTLED_SHARE * self._stages[stage].resolution_angstrom:
            before = self._images_before(self.step)
            self.step += sum(one.steps for one in rounds)
            self._images_left_out += self._images_before(self.step) - before

    def _moved_angstrom(self) -> float:
        """Largest displacement of an atom since the stage began."""
        return float((self.positions() - self._stage_start).norm(dim=1).max())

    def _stage_of(self, step: int) -> tuple[int, int]:
        stage = max(row for row, start in enumerate(self._starts) if start <= step)
        return stage, step - self._starts[stage]

    def cycle_ends(self, cycles: int | None) -> list[int]:
        """Steps at which cycles end: evenly spaced, or by default with the stages, rounds of one taken together."""
        if cycles is None:
            ends, names = [*self._starts[1:], self.total_steps], [*(stage.name for stage in self._stages), ""]
            return [end for end, name, following in zip(ends, names, names[1:]) if name != following]
        return [round(self.total_steps * (number + 1) / cycles) for number in range(cycles)]

    def coarse_steps(self) -> int:
        """See ``sources.base.coarse_steps``."""
        return coarse_steps(self._stages, refines_poses=self.poses is not None)

    def stage_name(self) -> str:
        """Name of the stage of the last step taken."""
        return self._stages[self._stage_of(max(0, self.step - 1))[0]].name

    def _begin(self, stage: int) -> None:
        # Coarser stages hardly notice errors of poses.
        if self.poses is not None and self._stages[stage].trains_gaussians:
            coming = [self._batch(step) for step in range(self.step, self.step + self._stages[stage].steps)]
            self.poses.begin_stage(self.positions(), self.gaussians.detached(), torch.cat(coming).unique())
        self._stage_start = self.positions()
        extent = self._observations.particles.box * self._observations.pixel_size_angstrom
        self._comparison.begin_stage(self.positions, extent / self._rings(self._stages[stage]).n_rings)
        self._optimise(self.source.begin_stage(stage), self._stages[stage])

    def _optimise(self, groups: list[ParameterGroup], stage: Stage) -> None:
        """An optimiser for a stage's parameters, and for the Gaussians of one copy where they are free."""
        self._of_copy = self.gaussians.of_first_copy(self.source.copies)
        if stage.trains_gaussians:
            groups = [
                *groups,
                {"params": [self._of_copy.amplitudes.requires_grad_()], "lr": self._settings.amplitude_rate},
                {"params": [self._of_copy.widths_angstrom.requires_grad_()], "lr": self._settings.width_rate},
            ]
        self.gaussians = self._of_copy.repeated(self.source.copies)
        self._optimiser = StageOptimiser(stage, groups)

    def _take_step(self, stage: Stage, within: int) -> float:
        """One step of the optimiser; returns the mean correlation of its images, 0 where a stage compares none."""
        optimiser = self._optimiser
        assert optimiser is not None, "a stage begins with an optimiser"
        optimiser.begin_step(within)
        with self._on_idle_cores():
            positions = self.source.positions()
        by_geometry = torch.zeros_like(positions)

        def restrain() -> None:
            held = positions.detach().requires_grad_()
            energy = self._settings.geometry_weight * self.restraints.energy(held, not stage.allows_overlaps)
            by_geometry.copy_(torch.autograd.grad(energy, held)[0])

        images = self._image_gradient(positions, stage, restrain)
        weight = self._settings.data_weight
        # Its gradient is that of the loss: what lies behind the positions is differentiated here, the rest was above.
        surrogate = self.source.prior(positions) + (positions * (by_geometry - weight * images.positions)).sum()
        if stage.trains_gaussians:
            gaussians = self._of_copy.repeated(self.source.copies)
            if self._settings.penalty:
                surrogate = surrogate + gaussians.penalty(self._penalised_atoms, self._settings.penalty_mean)
            # Atoms of amplitude 0 are disordered, and keep it.
            seen = images.amplitudes * (gaussians.amplitudes.detach() != 0)
            surrogate = surrogate - weight * (gaussians.amplitudes * seen).sum()
            surrogate = surrogate - weight * (gaussians.widths_angstrom * images.widths).sum()
        with self._on_idle_cores():
            surrogate.backward()
        optimiser.step()
        self.gaussians = self._of_copy.repeated(self.source.copies)
        return images.value

    def _image_gradient(
        self, positions: torch.Tensor, stage: Stage, meanwhile: Callable[[], None]
    ) -> CorrelationGradient:
        """What the step's images say; of a stage that compares none, nothing. ``meanwhile`` is called once."""
        if stage.batches:
            rows, rings = self._batch(self.step), self._rings(stage)
            return self._comparison.gradient(positions, self.gaussians, rows, rings, self._chunk, meanwhile)
        meanwhile()
        nothing = torch.zeros_like(self.gaussians.amplitudes)
        return CorrelationGradient(0.0, torch.zeros_like(positions), nothing, nothing)

    def _keep_if_better(self, stage: int) -> None:
        """Take a stage back unless it explains fitted particles better, on all rings that are compared.

        A rigid motion found at low resolution mends a model that is out of place, and displaces one whose place is
        right and whose shape is not. A stage that is kept goes on with a new optimiser, without its moments.
        """
        reached, after = self.source.state(), self._scores_of_judges()
        self.source.revert_stage()
        if mean_of_finite(after - self._scores_of_judges()) > 0:
            self._optimise(self.source.restore(stage, reached), self._stages[stage])

    def _scores_of_judges(self) -> torch.Tensor:
        """Mean correlation of each of some fitted images, from all over the file, on the rings that are fitted."""
        judges = spread_draw(self._work, _IMAGES_TO_JUDGE_STAGE, self._settings.seed)
        return self._observations.without_scored_rings(self.score(judges)).mean(1)

    def _rings(self, stage: Stage) -> RingPixels:
        box, pixel = self._observations.particles.box, self._observations.pixel_size_angstrom
        limit = max(stage.resolution_angstrom, self._settings.resolution or 0.0) or None
        return self._observations.rings(max(min(_FEWEST_RINGS, self.finest_rings), ring_count(box, pixel, limit)))

    def _all_rings(self) -> RingPixels:
        return self._observations.rings(self.finest_rings)

    @property
    def finest_rings(self) -> int:
        """Number of rings up to the resolution asked for."""
        return ring_count(
            self._observations.particles.box, self._observations.pixel_size_angstrom, self._settings.resolution
        )

    @property
    def images(self) -> int:
        """Number of images that have been compared."""
        return self._images_before(self.step) - self._images_left_out

    def _images_before(self, step: int) -> int:
        batches = sum(
            min(max(step - start, 0), stage.steps) * stage.batches for start, stage in zip(self._starts, self._stages)
        )
        return batches * min(self._settings.batch_size, len(self._work))

    def _batch(self, step: int) -> torch.Tensor:
        """Rows of a step's images: every particle once before any comes again."""
        wanted = range(self._images_before(step), self._images_before(step + 1))
        if not wanted:
            return self._work[:0]
        rows = []
        for epoch in range(wanted[0] // len(self._work), wanted[-1] // len(self._work) + 1):
            first = epoch * len(self._work)
            rows.append(self._order(epoch)[max(0, wanted[0] - first) : wanted[-1] + 1 - first])
        return self._work[torch.cat(rows)]

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self._settings.seed * _SEED_STRIDE + epoch)
            last = {number: order for number, order in self._orders.items() if number == epoch - 1}
            self._orders = {**last, epoch: torch.randperm(len(self._work), generator=generator)}
        return self._orders[epoch]

    def _on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """For work on the source: other processes wait for it."""
        return self._comparison.on_idle_cores() if self.source.uses_all_cores() else contextlib.nullcontext()

    @torch.no_grad()
    def positions(self) -> torch.Tensor:
        """Positions now, (n_atoms, 3) Å."""
        with self._on_idle_cores():
            return self.source.positions()

    def confidence(self) -> torch.Tensor | None:
        """The source's, now."""
        with self._on_idle_cores():
            return self.source.confidence()

    def judge(self, rows: torch.Tensor, state: ModelState | None = None) -> torch.Tensor:
        """Correlations of held-out images with these or other atoms, at poses refined by the rule of fitted ones."""
        if self.poses is None or not self.poses.active:
            return self.score(rows)
        atoms = (state.positions, state.gaussians) if state else (self.positions(), self.gaussians.detached())
        return self.poses.score_anew(*atoms, rows)

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Correlations of the images in ``rows`` on all rings that are asked for, (n, n_rings)."""
        rings = self._all_rings()
        return self._comparison.score(self.positions(), self.gaussians, rows, rings, self._chunk)

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on exactly from here."""
        state = {f"source.{name}": values for name, values in self.source.state().items()}
        state.update({f"restraints.{name}": values for name, values in self.restraints.state().items()})
        state.update({f"comparison.{name}": values for name, values in self._comparison.state().items()})
        if self.poses is not None:
            state.update({f"poses.{name}": values for name, values in self.poses.state().items()})
        state["step"] = torch.tensor(self.step)
        state["images_left_out"] = torch.tensor(self._images_left_out)
        state["stage_start"] = self._stage_start
        state["gaussians.amplitudes"] = self.gaussians.amplitudes.detach()
        state["gaussians.widths"] = self.gaussians.widths_angstrom.detach()
        if self._optimiser is not None:
            state.update({f"adam.{name}": values for name, values in self._optimiser.state().items()})
        return {name: values.detach().cpu().contiguous().clone() for name, values in state.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back to a state."""
        device = self.gaussians.amplitudes.device
        if "stage_start" in state:
            self._stage_start, self._images_left_out = state["stage_start"].to(device), int(state["images_left_out"])
        elif any(stage.until_settled for stage in self._stages):
            raise ValueError("it is of an older version, whose stages were others")
        self.step = int(state["step"])
        self.gaussians = AtomGaussians(state["gaussians.amplitudes"].to(device), state["gaussians.widths"].to(device))
        self.restraints.restore(_part(state, "restraints."))
        self._comparison.restore(_part(state, "comparison."))
        if self.poses is not None:
            self.poses.restore(_part(state, "poses."))
        stage, _ = self._stage_of(max(0, self.step - 1))
        self._optimise(self.source.restore(stage, _part(state, "source.")), self._stages[stage])
        if self._optimiser is not None:
            self._optimiser.restore(_part(state, "adam."))


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: values for name, values in state.items() if name.startswith(prefix)}


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts."""
    # Written here, not by safetensors, whose errors do not tell a full disk from another fault.
    told = json.dumps(facts)
    content = save(tensors, metadata={"facts": told, _DIGEST: _digest(tensors, told)})
    with atomic_path(path) as partial:
        partial.write_bytes(content)


_UNUSABLE = (SafetensorError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError)


@contextlib.contextmanager
def refuse_bad_checkpoint(path: Path) -> Iterator[None]:
    """Refuse, with a message, a checkpoint that is damaged or of another version."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); make it readable, then go on with --resume") from error
    except _UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{path}: not a usable checkpoint ({error}); remove this file, and --resume begins the run anew"
        ) from error


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``save_checkpoint`` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    with refuse_bad_checkpoint(path), safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        noted = file.metadata()
        # Older versions noted no digest.
        if noted.get(_DIGEST, _NONE) not in (_NONE, _digest(tensors, noted["facts"])):
            raise ValueError("its content was changed")
        return tensors, json.loads(noted["facts"])


_DIGEST, _NONE = "digest", ""


def _digest(tensors: dict[str, torch.Tensor], facts: str) -> str:
    """By which a checkpoint is known to be as it was written."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().flatten()
        digest.update(f"{name} {values.dtype} {tuple(tensors[name].shape)}".encode())
        # An array of one element may have any stride, with which it cannot be seen as bytes; a new one has not.
        digest.update(torch.empty(len(values), dtype=values.dtype).copy_(values).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
