"""How many particles are held out, which cycle is the answer, and when a run stops."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest
import torch

from cocofold.finetuning.holdout import Cycle, TrainingPass, heldout_count, lost_folds, verdict_of_pass
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import _Run, finetune
from cocofold.finetuning.training_loop import TrainingLoop, load_checkpoint, save_checkpoint
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.sources.base import Stage, coarse_steps
from cocofold.system.processes import Interrupted
from cocofold.system.progress import EtaEstimator

IMAGES = 60


@pytest.mark.parametrize(
    ("particles", "heldout"),
    [(19, 0), (20, 4), (39, 7), (499, 99), (500, 50), (1000, 50), (1200, 60), (10_000, 500)],
)
def test_five_percent_and_at_least_50_or_a_fifth_of_few(particles: int, heldout: int) -> None:
    assert heldout_count(particles) == heldout


@pytest.mark.parametrize(
    ("particles", "share", "heldout"), [(19, 0.5, 0), (1000, 0.0, 0), (1000, 0.02, 20), (20, 0.1, 4), (23, 0.5, 11)]
)
def test_a_share_holds_out_four_at_least_and_half_at_most(particles: int, share: float, heldout: int) -> None:
    assert heldout_count(particles, share) == heldout


def _followed(gains_in_errors: list[float], link_rms: list[float] | None = None) -> TrainingPass:
    """A pass whose cycles gain so many standard errors over the start."""
    this = TrainingPass(torch.arange(5), torch.arange(IMAGES), watches_fold=link_rms is not None)
    scatter = np.linspace(-1, 1, IMAGES)
    error = scatter.std(ddof=1) / IMAGES**0.5
    for number, gain in enumerate([0.0, *gains_in_errors]):
        images = 0.2 + (0.01 * (scatter + gain * error) if number else np.zeros(IMAGES))
        correlation = float(torch.as_tensor(images).mean())
        link = link_rms[number] if link_rms else 0.0
        cycle = Cycle(number, 0, 0, "", 0.0, 0.0, correlation, 0.0, 0.0, link)
        this.add(cycle, torch.zeros(5, 1), torch.as_tensor(images)[:, None])
    return this


def test_a_signal_while_images_are_judged_anew_changes_nothing_that_is_known() -> None:
    """The checkpoint that is then written is gone on from as if that cycle had just ended."""
    this = _followed([4.0, 5.0])
    before = this.facts()
    judged: list[str] = []

    def judge(model: str) -> torch.Tensor:
        judged.append(model)
        if model == "best":
            raise Interrupted("SIGTERM", 15)
        return torch.zeros(IMAGES, 8)

    with pytest.raises(Interrupted):
        this.judge_anew([4, 8], judge, "start", "best")
    assert judged == ["start", "best"]
    assert this.facts() == before


@pytest.mark.parametrize(
    ("gain", "best", "verdict"),
    [
        (3.2, 1, "supported"),
        (2.8, 0, "undecided"),
        (1.2, 0, "undecided"),
        (0.8, 0, "not supported"),
        (-5.0, 0, "not supported"),
    ],
)
def test_an_answer_gains_three_standard_errors_and_a_hint_one(gain: float, best: int, verdict: str) -> None:
    this = _followed([gain])
    assert (this.best, verdict_of_pass(this)) == (best, verdict)


def test_of_equal_cycles_the_later_one_is_the_answer() -> None:
    this = _followed([10.0, 10.0, 9.0])
    assert (this.best, this.highest) == (2, 2)


def test_a_worse_cycle_is_no_answer_although_it_gains() -> None:
    this = _followed([10.0, 8.0])
    assert (this.best, this.highest) == (1, 1)


def test_a_fold_may_lose_a_tenth_of_an_angstrom() -> None:
    assert _followed([10.0, 12.0], [0.04, 0.04, 0.135]).best == 2
    assert _followed([10.0, 12.0], [0.04, 0.04, 0.145]).best == 1
    lost = _followed([10.0, 12.0], [0.04, 0.2, 0.2])
    assert (lost.best, verdict_of_pass(lost)) == (0, "not supported")


@pytest.fixture
def scripted(particles: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run whose cycles gain what is told; no step is taken, and amplitudes tell the cycle of a model."""

    def run(gains: list[float], resume: bool = False) -> tuple[dict, list[int], set[float]]:
        def cycle_of(loop: TrainingLoop) -> int:
            return round(loop.step * (len(gains) - 1) / loop.total_steps)

        def advance(self: TrainingLoop, to_step: int, on_step: object) -> None:
            self.step = to_step
            amplitudes = torch.where(self.gaussians.amplitudes == 0, 0.0, float(cycle_of(self)))
            self.gaussians = AtomGaussians(amplitudes, self.gaussians.widths_angstrom)

        def score(self: TrainingLoop, rows: torch.Tensor) -> torch.Tensor:
            cycle = cycle_of(self)
            gain = gains[cycle] + (0.02 * torch.linspace(-1, 1, len(rows)) if cycle else torch.zeros(len(rows)))
            return (0.2 + gain)[:, None].expand(len(rows), self.finest_rings)

        monkeypatch.setattr(TrainingLoop, "advance", advance)
        monkeypatch.setattr(TrainingLoop, "score", score)
        # What the images themselves say of the atoms, which stay where they are, is not asked here.
        monkeypatch.setattr("cocofold.finetuning.run.examine_answer", lambda *given: examined.append(given))
        options = Options(
            particles=str(particles),
            model=str(start),
            check=False,
            contrast="white",
            cycles=len(gains) - 1,
            resolution=20.0,
        )
        metrics = finetune(options, tmp_path / "run", resume)
        cycles = re.findall(r"cycle +(\d+) ", (tmp_path / "run" / "log.txt").read_text())
        block = gemmi.cif.read(str(tmp_path / "run" / "model.cif")).sole_block()
        return metrics, [int(number) for number in cycles], set(block.find_values("_cocofold_gaussian.amplitude"))

    run.examined = examined = []  # type: ignore[attr-defined]
    return run


def test_single_images_are_asked_about_the_last_cycle_where_the_start_is_the_answer(scripted) -> None:
    scripted([0.0, *[-0.01] * 8])
    ((_, answer, other, *_),) = scripted.examined
    assert (float(answer.gaussians.amplitudes[0]), float(other.gaussians.amplitudes[0])) == (7.0, 4.0)


def test_single_images_are_asked_about_the_answer_where_there_is_one(scripted) -> None:
    scripted([0.0, 0.02, 0.03, 0.04, 0.03, 0.03, 0.03, 0.03, 0.09, 0.09])
    ((_, answer, other, *_),) = scripted.examined
    assert other is answer
    assert float(answer.gaussians.amplitudes[0]) == 3.0


def test_a_pass_stops_after_four_cycles_without_gain_and_the_second_ends_at_its_best(scripted) -> None:
    """With 16 held out their standard error is 0.0031."""
    metrics, cycles, amplitudes = scripted([0.0, 0.02, 0.03, 0.04, 0.03, 0.03, 0.03, 0.03, 0.09, 0.09])
    assert metrics["passes"] == 2
    assert cycles == [*range(8), *range(4)]
    assert (metrics["verdict"], metrics["best_cycle"]) == ("supported", 3)
    assert {float(value) for value in amplitudes} == {3.0}


def test_the_second_pass_goes_on_from_the_coarse_stages_of_the_first(scripted, tmp_path: Path) -> None:
    """Nine even cycles; the sixth is the last one to end before the stages that compare all rings."""
    metrics, cycles, _ = scripted(RISING)
    assert cycles == [*range(10), 0, 7, 8, 9]
    assert (metrics["passes"], metrics["best_cycle"]) == (2, 9)
    known = pd.read_csv(tmp_path / "run" / "metrics.csv")
    second = known[known["pass"] == 2].set_index("number")
    assert second.index.tolist() == [*range(10)]
    assert metrics["steps"] == second.step[9] + second.step[9] - second.step[6]
    assert second.step[6] <= 40 + 80 + 180 + 240 + 300 + 250 + 250 < second.step[7]
    assert sorted(path.name for path in (tmp_path / "run" / "models").iterdir()) == [
        f"cycle_{number:02d}.cif" for number in range(10)
    ]


RISING = [0.0, *(0.02 + 0.01 * number for number in range(9))]


def test_a_run_killed_between_its_two_checkpoints_shares_as_many_cycles(
    scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth cycle is the last one that a second pass may go on from; only one of its files is there."""
    written = []

    def killed(path: Path, tensors: dict, facts: dict) -> None:
        save_checkpoint(path, tensors, facts)
        written.append(path)
        if len(written) == 11:
            raise RuntimeError("killed")

    monkeypatch.setattr("cocofold.finetuning.run.save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        scripted(RISING)
    _, cycles, _ = scripted(RISING, resume=True)
    assert cycles[-4:] == [0, 7, 8, 9]


def test_a_signal_while_a_second_pass_takes_what_it_shares_changes_nothing(
    scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = [signal.SIGTERM]

    def load(path: Path) -> tuple[dict, dict]:
        if path.stem == "coarse_stages" and signals:
            os.kill(os.getpid(), signals.pop())
        return load_checkpoint(path)

    monkeypatch.setattr("cocofold.finetuning.run.load_checkpoint", load)
    with pytest.raises(Interrupted):
        scripted(RISING)
    metrics, cycles, _ = scripted(RISING, resume=True)
    assert cycles[-4:] == [0, 7, 8, 9]
    second = pd.read_csv(tmp_path / "run" / "metrics.csv").query("`pass` == 2").set_index("number")
    assert metrics["steps"] == second.step[9] + second.step[9] - second.step[6]


def test_a_second_pass_that_a_signal_ended_before_it_took_what_it_shares_takes_it(
    scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = [signal.SIGTERM]

    def keep(self: _Run, number: int, *others: object) -> None:
        kept(self, number, *others)  # type: ignore[arg-type]
        if number == 1 and signals:
            os.kill(os.getpid(), signals.pop())

    kept = _Run._keep
    monkeypatch.setattr(_Run, "_keep", keep)
    with pytest.raises(Interrupted):
        scripted(RISING)
    _, cycles, _ = scripted(RISING, resume=True)
    assert cycles[-4:] == [0, 7, 8, 9]


def test_the_time_left_counts_no_steps_that_a_second_pass_shares(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple] = []

    def make(*given: int, **more: int) -> EtaEstimator:
        made.append(given)
        return EtaEstimator(*given, **more)

    monkeypatch.setattr("cocofold.finetuning.run.EtaEstimator", make)
    scripted(RISING)
    _, (first, last), (second, _) = (given[:2] for given in made)
    assert first == 0 < second < last


def test_a_shared_cycle_that_lost_the_fold_is_counted_once() -> None:
    first = _followed([10.0, 10.0, 10.0], [0.04, 0.2, 0.04, 0.2])
    second = replace(_followed([]), watches_fold=True)
    second.go_on_from(first, 2)
    assert lost_folds([first, second])[0] == 2


def test_stages_that_compare_all_rings_or_refine_poses_are_not_shared() -> None:
    stages = [Stage("a", 5, 20.0), Stage("b", 7, 0.0), Stage("c", 11, 8.0, trains_gaussians=True)]
    last = [Stage("d", 13, 0.0, trains_gaussians=True), Stage("e", 17, 0.0, trains_gaussians=True)]
    assert coarse_steps([*stages, *last], refines_poses=False) == 23
    assert coarse_steps([*stages, *last], refines_poses=True) == 12
    assert coarse_steps(last, refines_poses=False) == 0
    assert coarse_steps([Stage("a", 0, 20.0, epochs=2)], refines_poses=False) == 0


def test_a_gain_that_is_not_clear_delays_the_end_and_gives_no_answer(scripted) -> None:
    metrics, cycles, amplitudes = scripted([0.0, 0.001, 0.0063, 0.005, 0.004, 0.003, 0.002, 0.09, 0.09])
    assert cycles == [*range(7)]
    assert (metrics["verdict"], metrics["best_cycle"]) == ("undecided", 0)
    assert {float(value) for value in amplitudes} <= {6.0, 7.0, 8.0, 16.0}
    assert len(amplitudes) > 2
