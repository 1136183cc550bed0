"""Training a prediction's network: where it starts, what it learns from a teacher, what a run of it writes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from running import command, refused
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from benchmarks.random_prediction import random_prediction
from cocofold.__main__ import app
from cocofold.alphafold.rebuild import write_prediction
from cocofold.finetuning.holdout import Cycle, TrainingPass
from cocofold.finetuning.options import Options, options_with_preset
from cocofold.finetuning.run import finetune
from cocofold.finetuning.run_folder import RunFolder
from cocofold.finetuning.starting_model import PredictedStart, superpose_chains
from cocofold.likelihood.image_comparison import LocalComparison
from cocofold.particles import read_particles
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.sources.structure_module import DistillationTarget
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError

TURN = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short chains by random weights."""
    folder = tmp_path_factory.mktemp("prediction") / "bundle"
    write_prediction(random_prediction("ACDEFGHIKLMN", "PQRSTVWY"), folder)
    return folder


@pytest.fixture(scope="module")
def placed(prediction: Path) -> Path:
    """Its model, turned and put into the middle of a box of 160 Å."""
    model = read_model(prediction / "model.cif")
    path = prediction.parent / "placed_by_hand.cif"
    write_model(path, model.moved_to((model.positions - model.positions.mean(0)) @ TURN.T + 80))
    return path


@pytest.fixture(scope="module")
def images(placed: Path) -> Path:
    folder = placed.parent / "particles"
    simulate(SimulationSettings(model=str(placed), box=64, pixel_size=2.5, count=30, snr=0.5), folder)
    return folder / "particles.star"


def options(prediction: Path, placed: Path, images: Path, **more: object) -> Options:
    return Options(
        **{"particles": str(images), "model": str(placed), "prediction": str(prediction), "check": False, **more}
    )


def start_of(asked: Options) -> PredictedStart:
    folder = RunFolder(Path("of nothing"), asked, resume=False)
    return PredictedStart.read(asked, read_particles(asked.particles), folder, torch.device("cpu"))


@pytest.mark.slow
def test_the_network_starts_at_the_prediction_where_its_model_lies(
    prediction: Path, placed: Path, images: Path
) -> None:
    start = start_of(options(prediction, placed, images)).with_teacher(None)
    assert np.abs(start.model.positions - read_model(placed).positions).max() < 2e-3
    source = start.source()
    with torch.no_grad():
        assert np.abs(source.positions().numpy() - start.model.positions).max() < 1e-3
    source.begin_stage(0)
    assert np.abs(source.positions().detach().numpy() - start.model.positions).max() < 1e-3
    confidence = source.confidence()
    assert confidence is not None
    assert start.plddt is not None
    assert confidence.numpy() == pytest.approx(start.plddt, abs=0.01)


@pytest.mark.slow
def test_all_that_is_learned_gets_a_gradient_and_is_in_the_state(prediction: Path, placed: Path, images: Path) -> None:
    start = start_of(options(prediction, placed, images)).with_teacher(None)
    source = start.source()
    groups = source.begin_stage(0)
    assert len(groups) == 4
    source.positions().square().sum().backward()
    # Additions and the gate start at zero, so what lies behind them learns from the second step on.
    moved = [sum(float(values.grad.abs().sum()) for values in group["params"] if values.grad is not None)
             for group in groups]  # fmt: skip
    assert min(moved) > 0
    for group in groups:
        torch.optim.SGD(group["params"], lr=1e-6).step()
    with torch.no_grad():
        reached = source.positions()
    other = start.source()
    other.restore(0, {name: values.clone() for name, values in source.state().items()})
    with torch.no_grad():
        assert torch.equal(other.positions(), reached)
        other.revert_stage()
        assert torch.equal(other.positions(), reached)


@pytest.mark.slow
def test_what_has_no_rate_stays_as_it_is(prediction: Path, placed: Path, images: Path) -> None:
    frozen = options(prediction, placed, images, weights_rate=0.0, adapter_rate=0.0)
    source = start_of(frozen).with_teacher(None).source()
    learned = sum(values.numel() for group in source.begin_stage(0) for values in group["params"])
    assert learned == 20 * 384 + 20 * 20 * 128
    assert all(name.startswith(("single.", "pair.", "dropout.")) for name in source.state())


@pytest.mark.slow
def test_a_target_is_reached_at_itself_and_asks_for_its_place(placed: Path) -> None:
    model = read_model(placed)
    positions = torch.as_tensor(model.positions)
    target = DistillationTarget(torch.as_tensor(Backbone.of(model).atoms), positions)
    assert float(target.loss(positions)) < 0.01
    turned = (positions - 80) @ torch.as_tensor(TURN) + 80
    assert float(target.loss(turned)) > 1
    leaf = positions + 0.5 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1)).double()
    leaf.requires_grad_()
    target.loss(leaf).backward()
    assert leaf.grad is not None
    step = torch.randn(positions.shape, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        slope = (target.loss(leaf + 1e-6 * step) - target.loss(leaf - 1e-6 * step)) / 2e-6
    assert float((leaf.grad * step).sum()) == pytest.approx(float(slope), rel=1e-4)


def renamed(model: Model, number: int, name: str, path: Path) -> Path:
    structure = model.structure.clone()
    structure[0][0][number].name = name
    structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.mark.slow
def test_a_model_of_another_sequence_or_chain_is_refused(
    prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    model = read_model(placed)
    other = renamed(model, 3, "TRP", tmp_path / "other.cif")
    message = refused(command(images, other, tmp_path / "run", "--prediction", prediction))
    assert "residue A4 is TRP, in the prediction GLU" in message
    assert not (tmp_path / "run").exists()
    one_chain = model.only(np.array([key.chain == "A" for key in model.residues]))
    with pytest.raises(InputError, match="chain B of the prediction has 0 residues in common"):
        superpose_chains(model, one_chain, "one_chain.cif")


@pytest.mark.slow
def test_a_run_needs_a_start_and_a_prediction_a_place(prediction: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model FILE, or --prediction FOLDER"):
        Options(particles=str(images))
    with pytest.raises(InputError, match="outside the particles' box"):
        finetune(Options(particles=str(images), prediction=str(prediction)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"prediction\.safetensors"):
        finetune(Options(particles=str(images), prediction=str(tmp_path)), tmp_path / "run")


@pytest.mark.slow
def test_a_run_writes_confidence_and_leaves_unsure_residues_out(
    prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    start = start_of(options(prediction, placed, images))
    assert start.plddt is not None
    limit = float(np.median(start.plddt))
    short = options(prediction, placed, images, effort=0.02, remove_below=limit, contrast="white", heldout=0.0)
    metrics = finetune(short, tmp_path / "run")
    answer = read_model(tmp_path / "run" / "model.cif")
    assert 5 <= metrics["residues_removed"] <= 15
    assert len(answer.residues) == 20 - metrics["residues_removed"]
    block = gemmi.cif.read(str(tmp_path / "run" / "model.cif")).sole_block()
    local = [float(value) for value in block.find_values("_ma_qa_metric_local.metric_value")]
    assert min(local) >= limit - 0.01
    b_factors = [residue[0].b_iso for chain in answer.structure[0] for residue in chain]
    assert b_factors == pytest.approx(local, abs=0.01)
    # The teacher's run is whole, and the network learned from it before the images led.
    teacher = json.loads((tmp_path / "run" / "teacher" / "metrics.json").read_text())
    assert 0 < metrics["teacher_seconds"] == teacher["seconds"] < metrics["seconds"]
    assert metrics["peak_memory_gb"] >= teacher["peak_memory_gb"]
    assert "distil" in (tmp_path / "run" / "log.txt").read_text()
    again = finetune(short, tmp_path / "run", resume=True)
    assert again["steps"] == metrics["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["network", "field on top", "paper"])
def test_a_network_resumes_to_the_same_model(
    kind: str, prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    same: dict[str, object] = {"contrast": "white", "heldout": 0.0}
    if kind == "paper":
        short = options_with_preset(
            preset="paper", particles=str(images), model=str(placed), prediction=str(prediction), cycles=6, **same
        )
    else:
        deform = kind == "field on top"
        short = options(prediction, placed, images, effort=0.02, teacher=False, deform=deform, cycles=3, **same)
    finetune(short, tmp_path / "whole")
    from cocofold.finetuning.run import _Run

    with pytest.MonkeyPatch.context() as patch:
        after_step, seen = _Run._after_step, []

        def stop(run: _Run, correlation: float, *others: object) -> None:
            after_step(run, correlation, *others)  # type: ignore[arg-type]
            seen.append(correlation)
            if len(seen) == 4:
                raise Enough

        patch.setattr(_Run, "_after_step", stop)
        with pytest.raises(Enough):
            finetune(short, tmp_path / "killed")
    finetune(short, tmp_path / "killed", resume=True)
    whole = sorted((tmp_path / "whole" / "models").iterdir())
    assert len(whole) == (7 if kind == "paper" else 4)
    assert whole[-1].read_bytes() != whole[-2].read_bytes()
    for path in whole:
        assert (tmp_path / "killed" / "models" / path.name).read_bytes() == path.read_bytes(), path.name


def _energy(positions: torch.Tensor) -> torch.Tensor:
    pattern = torch.linspace(0, 40, positions.numel()).view_as(positions).sin()
    return (positions * pattern).double().sum()


@pytest.mark.slow
def test_the_field_on_top_has_the_gradient_of_finite_differences_and_goes_on_where_it_was(
    prediction: Path, placed: Path, images: Path
) -> None:
    source = start_of(options(prediction, placed, images, deform=True)).with_teacher(None).source()
    with torch.no_grad():
        assert np.abs(source.positions().numpy() - read_model(placed).positions).max() < 2e-3
    groups = source.begin_stage(0)
    shifts, turns = (group["params"][0] for group in groups[-2:])
    single = groups[0]["params"][0]
    draw = torch.Generator().manual_seed(3)
    for values, size in ((shifts, 2.0), (turns, 0.2), (single, 0.02)):
        with torch.no_grad():
            values += size * torch.randn(values.shape, generator=draw)
    _energy(source.positions()).backward()
    for values, step in ((shifts, 0.05), (turns, 0.005), (single, 2e-4)):
        direction = torch.randn(values.shape, generator=draw)
        with torch.no_grad():
            values += step * direction
            above = _energy(source.positions())
            values -= 2 * step * direction
            below = _energy(source.positions())
            values += step * direction
        assert float((values.grad * direction).sum()) == pytest.approx(float(above - below) / (2 * step), rel=0.02)
    with torch.no_grad():
        reached = source.positions()
        source.begin_stage(1)
        torch.testing.assert_close(source.positions(), reached, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_the_paper_s_preset_is_its_authors_training(prediction: Path, placed: Path, images: Path) -> None:
    given = {"particles": str(images), "model": str(placed), "prediction": str(prediction)}
    asked = options_with_preset(preset="paper", **given)
    assert (asked.batch_size, asked.cycles, asked.epochs) == (32, 10, 10)
    assert (asked.amplitude_rate, asked.width_rate, asked.weights_rate, asked.adapter_rate) == (0.01, 0.005, 1e-4, 1e-3)
    assert (asked.data_weight, asked.geometry_weight, asked.single_rate, asked.pair_rate) == (1.0, 0.0, 0.0, 0.0)
    assert not asked.teacher
    assert asked.penalty
    assert asked.penalty_mean
    assert options_with_preset(preset="paper", **given, cycles=3, batch_size=8).epochs == 3
    source = start_of(asked).with_teacher(None).source()
    (stage,) = source.stages()
    assert (stage.epochs, stage.resolution_angstrom, stage.trains_gaussians) == (10, 0.0, True)
    with torch.no_grad():
        before = source.positions()
        assert np.abs(before.numpy() - read_model(placed).positions).max() < 2e-3
        assert {group["lr"] for group in source.begin_stage(0)} == {1e-4, 1e-3}
        after = source.positions()
        # Without a gate the adapter changes the prediction from the first step on.
        assert float((after - before).abs().max()) > 1
        assert torch.equal(source.positions(), after)
    first, second = source.positions().detach(), source.positions().detach()
    assert float((first - second).abs().max()) > 0.1
    assert not any("gate" in name for name in source.state())


def test_a_cycle_that_lost_the_fold_is_no_answer() -> None:
    def followed(watches_fold: bool) -> TrainingPass:
        images = 0.2 + 0.05 * torch.linspace(-1, 1, 60)[:, None]
        this = TrainingPass(torch.arange(5), torch.arange(60), watches_fold)
        # The later a cycle, the more it explains; the third one's bonds are off by more than 0.1 Å more, as the last.
        for number, (gain, link) in enumerate(zip((0.0, 0.03, 0.05, 0.08), (0.04, 0.13, 0.15, 2.0))):
            rings = images + gain * torch.linspace(0.9, 1.1, 60)[:, None]
            cycle = Cycle(number, 0, 0, "", 0.0, 0.0, float(rings.mean()), 0.0, 0.0, link)
            this.add(cycle, torch.zeros(5, 1), rings)
        return this

    assert followed(watches_fold=False).best == 3
    watched = followed(watches_fold=True)
    assert (watched.best, watched.highest) == (1, 1)
    assert [watched.keeps_fold(cycle) for cycle in watched.cycles] == [True, True, False, False]
    second = TrainingPass(torch.arange(60), torch.arange(0), watches_fold=True, last_cycle=1)
    for number, link in enumerate((0.04, 0.2)):
        second.add(Cycle(number, 0, 0, "", 0.0, 0.0, None, 0.0, 0.0, link), torch.zeros(60, 1), None)
    assert not second.gave_answer


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--preset", "paper"], "--preset paper: is for predictions; add --prediction FOLDER"),
        (["--deform"], "--deform: is for predictions"),
        (["--no-adapter"], "--no-adapter: is for predictions"),
        (["--no-weights"], "--no-weights: is for predictions"),
        (["--no-additions"], "--no-additions: is for predictions"),
        (["--pair-precision", "float16"], "--pair-precision float16: is for predictions"),
        (["--prediction", "P", "--no-additions"], "only they learn a teacher's model; add --no-teacher"),
        (
            ["--prediction", "P", "--no-teacher", "--no-weights", "--no-adapter", "--no-additions"],
            "nothing is left to learn",
        ),
        (["--prediction", "P", "--pair-precision", "int8"], "give auto, float32, bfloat16 or float16"),
        (["--prediction", "P", "--preset", "best"], "--preset best: give default or paper"),
        (["--prediction", "P", "--preset", "paper", "--teacher"], "leave --teacher or --preset paper out"),
        (["--prediction", "P", "--preset", "paper", "--deform"], "leave --deform or --preset paper out"),
        (["--prediction", "P", "--preset", "paper", "--effort", "0.5"], "leave --effort or --preset paper out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: list[str], words: str) -> None:
    start = [] if "--prediction" in given else ["--model", "M.cif"]
    result = CliRunner().invoke(app, ["finetune", "--particles", "P.star", "--out", "R", *start, *given])
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)


def test_switches_of_the_command_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []
    monkeypatch.setattr("cocofold.finetuning.run.finetune", lambda options, *others: seen.append(options))
    line = ["finetune", "--particles", "P.star", "--out", "R", "--prediction", "P"]
    for more in (
        [],
        ["--no-adapter", "--no-weights", "--no-penalty", "--deform", "--no-teacher"],
        ["--no-additions", "--no-teacher"],
        ["--preset", "paper", "--cycles", "4"],
        ["--preset", "paper"],
    ):
        assert CliRunner().invoke(app, [*line, *more]).exit_code == 0
    plain, other, bare, *authors = seen
    assert plain == Options(particles="P.star", prediction="P")
    assert (other.adapter_rate, other.weights_rate, other.penalty) == (0.0, 0.0, False)
    assert (other.deform, other.teacher) == (True, False)
    assert (bare.single_rate, bare.pair_rate) == (0.0, 0.0)
    assert bare.weights_rate > 0
    assert authors == [
        options_with_preset(preset="paper", particles="P.star", prediction="P", cycles=count) for count in (4, 10)
    ]


@pytest.mark.slow
def test_a_pair_of_half_the_memory_gives_nearly_the_same_atoms(prediction: Path, placed: Path, images: Path) -> None:
    reached = []
    for precision in ("float32", "float16"):
        short = options(prediction, placed, images, pair_precision=precision)
        with torch.no_grad():
            reached.append(start_of(short).with_teacher(None).source().positions())
    assert 0 < float((reached[0] - reached[1]).abs().max()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("way", [["--teacher"], ["--no-teacher", "--deform"]])
def test_several_processes_train_the_network_of_one(
    way: list[str], prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    """Compared are all numbers that were learned; the first of two processes has both cores while it trains.

    With a teacher the same processes compare images for two models, one after the other.
    """
    learned = []
    for count in (1, 2):
        more = ["--prediction", prediction, *way, "--processes", count]
        done = subprocess.run(
            command(images, placed, tmp_path / str(count), *more),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        learned.append(load_file(tmp_path / str(count) / "checkpoints" / "latest.safetensors"))
    assert len(learned[0]) > 60
    assert learned[0].keys() == learned[1].keys()
    assert [name for name, values in learned[0].items() if not torch.equal(values, learned[1][name])] == []


@pytest.mark.slow
def test_idle_cores_are_used_for_a_network_alone(
    prediction: Path, placed: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    monkeypatch.setattr(LocalComparison, "on_idle_cores", lambda _: contextlib.nullcontext(used.append("once")))
    finetune(options(prediction, placed, images, effort=0.01, teacher=False, cycles=1), tmp_path / "network")
    assert len(used) > 4
    used.clear()
    given = Options(particles=str(images), model=str(placed), check=False, effort=0.01, cycles=1)
    finetune(given, tmp_path / "model")
    assert not used
