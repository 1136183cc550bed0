"""Images compared by several processes: a coordinator runs the program, workers compare shares of images for it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist

from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.frc_loss import (
    AtomGaussians,
    CorrelationGradient,
    chunk_count,
    correlate_chunks,
    correlate_in_chunks,
    packed_gradient_of_chunks,
    packed_length,
    pairwise_spans,
    split_into_chunks,
    sum_pairwise,
    unpack_gradient,
)
from cocofold.likelihood.image_comparison import EQUATION_NUMBERS, ERRORS_PER_POSE, Comparison, pose_equations
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.worker_messages import (
    SECONDS_TO_END,
    ComparisonRequest,
    MessageShape,
    RequestKind,
    RequestReceiver,
    RequestSender,
    SharedImages,
    translate_peer_errors,
)
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.processes import WorkerProcess, ignore_signals

# Workers wait as long as the coordinator has no images to compare: while it places a model, or a network learns one.
_PEER_TIMEOUT = timedelta(days=30)
# Between looks whether workers are ready: short beside the seconds that their start takes.
_SECONDS_BETWEEN_LOOKS = 0.02
_HERE = "127.0.0.1"
# Counts the workers that have started.
_READY_COUNTER = "ready"


class WorkerGroup:
    """Processes that compare images together, started by ``torchrun`` or by the coordinator, which has rank 0.

    Each has a run of a batch's chunks and sends their sum, and the coordinator adds what they send as one process would
    have added it: the result does not depend on the number of processes, on processors of one kind.
    Messages are a few numbers an atom and go through gloo, wherever images are compared. The coordinator alone has the
    atoms' source, the optimiser and the files.

    The coordinator enters the group as a context; workers call ``serve``.

    Parameters
    ----------
    process : WorkerProcess
        Which of them this one is.
    """

    def __init__(self, process: WorkerProcess) -> None:
        self.rank, self.count, self._process = process.rank, process.count, process
        self.outbox = RequestSender(process.count)

    def _join(self) -> None:
        """Meet the other processes, if that is still to be done.

        Raises
        ------
        InputError
            If they do not find each other.
        """
        if dist.is_initialized():
            return
        try:
            if self._process.by_torchrun:
                dist.init_process_group("gloo", timeout=_PEER_TIMEOUT)
            else:
                store = self._await_workers() if self._process.started_processes else _connect_to_coordinator()
                dist.init_process_group(
                    "gloo", store=store, timeout=_PEER_TIMEOUT, world_size=self.count, rank=self.rank
                )
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the processes do not find each other ({error}); run them on one network") from error

    def _await_workers(self) -> dist.Store:
        """Tell the workers that were started where to connect, and wait until all have."""
        store = dist.TCPStore(_HERE, 0, None, True, _PEER_TIMEOUT, wait_for_workers=False)
        try:
            for process in self._process.started_processes:
                assert process.stdin is not None
                process.stdin.write(f"{store.port}\n".encode())
                process.stdin.flush()
            while store.add(_READY_COUNTER, 0) < len(self._process.started_processes):
                if any(process.poll() is not None for process in self._process.started_processes):
                    raise BrokenPipeError
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except BrokenPipeError as error:
            raise InputError("another of the processes has ended before it was ready; see its message above") from error
        return store

    def __enter__(self) -> WorkerGroup:
        # Workers that were started just now are met once they are needed: until then they get ready.
        if not self._process.started_processes:
            self._join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the workers end."""
        if not dist.is_initialized():
            return
        self.outbox.close()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        for process in self._process.started_processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)

    def local_device(self, name: str) -> torch.device:
        """The device of this process: of several GPUs each process on a machine takes its own, in turn."""
        return find_device(name, int(os.environ.get("LOCAL_RANK", "0")))

    def share_images(self, observations: Observations, shape: MessageShape) -> DistributedComparison:
        """Have all workers get these images ready, for requests of this length; the coordinator calls it.

        Raises
        ------
        InputError
            If the processes do not find each other, or one has ended.
        """
        self._join()
        self.outbox.announce_images(shape)
        self.outbox.wait()
        with translate_peer_errors():
            dist.broadcast_object_list([SharedImages.of(observations)])
        return DistributedComparison(self, observations)

    @contextlib.contextmanager
    def on_idle_cores(self) -> Iterator[None]:
        """See ``Comparison``."""
        threads = torch.get_num_threads()
        # No more than there are cores, unless there are more already
        torch.set_num_threads(max(threads, min(threads * self._process.count_on_machine, len(os.sched_getaffinity(0)))))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def share(self, count: int, rank: int) -> tuple[int, int]:
        """First of ``count`` chunks that is a process's, and the one after its last.

        The coordinator, which has other work too, has the fewest.
        """
        return rank * count // self.count, (rank + 1) * count // self.count

    def chunks_of(self, rank: int, rows: torch.Tensor, chunk: int) -> tuple[torch.Tensor, ...]:
        """Chunks of rows that are a process's."""
        parts = split_into_chunks(rows, chunk)
        return parts[slice(*self.share(len(parts), rank))]

    def own_share(self, rows: torch.Tensor, chunk: int) -> tuple[torch.Tensor, ...]:
        """Chunks of rows that are this process's."""
        return self.chunks_of(self.rank, rows, chunk)

    def serve(self, device_name: str) -> None:
        """Compare images for the coordinator until it says stop, or is gone; workers call it.

        Raises
        ------
        InputError
            If the processes do not find each other, or images cannot be read here.
        """
        self._join()
        # The coordinator ends after its step and says so; a signal reaches all.
        ignore_signals()
        receiver, shared = RequestReceiver.listen(), None
        while True:
            request, receiver = receiver.receive()
            if request.kind == RequestKind.STOP:
                break
            if request.kind == RequestKind.OBSERVE:
                if shared is not None:
                    shared.observations.close()
                # Its transforms make room for those of the next.
                shared = None
                shared = DistributedComparison(self, self._received(self.local_device(device_name)))
            else:
                assert shared is not None
                if request.kind == RequestKind.MOVE_POSES:
                    shared.observations.move_poses(request.rows, request.values.view(-1, ERRORS_PER_POSE))
                else:
                    receiver.answer(shared.answer(request))
        if shared is not None:
            shared.observations.close()
        dist.destroy_process_group()

    def _received(self, device: torch.device) -> Observations:
        content: list[SharedImages] = [None]  # type: ignore[list-item]
        with translate_peer_errors():
            dist.broadcast_object_list(content)
        return content[0].observe(device)


def _connect_to_coordinator() -> dist.Store:
    """Connect to the process that has started this one; it tells where, or is gone without a word."""
    ignore_signals()
    port = sys.stdin.readline()
    if not port:
        sys.exit(1)
    connected = threading.Event()

    def end_if_left_alone() -> None:
        # The coordinator writes nothing more: its end of the pipe is closed when it is gone.
        select.select([sys.stdin], [], [])
        if not connected.is_set():
            os._exit(1)

    # Torch would try to connect to a coordinator that is gone for as long as one may be busy.
    threading.Thread(target=end_if_left_alone, daemon=True).start()
    store = dist.TCPStore(_HERE, int(port), None, False, _PEER_TIMEOUT)
    connected.set()
    store.add(_READY_COUNTER, 1)
    return store


class DistributedComparison(Comparison):
    """Comparison by the coordinator and all workers."""

    def __init__(self, processes: WorkerGroup, observations: Observations) -> None:
        self.observations = observations
        self._processes = processes
        self._next_rows = torch.empty(0, dtype=torch.int64)

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        """See ``Comparison``."""
        outbox = self._processes.outbox
        outbox.send(
            ComparisonRequest(RequestKind.GRADIENT, rows, self._next_rows, rings.n_rings, chunk, positions, gaussians)
        )
        self._next_rows = self._next_rows[:0]
        every = outbox.answers((self._most_sums(rows, chunk), packed_length(len(positions))))
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
        """See ``Comparison``."""
        if not len(rows):
            return correlate_in_chunks(positions, gaussians, self.observations, rows, rings, chunk)
        outbox = self._processes.outbox
        outbox.send(ComparisonRequest(RequestKind.SCORE, rows, rows[:0], rings.n_rings, chunk, positions, gaussians))
        every = outbox.answers((self._most_chunks(rows, chunk), chunk, rings.n_rings))
        every[0] = self._own_scores(positions, gaussians, rows, rings, chunk)
        outbox.wait()
        return self._in_order(every, rows, chunk).to(positions.device)

    def pose_equations(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See ``Comparison``."""
        kind, outbox = RequestKind.POSE_EQUATIONS, self._processes.outbox
        outbox.send(
            ComparisonRequest(kind, rows, rows[:0], rings.n_rings, chunk, positions, gaussians, weights.flatten())
        )
        every = outbox.answers((self._most_chunks(rows, chunk), chunk, EQUATION_NUMBERS))
        every[0] = self._own_equations(positions, gaussians, rows, rings, chunk, weights)
        outbox.wait()
        return self._in_order(every, rows, chunk)

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """See ``Comparison``."""
        self._processes.outbox.send(ComparisonRequest(RequestKind.MOVE_POSES, rows, values=errors.flatten()))
        self.observations.move_poses(rows, errors)
        self._processes.outbox.wait()

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """See ``Comparison``."""
        self._next_rows = rows
        self.observations.prefetch(self._processes.own_share(rows, chunk))

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """See ``Comparison``."""
        return self._processes.on_idle_cores()

    def answer(self, request: ComparisonRequest) -> torch.Tensor:
        """What a worker sends the coordinator."""
        if len(request.next_rows):
            self.observations.prefetch(self._processes.own_share(request.next_rows, request.chunk))
        device = self.observations.device
        atoms = (request.gaussians.amplitudes.to(device), request.gaussians.widths_angstrom.to(device))
        if request.kind == RequestKind.POSE_EQUATIONS:
            given = (request.positions.to(device), AtomGaussians(*atoms), request.rows)
            rings = self.observations.rings(request.n_rings)
            return self._own_equations(*given, rings, request.chunk, request.values.view(2, -1))
        compare = self._own_gradients if request.kind == RequestKind.GRADIENT else self._own_scores
        rings = self.observations.rings(request.n_rings)
        return compare(request.positions.to(device), AtomGaussians(*atoms), request.rows, rings, request.chunk)

    def _own_gradients(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Packed gradients of this process's chunks, padded to the most that any has, (n, packed_length(n_atoms))."""
        found = positions.new_zeros(self._most_sums(rows, chunk), packed_length(len(positions)))
        for row, span in zip(found, self._sums(rows, chunk, self._processes.rank)):
            row.copy_(packed_gradient_of_chunks(positions, gaussians, self.observations, rows, rings, chunk, span))
        return found

    def _most_chunks(self, rows: torch.Tensor, chunk: int) -> int:
        return -(-chunk_count(rows, chunk) // self._processes.count)

    def _most_sums(self, rows: torch.Tensor, chunk: int) -> int:
        return max(len(self._sums(rows, chunk, rank)) for rank in range(self._processes.count))

    def _sums(self, rows: torch.Tensor, chunk: int, rank: int) -> list[tuple[int, int]]:
        """Spans of chunks whose sums a process sends."""
        count = chunk_count(rows, chunk)
        return pairwise_spans(0, count, *self._processes.share(count, rank))

    def _own_equations(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Equations of the poses of images in this process's chunks, padded, (n, chunk, 20)."""
        found = positions.new_zeros(self._most_chunks(rows, chunk), chunk, EQUATION_NUMBERS)
        parts = self._processes.own_share(rows, chunk)
        for row, some in zip(found, pose_equations(positions, gaussians, self.observations, parts, rings, weights)):
            row[: len(some)] = some
        return found

    def _in_order(self, every: torch.Tensor, rows: torch.Tensor, chunk: int) -> torch.Tensor:
        """What all processes found of single images, (n_processes, n_chunks, chunk, ...), as rows have them."""
        shares = [self._processes.chunks_of(rank, rows, chunk) for rank in range(self._processes.count)]
        return torch.cat(
            [row[: len(some)] for share, of_rank in zip(shares, every) for some, row in zip(share, of_rank)]
        )

    def _own_scores(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """Correlations of the images in this process's chunks, padded, (n, chunk, n_rings)."""
        found = positions.new_zeros(self._most_chunks(rows, chunk), chunk, rings.n_rings)
        parts = self._processes.own_share(rows, chunk)
        for row, scores in zip(found, correlate_chunks(positions, gaussians, self.observations, parts, rings)):
            row[: len(scores)] = scores
        return found
