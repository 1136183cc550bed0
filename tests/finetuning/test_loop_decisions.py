"""Decisions of the optimiser's loop: stages that are taken back, contacts, rates, rings and what is learned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cocofold.finetuning import training_loop
from cocofold.finetuning.options import TrainingOptions
from cocofold.finetuning.training_loop import TrainingLoop
from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient
from cocofold.likelihood.image_comparison import Comparison
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.sources.base import Stage
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone

RATE = 0.01
WORK = range(3, 75)


class _Sliding:
    """Atoms that move along x as one."""

    copies = 1

    def __init__(self, model: Model, stages: list[Stage]) -> None:
        self._stages = stages
        self._base = torch.as_tensor(model.positions, dtype=torch.float32)
        self._reached, self._shift = 0.0, torch.zeros(1)

    def stages(self) -> list[Stage]:
        return self._stages

    def begin_stage(self, stage: int) -> list[dict]:
        self._reached += float(self._shift.detach())
        self._shift = torch.zeros(1, requires_grad=True)
        return [{"params": [self._shift], "lr": RATE}]

    def positions(self) -> torch.Tensor:
        return self._base + (self._reached + self._shift) * torch.tensor([1.0, 0.0, 0.0])

    @property
    def shift(self) -> float:
        return self._reached + float(self._shift.detach())

    def step_memory_bytes(self) -> int:
        return 0

    def uses_all_cores(self) -> bool:
        return False

    def confidence(self) -> None:
        return None

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.new_zeros(())

    def revert_stage(self) -> None:
        self._shift = torch.zeros(1, requires_grad=True)

    def state(self) -> dict[str, torch.Tensor]:
        return {"reached": torch.tensor(self._reached), "shift": self._shift.detach().clone()}

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        self._reached = float(state["reached"])
        self._shift = state["shift"].clone().requires_grad_()
        return [{"params": [self._shift], "lr": RATE}]


class _Pulling(Comparison):
    """Images that always pull atoms towards larger x, and whose score rises by ``slope`` with each Å."""

    def __init__(self, start: torch.Tensor, slope: float) -> None:
        self._start, self._slope = start, slope
        self.rings: list[int] = []
        self.scored: list[tuple[set[int], int]] = []

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        meanwhile()
        self.rings.append(rings.n_rings)
        along = torch.zeros_like(positions)
        along[:, 0] = 1 / len(positions)
        each = torch.ones(len(positions))
        return CorrelationGradient(0.0, along, each, each)

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        self.scored.append((set(rows.tolist()), rings.n_rings))
        value = 0.3 + self._slope * float((positions - self._start)[:, 0].mean())
        return torch.full((len(rows), rings.n_rings), value)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        pass

    def pose_equations(self, *_: object) -> torch.Tensor:
        raise AssertionError("no poses are refined")

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        raise AssertionError("no poses are refined")

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class _Watched(Restraints):
    """Restraints that note how far the atoms had moved whenever contacts were searched."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, Backbone.of(model), 0.0)
        self._from = torch.as_tensor(model.positions, dtype=torch.float32)
        self.searched: list[float] = []

    def refresh(self, positions: torch.Tensor) -> None:
        self.searched.append(float((positions - self._from)[:, 0].mean()))
        super().refresh(positions)


@pytest.fixture(scope="module")
def observations(particles: Path) -> Iterator[Observations]:
    """Of 80 images of 64 pixels of 2.5 Å, which are never read."""
    opened = Observations(read_particles(particles), 31)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def model(start: Path) -> Model:
    return read_model(start)


@pytest.fixture
def loop_of(observations: Observations, model: Model):
    """A loop over some stages, and the parts that it works with."""

    def made(stages: list[Stage], slope: float = 1.0, **options: float) -> tuple:
        source, restraints = _Sliding(model, stages), _Watched(model)
        comparison = _Pulling(source.positions().detach(), slope)
        loop = TrainingLoop(
            source,
            restraints,
            AtomGaussians.from_elements(model.atomic_numbers),
            torch.ones(len(model), dtype=torch.bool),
            observations,
            comparison,
            torch.tensor(WORK),
            TrainingOptions(**{"batch_size": 16, **options}, geometry_weight=0.0),
            8,
        )
        return loop, source, restraints, comparison

    return made


def _shifts(loop: TrainingLoop, source: _Sliding, steps: int) -> list[float]:
    """How far each of the next steps moves the atoms."""
    found, before = [], source.shift
    for step in range(loop.step + 1, loop.step + 1 + steps):
        loop.advance(step, lambda correlation: None)
        found.append(source.shift - before)
        before = source.shift
    return found


@pytest.mark.parametrize(
    ("slope", "reverts", "kept"), [(1.0, True, True), (-1.0, True, False), (0.0, True, False), (-1.0, False, True)]
)
def test_a_stage_is_taken_back_unless_images_are_better_explained(
    loop_of, slope: float, reverts: bool, kept: bool
) -> None:
    stages = [Stage("first", 5, 20.0, revert_unless_better=reverts), Stage("second", 5, 0.0)]
    loop, source, _, comparison = loop_of(stages, slope)
    loop.advance(4, lambda correlation: None)
    assert source.shift > 2 * RATE
    loop.advance(5, lambda correlation: None)
    assert (source.shift > 2 * RATE) is kept
    assert kept or source.shift == 0
    assert bool(comparison.scored) is reverts
    # It is judged by particles that are fitted and by all rings, although the stage has compared few of them.
    for rows, n_rings in comparison.scored:
        assert rows <= set(WORK)
        assert n_rings == loop.finest_rings == 31
    assert set(comparison.rings) == {8}
    before = source.shift
    loop.advance(6, lambda correlation: None)
    assert source.shift > before


@pytest.mark.parametrize(("slope", "kept"), [(1.0, True), (-1.0, False)])
def test_a_stage_is_judged_by_images_of_the_whole_file(
    loop_of, slope: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn with the seed; an image without a score decides nothing."""
    monkeypatch.setattr(training_loop, "_IMAGES_TO_JUDGE_STAGE", 10)
    drawn = []
    for seed in (0, 0, 1):
        loop, source, _, comparison = loop_of([Stage("first", 5, 20.0, revert_unless_better=True)], slope, seed=seed)
        score = comparison.score

        def with_a_gap(*given: object, score=score) -> torch.Tensor:
            found = score(*given)
            found[3] = float("nan")
            return found

        comparison.score = with_a_gap
        loop.advance(5, lambda correlation: None)
        assert (source.shift > 2 * RATE) is kept
        (rows, _), (again, _) = comparison.scored
        assert rows == again
        assert len(rows) == 10
        assert max(rows) > max(WORK) - len(WORK) // 2
        drawn.append(rows)
    assert drawn[0] == drawn[1] != drawn[2]


def test_contacts_are_searched_at_the_start_of_a_stage_and_every_25_steps(loop_of) -> None:
    loop, source, restraints, _ = loop_of([Stage("first", 60, 0.0), Stage("second", 30, 0.0)])
    moved = [0.0]
    for step in range(90):
        loop.advance(step + 1, lambda correlation: None)
        moved.append(source.shift)
    # Atoms always move on, so that the shift tells the step before which contacts were searched.
    searched = [min(range(len(moved)), key=lambda step: abs(moved[step] - shift)) for shift in restraints.searched]
    assert searched == [0, 25, 50, 60, 85]


def test_rates_fall_to_a_twentieth_within_a_stage(loop_of) -> None:
    loop, source, *_ = loop_of([Stage("first", 10, 0.0), Stage("second", 10, 0.0)])
    # With a gradient that stays the same, Adam moves by the rate.
    first, second = (_shifts(loop, source, 10) for _ in range(2))
    assert first[0] == pytest.approx(RATE, rel=1e-3)
    assert first[5] == pytest.approx(RATE * (0.05 + 0.95 / 2), rel=1e-3)
    assert first == sorted(first, reverse=True)
    assert 0.05 * RATE < first[-1] < 0.1 * RATE
    assert second == pytest.approx(first, rel=1e-2)


def test_rates_rise_where_a_stage_warms_up_and_stay_where_it_has_epochs(loop_of) -> None:
    loop, source, *_ = loop_of([Stage("warm", 100, 0.0, warm_up_steps=4)])
    assert _shifts(loop, source, 5) == pytest.approx([RATE / 4, RATE / 2, 0.75 * RATE, RATE, RATE], rel=0.01)
    loop, source, *_ = loop_of([Stage("epochs", 0, 0.0, epochs=2)], batch_size=16)
    assert loop.total_steps == 2 * len(WORK) / 16
    assert _shifts(loop, source, 9) == pytest.approx([RATE] * 9, rel=0.01)


@pytest.mark.parametrize(
    ("limit", "asked", "rings"), [(20.0, None, 8), (0.0, None, 31), (0.0, 10.0, 16), (20.0, 10.0, 8), (5.0, 10.0, 16)]
)
def test_a_stage_compares_up_to_the_coarser_of_two_limits(
    loop_of, limit: float, asked: float | None, rings: int
) -> None:
    loop, _, _, comparison = loop_of([Stage("only", 5, limit)], resolution=asked)
    loop.advance(1, lambda correlation: None)
    assert comparison.rings == [rings]


@pytest.mark.parametrize("trains", [True, False])
def test_gaussians_are_learned_where_a_stage_says_so(loop_of, model: Model, trains: bool) -> None:
    loop, *_ = loop_of([Stage("only", 5, 0.0, trains_gaussians=trains)])
    loop.advance(2, lambda correlation: None)
    changed = loop.gaussians.amplitudes.detach() - torch.as_tensor(model.atomic_numbers)
    assert bool((changed > 0).all()) is trains
    assert bool((changed != 0).any()) is trains


@pytest.mark.parametrize(("asked", "is_sum", "is_mean"), [({}, 1, 0), ({"penalty_mean": True}, 0, 1)])
def test_a_step_adds_the_penalty_once_as_a_sum_or_as_a_mean(
    loop_of, model: Model, asked: dict[str, bool], is_sum: int, is_mean: int
) -> None:
    """Of one atom that is too high and too wide; a step has two parts of eight images."""
    found = []
    for options in ({**asked, "penalty": False}, asked):
        loop, *_ = loop_of([Stage("fine", 5, 0.0, batches=1, trains_gaussians=True)], **options)
        amplitudes, widths = loop.gaussians.amplitudes.clone(), loop.gaussians.widths_angstrom.clone()
        amplitudes[7], widths[7] = 25.0, 1.5
        loop.gaussians = AtomGaussians(amplitudes, widths)
        loop.advance(1, lambda correlation: None)
        found.append(torch.stack([loop.gaussians.amplitudes.grad, loop.gaussians.widths_angstrom.grad]))
    added = found[1] - found[0]
    share = is_sum + is_mean / len(model)
    # The slope of the width's square is twice the width.
    torch.testing.assert_close(added[:, 7], share * torch.tensor([1.0, 3.0]), rtol=0.02, atol=0)
    added[:, 7] = 0
    assert not added.any()


def test_a_stage_without_batches_asks_no_image(loop_of) -> None:
    loop, _, _, comparison = loop_of([Stage("prior", 3, 0.0, batches=0), Stage("images", 3, 0.0)])
    loop.advance(3, lambda correlation: None)
    assert comparison.rings == []
    loop.advance(4, lambda correlation: None)
    assert comparison.rings == [31]


ROUNDS = [
    Stage("chains", 5, 20.0),
    Stage("chains", 5, 20.0, until_settled=True),
    Stage("chains", 5, 20.0, until_settled=True),
    Stage("fine", 5, 0.0),
]


def test_rounds_are_left_out_once_a_stage_has_settled(loop_of) -> None:
    """Five steps move atoms by some hundredths of an Å: less than a tenth of 20 Å, and more than a tenth of 0.1 Å."""
    loop, *_ = loop_of(ROUNDS)
    assert loop.cycle_ends(None) == [15, 20]
    loop.advance(15, lambda correlation: None)
    assert loop.step == 15
    assert loop.images == 5 * 16
    assert loop.stage_name() == "chains"
    loop.advance(20, lambda correlation: None)
    assert loop.images == 10 * 16
    finer = [replace(stage, resolution_angstrom=0.1) for stage in ROUNDS[:3]]
    taken, *_ = loop_of([*finer, ROUNDS[3]])
    taken.advance(15, lambda correlation: None)
    assert taken.images == 15 * 16


def test_a_run_goes_on_in_a_round_and_behind_those_left_out(loop_of) -> None:
    for at in (3, 5, 16):
        whole, source, *_ = loop_of(ROUNDS)
        whole.advance(20, lambda correlation: None)
        first, *_ = loop_of(ROUNDS)
        first.advance(at, lambda correlation: None)
        again, other, *_ = loop_of(ROUNDS)
        again.restore(first.state())
        again.advance(20, lambda correlation: None)
        assert again.step == whole.step == 20
        assert again.images == whole.images
        assert torch.equal(other.positions(), source.positions()), at


def test_a_checkpoint_of_other_stages_is_refused(loop_of) -> None:
    loop, *_ = loop_of(ROUNDS)
    loop.advance(3, lambda correlation: None)
    older = {name: values for name, values in loop.state().items() if name not in ("stage_start", "images_left_out")}
    with pytest.raises(ValueError, match="older version"):
        loop.restore(older)


def test_overlaps_are_allowed_where_a_stage_says_so(loop_of, model: Model) -> None:
    """Atoms in one place: with clashes the energy pulls them apart, without it does not know of them."""
    _, _, restraints, _ = loop_of(ROUNDS)
    squeezed = torch.as_tensor(model.positions, dtype=torch.float32) * 0.8
    restraints.refresh(squeezed)
    with_clashes, without = (float(restraints.energy(squeezed, clashes)) for clashes in (True, False))
    assert with_clashes > without + 0.1
    loop, *_ = loop_of([Stage("fine", 5, 0.0), Stage("chains", 5, 20.0, allows_overlaps=True)])
    asked = []
    loop.restraints.energy = lambda held, clashes=True: (asked.append(clashes), 0 * held.sum())[1]
    loop.advance(6, lambda correlation: None)
    assert asked == [True] * 5 + [False]
