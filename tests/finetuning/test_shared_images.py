"""Rows that share an image are held out together or fitted together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold.finetuning.holdout import Cycle, TrainingPass, mean_of_finite, split_into_passes, spread_draw
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import apply_particle_options, prepare_run
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.stack_files import copied_to_scratch
from cocofold.particles.star_write import write_star
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.system.errors import InputError

COPIES = 3


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    """Particles of which each has its own image."""
    from cocofold.commands.demo import open_state

    out = tmp_path_factory.mktemp("simulated") / "set"
    simulate(SimulationSettings(model=str(open_state()), box=32, pixel_size=5, count=40, snr=1, seed=3), out)
    return read_particles(out / "particles.star")


@pytest.fixture
def expanded(single: ParticleSet, tmp_path: Path) -> ParticleSet:
    """Each image in three rows, as a symmetry expansion has them, under two names of its stack, in any order."""
    (tmp_path / "other.mrcs").symlink_to(single.stacks[0])
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(single)), COPIES))
    everything = single.subset(rows)
    names = np.arange(len(rows)) % 2
    return replace(everything, stacks=(single.stacks[0], tmp_path / "other.mrcs"), stack_index=names)


def test_no_image_is_both_fitted_and_held_out(expanded: ParticleSet) -> None:
    numbers = expanded.image_numbers
    assert np.bincount(numbers).tolist() == [COPIES] * 40
    judged, everything = split_into_passes(len(expanded), seed=4, images=numbers)
    work, heldout = numbers[judged.work.numpy()], numbers[judged.heldout.numpy()]
    assert not set(work) & set(heldout)
    assert len(heldout) == 8 * COPIES
    assert sorted([*judged.work.tolist(), *judged.heldout.tolist()]) == list(range(len(expanded)))
    assert len(everything.work) == len(expanded)


@pytest.mark.parametrize("count", [10, 50, 500, 4000])
def test_a_set_without_repeats_keeps_its_split(count: int) -> None:
    known = split_into_passes(count, seed=4)
    order = np.random.default_rng([4, 1]).permutation(count)
    by_image = split_into_passes(count, seed=4, images=np.arange(count))
    assert len(by_image) == len(known)
    for one, other in zip(known, by_image):
        assert torch.equal(one.heldout, other.heldout)
        assert torch.equal(one.work, other.work)
        assert other.heldout_images is None
    assert known[0].heldout.tolist() == sorted(order[: len(known[0].heldout)])


def test_marks_hold_for_all_rows_of_an_image(expanded: ParticleSet) -> None:
    marked = np.zeros(len(expanded), dtype=bool)
    marked[:20] = True
    numbers = expanded.image_numbers
    judged = split_into_passes(len(expanded), 0, marked=marked, images=numbers)[0]
    assert set(np.flatnonzero(marked)) < set(judged.heldout.tolist())
    assert not set(numbers[judged.work.numpy()]) & set(numbers[judged.heldout.numpy()])


def test_an_image_counts_once_in_the_error_of_the_gain(expanded: ParticleSet) -> None:
    def gain(judged: TrainingPass, values: np.ndarray) -> float:
        for number, rise in enumerate((0.0, 1.0)):
            scores = torch.as_tensor(rise * values)[:, None]
            judged.add(Cycle(number, 0, 0, "", 0.0, 0.0, rise, 0.0, 0.0, 0.0), scores, scores)
        return judged.gain_in_errors

    of_images = np.random.default_rng(1).normal(0.2, 1.0, 8)
    numbers = np.repeat(np.arange(8), COPIES)
    rows = torch.arange(len(numbers))
    once = gain(TrainingPass(rows[:0], rows[:8]), of_images)
    assert gain(TrainingPass(rows[:0], rows, False, numbers), of_images[numbers]) == pytest.approx(once)


def test_an_older_run_that_split_images_is_not_resumed(expanded: ParticleSet) -> None:
    judged = split_into_passes(len(expanded), seed=4, images=expanded.image_numbers)[0]
    facts = judged.facts()
    judged.restore_from_checkpoint(facts)
    del facts["held_out_by_image"]
    with pytest.raises(InputError, match="fitted some rows of an image and held out others"):
        judged.restore_from_checkpoint(facts)
    split_into_passes(len(expanded), seed=4)[0].restore_from_checkpoint(facts)


@pytest.mark.slow
def test_a_copy_on_scratch_is_what_counts(expanded: ParticleSet, tmp_path: Path) -> None:
    """Distinct images are counted, and the stacks may change once they are copied, though not before."""
    from cocofold.commands.demo import closed_state
    from cocofold.finetuning import run

    stack = tmp_path / "own.mrcs"
    stack.write_bytes(expanded.stacks[0].read_bytes())
    with mrcfile.mmap(stack, "r+", permissive=True) as file:
        file.data[4:7] = 0.1
    write_star(tmp_path / "some.star", replace(expanded, stacks=(stack, stack)))
    usual = {"check": False, "contrast": "white", "effort": 0.01, "cycles": 1}
    options = Options(str(tmp_path / "some.star"), model=str(closed_state()), scratch=str(tmp_path), **usual)

    def overwrite(*_: object) -> None:
        with mrcfile.mmap(stack, "r+", permissive=True) as file:
            file.data[:] += 1

    with pytest.MonkeyPatch.context() as patched:
        begin = run._Run._run_pass
        patched.setattr(run._Run, "_run_pass", lambda *args: (overwrite(), begin(*args))[1])
        run.finetune(options, tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "40 images copied to" in log
    assert log.startswith("3 images are empty")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "prepare_run", lambda *args: (overwrite(), prepare_run(*args))[1])
        with pytest.raises(InputError, match="was overwritten"):
            run.finetune(options, tmp_path / "again")


@pytest.mark.parametrize("shared", [False, True])
def test_an_image_without_a_score_decides_nothing(shared: bool) -> None:
    numbers = np.repeat(np.arange(10), COPIES if shared else 1)
    found = []
    for gap in (False, True):
        used = np.concatenate([numbers, numbers[-1:] + 1]) if gap else numbers
        all_rows = torch.arange(len(used))
        judged = TrainingPass(all_rows, all_rows, heldout_images=used if shared else None)
        for number, rise in enumerate((0.0, 1.0)):
            scores = torch.as_tensor(rise * np.random.default_rng(1).normal(0.2, 0.1, 10)[numbers])[:, None]
            scores = torch.cat([scores, torch.full((1, 1), float("nan"))]) if gap else scores
            is_answer = judged.add(Cycle(number, 0, 0, "", 0, 0, mean_of_finite(scores), 0, 0, 0), scores, scores)
        found.append((is_answer, judged.gain_in_errors, mean_of_finite(scores), judged.curves["held-out, end"]))
    assert found[0] == found[1]
    assert found[0][0]


def test_rows_that_are_drawn_are_from_all_over_the_file() -> None:
    rows = torch.arange(1000) + 7
    drawn = spread_draw(rows, 200, seed=3)
    assert len(set(drawn.tolist())) == 200
    assert drawn.tolist() == sorted(drawn.tolist()) == spread_draw(rows, 200, seed=3).tolist()
    assert [150 < int((drawn < rows[end]).sum()) * 1000 / end < 250 for end in (250, 500, 750)] == [True] * 3
    assert not torch.equal(drawn, spread_draw(rows, 200, seed=4))
    assert torch.equal(spread_draw(rows[:200], 200, seed=3), rows[:200])


def test_scratch_holds_each_image_once(expanded: ParticleSet, tmp_path: Path) -> None:
    mixed = replace(expanded, contrast=np.where(np.arange(len(expanded)) % 5 == 0, -1.0, 1.0))
    with copied_to_scratch(mixed, tmp_path) as copied:
        with mrcfile.open(copied.stacks[0], permissive=True) as stack:
            assert len(stack.data) == 40
        everything = np.arange(len(mixed))
        assert np.array_equal(copied.images(everything), mixed.images(everything))
        assert np.array_equal(copied.image_numbers, mixed.image_numbers)


@pytest.mark.slow
def test_a_run_says_that_rows_repeat(expanded: ParticleSet, tmp_path: Path) -> None:
    from cocofold.commands.demo import closed_state
    from cocofold.finetuning.run import finetune

    write_star(tmp_path / "some.star", expanded)
    options = Options(
        str(tmp_path / "some.star"), model=str(closed_state()), check=False, contrast="white", effort=0.01, cycles=1
    )
    metrics = finetune(options, tmp_path / "run")
    assert metrics["heldout_particles"] == 8 * COPIES
    assert "120 rows name 40 images" in (tmp_path / "run" / "log.txt").read_text()


def test_noise_that_is_listed_four_times_is_held_out_by_image(cases: Path) -> None:
    path = cases / "particles" / "A1_noise_duplicated_rows" / "particles.star"
    used = apply_particle_options(read_particles(path), Options(str(path), model="m.cif"))
    numbers = used.image_numbers
    judged = split_into_passes(len(used), 0, images=numbers)[0]
    assert len(judged.heldout) == 48
    assert not set(numbers[judged.work.numpy()]) & set(numbers[judged.heldout.numpy()])
