"""Runs of several processes: the model of one, bit by bit, whatever happens to them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, log

import cocofold
from cocofold.assessment.comparison import assess
from cocofold.likelihood.distributed import DistributedComparison, WorkerGroup
from cocofold.likelihood.frc_loss import (
    AtomGaussians,
    correlate_in_chunks,
    mean_correlation_gradient,
    packed_gradient,
    split_into_chunks,
)
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.worker_messages import ComparisonRequest
from cocofold.particles import read_particles
from cocofold.structure.read_model import read_model
from cocofold.system.processes import WorkerProcess

SHORT = ("--effort", 0.03)
# Processes that share one machine's cores; the first finds the port of the others by itself
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "0", "--nproc-per-node"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def several(count: int, *arguments: object) -> list[str]:
    """A short run of so many processes."""
    return [*TORCHRUN, str(count), *command(*arguments, *SHORT)[1:]]  # type: ignore[arg-type]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, capture_output=True, text=True, env=ONE_THREAD, timeout=300, check=False)


def began(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(arguments, env=ONE_THREAD, stderr=subprocess.PIPE, text=True)


def helper_of(process: subprocess.Popen) -> int:
    """Number of the process that the first one has started, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.005)
    raise AssertionError("no process was started")


def wait_for_the_end_of(number: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def by_rank(process: subprocess.Popen) -> dict[int, int]:
    """Numbers of the processes that torchrun has started."""
    found = {}
    for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environ = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        rank = [line.removeprefix(b"RANK=") for line in environ if line.startswith(b"RANK=")]
        found.update({int(value): int(number) for value in rank})
    return found


def wait_for_cycle(out: Path, words: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while words not in log(out):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(coarse_particles: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert run(command(coarse_particles, start, out, *SHORT)).returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("count", "by_torchrun"), [(2, True), (3, False)])
def test_several_give_the_model_of_one(
    count: int, by_torchrun: bool, alone: Path, coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    """A batch is two chunks, so that one of three processes has nothing to do in a step, and all have in scoring."""
    out = tmp_path / "run"
    ours = command(coarse_particles, start, out, *SHORT, "--processes", count, "--oversubscribe")
    done = run(several(count, coarse_particles, start, out) if by_torchrun else ours)
    assert done.returncode == 0, done.stderr
    assert f"{count} processes compare images" in log(out)
    assert done.stdout.count("verdict:") == 1
    assert done.stdout.splitlines()[-1].startswith(f"{out / 'model.cif'}: the model. Next: cocofold report {out}")
    assert (out / "model.cif").read_bytes() == (alone / "model.cif").read_bytes()
    assert (out / "density.mrc").stat().st_size == (alone / "density.mrc").stat().st_size
    known, found = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, out))
    assert found.pop("processes") == count
    assert known.pop("processes") == 1
    for name in ("seconds", "expected_memory_gb", "peak_memory_gb"):
        del known[name], found[name]
    assert found == known
    # It is a run that has gone somewhere
    assert assess(read_model(out / "model.cif"), read_model(start)).ca_rmsd > 1


@pytest.mark.slow
def test_what_another_process_computes_does_not_depend_on_layout(particles: Path, start: Path) -> None:
    """As it receives particles and atoms, images one by one, against arrays that are laid out otherwise."""
    model, given = read_model(start), read_particles(particles)
    turned = replace(given, rotations=np.asfortranarray(given.rotations))
    received = pickle.loads(pickle.dumps(turned))
    received = replace(received, rotations=np.ascontiguousarray(received.rotations))
    gaussians = AtomGaussians.from_elements(model.atomic_numbers)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    found = []
    for kept, atoms in ((turned, positions.T.contiguous().T), (received, positions)):
        observations = Observations(kept, 31)
        rings = observations.rings(31)
        shares = [packed_gradient(atoms, gaussians, observations, row, rings, 20) for row in torch.arange(20).split(1)]
        found.append(
            (torch.stack(shares), correlate_in_chunks(atoms, gaussians, observations, torch.arange(20), rings, 1))
        )
        observations.close()
    assert all(torch.equal(one, other) for one, other in zip(*found))


@pytest.mark.parametrize(("count", "most"), [(16, 3), (16, 14), (7, 7), (1, 3), (60, 8)])
def test_chunks_are_even_and_keep_the_order(count: int, most: int) -> None:
    parts = split_into_chunks(torch.arange(count), most)
    sizes = [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), torch.arange(count))
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-count // most)


@pytest.mark.slow
def test_one_goes_on_where_several_were_stopped(
    alone: Path, coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = began(several(2, coarse_particles, start, out))
    wait_for_cycle(out, "cycle  2", process)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "cocofold: ended by SIGTERM; --resume goes on from here\n" in complaint
    assert not (out / "metrics.json").exists()
    assert run(command(coarse_particles, start, out, *SHORT, "--resume")).returncode == 0
    assert (out / "model.cif").read_bytes() == (alone / "model.cif").read_bytes()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_and_loses_nothing(
    alone: Path, coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = began(several(2, coarse_particles, start, out))
    wait_for_cycle(out, "cycle  2", process)
    ranks = by_rank(process)
    os.kill(ranks[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{number}").exists() for number in ranks.values())

    process = subprocess.Popen(
        several(2, coarse_particles, start, out, "--resume"), env=ONE_THREAD, stderr=subprocess.PIPE, text=True
    )
    wait_for_cycle(out, "cycle  4", process)
    ranks = by_rank(process)
    os.kill(ranks[0], signal.SIGKILL)
    process.communicate(timeout=120)
    assert not any(Path(f"/proc/{number}").exists() for number in ranks.values())

    assert run(several(2, coarse_particles, start, out, "--resume")).returncode == 0
    assert (out / "model.cif").read_bytes() == (alone / "model.cif").read_bytes()


@pytest.mark.slow
def test_bad_input_is_one_message_of_the_first(coarse_particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    message = "cocofold: model"
    done = run([*command(coarse_particles, tmp_path / "none.cif", out), "--processes", "2"])
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.strip().splitlines()) == 1
    done = run(several(2, coarse_particles, tmp_path / "none.cif", out))
    assert done.returncode != 0
    assert done.stderr.count(message) == 1
    # torchrun tells how it came to know of it; nothing of ours does. The checkout's own folder may have any name.
    ours = f'File "{Path(cocofold.__file__).parent}'
    assert not [line for line in done.stderr.splitlines() if ours in line]
    assert "--processes 0: give 1 or more" in run([*command(coarse_particles, start, out), "--processes", "0"]).stderr
    assert "torchrun has started 2" in run(several(2, coarse_particles, start, out, "--processes", 3)).stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_killed_helper_is_told_of_in_one_message_and_the_run_goes_on_from_there(
    alone: Path, coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = command(coarse_particles, start, out, *SHORT, "--processes", 2)
    process = began(arguments)
    wait_for_cycle(out, "cycle  1", process)
    os.kill(helper_of(process), signal.SIGKILL)
    # The first has no more to do than to say so, which takes it a second or two; 10 on a machine that others keep busy
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 2
    assert complaint.startswith("cocofold: another of the processes has ended")
    assert "--resume" in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert not (out / "metrics.json").exists()
    assert run([*arguments, "--resume"]).returncode == 0
    assert (out / "model.cif").read_bytes() == (alone / "model.cif").read_bytes()


@pytest.mark.slow
def test_a_helper_that_stands_still_for_a_while_is_waited_for(
    alone: Path, coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = began(command(coarse_particles, start, out, *SHORT, "--processes", 2))
    wait_for_cycle(out, "cycle  1", process)
    helper = helper_of(process)
    os.kill(helper, signal.SIGSTOP)
    try:
        said = log(out)
        time.sleep(3)
        assert process.poll() is None
        # What was under way when it stopped may have been said; nothing is computed without it.
        assert len(log(out)) - len(said) < 300
    finally:
        os.kill(helper, signal.SIGCONT)
    _, complaint = process.communicate(timeout=180)
    assert (process.returncode, complaint) == (0, "")
    assert (out / "model.cif").read_bytes() == (alone / "model.cif").read_bytes()


@pytest.mark.slow
def test_all_end_soon_when_one_of_them_is_killed(coarse_particles: Path, start: Path, tmp_path: Path) -> None:
    arguments = command(coarse_particles, start, tmp_path / "run", *SHORT, "--processes", 4, "--oversubscribe")
    process = began(arguments)
    wait_for_cycle(tmp_path / "run", "cycle  1", process)
    helpers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(helpers) == 3
    os.kill(int(helpers[0]), signal.SIGKILL)
    # Those left would wait for minutes; a busy machine takes seconds to end them
    process.communicate(timeout=40)
    assert process.returncode == 2
    assert not any(Path(f"/proc/{number}").exists() for number in helpers)


class Transport:
    """Answers of others, as they would arrive."""

    def __init__(self, others: list[DistributedComparison]) -> None:
        self._others = others

    def send(self, request: ComparisonRequest) -> None:
        self._sent = request

    def answers(self, shape: tuple[int, ...]) -> torch.Tensor:
        self._every = torch.full((len(self._others) + 1, *shape), torch.nan)
        return self._every

    def wait(self) -> None:
        for row, other in enumerate(self._others, start=1):
            self._every[row] = other.answer(self._sent)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_uneven_shares_give_what_one_process_gives(count: int, particles: Path, start: Path) -> None:
    """Of 20 images in five chunks; the second of three processes sends two sums, the seventh may have none."""
    observations, model = Observations(read_particles(particles), 20), read_model(start)
    given = (torch.as_tensor(model.positions, dtype=torch.float32), AtomGaussians.from_elements(model.atomic_numbers))
    asked = (torch.arange(40, 60), observations.rings(20), 4)
    shared = [
        DistributedComparison(WorkerGroup(WorkerProcess(rank, count, started_processes=[None])), observations)  # type: ignore[list-item]
        for rank in range(count)
    ]
    shared[0]._processes.outbox = Transport(shared[1:])  # type: ignore[assignment]
    meanwhile: list[str] = []
    found = shared[0].gradient(*given, *asked, lambda: meanwhile.append("once"))
    expected = mean_correlation_gradient(*given, observations, *asked)
    assert found[0] == expected[0] > 0.1
    assert all(torch.equal(one, other) and one.any() for one, other in zip(found[1:], expected[1:]))
    assert torch.equal(shared[0].score(*given, *asked), correlate_in_chunks(*given, observations, *asked))
    assert meanwhile == ["once"]
    observations.close()


@pytest.mark.slow
def test_a_helper_that_ends_before_it_is_ready_is_told_of(coarse_particles: Path, start: Path, tmp_path: Path) -> None:
    arguments = command(coarse_particles, start, tmp_path / "run", *SHORT, "--processes", 2)
    process = began(arguments)
    os.kill(helper_of(process), signal.SIGKILL)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert complaint.startswith("cocofold: another of the processes has ended before it was ready")
    assert len(complaint.strip().splitlines()) == 1


@pytest.mark.slow
def test_interrupted_while_they_get_ready_all_end_at_once(coarse_particles: Path, start: Path, tmp_path: Path) -> None:
    arguments = command(coarse_particles, start, tmp_path / "run", *SHORT, "--processes", 2)
    process = began(arguments)
    helper = helper_of(process)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert complaint.startswith("cocofold: ended by SIGTERM")
    # It ends by itself if the signal came before the first process knew that it had started it.
    wait_for_the_end_of(helper)


@pytest.mark.slow
def test_a_helper_does_not_outlive_a_first_process_that_is_killed_meanwhile(
    coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    arguments = command(coarse_particles, start, tmp_path / "run", *SHORT, "--processes", 2)
    process = began(arguments)
    helper = helper_of(process)
    process.kill()
    # Its end closes the pipe, which the helper shares.
    _, complaint = process.communicate(timeout=60)
    assert complaint == ""
    wait_for_the_end_of(helper)


@pytest.mark.slow
def test_a_helper_does_not_look_for_a_first_process_that_is_gone() -> None:
    """It was told where to connect, and then the first process was killed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    code = "from cocofold.likelihood.distributed import _connect_to_coordinator as connect; connect()"
    with subprocess.Popen([sys.executable, "-c", code], env=ONE_THREAD, stdin=subprocess.PIPE) as helper:
        try:
            helper.communicate(f"{port}\n".encode(), timeout=60)
        finally:
            helper.kill()
    assert helper.returncode == 1


@pytest.mark.parametrize(("cores", "threads"), [(8, 4), (3, 3), (1, 2)])
def test_the_first_uses_the_cores_of_those_that_wait(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three processes with two threads each one is on another machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = WorkerGroup(WorkerProcess(0, 3, count_on_machine=2, started_processes=[None, None]))  # type: ignore[list-item]
        with first.on_idle_cores():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
