"""Images compared by several processes: the first runs the program, the others compare their share of images for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Protocol

import torch
import torch.distributed as dist

from cocofold.devices import find_device
from cocofold.endings import ignore_signals
from cocofold.errors import InputError
from cocofold.finetuning.objective import Gaussians, added, chunks, mean_correlation_gradient, score, share_of_gradient
from cocofold.finetuning.observations import Observations
from cocofold.imaging import RingPixels

# What the first process asks for
_STOP, _OBSERVE, _PREFETCH, _GRADIENT, _SCORE = range(5)
_HEADER = 5
# The others wait as long as the first has no images to compare: while it places a model, or a network learns from one.
_PATIENCE = timedelta(days=30)
_SECONDS_TO_END = 10
# Tells a process that the first has started its rank, their count and the port
_MEMBER = "COCOFOLD_MEMBER"


class Comparison(Protocol):
    """Compares atoms with images, here or with the help of others; the result is the same, bit by bit."""

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: Gaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""

    def score(
        self, positions: torch.Tensor, gaussians: Gaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images that will be asked for."""


class Alone:
    """Comparison in this process."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: Gaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""
        meanwhile()
        return mean_correlation_gradient(positions, gaussians, self._observations, rows, rings, chunk)

    def score(
        self, positions: torch.Tensor, gaussians: Gaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""
        return score(positions, gaussians, self._observations, rows, rings, chunk)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images that will be asked for."""
        self._observations.prefetch(chunks(rows, chunk))


class Processes:
    """Processes that compare images together, started by ``torchrun`` or by the first of them.

    Chunks of images go round the processes. Each sends what its chunks give, and the first adds that in the order of
    chunks, so that the result does not depend on how many processes there are, if all have the same number of threads.
    Messages are a few numbers an atom and go through gloo, wherever images are compared. The first process alone has
    the atoms' source, the optimiser and the files.

    Parameters
    ----------
    rank, count : int
        Number of this process, from 0, and how many there are.
    port : int, optional
        Where the first process on this machine is found; by default torchrun tells.
    others : sequence of Popen
        Processes that this one has started.

    Raises
    ------
    InputError
        If the processes do not find each other.
    """

    def __init__(self, rank: int, count: int, port: int | None = None, others: Sequence[subprocess.Popen] = ()) -> None:
        self.rank, self.count, self._others = rank, count, others
        where = None if port is None else f"tcp://127.0.0.1:{port}"
        try:
            dist.init_process_group("gloo", where, _PATIENCE, count, rank)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the processes do not find each other ({error})") from error

    @classmethod
    def wanted(cls, count: int) -> Processes | None:
        """Those of which this is one, or ``count`` that this one starts on this machine; None if it is the only one.

        Raises
        ------
        InputError
            For a count below 1, or one besides torchrun's.
        """
        if count < 1:
            raise InputError(f"--processes {count}: give 1 or more")
        ours = os.environ.get(_MEMBER)
        if ours:
            rank, count, port = map(int, ours.split(":"))
            return cls(rank, count, port)
        if dist.is_available() and dist.is_torchelastic_launched():
            rank, all_ = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            if count not in (1, all_):
                raise InputError(f"--processes {count}: torchrun has started {all_}; leave the option out")
            return cls(rank, all_) if all_ > 1 else None
        return cls._start(count) if count > 1 else None

    @classmethod
    def _start(cls, count: int) -> Processes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        others = [
            subprocess.Popen(
                [sys.executable, "-m", "cocofold", *sys.argv[1:]],
                env={**os.environ, _MEMBER: f"{rank}:{count}:{port}", "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for rank in range(1, count)
        ]
        return cls(0, count, port, others)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the others end."""
        with contextlib.suppress(InputError, RuntimeError):
            self._send_header(_STOP)
            dist.destroy_process_group()
        for process in self._others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            process.kill()

    def own_device(self, name: str) -> torch.device:
        """The device of this process: of several GPUs each process on a machine takes its own, in turn."""
        device = find_device(name)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return device

    # The first process

    def comparison(self, observations: Observations) -> Shared:
        """Let all processes have these images ready."""
        with _together():
            self._send_header(_OBSERVE)
            dist.broadcast_object_list([observations.particles, observations.finest_rings, observations.sign])
        return Shared(self, observations)

    def _send_header(self, *numbers: int) -> None:
        header = torch.zeros(_HEADER, dtype=torch.int64)
        header[: len(numbers)] = torch.tensor(numbers)
        with _together():
            dist.broadcast(header, 0)

    def ask(
        self,
        what: int,
        positions: torch.Tensor,
        gaussians: Gaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
    ) -> None:
        """Send the others what they need for a comparison."""
        self._send_header(what, len(rows), rings.n_rings, chunk, len(positions))
        atoms = [positions.flatten(), gaussians.amplitudes, gaussians.widths_angstrom]
        # One message: each is waited for.
        message = torch.cat([_as_float32(rows), *(part.detach().cpu() for part in atoms)])
        with _together():
            dist.broadcast(message, 0)

    def announce(self, rows: torch.Tensor, chunk: int) -> None:
        """Send the others the rows that will be asked for."""
        self._send_header(_PREFETCH, len(rows), 0, chunk)
        with _together():
            dist.broadcast(_as_float32(rows), 0)

    def collect(self, mine: torch.Tensor) -> torch.Tensor:
        """What all processes have, (count, ...), in the first; each gives as much."""
        mine = mine.cpu()
        every = mine.new_empty(self.count, *mine.shape)
        with _together():
            dist.gather(mine, list(every) if self.rank == 0 else None)
        return every

    def own_share(self, rows: torch.Tensor, chunk: int) -> tuple[torch.Tensor, ...]:
        """The chunks of this process; the first, which has other work too, has the fewest."""
        return chunks(rows, chunk)[self.count - 1 - self.rank :: self.count]

    # The others

    def serve(self, device_name: str) -> None:
        """Compare images for the first process until it says stop, or is gone.

        Raises
        ------
        InputError
            If images cannot be read here.
        """
        # The first process ends after its step and says so; a signal reaches all.
        ignore_signals()
        device, observations = self.own_device(device_name), None
        while True:
            header = torch.zeros(_HEADER, dtype=torch.int64)
            with _together():
                dist.broadcast(header, 0)
            what, n_rows, n_rings, chunk, n_atoms = header.tolist()
            if what == _STOP:
                break
            if what == _OBSERVE:
                if observations is not None:
                    observations.close()
                observations = self._received(device)
                continue
            assert observations is not None
            message = torch.zeros(2 * n_rows + 5 * n_atoms)
            with _together():
                dist.broadcast(message, 0)
            rows = message[: 2 * n_rows].view(torch.int64)
            if what == _PREFETCH:
                observations.prefetch(self.own_share(rows, chunk))
                continue
            flat, *others = message[2 * n_rows :].to(device).split([3 * n_atoms, n_atoms, n_atoms])
            positions, gaussians = flat.view(-1, 3), Gaussians(*others)
            shared, rings = Shared(self, observations), observations.rings(n_rings)
            answer = shared.own_gradients if what == _GRADIENT else shared.own_scores
            self.collect(answer(positions, gaussians, rows, rings, chunk))
        if observations is not None:
            observations.close()
        dist.destroy_process_group()

    def _received(self, device: torch.device) -> Observations:
        content: list = [None, None, None]
        with _together():
            dist.broadcast_object_list(content)
        particles, n_rings, sign = content
        observations = Observations(particles, n_rings, device)
        observations.sign = sign
        return observations


class Shared:
    """Comparison by all processes."""

    def __init__(self, processes: Processes, observations: Observations) -> None:
        self._processes = processes
        self._observations = observations

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: Gaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""
        self._processes.ask(_GRADIENT, positions, gaussians, rows, rings, chunk)
        mine = self.own_gradients(positions, gaussians, rows, rings, chunk)
        meanwhile()
        every = self._processes.collect(mine)
        in_order = _as_dealt_out(every)[: len(chunks(rows, chunk))]
        return added(in_order.to(positions.device), positions)

    def score(
        self, positions: torch.Tensor, gaussians: Gaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""
        if not len(rows):
            return score(positions, gaussians, self._observations, rows, rings, chunk)
        self._processes.ask(_SCORE, positions, gaussians, rows, rings, chunk)
        every = self._processes.collect(self.own_scores(positions, gaussians, rows, rings, chunk))
        parts = [found[: len(some)] for found, some in zip(_as_dealt_out(every), chunks(rows, chunk))]
        return torch.cat(parts).to(positions.device)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images that will be asked for."""
        self._processes.announce(rows, chunk)
        self._observations.prefetch(self._processes.own_share(rows, chunk))

    def own_gradients(
        self, positions: torch.Tensor, gaussians: Gaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Shares of the gradient by this process's chunks, padded to what the first has, (n, n_atoms * 5 + 1)."""
        found = positions.new_zeros(self._most_chunks(rows, chunk), 5 * len(positions) + 1)
        for row, some in zip(found, self._processes.own_share(rows, chunk)):
            row.copy_(share_of_gradient(positions, gaussians, self._observations, some, rings, len(rows)))
        return found

    def own_scores(
        self, positions: torch.Tensor, gaussians: Gaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Correlations of the images in this process's chunks, padded, (n, chunk, n_rings)."""
        found = positions.new_zeros(self._most_chunks(rows, chunk), chunk, rings.n_rings)
        for row, some in zip(found, self._processes.own_share(rows, chunk)):
            row[: len(some)] = score(positions, gaussians, self._observations, some, rings, chunk)
        return found

    def _most_chunks(self, rows: torch.Tensor, chunk: int) -> int:
        return -(-len(chunks(rows, chunk)) // self._processes.count)


def _as_float32(rows: torch.Tensor) -> torch.Tensor:
    """The same bits, two numbers for each row, so that rows and atoms go in one message."""
    return rows.cpu().contiguous().view(torch.float32)


def _as_dealt_out(every: torch.Tensor) -> torch.Tensor:
    """What chunks gave, in their order, from what each process has, (processes, chunks of each, ...)."""
    return every.flip(0).transpose(0, 1).flatten(0, 1)


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say in one message that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another of the processes has ended; see its message above, mend the cause, and go on with --resume"
        ) from error
