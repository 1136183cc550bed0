"""Images compared by several processes: the first runs the program, the others compare their share of images for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Protocol

import torch
import torch.distributed as dist

from cocofold.imaging.rings import RingPixels
from cocofold.likelihood.frc_loss import (
    AtomGaussians,
    chunk_count,
    correlate_chunks,
    correlate_in_chunks,
    mean_correlation_gradient,
    packed_gradient_of_chunks,
    pairwise_spans,
    split_into_chunks,
    sum_pairwise,
    unpack_gradient,
)
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.worker_messages import (
    SECONDS_TO_END,
    ComparisonRequest,
    MessageShape,
    RequestKind,
    RequestReceiver,
    RequestSender,
    translate_peer_errors,
)
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.signals import ignore_signals
from cocofold.system.workers import WorkerProcess

# The others wait as long as the first has no images to compare: while it places a model, or a network learns from one.
_PEER_TIMEOUT = timedelta(days=30)
_SECONDS_BETWEEN_LOOKS = 0.02
_HERE = "127.0.0.1"
# Counts those that have started
_READY_COUNTER = "ready"


class Comparison(Protocol):
    """Compares atoms with images, here or with the help of others; the result is the same, bit by bit."""

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images for the gradient after the next."""

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """Within this, the first process works by itself, also on the cores of those that wait."""


class LocalComparison:
    """Comparison in this process."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""
        meanwhile()
        return mean_correlation_gradient(positions, gaussians, self._observations, rows, rings, chunk)

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""
        return correlate_in_chunks(positions, gaussians, self._observations, rows, rings, chunk)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images for the gradient after the next."""
        self._observations.prefetch(split_into_chunks(rows, chunk))

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """There are no others."""
        return contextlib.nullcontext()


class WorkerGroup:
    """Processes that compare images together, started by ``torchrun`` or by the first of them.

    Each has a run of a batch's chunks and sends their sum, and the first adds what they send as one process would have
    added it: the result does not depend on how many there are, on processors of one kind.
    Messages are a few numbers an atom and go through gloo, wherever images are compared. The first process alone has
    the atoms' source, the optimiser and the files.

    Parameters
    ----------
    member : WorkerProcess
        Which of them this one is.

    Raises
    ------
    InputError
        If the processes do not find each other.
    """

    def __init__(self, member: WorkerProcess) -> None:
        self.rank, self.count, self._member = member.rank, member.count, member
        self.outbox = RequestSender(member.count)
        # Those that were started just now are met once they are needed: until then they get ready.
        if not member.started_processes:
            self._join_group()

    def _join_group(self) -> None:
        try:
            if self._member.by_torchrun:
                dist.init_process_group("gloo", timeout=_PEER_TIMEOUT)
            else:
                store = self._store() if self._member.started_processes else _connect_to_first()
                dist.init_process_group(
                    "gloo", store=store, timeout=_PEER_TIMEOUT, world_size=self.count, rank=self.rank
                )
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the processes do not find each other ({error})") from error

    def _store(self) -> dist.Store:
        """Where those that were started find each other, once all are there."""
        store = dist.TCPStore(_HERE, 0, None, True, _PEER_TIMEOUT, wait_for_workers=False)
        try:
            for process in self._member.started_processes:
                assert process.stdin is not None
                process.stdin.write(f"{store.port}\n".encode())
                process.stdin.flush()
            while store.add(_READY_COUNTER, 0) < len(self._member.started_processes):
                if any(process.poll() is not None for process in self._member.started_processes):
                    raise BrokenPipeError
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except BrokenPipeError as error:
            raise InputError("another of the processes has ended before it was ready; see its message above") from error
        return store

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the others end."""
        if not dist.is_initialized():
            return
        self.outbox.close()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        for process in self._member.started_processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)

    def local_device(self, name: str) -> torch.device:
        """The device of this process: of several GPUs each process on a machine takes its own, in turn."""
        device = find_device(name)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return device

    def comparison(self, observations: Observations, room: MessageShape) -> DistributedComparison:
        """Let all processes have these images ready, for requests of this length; the first process calls it."""
        if not dist.is_initialized():
            self._join_group()
        self.outbox.announce_images(room)
        self.outbox.wait()
        with translate_peer_errors():
            dist.broadcast_object_list([observations.particles, observations.finest_rings, observations.sign])
        return DistributedComparison(self, observations)

    @contextlib.contextmanager
    def on_idle_cores(self) -> Iterator[None]:
        """See ``Comparison``."""
        threads = torch.get_num_threads()
        # No more than there are cores, unless there are more already
        torch.set_num_threads(max(threads, min(threads * self._member.count_on_machine, len(os.sched_getaffinity(0)))))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def share(self, count: int, rank: int) -> tuple[int, int]:
        """Of ``count`` chunks, the first that is a process's and the one after its last.

        The first process, which has other work too, has the fewest.
        """
        return rank * count // self.count, (rank + 1) * count // self.count

    def own_share(self, rows: torch.Tensor, chunk: int) -> tuple[torch.Tensor, ...]:
        """The chunks of this process."""
        parts = split_into_chunks(rows, chunk)
        return parts[slice(*self.share(len(parts), self.rank))]

    def serve(self, device_name: str) -> None:
        """Compare images for the first process until it says stop, or is gone; all others call it.

        Raises
        ------
        InputError
            If images cannot be read here.
        """
        # The first process ends after its step and says so; a signal reaches all.
        ignore_signals()
        inbox, shared = RequestReceiver(), None
        while (request := inbox.take()).kind != RequestKind.STOP:
            if request.kind == RequestKind.OBSERVE:
                if shared is not None:
                    shared.observations.close()
                # What it keeps makes room for the next.
                shared = None
                shared = DistributedComparison(self, self._received(self.local_device(device_name)))
            else:
                assert shared is not None
                inbox.answer(shared.answer(request))
        if shared is not None:
            shared.observations.close()
        dist.destroy_process_group()

    def _received(self, device: torch.device) -> Observations:
        content: list = [None, None, None]
        with translate_peer_errors():
            dist.broadcast_object_list(content)
        particles, n_rings, sign = content
        observations = Observations(particles, n_rings, device)
        observations.sign = sign
        return observations


def _connect_to_first() -> dist.Store:
    """That of the process that has started this one and that tells where, or is gone without a word."""
    ignore_signals()
    port = sys.stdin.readline()
    if not port:
        sys.exit(1)
    store = dist.TCPStore(_HERE, int(port), None, False, _PEER_TIMEOUT)
    store.add(_READY_COUNTER, 1)
    return store


class DistributedComparison:
    """Comparison by all processes."""

    def __init__(self, processes: WorkerGroup, observations: Observations) -> None:
        self.observations = observations
        self._processes = processes
        self._coming = torch.empty(0, dtype=torch.int64)

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``mean_correlation_gradient``; ``meanwhile`` is called once, where others would be waited for."""
        outbox = self._processes.outbox
        outbox.send(
            ComparisonRequest(RequestKind.GRADIENT, rows, self._coming, rings.n_rings, chunk, positions, gaussians)
        )
        self._coming = self._coming[:0]
        every = outbox.answers((self._most_sums(rows, chunk), 5 * len(positions) + 1))
        mine = self._own_gradients(positions, gaussians, rows, rings, chunk)
        meanwhile()
        every[0] = mine
        outbox.wait()
        found = {
            span: total
            for rank, of_rank in enumerate(every.to(positions.device))
            for span, total in zip(self._sums(rows, chunk, rank), of_rank)
        }
        return unpack_gradient(sum_pairwise(0, chunk_count(rows, chunk), lambda *span: found.get(span)))

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """As ``objective.score``."""
        if not len(rows):
            return correlate_in_chunks(positions, gaussians, self.observations, rows, rings, chunk)
        outbox = self._processes.outbox
        outbox.send(ComparisonRequest(RequestKind.SCORE, rows, rows[:0], rings.n_rings, chunk, positions, gaussians))
        every = outbox.answers((self._most_chunks(rows, chunk), chunk, rings.n_rings))
        every[0] = self._own_scores(positions, gaussians, rows, rings, chunk)
        outbox.wait()
        parts = split_into_chunks(rows, chunk)
        shares = [parts[slice(*self._processes.share(len(parts), rank))] for rank in range(self._processes.count)]
        found = [row[: len(some)] for share, of_rank in zip(shares, every) for some, row in zip(share, of_rank)]
        return torch.cat(found).to(positions.device)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images for the gradient after the next."""
        self._coming = rows
        self.observations.prefetch(self._processes.own_share(rows, chunk))

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """See ``Comparison``."""
        return self._processes.on_idle_cores()

    def answer(self, request: ComparisonRequest) -> torch.Tensor:
        """What another process sends the first."""
        if len(request.coming):
            self.observations.prefetch(self._processes.own_share(request.coming, request.chunk))
        device = self.observations.device
        atoms = (request.gaussians.amplitudes.to(device), request.gaussians.widths_angstrom.to(device))
        compare = self._own_gradients if request.kind == RequestKind.GRADIENT else self._own_scores
        rings = self.observations.rings(request.n_rings)
        return compare(request.positions.to(device), AtomGaussians(*atoms), request.rows, rings, request.chunk)

    def _own_gradients(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Sums of shares of the gradient by this process's chunks, padded to what any has, (n, n_atoms * 5 + 1)."""
        found = positions.new_zeros(self._most_sums(rows, chunk), 5 * len(positions) + 1)
        for row, span in zip(found, self._sums(rows, chunk, self._processes.rank)):
            row.copy_(packed_gradient_of_chunks(positions, gaussians, self.observations, rows, rings, chunk, span))
        return found

    def _most_chunks(self, rows: torch.Tensor, chunk: int) -> int:
        return -(-chunk_count(rows, chunk) // self._processes.count)

    def _most_sums(self, rows: torch.Tensor, chunk: int) -> int:
        return max(len(self._sums(rows, chunk, rank)) for rank in range(self._processes.count))

    def _sums(self, rows: torch.Tensor, chunk: int, rank: int) -> list[tuple[int, int]]:
        """Of which chunks a process sends the sums."""
        count = chunk_count(rows, chunk)
        return pairwise_spans(0, count, *self._processes.share(count, rank))

    def _own_scores(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Correlations of the images in this process's chunks, padded, (n, chunk, n_rings)."""
        found = positions.new_zeros(self._most_chunks(rows, chunk), chunk, rings.n_rings)
        parts = self._processes.own_share(rows, chunk)
        for row, scores in zip(found, correlate_chunks(positions, gaussians, self.observations, parts, rings)):
            row[: len(scores)] = scores
        return found
