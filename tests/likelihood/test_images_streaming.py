"""Stacks larger than memory: read when used or ahead of it, with the same results, flat memory, and errors that say."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from literal_images import BOX, PIXEL, Scene

import cocofold.likelihood.observed_images
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.likelihood.observed_images import Observations, ReadAhead
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.system import hardware
from cocofold.system.errors import InputError

COUNT = 40


@pytest.fixture
def particles(tmp_path: Path) -> ParticleSet:
    scene = Scene(COUNT)
    images = np.random.default_rng(1).normal(size=(COUNT, BOX, BOX)).astype(np.float32)
    return read_particles(scene.write_images(tmp_path, images, [{"rlnBeamTiltX": 0.5}], [1] * COUNT))


@pytest.fixture
def opened() -> Iterator[list[Observations]]:
    kept: list[Observations] = []
    yield kept
    for observations in kept:
        observations.close()


def bytes_of(images: int) -> int:
    from cocofold.imaging.fourier import RingPixels

    return images * len(RingPixels.up_to(BOX, 31)) * 8


@pytest.mark.parametrize("cached", [0, 13, COUNT])
@pytest.mark.parametrize("ahead", [False, True])
def test_every_way_to_read_gives_the_same_bits(
    particles: ParticleSet, opened: list[Observations], cached: int, ahead: bool
) -> None:
    whole = Observations(particles, 31)
    everything = whole.batch(torch.arange(COUNT), whole.rings(31)).transforms
    observations = Observations(particles, 31, cache_bytes=bytes_of(cached))
    opened.append(observations)
    rows = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, rows[:10], rows[:1], rows[:1]])
    for rings in (31, 9):
        if ahead:
            observations.prefetch(rows.split(7))
        for some in rows.split(7):
            read = observations.batch(some, observations.rings(rings)).transforms
            assert torch.equal(read, everything[some, : len(observations.rings(rings))])


def test_images_in_memory_are_not_read_again(particles: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    images = ParticleSet.images

    def counted(self: ParticleSet, rows: np.ndarray) -> np.ndarray:
        read.extend(rows.tolist())
        return images(self, rows)

    monkeypatch.setattr(ParticleSet, "images", counted)
    observations = Observations(particles, 31, cache_bytes=bytes_of(30))
    for _ in range(2):
        observations.batch(torch.arange(COUNT), observations.rings(31))
    assert sorted(read) == sorted([*range(COUNT), *range(30, COUNT)])


def test_reading_happens_ahead_in_a_thread_that_ends(
    particles: ParticleSet, opened: list[Observations], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []
    images = ParticleSet.images

    def noted(self: ParticleSet, rows: np.ndarray) -> np.ndarray:
        readers.append(threading.current_thread().name)
        return images(self, rows)

    monkeypatch.setattr(ParticleSet, "images", noted)
    observations = Observations(particles, 31, cache_bytes=0)
    opened.append(observations)
    observations.prefetch(torch.arange(20).split(5))
    deadline = time.monotonic() + 10
    while len(readers) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(readers) == 4
    for some in torch.arange(20).split(5):
        observations.batch(some, observations.rings(31))
    assert len(readers) == 4
    assert all(name.startswith("read-ahead") for name in readers)
    observations.prefetch(torch.arange(20).split(5))
    observations.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_little_is_read_ahead_and_forgotten_plans_do_no_harm() -> None:
    loaded: list[int] = []

    def load(rows: torch.Tensor) -> list[int]:
        loaded.extend(rows.tolist())
        return rows.tolist()

    ahead: ReadAhead[list[int]] = ReadAhead(load)
    try:
        for start in range(0, 70, 10):
            ahead.announce(torch.arange(start, start + 10).split(2), 2)
        assert ahead.take(torch.tensor([0, 1])) is None
        assert ahead.take(torch.tensor([40, 41])) == [40, 41]
        assert ahead.take(torch.tensor([60, 61])) == [60, 61]
        for start in range(42, 50, 2):
            assert ahead.take(torch.tensor([start, start + 1])) == [start, start + 1]
        assert ahead.take(torch.tensor([40, 41])) is None
    finally:
        ahead.close()
    assert not {54, 55, 56, 57, 58, 59, 66, 67, 68, 69} & set(loaded)
    assert len(loaded) == len(set(loaded))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(
    ("damage", "part"),
    [("cut", r"images\.mrcs: ends before its image 21; it became shorter"), ("nan", r"image 21 .*NaN or infinite")],
)
def test_damage_in_mid_run_ends_in_a_message(
    particles: ParticleSet, opened: list[Observations], ahead: bool, damage: str, part: str
) -> None:
    observations = Observations(particles, 31, cache_bytes=0)
    opened.append(observations)
    rings = observations.rings(31)
    observations.batch(torch.arange(4), rings)
    with open(particles.stacks[0], "r+b") as file:
        if damage == "cut":
            file.truncate(1024 + 20 * BOX * BOX * 4 + 100)
        else:
            file.seek(1024 + 20 * BOX * BOX * 4)
            file.write(np.float32("nan").tobytes())
    if ahead:
        observations.prefetch(torch.arange(4, COUNT).split(8))
    observations.batch(torch.arange(4, 12), rings)
    observations.batch(torch.arange(12, 20), rings)
    with pytest.raises(InputError, match=part):
        observations.batch(torch.arange(20, 28), rings)


def test_a_stack_that_vanishes_and_one_that_cannot_be_read(particles: ParticleSet, tmp_path: Path) -> None:
    particles.images(np.arange(3))
    particles.stacks[0].unlink()
    assert len(particles.images(np.arange(COUNT))) == COUNT  # the open file stays
    gone = replace(particles, reader=type(particles.reader)())
    with pytest.raises(InputError, match=r"images\.mrcs: cannot be opened \(No such file"):
        gone.images(np.arange(3))
    particles.stacks[0].mkdir()
    with pytest.raises(InputError, match=r"images\.mrcs: cannot be opened \(Is a directory"):
        gone.images(np.arange(3))


@pytest.mark.slow
def test_a_run_without_memory_for_images_is_the_same_run(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(
        particles=str(shared_data / "adk/two_optics/particles.star"),
        model=str(shared_data / "adk/start_closed.cif"),
        first=40,
        effort=0.01,
    )
    finetune(options, tmp_path / "kept")
    monkeypatch.setattr(cocofold.likelihood.observed_images, "MOST_CACHE_BYTES", 100_000)
    finetune(options, tmp_path / "streamed")
    kept, streamed = ((tmp_path / name / "models/cycle_09.cif").read_text() for name in ("kept", "streamed"))
    assert streamed == kept
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_the_budget_is_a_share_of_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, groups = tmp_path / "meminfo", tmp_path / "cgroup"
    facts.write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    monkeypatch.setattr(hardware, "_MEMINFO_FILE", facts)
    monkeypatch.setattr(hardware, "_CONTROL_GROUPS", groups)
    monkeypatch.setattr(hardware, "_OWN_CONTROL_GROUPS_FILE", tmp_path / "own")
    budget = cocofold.likelihood.observed_images.cache_budget
    assert hardware.available_bytes() == 8_000_000 * 1024
    assert budget(torch.device("cpu")) == 2_000_000 * 1024
    facts.write_text("MemAvailable: 80000000 kB\n")
    assert budget(torch.device("cpu")) == 4 * 2**30
    groups.mkdir()
    (groups / "memory.max").write_text("max\n")
    (groups / "memory.current").write_text("1000\n")
    assert hardware.available_bytes() == 80_000_000 * 1024
    (groups / "memory.max").write_text("5000\n")
    assert hardware.available_bytes() == 4000
    facts.unlink()
    (groups / "memory.max").unlink()
    assert hardware.available_bytes() > 2**20


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used", "reclaimable"),
    [
        ("0::/system.slice/slurmd/job_7/step_0", ".", "memory.max", "memory.current", "inactive_file"),
        ("4:cpu,cpuacct:/\n9:memory:/slurm/uid_1/job_7/step_0", "memory", "memory.limit_in_bytes",
         "memory.usage_in_bytes", "total_inactive_file"),
        ("9:memory:/slurm/job_7/step_0\n0::/slurm/job_7/step_0", "unified", "memory.max", "memory.current",
         "inactive_file"),
    ],
)  # fmt: skip
def test_a_jobs_memory_limit_is_found_whichever_group_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, limit: str, used: str, reclaimable: str
) -> None:
    """As Slurm sets it, for the job and not for its step, in control groups of versions 1 and 2."""
    facts, own, groups = tmp_path / "meminfo", tmp_path / "own", tmp_path / "cgroup"
    facts.write_text("MemAvailable: 8000000 kB\n")
    own.write_text(line + "\n")
    monkeypatch.setattr(hardware, "_MEMINFO_FILE", facts)
    monkeypatch.setattr(hardware, "_CONTROL_GROUPS", groups)
    monkeypatch.setattr(hardware, "_OWN_CONTROL_GROUPS_FILE", own)
    assert hardware.available_bytes() == 8_000_000 * 1024
    step = groups / folder / line.rpartition(":")[2].lstrip("/")
    step.mkdir(parents=True)
    job, outer = step.parent, step.parent.parent
    for group, text in ((step, "max"), (job, "500000"), (outer, "900000")):
        (group / limit).write_text(text + "\n")
        (group / used).write_text("100000\n")
    assert hardware.available_bytes() == 400_000
    (job / "memory.stat").write_text(f"file 90000\n{reclaimable} 60000\n")
    assert hardware.available_bytes() == 460_000
    (step / limit).write_text("300000\n")
    assert hardware.available_bytes() == 200_000
    (step / used).write_text("310000\n")
    assert hardware.available_bytes() == 0


PEAK = """
import resource, sys, torch
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
torch.set_num_threads(1)
particles = read_particles(sys.argv[1])
observations = Observations(particles, 30, cache_bytes=2**26)
rings = observations.rings(30)
observations.batch(torch.arange(16), rings)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = torch.arange(len(particles)).view(-1, 16)
for this, following in zip(rows[:-1], rows[1:]):
    observations.prefetch(following.split(16))
    observations.batch(this, rings)
observations.close()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_on_ten_gigabytes(tmp_path: Path) -> None:
    box, images, named = 512, 10_000, 800
    scene = Scene(named)
    star = scene.write_images(tmp_path, np.zeros((1, 2, 2), np.float32), [{"rlnImageSize": box}], [1] * named)
    lines = star.read_text().replace(f" {PIXEL} ", " 0.8 ").splitlines()
    apart = images // named
    named_apart = [line.replace(f" {row + 1}@", f" {row * apart + 1}@") for row, line in enumerate(lines[-named:])]
    star.write_text("\n".join([*lines[:-named], *named_apart]) + "\n")
    with mrcfile.open(tmp_path / "images.mrcs", permissive=True) as file:
        header = file.header.copy()
    header.nx = header.ny = header.mx = header.my = box
    header.nz = header.mz = images
    with open(tmp_path / "images.mrcs", "wb") as file:
        file.write(header.tobytes())
        file.truncate(1024 + images * box * box * 4)
    ran = subprocess.run([sys.executable, "-c", PEAK, str(star)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 300  # MiB: 64 of transforms kept, the rest of batches; 800 images are 840


def test_the_thread_works_alone_and_leaves_others_their_threads() -> None:
    """Else there are more threads than cores, and each step of the optimiser waits for threads that sleep."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ahead = ReadAhead(lambda rows: torch.get_num_threads())
        rows = torch.arange(2)
        ahead.announce([rows], 1)
        assert ahead.take(rows) == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
        ahead.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("box", [16, 32, 50, 64])
def test_transforms_do_not_depend_on_what_is_read_together(box: int) -> None:
    """Which images that are depends on the memory that is free."""
    images = torch.randn(9, box, box, generator=torch.Generator().manual_seed(1))
    transforms = cocofold.likelihood.observed_images._transforms
    for count in (1, 2, 4):
        apart = torch.cat([transforms(images[row : row + count]) for row in range(0, 9, count)])
        assert torch.equal(torch.view_as_real(apart), torch.view_as_real(transforms(images)))
