"""Runs of fine-tuning: what they write, that they repeat, resume and refuse."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from running import EFFORT, command, refused, succeed

from cocofold.assessment.comparison import assess
from cocofold.finetuning.holdout import Cycle, TrainingPass, split_into_passes, verdict_of_pass
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM
from cocofold.likelihood.frc_loss import AtomGaussians, mean_correlation_gradient
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star
from cocofold.sources.base import Stage
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device


@pytest.mark.slow
def test_a_run_comes_closer_and_writes_what_it_should(finished: Path, start: Path, truth: Path) -> None:
    before = assess(read_model(start), read_model(truth)).as_dict()
    model = read_model(finished / "model.cif")
    after = assess(model, read_model(truth)).as_dict()
    assert after["ca_rmsd"] < 0.6 * before["ca_rmsd"]
    assert model.residues == read_model(start).residues
    table = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    assert list(table[0])[-1] == "pass"
    # Fewer than 500 particles: a pass that holds some out, then one that fits all up to the best cycle.
    first, second = ([row for row in table if row["pass"] == number] for number in "12")
    assert [*first, *second] == table
    assert [len(rows) > 1 for rows in (first, second)] == [True, True]
    assert all(row["frc_heldout"] for row in first)
    assert not any(row["frc_heldout"] for row in second)
    for name in ("density.mrc", "metrics.csv", "config.yaml", "log.txt", "frc.png", "checkpoints/latest.safetensors"):
        assert (finished / name).stat().st_size > 0, name
    metrics = json.loads((finished / "metrics.json").read_text())
    for key in ("seconds", "peak_memory_gb", "steps", "images", "frc_work", "frc_heldout", "versions"):
        assert metrics[key], key
    # So few steps leave the domains on their way.
    assert metrics["verdict"] == "supported in part"
    assert metrics["frc_heldout"] > metrics["frc_heldout_start"]
    # Clear, by three standard errors
    assert metrics["heldout_gain"] > 3 * metrics["heldout_gain_error"] > 0
    cycles = sorted(path.name for path in (finished / "models").iterdir())
    assert cycles[-1] == f"cycle_{metrics['best_cycle']:02d}.cif"
    assert len((finished / "log.txt").read_text().splitlines()) > len(cycles)
    with mrcfile.open(finished / "density.mrc") as density:
        assert density.data.shape == (64, 64, 64)
        assert density.voxel_size.x == pytest.approx(2.5)


@pytest.mark.slow
def test_gaussians_are_kept_apart_from_b_factors(finished: Path, start: Path) -> None:
    answer, given = read_model(finished / "model.cif"), read_model(start)
    b_factors = [[atom.b_iso for c in m.structure[0] for r in c for atom in r] for m in (answer, given)]
    assert b_factors[0] == b_factors[1]
    block = gemmi.cif.read(str(finished / "model.cif")).sole_block()
    amplitudes = np.array(list(block.find_values("_cocofold_gaussian.amplitude")), dtype=float)
    widths = np.array(list(block.find_values("_cocofold_gaussian.width_angstrom")), dtype=float)
    assert np.std(amplitudes - given.atomic_numbers) > 0
    assert amplitudes.min() > 0.9
    assert amplitudes.max() < 20.1
    assert widths.min() ** 2 > 0.09
    assert widths.max() ** 2 < 0.81


@pytest.mark.slow
def test_bad_input_leaves_nothing_behind(particles: Path, start: Path, tmp_path: Path) -> None:
    structure = gemmi.read_structure(str(start))
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                atom.pos = gemmi.Position(atom.pos.x + 500, atom.pos.y, atom.pos.z)
    structure.make_mmcif_document().write_file(str(tmp_path / "away.cif"))
    out = tmp_path / "run"
    assert "outside the particles' box" in refused(command(particles, tmp_path / "away.cif", out))
    assert "no such file" in refused(command(particles, tmp_path / "none.cif", out))
    refused(command(tmp_path / "none.star", start, out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cycles", 31), ("cycles", 0), ("batch_size", 0), ("resolution", -1), ("effort", 0), ("first", 0),
        ("max_particles", 0), ("heldout", 0.6), ("heldout", -0.1), ("contrast", "grey"), ("device", "tpu"),
        ("device", "cuda:99"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(option: str, value: object) -> None:
    with pytest.raises(InputError, match="--" + option.replace("_", "-")):
        find_device(Options(particles="p.star", model="m.cif", **{option: value}).device)


@pytest.mark.slow
def test_noise_supports_nothing(particles: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "particles.star").write_text(particles.read_text())
    with mrcfile.new(tmp_path / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(0).normal(size=(80, 64, 64)).astype(np.float32))
    options = Options(particles=str(tmp_path / "particles.star"), model=str(start), effort=EFFORT, contrast="white")
    metrics = finetune(options, tmp_path / "run")
    assert metrics["verdict"] in ("not supported", "undecided")
    assert metrics["best_cycle"] == 0
    moved = read_model(tmp_path / "run/model.cif").positions - read_model(start).positions
    assert np.abs(moved).max() < 2e-3


@pytest.mark.parametrize(("count", "heldout"), [(10, 0), (50, 10), (300, 60), (500, 50), (4000, 200)])
def test_held_out_particles_are_never_fitted(count: int, heldout: int) -> None:
    passes = split_into_passes(count, seed=4)
    judged = passes[0]
    assert len(judged.heldout) == heldout
    assert not set(judged.heldout.tolist()) & set(judged.work.tolist())
    assert len(judged.heldout) + len(judged.work) == count
    assert len(passes) == (2 if 20 <= count < 500 else 1)
    assert len(passes[-1].work) == (count if len(passes) == 2 else count - heldout)


@pytest.mark.slow
def test_chunks_do_not_change_the_gradient(particles: Path, start: Path) -> None:
    observations = Observations(read_particles(particles), 20)
    model = read_model(start)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
    gaussians = AtomGaussians(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))
    rows, rings = torch.arange(16), observations.rings(20)
    whole, *gradients = mean_correlation_gradient(positions, gaussians, observations, rows, rings, 16)
    parts, *others = mean_correlation_gradient(positions, gaussians, observations, rows, rings, 3)
    assert whole == pytest.approx(parts, rel=1e-5)
    for ours, theirs in zip(gradients, others):
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
    observations.close()


@pytest.mark.slow
def test_the_verdict_says_in_which_direction_views_tell_nothing(
    finished: Path, particles: Path, start: Path, tmp_path: Path
) -> None:
    known = read_particles(particles).subset(np.arange(30))
    same = replace(known, rotations=np.repeat(known.rotations[:1], len(known), axis=0))
    write_star(tmp_path / "one_view.star", same)
    succeed(command(tmp_path / "one_view.star", start, tmp_path / "run", "--contrast", "white"))
    for run, is_told in ((tmp_path / "run", True), (finished, False)):
        says = json.loads((run / "metrics.json").read_text())
        assert ("No image tells where residues lie along the axis" in says["verdict_explanation"]) == is_told
        assert bool(says["views"]["sentence"]) == is_told


@pytest.mark.slow
def test_every_particle_comes_once_before_any_comes_again(particles: Path, start: Path, tmp_path: Path) -> None:
    from cocofold.finetuning.options import TrainingOptions
    from cocofold.finetuning.training_loop import TrainingLoop
    from cocofold.likelihood.image_comparison import LocalComparison
    from cocofold.sources.deformation import DeformationSource
    from cocofold.structure.restraints import Restraints

    model = read_model(start)
    backbone = Backbone.of(model)
    observations = Observations(read_particles(particles), 5)
    work = torch.arange(3, 75)
    amplitudes = torch.ones(len(model))
    source = DeformationSource(model)
    loop = TrainingLoop(
        source,
        Restraints(model, backbone, 0.0),
        AtomGaussians(amplitudes, amplitudes),
        amplitudes > 0,
        observations,
        LocalComparison(observations),
        work,
        TrainingOptions(batch_size=10),
        10,
    )
    seen = torch.cat([loop._batch(step) for step in range(36)]).tolist()
    assert len(seen) == 360
    for epoch in range(5):
        assert sorted(seen[72 * epoch : 72 * (epoch + 1)]) == work.tolist()
    assert seen[:72] != seen[72:144]
    loop.step = 36
    assert loop.images == 360
    # A stage may take several batches a step, or none.
    loop._stages = [replace(stage, batches=number % 3) for number, stage in enumerate(source.stages())]
    ends = loop.cycle_ends(None)
    assert [len(loop._batch(step)) for step in (0, ends[0], ends[1], ends[2])] == [0, 10, 20, 0]
    some = torch.cat([loop._batch(step) for step in range(ends[1] + 5)])
    assert len(some) == 10 * (ends[1] - ends[0]) + 20 * 5
    assert sorted(some[:72].tolist()) == work.tolist()
    observations.close()


@pytest.mark.slow
def test_gaussians_may_be_trained_without_images(particles: Path, start: Path) -> None:
    from cocofold.finetuning.options import TrainingOptions
    from cocofold.finetuning.training_loop import TrainingLoop
    from cocofold.likelihood.image_comparison import LocalComparison
    from cocofold.sources.deformation import DeformationSource
    from cocofold.structure.restraints import Restraints

    class NoImages(DeformationSource):
        def stages(self) -> list[Stage]:
            return [replace(super().stages()[0], batches=0, trains_gaussians=True, revert_unless_better=False)]

    model = read_model(start)
    backbone = Backbone.of(model)
    observations = Observations(read_particles(particles), 5)
    given = AtomGaussians.from_elements(model.atomic_numbers, torch.device("cpu"))
    outside = torch.full_like(given.amplitudes, 40.0)
    loop = TrainingLoop(
        NoImages(model),
        Restraints(model, backbone, 0.0),
        AtomGaussians(outside, given.widths_angstrom),
        outside > 0,
        observations,
        LocalComparison(observations),
        torch.arange(80),
        TrainingOptions(batch_size=10),
        10,
    )
    correlations: list[float] = []
    loop.advance(3, correlations.append)
    assert correlations == [0.0, 0.0, 0.0]
    # The hinges alone move them.
    assert (loop.gaussians.amplitudes < outside).all()
    assert loop.images == 0
    observations.close()


@pytest.mark.slow
def test_projections_of_the_map_are_fitted_and_images_judge(particles: Path, start: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "run", ("--effort", 0.02, "--cycles", 2)
    succeed(command(particles, start, out, *short, "--supervision", "map"))
    metrics = json.loads((out / "metrics.json").read_text())
    # Scores are those of images, of which a projection has much more than a half.
    assert 0.1 < metrics["frc_heldout_start"] < metrics["frc_heldout"] < 0.5
    succeed(command(particles, start, tmp_path / "images", *short))
    by_images = json.loads((tmp_path / "images" / "metrics.json").read_text())
    assert metrics["frc_heldout_start"] == by_images["frc_heldout_start"]
    assert (out / "model.cif").read_bytes() != (tmp_path / "images" / "model.cif").read_bytes()
    assert "supervision" in refused(command(particles, start, out, *short, "--resume"))


@pytest.mark.parametrize("other", [("--states", 2), ("--junk", "auto"), ("--refine-poses", "auto"), ("--context", "c")])
def test_a_map_in_place_of_images_knows_no_single_images(other: tuple, tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    given = command(tmp_path / "none.star", tmp_path / "none.cif", tmp_path / "run", "--supervision", "map", *other)
    assert "--supervision map: leave out" in refused(given)


def test_hinges_act_outside_their_ranges_only() -> None:
    counted = torch.tensor([True, True, True, False])
    inside = AtomGaussians(torch.tensor([6.0, 1.0, 20.0, 50.0]), torch.tensor([0.675, 0.33, 0.89, 3.0]))
    assert float(inside.penalty(counted)) == pytest.approx(0, abs=1e-6)
    outside = AtomGaussians(torch.tensor([0.5, 22.0, 6.0, 6.0]), torch.tensor([0.675, 0.675, 1.0, 0.675]))
    assert float(outside.penalty(counted)) == pytest.approx(0.5 + 2.0 + 0.2)
    assert float(outside.penalty(counted, is_mean=True)) == pytest.approx((0.5 + 2.0 + 0.2) / 3)
    assert float(outside.penalty(~counted | counted, is_mean=True)) == pytest.approx((0.5 + 2.0 + 0.2) / 4)
    assert float(outside.penalty(torch.zeros(4, dtype=torch.bool), is_mean=True)) == 0


def followed(correlations: list[np.ndarray]) -> TrainingPass:
    """A pass whose cycles explain held-out images so well, the start first; each (n_images,)."""
    this = TrainingPass(torch.arange(5), torch.arange(len(correlations[0])))
    for number, of_images in enumerate(correlations):
        rings = torch.as_tensor(of_images)[:, None]
        this.add(Cycle(number, 0, 0, "", 0.0, 0.0, float(rings.mean()), 0.0, 0.0, 0.0), torch.zeros(5, 1), rings)
    return this


def test_the_answer_is_the_cycle_that_explains_most_if_it_clearly_explains_more_than_the_start() -> None:
    images = 0.2 + 0.05 * np.random.default_rng(0).standard_normal(60)
    scatter = 0.02 * np.random.default_rng(1).standard_normal((5, 60))
    gains = [0.0, -0.02, 0.03, 0.05, 0.04]
    clear = followed([images + gain + (gain != 0) * error for gain, error in zip(gains, scatter)])
    assert (clear.best, clear.highest, verdict_of_pass(clear)) == (3, 3, "supported")
    assert clear.curves["held-out, end"][0] > clear.curves["held-out, start"][0] + 0.04
    # Standard errors are 0.0026: a gain of two is a hint, one of a third is nothing, and both leave the start.
    hint = followed([images, images + 0.0052 - scatter[1].mean() + scatter[1]])
    assert (hint.best, hint.highest, verdict_of_pass(hint)) == (0, 1, "undecided")
    nothing = followed([images, images + 0.0009 - scatter[1].mean() + scatter[1]])
    assert (nothing.best, nothing.highest, verdict_of_pass(nothing)) == (0, 1, "not supported")
    assert nothing.curves["held-out, end"] == nothing.curves["held-out, start"]


def test_a_share_to_hold_out_may_be_asked_for() -> None:
    assert [len(this.heldout) for this in split_into_passes(1000, 0, 0.2)] == [200]
    assert [len(this.heldout) for this in split_into_passes(100, 0, 0.3)] == [30, 0]
    nothing_held_out = split_into_passes(1000, 0, 0.0)
    assert [len(this.work) for this in nothing_held_out] == [1000]
    assert verdict_of_pass(nothing_held_out[0]) == "undecided"
