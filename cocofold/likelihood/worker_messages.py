"""What processes that compare images send each other: requests of the first, and answers of the others.

A request is one message of a length that both sides know, for which the receiver waits before it is sent: gloo then
writes it at once, where it would otherwise ask first, and wait for a thread of its own to be scheduled. So are answers.
Rows of many images, as in scoring, follow in a message of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist

from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.system.errors import InputError

SECONDS_TO_END = 10
_HEADER_INTEGERS = 6
_ROWS_TAG = 1  # tag of rows that follow


class RequestKind(IntEnum):
    """What the first process asks for; a message of zeros says stop."""

    STOP = 0
    OBSERVE = 1
    GRADIENT = 2
    SCORE = 3


def _no_rows() -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class ComparisonRequest:
    """What the first process asks the others for.

    Attributes
    ----------
    kind : RequestKind
    rows : (n,) int
        Images to compare.
    coming : (m,) int
        Images of a request after this one.
    n_rings, chunk : int
        Rings to compare, and how many images at once at most.
    positions : (n_atoms, 3) float
    gaussians : AtomGaussians
    """

    kind: RequestKind
    rows: torch.Tensor = field(default_factory=_no_rows)
    coming: torch.Tensor = field(default_factory=_no_rows)
    n_rings: int = 0
    chunk: int = 0
    positions: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3))
    gaussians: AtomGaussians = field(default_factory=lambda: AtomGaussians(torch.empty(0), torch.empty(0)))


@dataclass(frozen=True)
class MessageShape:
    """For how many rows and atoms a message has room."""

    rows: int = 0
    atoms: int = 0

    def message(self) -> torch.Tensor:
        """One without content: whole numbers, of two places each, then five places an atom."""
        return torch.zeros(2 * (_HEADER_INTEGERS + self.rows) + 5 * self.atoms)


class RequestSender:
    """Sends requests to all others, and takes in their answers, while the first process goes on.

    Parameters
    ----------
    count : int
        Processes, this one included.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._room = MessageShape()
        self._under_way: list[tuple[dist.Work, torch.Tensor]] = []

    def announce_images(self, room: MessageShape) -> None:
        """Announce that images follow, and how long requests are from then on."""
        self._send(self._room.message(), [RequestKind.OBSERVE, room.rows, 0, 0, 0, room.atoms])
        self._room = room

    def send(self, request: ComparisonRequest) -> None:
        """Send a request to compare atoms."""
        rows = torch.cat([request.rows.cpu(), request.coming.cpu()])
        n_atoms, fit = len(request.positions), len(rows) <= self._room.rows
        counts = [len(request.rows), len(request.coming), request.n_rings, request.chunk, n_atoms]
        message = self._room.message()
        atoms = [request.positions.flatten(), request.gaussians.amplitudes, request.gaussians.widths_angstrom]
        message[-5 * n_atoms :] = torch.cat([part.detach() for part in atoms])
        self._send(message, [request.kind, *counts, *(rows.tolist() if fit else [])])
        if not fit:
            self._to_all(rows, tag=_ROWS_TAG)

    def _send(self, message: torch.Tensor, numbers: list[int]) -> None:
        message[: 2 * len(numbers)] = torch.tensor(numbers).view(torch.float32)
        self._to_all(message)

    def _to_all(self, message: torch.Tensor, tag: int = 0) -> None:
        with translate_peer_errors():
            for rank in range(1, self._count):
                self._under_way.append((_require_work(dist.isend(message, rank, tag=tag)), message))

    def answers(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Where the answers to what was sent will be, (count, ...) float, once ``wait`` has returned.

        The first row is left to this process.
        """
        every = torch.empty(self._count, *shape)
        with translate_peer_errors():
            for rank in range(1, self._count):
                self._under_way.append((_require_work(dist.irecv(every[rank], rank)), every))
        return every

    def wait(self) -> None:
        """Until all is sent, and all answers are here."""
        with translate_peer_errors():
            while self._under_way:
                self._under_way.pop()[0].wait()

    def close(self) -> None:
        """Tell the others that are still there to stop, and hear for some seconds what they have to say before."""
        message, until = self._room.message(), time.monotonic() + SECONDS_TO_END
        for rank in range(1, self._count):
            with contextlib.suppress(RuntimeError):
                self._under_way.append((_require_work(dist.isend(message, rank)), message))
        for work, _ in self._under_way:
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(seconds=max(0.1, until - time.monotonic())))
        self._under_way.clear()


class RequestReceiver:
    """Takes requests of the first process, and sends it answers."""

    def __init__(self) -> None:
        self._await(MessageShape())

    def _await(self, room: MessageShape) -> None:
        self._room, self._message = room, room.message()
        with translate_peer_errors():
            self._coming = _require_work(dist.irecv(self._message, 0))

    def take(self) -> ComparisonRequest:
        """The next request."""
        with translate_peer_errors():
            self._coming.wait()
        message = self._message
        numbers = message[: 2 * (_HEADER_INTEGERS + self._room.rows)].view(torch.int64)
        kind, n_rows, n_coming, n_rings, chunk, n_atoms = numbers[:_HEADER_INTEGERS].tolist()
        if kind == RequestKind.OBSERVE:
            self._await(MessageShape(n_rows, n_atoms))
            return ComparisonRequest(RequestKind.OBSERVE)
        rows = numbers[_HEADER_INTEGERS : _HEADER_INTEGERS + n_rows + n_coming]
        if n_rows + n_coming > self._room.rows:
            rows = torch.empty(n_rows + n_coming, dtype=torch.int64)
            with translate_peer_errors():
                dist.recv(rows, 0, tag=_ROWS_TAG)
        if kind != RequestKind.STOP:
            self._await(self._room)
        flat, *others = message[len(message) - 5 * n_atoms :].split([3 * n_atoms, n_atoms, n_atoms])
        rows, coming = rows.split([n_rows, n_coming])
        return ComparisonRequest(
            RequestKind(kind), rows, coming, n_rings, chunk, flat.view(-1, 3), AtomGaussians(*others)
        )

    @staticmethod
    def answer(found: torch.Tensor) -> None:
        """Send what was found."""
        with translate_peer_errors():
            dist.send(found.cpu(), 0)


def _require_work(work: dist.Work | None) -> dist.Work:
    assert work is not None  # as it would be for a process that is not one of those together
    return work


@contextlib.contextmanager
def translate_peer_errors() -> Iterator[None]:
    """Say in one message that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another of the processes has ended; see its message above, mend the cause, and go on with --resume"
        ) from error
