"""What memory a run will take: said before it starts, kept to, and halved where a GPU's is too small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, log, succeed

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood import frc_loss, memory_plan
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks, mean_correlation_gradient
from cocofold.likelihood.memory_plan import MemoryPlan, RunWorkload
from cocofold.likelihood.observed_images import Observations, bytes_per_transform
from cocofold.particles import read_particles
from cocofold.structure.read_model import read_model
from cocofold.system import hardware
from cocofold.system.errors import InputError
from cocofold.system.hardware import peak_memory_gb

CPU = torch.device("cpu")


def planned(monkeypatch: pytest.MonkeyPatch, available: float, **other: int) -> MemoryPlan:
    """For 3,000 images of MSP-1's size."""
    monkeypatch.setattr(memory_plan, "available_bytes", lambda: int(available))
    monkeypatch.setattr(memory_plan, "cache_budget", lambda device: int(min(0.25 * available, 4 * 2**30)))
    work = {"atoms": 13_397, "images": 3000, "source_bytes": int(2e9), "atoms_at_once": 24_000, "batch_size": 32}
    return MemoryPlan.of(
        RunWorkload(rings=RingPixels.up_to(288, 143), pixel_size_angstrom=1.073, **{**work, **other}), CPU
    )


def test_with_enough_memory_all_transforms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(monkeypatch, 30e9)
    assert (plan.images_at_once, plan.images_kept, plan.is_short) == (1, 3000, False)
    assert plan.expected == plan.held + plan.source + plan.at_once + plan.kept
    assert "3000 of 3000 transforms" in str(plan)


def test_a_small_set_takes_no_memory_for_images_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many, more = (planned(monkeypatch, 30e9, images=images) for images in (10, 3000, 6000))
    assert few.images_at_once == many.images_at_once
    assert few.at_once < many.at_once - 100 * 2**20
    assert many.at_once == more.at_once


def test_a_plan_counts_the_map_that_is_made_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    few = planned(monkeypatch, 30e9, images=10)
    fitting = few.source + few.at_once
    assert 60e6 < few.examination < fitting
    assert few.expected == few.held + few.kept + fitting
    assert replace(few, examination=fitting + 7).expected == few.expected + 7


def test_with_less_memory_fewer_are_kept_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    some, none, short = (planned(monkeypatch, available) for available in (2.5e9, 2.1e9, 1e9))
    assert 0 < some.images_kept < 3000
    assert some.kept <= 0.25 * 2.5e9
    assert not some.is_short
    assert none.images_kept == short.images_kept == 0
    assert short.is_short


def test_fewer_images_are_compared_at_once_where_a_gpu_is_short_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"atoms": 500, "source_bytes": 0, "batch_size": 100}
    wide, narrow = (planned(monkeypatch, available, **small) for available in (30e9, 200e6))
    assert wide.images_at_once == narrow.images_at_once == (1 << 21) // 288**2
    assert narrow.is_short
    on_gpu = torch.device("cuda")
    monkeypatch.setattr(memory_plan, "_held_and_available", lambda device: (0, int(200e6)))
    work = RunWorkload(500, 3000, RingPixels.up_to(288, 143), 1.073, 0, 24_000, 100)
    assert 1 <= MemoryPlan.of(work, on_gpu).images_at_once < work.most_images_at_once(on_gpu)


@pytest.mark.parametrize(("batch_size", "processes", "on_cpu", "on_gpu"), [(16, 1, 8, 16), (16, 4, 8, 4), (1, 4, 1, 1)])
def test_a_batch_has_parts_for_several_processes(batch_size: int, processes: int, on_cpu: int, on_gpu: int) -> None:
    """On a CPU their number changes nothing; each GPU gets a part of its own."""
    work = RunWorkload(1000, 300, RingPixels.up_to(64, 31), 2.0, 0, 27_000, batch_size, processes)
    assert work.most_images_at_once(CPU) == on_cpu
    assert work.most_images_at_once(torch.device("cuda")) == on_gpu


MEASURED = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from benchmarks.step import Case, Scene
from cocofold.imaging.fourier import contrast_transfer
from cocofold.imaging.projection import Poses, bytes_per_image, project
from cocofold.imaging.fourier import RingPixels, normalise_rings, ring_correlations
torch.set_num_threads(1)
atoms, box, images = map(int, sys.argv[1:])
scene = Scene(Case(round(atoms / 7.96), box, 1.2), images)
rings = RingPixels.up_to(box, box // 2 - 1)
observed = normalise_rings(torch.randn(images, len(rings), 2), rings)
poses, leaves = Poses(scene.rotations, scene.origins), scene.leaves()
leaves[2].data.fill_(0.8**0.5)
def of(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
Path("/proc/self/clear_refs").write_text("5")
before, step = of("VmRSS"), 1 / (box * 1.2)
transfer = contrast_transfer(scene.ctf, rings.kx * step, rings.ky * step)[..., None]
ring_correlations(project(*leaves, poses, rings, 1.2) * transfer, observed, rings).mean(1).sum().backward()
print((of("VmHWM") - before) / images / bytes_per_image(scene.case.atoms, rings, 1.2, 0.8**0.5))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("atoms", "box", "images"), [(20_000, 64, 8), (500, 300, 16), (13_400, 288, 4)])
def test_an_image_takes_what_the_plan_says(atoms: int, box: int, images: int) -> None:
    """The kernel's own figure of the peak, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a part of a process")
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", MEASURED, *map(str, (atoms, box, images))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=root)
    assert float(done.stdout) == pytest.approx(1, abs=0.25)


@pytest.mark.slow
def test_a_run_says_its_plan_and_keeps_to_it(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        command(particles, start, out, "--effort", "0.03"), capture_output=True, text=True, check=True
    )
    assert "memory: " in done.stdout
    assert "GB at most are expected" in log(out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["peak_memory_gb"] == pytest.approx(metrics["expected_memory_gb"], rel=0.2)


@pytest.mark.slow
def test_a_peak_is_that_of_the_run_not_of_what_started_it() -> None:
    """A program of little memory, started by one that holds much."""
    program = "from cocofold.system.hardware import peak_memory_gb; print(peak_memory_gb())"
    held = np.ones(2**27)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert held.nbytes / 1e9 > 1
    assert float(done.stdout) < 1


def test_a_peak_may_be_that_of_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with --device cuda:1 leaves the first one alone."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda number: (0, 10**12)[number])
    assert peak_memory_gb() == 1000


FULL = torch.cuda.OutOfMemoryError("CUDA out of memory")


class _Gpu:
    """What runs out of memory for more than so many images at once."""

    def __init__(self, holds: int, error: RuntimeError = FULL) -> None:
        self.holds, self.tried, self.error = holds, [], error
        self._correlate = frc_loss.correlate

    def __call__(self, positions, gaussians, observations, rows, rings):
        self.tried.append(len(rows))
        if len(rows) > self.holds:
            raise self.error
        return self._correlate(positions, gaussians, observations, rows, rings)


@pytest.fixture
def compared(particles: Path, start: Path) -> tuple:
    observations = Observations(read_particles(particles), 20)
    model = read_model(start)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    gaussians, rings = AtomGaussians.from_elements(model.atomic_numbers), observations.rings(20)
    return observations, (positions, gaussians, observations, torch.arange(24), rings, 12)


@pytest.mark.slow
def test_out_of_memory_halves_what_is_compared_at_once_and_goes_on(
    compared: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    observations, given = compared
    expected, scores = mean_correlation_gradient(*given), correlate_in_chunks(*given)
    gpu, said = _Gpu(4), []
    monkeypatch.setattr(frc_loss, "correlate", gpu)
    monkeypatch.setattr(observations, "_on_warning", said.append)
    found = mean_correlation_gradient(*given)
    # 12 and 6 are too many; what was learned is kept.
    assert gpu.tried == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    assert [line.partition("images")[0].split()[-1] for line in said] == ["12", "6"]
    assert said[-1].endswith("going on with 3")
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for ours, known in zip(found[1:], expected[1:]):
        torch.testing.assert_close(ours, known, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(correlate_in_chunks(*given), scores, rtol=1e-4, atol=1e-6)
    assert max(gpu.tried[10:]) == 3


@pytest.mark.slow
def test_a_transform_that_finds_no_room_is_out_of_memory_too(compared: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, given = compared
    gpu = _Gpu(6, RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"))
    monkeypatch.setattr(frc_loss, "correlate", gpu)
    mean_correlation_gradient(*given)
    assert gpu.tried[:2] == [12, 6]
    monkeypatch.setattr(frc_loss, "correlate", _Gpu(0, RuntimeError("cuFFT error: CUFFT_INVALID_SIZE")))
    with pytest.raises(RuntimeError, match="INVALID_SIZE"):
        mean_correlation_gradient(*given)


@pytest.mark.slow
def test_memory_for_not_even_one_image_is_said(compared: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, given = compared
    monkeypatch.setattr(frc_loss, "correlate", _Gpu(0))
    with pytest.raises(InputError, match=r"does not hold one image.*--resolution or --device cpu"):
        mean_correlation_gradient(*given)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_run_without_memory_ends_in_one_message_and_goes_on(
    kind: str, particles: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cocofold.sources.deformation import DeformationSource

    error = (
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if kind == "cuda"
        else RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )

    checkpoints, able = tmp_path / "run" / "checkpoints", DeformationSource.positions

    def positions(self: DeformationSource) -> torch.Tensor:
        if any(checkpoints.iterdir()):
            raise error
        return able(self)

    options = Options(particles=str(particles), model=str(start), effort=0.01, check=False)
    with monkeypatch.context() as patched:
        patched.setattr(DeformationSource, "positions", positions)
        with pytest.raises(InputError, match=r"out of memory; what lowers it: a coarser --resolution.*--resume"):
            finetune(options, tmp_path / "run")
    assert "out of memory" in log(tmp_path / "run")
    assert finetune(options, tmp_path / "run", resume=True)["steps"] > 0


@pytest.mark.slow
def test_transforms_that_are_kept_take_what_the_plan_counts(compared: tuple) -> None:
    observations, _ = compared
    assert observations._cache.nbytes == len(observations) * bytes_per_transform(observations.rings(20))


# Python runs a module of this name when it starts, in a run's other processes too.
OTHER_MEMORY = """
from dataclasses import replace
from pathlib import Path
from cocofold.system import hardware
hardware._MEMINFO_FILE = Path(__file__).with_name("meminfo")
"""


@pytest.mark.slow
def test_a_model_does_not_depend_on_the_memory_that_is_free(
    coarse_particles: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for all transforms, for half of them and for none, and none in each of two processes.

    Images of 32 pixels are those that a library transforms differently in company.
    """
    memory, plans, of = tmp_path / "meminfo", [], MemoryPlan.of
    monkeypatch.setattr(hardware, "_MEMINFO_FILE", memory)
    monkeypatch.setattr(MemoryPlan, "of", lambda work, device: plans.append(of(work, device)) or plans[-1])

    def run_with(available: float, name: str, *more: str) -> list[str]:
        memory.write_text(f"MemAvailable: {int(available) // 1024} kB\n")
        return command(coarse_particles, start, tmp_path / name, "--effort", "0.01", "--cycles", 3, *more)

    succeed(run_with(8e9, "all"))
    succeed(run_with((plans[0].source + plans[0].at_once + plans[0].kept / 2) / 0.95, "half"))
    succeed(run_with(1e6, "none"))
    assert plans[0].images_kept == 80
    assert 30 < plans[1].images_kept < 50
    assert plans[2].images_kept == 0
    (tmp_path / "sitecustomize.py").write_text(OTHER_MEMORY)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    two = run_with(1e6, "two", "--processes", "2", "--oversubscribe")
    subprocess.run(two, env=environment, capture_output=True, check=True, timeout=300)
    assert "2 processes compare images" in log(tmp_path / "two")
    assert "to keep 0 of 80 transforms" in log(tmp_path / "two")
    models = [(tmp_path / name / "model.cif").read_bytes() for name in ("all", "half", "none", "two")]
    assert models == [models[0]] * 4
