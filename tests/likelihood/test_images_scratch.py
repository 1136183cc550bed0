"""Images copied to a scratch disk: the same run, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from literal_images import BOX, PIXEL, Scene

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.stack_files import copied_to_scratch
from cocofold.particles.star_write import write_star
from cocofold.system.errors import InputError


@pytest.fixture
def particles(tmp_path: Path) -> ParticleSet:
    scene = Scene(9)
    images = np.random.default_rng(1).integers(-99, 99, size=(9, BOX, BOX)).astype(np.int16)
    read = read_particles(scene.write_images(tmp_path, images, [{}], [1] * 9))
    read.contrast[::2] = -1
    return read


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_the_chosen_images_alone_are_copied(particles: ParticleSet, scratch: Path) -> None:
    chosen = particles.subset(np.array([7, 2, 5]))
    told: list[tuple[int, int]] = []
    with copied_to_scratch(chosen, scratch, lambda done, total: told.append((done, total))) as copied:
        (stack,) = copied.stacks
        assert stack.parent.parent == scratch
        with mrcfile.open(stack) as file:
            assert (file.data.dtype, file.data.shape) == (np.float32, (3, BOX, BOX))
            assert file.voxel_size.x == pytest.approx(PIXEL)
        assert mrcfile.validate(stack)
        assert stack.stat().st_size == 1024 + 3 * BOX * BOX * 4
        np.testing.assert_array_equal(copied.images(np.arange(3)), particles.images(np.array([7, 2, 5])))
        np.testing.assert_array_equal(copied.rotations, chosen.rotations)
        assert told[-1] == (3, 3)
    assert not list(scratch.iterdir())


def test_nothing_is_left_after_errors(particles: ParticleSet, scratch: Path) -> None:
    found: list[Path] = []

    def fail() -> None:
        with copied_to_scratch(particles, scratch):
            found.extend(scratch.iterdir())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(found) == 1
    assert not list(scratch.iterdir())
    os.truncate(particles.stacks[0], 3000)
    with pytest.raises(InputError, match="became shorter"), copied_to_scratch(particles, scratch):
        pass
    assert not list(scratch.iterdir())


def test_too_little_space_and_unusable_folders(
    particles: ParticleSet, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no such folder"), copied_to_scratch(particles, scratch / "none"):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000_000))
    expected = r"0\.07 GB are needed for 9 images, 0\.05 GB are available"
    with pytest.raises(InputError, match=expected), copied_to_scratch(particles, scratch):
        pass
    assert not list(scratch.iterdir())


@pytest.mark.slow
def test_a_run_from_scratch_is_the_same_run(shared_data: Path, scratch: Path, tmp_path: Path) -> None:
    star, model = str(shared_data / "adk/two_optics/particles.star"), str(shared_data / "adk/start_closed.cif")
    for name, folder in (("there", None), ("copied", str(scratch))):
        options = Options(particles=star, model=model, max_particles=40, effort=0.01, scratch=folder)
        finetune(options, tmp_path / name)
    there, copied = ((tmp_path / name / "models/cycle_09.cif").read_text() for name in ("there", "copied"))
    assert copied == there
    assert "40 images copied to" in (tmp_path / "copied/log.txt").read_text()
    assert not list(scratch.iterdir())


WAITING = """
import sys, time
from pathlib import Path
from cocofold.particles.stack_files import copied_to_scratch
from cocofold.system.processes import SignalHandler
from cocofold.particles import read_particles
with SignalHandler(), copied_to_scratch(read_particles(sys.argv[1]), Path(sys.argv[2])):
    print("copied", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_remove_the_copy(particles: ParticleSet, scratch: Path, tmp_path: Path, number: signal.Signals) -> None:
    write_star(tmp_path / "again.star", particles)
    command = [sys.executable, "-c", WAITING, str(tmp_path / "again.star"), str(scratch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "copied\n"
        assert list(scratch.iterdir())
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert time.monotonic() - began < 30
    assert not list(scratch.iterdir())
