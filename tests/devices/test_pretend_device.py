"""Whole commands on a device that refuses what a GPU refuses, and what they wait for there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
import pytest
from torch.utils import backend_registration

from cocofold.commands.demo import closed_state, open_state
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)
HERE = Path(__file__).parent
# What a step waits for, by the function that asks: docs/performance.md says why
OF_A_STEP = {
    "imaging/projection.py:project _local_scalar_dense",
    "imaging/projection.py:of unique_consecutive",
    "imaging/projection.py:of repeat_interleave",
    "sources/deformation.py:positions _local_scalar_dense",
    "likelihood/frc_loss.py:unpack_gradient _local_scalar_dense",
    "structure/restraints.py:_overlaps nonzero",
}


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "particles"
    simulate(SimulationSettings(model=str(open_state()), box=48, pixel_size=3.4, count=40, snr=0.3, seed=3), folder)
    return folder / "particles.star"


def run(tmp_path: Path, *arguments: object, **variables: str) -> tuple[subprocess.CompletedProcess, Counter[str]]:
    """A command in a process that knows the device; and what it has waited for."""
    report = tmp_path / "report.json"
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "PRETEND_REPORT": str(report), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "cocofold", *map(str, arguments)],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=500,
    )
    waits = Counter(json.loads(report.read_text().splitlines()[-1])["waits"]) if report.is_file() else Counter()
    return done, waits


def finetune(particles: Path, out: Path, *more: object) -> list[object]:
    start = ["--particles", particles, "--model", closed_state(), "--out", out, "--effort", 0.01, "--cycles", 1]
    return ["finetune", *start, "--heldout", 0, "--resolution", 10, "--no-check", "--batch-size", 8, *more]


def positions(path: Path) -> np.ndarray:
    atoms = gemmi.read_structure(str(path))[0].all()
    return np.array([place.atom.pos.tolist() for place in atoms])


@pytest.fixture(scope="module")
def on_processor(particles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the processor."""
    out = tmp_path_factory.mktemp("processor")
    done, waits = run(out, *finetune(particles, out / "run", "--device", "cpu"))
    assert done.returncode == 0, done.stderr
    assert not waits
    return out / "run"


@pytest.mark.slow
def test_a_run_ends_as_on_the_processor_and_waits_only_where_it_must(
    particles: Path, on_processor: Path, tmp_path: Path
) -> None:
    done, waits = run(tmp_path, *finetune(particles, tmp_path / "run", "--device", "pretend"))
    assert done.returncode == 0, done.stderr
    assert "on pretend" in done.stdout
    # A batch comes in one part on a GPU and in two on a processor, so sums differ in their last digits.
    moved = positions(tmp_path / "run" / "model.cif") - positions(on_processor / "model.cif")
    assert np.abs(moved).max() < 0.02
    steps = json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"]
    often = {where for where, count in waits.items() if count >= steps}
    # A checkpoint copies more arrays than so short a run has steps; its function's name depends on Python's version.
    saved = re.compile(r"finetuning/training_loop.py:(<dictcomp>|state) copy")
    assert {where for where in often if not saved.match(where)} <= OF_A_STEP


@pytest.mark.slow
def test_a_run_goes_on_on_another_device(particles: Path, on_processor: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(on_processor, tmp_path / "run"))
    (out / "metrics.json").unlink()
    done, _ = run(tmp_path, *finetune(particles, out, "--device", "pretend", "--resume"))
    assert done.returncode == 0, done.stderr
    assert (out / "model.cif").read_bytes() == (on_processor / "model.cif").read_bytes()
    assert (out / "metrics.json").is_file()


@pytest.mark.slow
def test_a_device_without_memory_gets_fewer_images_at_once_or_says_so(particles: Path, tmp_path: Path) -> None:
    done, _ = run(tmp_path, *finetune(particles, tmp_path / "run", "--device", "pretend"), PRETEND_BYTES=str(1 << 20))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "out of memory" in done.stderr or "does not hold" in done.stderr


def test_the_device_refuses_what_a_gpu_refuses(tmp_path: Path) -> None:
    words = """
import torch, pretend
there, here = torch.arange(3.0, device="pretend"), torch.arange(3.0)
def refused(act):
    try:
        act()
    except (RuntimeError, TypeError):
        return
    raise SystemExit("not refused")
refused(lambda: there + here)
refused(lambda: there.numpy())
refused(lambda: there[torch.tensor([0, 1])])
refused(lambda: torch.randn(3, device="pretend", generator=torch.Generator()))
assert (there + 1).cpu().tolist() == [1, 2, 3]
assert not pretend.WAITS["elsewhere _local_scalar_dense"]
assert float(there.sum()) == 3
assert pretend.WAITS["elsewhere _local_scalar_dense"] == 1
there[there > 1]
assert pretend.WAITS["elsewhere mask"] == 1
pretend.MEMORY.limit = 100
refused(lambda: torch.zeros(100, device="pretend"))
"""
    path = {"PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", words], env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
