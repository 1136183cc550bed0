"""Each verb that computes on a device, and each way of ``cocofold finetune``, where what a GPU refuses is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from pretend_runs import BOX, OF_A_STEP, PIXEL, Small, farthest, run, succeed

from benchmarks.random_prediction import random_prediction
from cocofold.alphafold.rebuild import write_prediction
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow
# Sums on the device are of other parts, and differ in their last digits.
SAME_ANGSTROM = 0.02
Command = Callable[..., int]
# OpenMM has no such device; and fewer iterations, as this is about the images' force.
RELAX = """
from cocofold.relaxation import minimization
minimization._PLATFORMS["pretend"] = ("CPU",)
minimization.RELAXATION_STAGES = tuple(one._replace(iterations=6, solvent=False) for one in
                                       minimization.RELAXATION_STAGES)
from cocofold.__main__ import main
main()
"""


def at_once(count: int) -> list[object]:
    """So many particles in all, compared in one part: the fewest operations."""
    return ["--first", count, "--batch-size", count]


def metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def assert_same_numbers(one: object, other: object, within: float) -> None:
    """That what two runs wrote as JSON has the same words, and numbers that are as near."""
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other)
        for mine, theirs in zip(one, other):
            assert_same_numbers(mine, theirs, within)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=within)
    else:
        assert one == other


def test_check_judges_as_on_the_processor(small: Small, command: Command, tmp_path: Path) -> None:
    asked = ["check", "--particles", small.particles, "--model", small.truth, "--map", small.map, "--count", 20]
    succeed(tmp_path, *asked, "--json", tmp_path / "there.json", "--device", "pretend")
    assert command(*asked, "--json", tmp_path / "here.json", "--device", "cpu") == 0
    there, here = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert [one["verdict"] for one in there["questions"]] == [one["verdict"] for one in here["questions"]]
    assert_same_numbers(
        [one["alternatives"][0]["score"] for one in there["questions"] if one["alternatives"]],
        [one["alternatives"][0]["score"] for one in here["questions"] if one["alternatives"]],
        2e-3,
    )


def test_fit_places_as_on_the_processor(small: Small, command: Command, tmp_path: Path) -> None:
    asked = ["fit", "--model", small.start, "--map", small.map, "--resolution", 14, "--hand", "as-is"]
    succeed(tmp_path, *asked, "--out", tmp_path / "there", "--device", "pretend")
    assert command(*asked, "--out", tmp_path / "here", "--device", "cpu") == 0
    assert farthest(tmp_path / "there" / "placed.cif", tmp_path / "here" / "placed.cif") < 0.1
    assert farthest(tmp_path / "there" / "placed.cif", small.start) > 0.5


def test_reconstruct_gives_the_map_of_the_processor(small: Small, command: Command, tmp_path: Path) -> None:
    asked = ["reconstruct", "--particles", small.particles, "--model", small.truth, "--half-maps", "--symmetry", "C2"]
    succeed(tmp_path, *asked, "--out", tmp_path / "there", "--device", "pretend")
    assert command(*asked, "--out", tmp_path / "here", "--device", "cpu") == 0
    names = sorted(path.name for path in (tmp_path / "here").glob("*.mrc"))
    assert len(names) >= 3
    for name in names:
        there, here = (mrcfile.read(tmp_path / place / name) for place in ("there", "here"))
        assert np.abs(there - here).max() < 1e-4 * np.abs(here).max()


def test_select_chooses_as_on_the_processor(small: Small, command: Command, tmp_path: Path) -> None:
    asked = ["select", "--particles", small.particles, "--model", small.start, "--by", "frc", "--count", 60]
    succeed(tmp_path, *asked, "--out", tmp_path / "there.star", "--device", "pretend")
    assert command(*asked, "--out", tmp_path / "here.star", "--device", "cpu") == 0
    there, here = (read_particles(tmp_path / f"{name}.star").slice_index for name in ("there", "here"))
    assert set(there) == set(here)


def test_the_images_force_of_relax_is_that_of_the_processor(small: Small, command: Command, tmp_path: Path) -> None:
    pytest.importorskip("openmm")
    model = read_model(small.start)
    write_model(tmp_path / "short.cif", model.only(np.arange(len(model.residues)) < 12))
    asked = ["relax", "--model", tmp_path / "short.cif", "--particles", small.particles, "--max-particles", 20]
    found = {}
    for device in ("pretend", "cpu"):
        more = ["--threads", 1, "--device", device, "--json", tmp_path / f"{device}.json"]
        done = succeed if device == "pretend" else _without_waits
        done(tmp_path, *asked, *more, "--out", tmp_path / f"{device}.cif", program=("-c", RELAX))
        found[device] = json.loads((tmp_path / f"{device}.json").read_text())
    assert farthest(tmp_path / "pretend.cif", tmp_path / "cpu.cif") < SAME_ANGSTROM
    assert found["pretend"]["frc"]["after"] != found["pretend"]["frc"]["before"]
    assert_same_numbers(found["pretend"]["frc"], found["cpu"]["frc"], 1e-3)


def _without_waits(*given: object, **more: object) -> None:
    done = run(*given, **more)  # type: ignore[arg-type]
    assert done.status == 0, done.complaint
    assert not done.waits()


def test_two_processes_share_images_on_their_devices(small: Small, on_processor: Path, tmp_path: Path) -> None:
    """The other process knows the device by the path that it inherits."""
    asked = small.finetune(tmp_path / "run", "--device", "pretend", "--processes", 2, "--oversubscribe")
    done = succeed(tmp_path, *asked)
    assert "2 processes compare images" in done.said
    other, first = (set(report["waits"]) for report in done.reports)
    assert {where for where in OF_A_STEP if where.startswith("imaging/")} <= other & first
    # What it has found is waited for once a request; the atoms are the first one's alone.
    assert any(where.startswith("likelihood/worker_messages.py:answer copy") for where in other)
    assert not any(where.startswith(("sources/", "finetuning/", "structure/")) for where in other)
    assert farthest(tmp_path / "run" / "model.cif", on_processor / "model.cif") < SAME_ANGSTROM


def test_junk_is_told_from_a_first_run(small: Small, tmp_path: Path) -> None:
    done = succeed(tmp_path, *small.finetune(tmp_path / "run", "--device", "pretend", "--junk", "auto", *at_once(50)))
    assert "reconstruction_1.mrc" in {path.name for path in (tmp_path / "run").iterdir()}
    assert any(where.startswith("likelihood/image_likelihood.py") for where in done.waits())


def test_two_states_are_told_apart(small: Small, tmp_path: Path) -> None:
    simulate(SimulationSettings(str(small.start), BOX, PIXEL, 50, snr=0.5), tmp_path / "closed")
    tables = []
    for path in (small.particles, tmp_path / "closed" / "particles.star"):
        blocks = starfile.read(path)
        blocks["particles"]["rlnImageName"] = blocks["particles"]["rlnImageName"].str.replace("@", f"@{path.parent}/")
        tables.append(blocks["particles"].head(50))
    starfile.write({"optics": blocks["optics"], "particles": pd.concat(tables)}, tmp_path / "mixed.star")
    asked = small.finetune(tmp_path / "run", "--device", "pretend", "--model", small.truth, *at_once(100))
    asked[asked.index(small.particles)] = tmp_path / "mixed.star"
    succeed(tmp_path, *asked)
    found = starfile.read(tmp_path / "run" / "particles.star")["particles"]["rlnClassNumber"].to_numpy()
    assert len(metrics(tmp_path / "run")["states"]) == 2
    assert len({*found[:50]} | {*found[50:]}) == 2
    assert abs((found[:50] == found[0]).mean() - (found[50:] == found[0]).mean()) > 0.8


def test_single_images_pull_as_on_the_processor(small: Small, tmp_path: Path) -> None:
    words = """
import sys, torch
from cocofold.imaging.fourier import ring_count
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.likelihood.image_likelihood import NoiseModel, _pulls, image_ring_sums, numbers_in_rings
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.structure.read_model import read_model
model, particles = read_model(sys.argv[1]), read_particles(sys.argv[2])
fields, rows = torch.randn(3, len(model), 3, generator=torch.Generator().manual_seed(1)), torch.arange(12)
found = []
for device in map(torch.device, ("cpu", "pretend")):
    positions = torch.as_tensor(model.positions, dtype=torch.float32, device=device)
    gaussians = AtomGaussians.of_model(model, device)
    with Observations(particles, 8, device) as observations:
        given = gaussians, observations, rows, observations.rings(8)
        sums = image_ring_sums(positions, *given, 12)
        numbers = numbers_in_rings(observations.rings(8))
        noise = NoiseModel.estimate([sums], torch.ones(12, 1, dtype=torch.float64), numbers)
        found.append(_pulls(positions, *given, noise, fields.to(device), 0))
for one, other in zip(*found):
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
"""
    succeed(tmp_path, words, small.start, small.particles, program=("-c",))


def test_poses_are_refined(small: Small, tmp_path: Path) -> None:
    asked = small.finetune(tmp_path / "run", "--device", "pretend", "--refine-poses", "on", *at_once(20))
    done = succeed(tmp_path, *asked)
    assert "poses: by" in done.said
    assert any(where.startswith("likelihood/image_comparison.py:pose_equations") for where in done.waits())


def test_a_map_supervises(small: Small, tmp_path: Path) -> None:
    done = succeed(tmp_path, *small.finetune(tmp_path / "run", "--device", "pretend", "--supervision", "map"))
    assert farthest(tmp_path / "run" / "model.cif", small.start) > 1
    assert not [where for where in done.waits() if "reconstruction.py:batch" in where]


def test_density_without_atoms_is_set_aside_and_a_neighbour_is_drawn(small: Small, tmp_path: Path) -> None:
    """The start lacks the last third of the chain, of which a part is the fixed model beside it."""
    whole = read_model(small.start)
    rows = np.arange(len(whole.residues))
    write_model(tmp_path / "part.cif", whole.only(rows < 40))
    write_model(tmp_path / "context.cif", whole.only(rows >= 50))
    asked = small.finetune(tmp_path / "run", "--device", "pretend", "--set-aside", "on")
    asked += ["--model", tmp_path / "part.cif", "--context", tmp_path / "context.cif"]
    asked.remove(small.start)
    asked.remove("--model")
    succeed(tmp_path, *asked)
    assert len(read_model(tmp_path / "run" / "model.cif").residues) == 40


def test_twins_tell_errors(small: Small, tmp_path: Path) -> None:
    succeed(tmp_path, *small.finetune(tmp_path / "run", "--device", "pretend", "--twin", 2, *at_once(24)))
    assert (tmp_path / "run" / "twins" / "twin_02" / "model.cif").is_file()


def test_tilts_are_weighted_by_their_dose(small: Small, command: Command, tmp_path: Path) -> None:
    flat = read_particles(small.particles).subset(np.arange(40))
    tilts = {"particle_index": np.arange(40) // 4, "dose_e_a2": 3.0 * (np.arange(40) % 4)}
    write_star(tmp_path / "tilts.star", replace(flat, **tilts))
    settings = [*small.finetune(tmp_path / "there"), "--resolution", 9]
    settings[settings.index(small.particles)] = tmp_path / "tilts.star"
    succeed(tmp_path, *settings, "--device", "pretend")
    settings[settings.index(tmp_path / "there")] = tmp_path / "here"
    assert command(*settings, "--device", "cpu") == 0
    assert farthest(tmp_path / "there" / "model.cif", tmp_path / "here" / "model.cif") < SAME_ANGSTROM


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A prediction of a short chain by random weights, in place of a start, and images of its model."""
    folder = tmp_path_factory.mktemp("prediction")
    write_prediction(random_prediction("ACDEFGHIKLMN"), folder / "bundle")
    model = read_model(folder / "bundle" / "model.cif")
    placed = folder / "placed.cif"
    write_model(placed, model.moved_to(model.positions - model.positions.mean(0) + BOX * PIXEL / 2))
    simulate(SimulationSettings(str(placed), box=BOX, pixel_size=PIXEL, count=24, snr=0.5), folder / "simulated")
    return Small(folder / "bundle", placed, folder / "simulated" / "particles.star", placed)


@pytest.mark.parametrize(
    "way", [("--no-teacher", "--deform"), ("--teacher",), ("--preset", "paper", "--effort", 1.0)], ids=str
)
def test_a_network_learns(way: tuple, network: Small, tmp_path: Path) -> None:
    asked = network.finetune(tmp_path / "run", "--device", "pretend", "--prediction", network.truth, *way)
    done = succeed(tmp_path, *asked)
    assert "on pretend" in done.said
    passes = done.waits()["alphafold/structure_network.py:_check_inputs _local_scalar_dense"]
    assert passes > 2
    # Dropout draws, and nothing else, are random on the device.
    assert farthest(tmp_path / "run" / "model.cif", network.start) > 0.01
    inside = {where for where in done.waits() if where.startswith("alphafold/")}
    often = {where for where in inside if done.waits()[where] >= passes}
    assert often == {"alphafold/structure_network.py:_check_inputs _local_scalar_dense"}
