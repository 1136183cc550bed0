"""What processes that compare images send each other: requests of the coordinator, and answers of the workers.

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
from typing import NamedTuple

import torch
import torch.distributed as dist

from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.likelihood.observed_images import Observations
from cocofold.particles.particle_set import ParticleSet
from cocofold.system.errors import InputError
from cocofold.system.hardware import is_out_of_device_memory

# Time that workers have to take in the last message and to end before they are killed.
SECONDS_TO_END = 10
# Least time that each of them is given of that, however late it has become.
_SECONDS_TO_END_EACH = 0.1
# Tags of rows and of other values that follow a request.
_ROWS_TAG, _VALUES_TAG = 1, 2
_FLOATS_PER_ATOM = 5  # position, amplitude, width


class RequestKind(IntEnum):
    """What the coordinator asks for; a message of zeros says stop."""

    STOP = 0
    OBSERVE = 1
    GRADIENT = 2
    SCORE = 3
    POSE_EQUATIONS = 4
    MOVE_POSES = 5


class Header(NamedTuple):
    """Whole numbers at the beginning of a request.

    Attributes
    ----------
    kind : int
        A ``RequestKind``.
    n_rows, n_next_rows : int
        Number of images to compare, and of those of a later request. Of ``OBSERVE`` the first is the number of rows for
        which later messages have room.
    n_rings, chunk : int
        Rings to compare, and number of images at once at most.
    n_atoms : int
        Number of atoms; of ``OBSERVE`` that for which later messages have room.
    n_values : int
        Number of values that follow.
    """

    kind: int
    n_rows: int = 0
    n_next_rows: int = 0
    n_rings: int = 0
    chunk: int = 0
    n_atoms: int = 0
    n_values: int = 0


@dataclass(frozen=True)
class SharedImages:
    """What a worker needs to have the same images ready as the coordinator.

    Attributes
    ----------
    particles : ParticleSet
    n_rings : int
        Highest ring that will be asked for.
    contrast_sign : float
    """

    particles: ParticleSet
    n_rings: int
    contrast_sign: float

    @classmethod
    def of(cls, observations: Observations) -> SharedImages:
        """Those of the coordinator."""
        return cls(observations.particles, observations.finest_rings, observations.contrast_sign)

    def observe(self, device: torch.device) -> Observations:
        """The images, on a worker's device."""
        return Observations(self.particles, self.n_rings, device, contrast_sign=self.contrast_sign)


def _no_rows() -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class ComparisonRequest:
    """What the coordinator asks the workers for.

    Attributes
    ----------
    kind : RequestKind
    rows : (n,) int
        Images to compare.
    next_rows : (m,) int
        Images of a request after this one, to be read ahead.
    n_rings, chunk : int
        Rings to compare, and number of images at once at most.
    positions : (n_atoms, 3) float
    gaussians : AtomGaussians
    values : (n,) float
        Weights of ``POSE_EQUATIONS``, or errors of ``MOVE_POSES``, row by row.
    """

    kind: RequestKind
    rows: torch.Tensor = field(default_factory=_no_rows)
    next_rows: torch.Tensor = field(default_factory=_no_rows)
    n_rings: int = 0
    chunk: int = 0
    positions: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3))
    gaussians: AtomGaussians = field(default_factory=lambda: AtomGaussians(torch.empty(0), torch.empty(0)))
    values: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class MessageShape:
    """Numbers of rows and of atoms for which a message has room."""

    rows: int = 0
    atoms: int = 0

    def message(self) -> torch.Tensor:
        """A message without content: whole numbers, of two places each, then five places an atom."""
        return torch.zeros(2 * (len(Header._fields) + self.rows) + _FLOATS_PER_ATOM * self.atoms)

    def integers(self, message: torch.Tensor) -> torch.Tensor:
        """The whole numbers of a message, (header and rows,) int64, in place."""
        return message[: 2 * (len(Header._fields) + self.rows)].view(torch.int64)


class RequestSender:
    """Sends requests to all workers, and takes in their answers, while the coordinator goes on.

    Parameters
    ----------
    count : int
        Number of processes, the coordinator included.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._message_shape = MessageShape()
        self._under_way: list[tuple[dist.Work, torch.Tensor]] = []

    def announce_images(self, shape: MessageShape) -> None:
        """Announce that images follow, and how long requests are from then on."""
        header = Header(RequestKind.OBSERVE, n_rows=shape.rows, n_atoms=shape.atoms)
        self._send(self._message_shape.message(), header)
        self._message_shape = shape

    def send(self, request: ComparisonRequest) -> None:
        """Send a request to compare atoms."""
        rows = torch.cat([request.rows.cpu(), request.next_rows.cpu()])
        header = Header(
            request.kind,
            len(request.rows),
            len(request.next_rows),
            request.n_rings,
            request.chunk,
            len(request.positions),
            len(request.values),
        )
        message = self._message_shape.message()
        atoms = [request.positions.flatten(), request.gaussians.amplitudes, request.gaussians.widths_angstrom]
        message[_atoms_in(message, header.n_atoms)] = torch.cat([part.detach() for part in atoms])
        fit = len(rows) <= self._message_shape.rows
        self._send(message, header, rows if fit else rows[:0])
        if not fit:
            self._to_all(rows, tag=_ROWS_TAG)
        if len(request.values):
            self._to_all(request.values, tag=_VALUES_TAG)

    def _send(self, message: torch.Tensor, header: Header, rows: torch.Tensor | None = None) -> None:
        numbers = torch.tensor([*header, *([] if rows is None else rows.tolist())])
        self._message_shape.integers(message)[: len(numbers)] = numbers
        self._to_all(message)

    def _to_all(self, message: torch.Tensor, tag: int = 0) -> None:
        with translate_peer_errors():
            for rank in range(1, self._count):
                self._under_way.append((_require_work(dist.isend(message, rank, tag=tag)), message))

    def answers(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Begin to take in the answers to what was sent.

        Returns
        -------
        (count, ...) float
            Answers by rank, once ``wait`` has returned; the first row is left to the coordinator.
        """
        every = torch.empty(self._count, *shape)
        with translate_peer_errors():
            for rank in range(1, self._count):
                self._under_way.append((_require_work(dist.irecv(every[rank], rank)), every))
        return every

    def wait(self) -> None:
        """Wait until all is sent, and all answers are here."""
        with translate_peer_errors():
            while self._under_way:
                self._under_way.pop()[0].wait()

    def close(self) -> None:
        """Tell workers that are still there to stop, and take in for some seconds what they are sending."""
        message, until = self._message_shape.message(), time.monotonic() + SECONDS_TO_END
        for rank in range(1, self._count):
            with contextlib.suppress(RuntimeError):
                self._under_way.append((_require_work(dist.isend(message, rank)), message))
        for work, _ in self._under_way:
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(seconds=max(_SECONDS_TO_END_EACH, until - time.monotonic())))
        self._under_way.clear()


class RequestReceiver:
    """Takes requests of the coordinator, and sends it answers.

    Parameters
    ----------
    shape : MessageShape
        Of the next message.
    message : (n,) float
        Where it will be.
    under_way : dist.Work
        What takes it in.
    """

    def __init__(self, shape: MessageShape, message: torch.Tensor, under_way: dist.Work) -> None:
        self._message_shape, self._message, self._under_way = shape, message, under_way

    @classmethod
    def listen(cls, shape: MessageShape = MessageShape()) -> RequestReceiver:
        """Begin to take in a message; a receiver waits before anything is sent."""
        message = shape.message()
        with translate_peer_errors():
            return cls(shape, message, _require_work(dist.irecv(message, 0)))

    def receive(self) -> tuple[ComparisonRequest, RequestReceiver]:
        """Wait for the next request.

        Returns
        -------
        request : ComparisonRequest
        receiver : RequestReceiver
            Of the request after it; of ``STOP`` this one, for nothing follows.
        """
        with translate_peer_errors():
            self._under_way.wait()
        message, numbers = self._message, self._message_shape.integers(self._message)
        header = Header(*numbers[: len(Header._fields)].tolist())
        if header.kind == RequestKind.OBSERVE:
            return ComparisonRequest(RequestKind.OBSERVE), self.listen(MessageShape(header.n_rows, header.n_atoms))
        n_rows = header.n_rows + header.n_next_rows
        rows = numbers[len(Header._fields) :][:n_rows]
        if n_rows > self._message_shape.rows:
            rows = torch.empty(n_rows, dtype=torch.int64)
            with translate_peer_errors():
                dist.recv(rows, 0, tag=_ROWS_TAG)
        values = torch.empty(header.n_values)
        if header.n_values:
            with translate_peer_errors():
                dist.recv(values, 0, tag=_VALUES_TAG)
        following = self if header.kind == RequestKind.STOP else self.listen(self._message_shape)
        n_atoms = header.n_atoms
        flat, *others = message[_atoms_in(message, n_atoms)].split([3 * n_atoms, n_atoms, n_atoms])
        rows, next_rows = rows.split([header.n_rows, header.n_next_rows])
        request = ComparisonRequest(
            RequestKind(header.kind),
            rows,
            next_rows,
            header.n_rings,
            header.chunk,
            flat.view(-1, 3),
            AtomGaussians(*others),
            values,
        )
        return request, following

    @staticmethod
    def answer(found: torch.Tensor) -> None:
        """Send what was found."""
        with translate_peer_errors():
            dist.send(found.cpu(), 0)


def _atoms_in(message: torch.Tensor, n_atoms: int) -> slice:
    """Where a message has its atoms: at its end."""
    return slice(len(message) - _FLOATS_PER_ATOM * n_atoms, len(message))


def _require_work(work: dist.Work | None) -> dist.Work:
    assert work is not None  # as it would be for a process that is not one of the group
    return work


@contextlib.contextmanager
def translate_peer_errors() -> Iterator[None]:
    """Say in one message that another process is gone.

    Raises
    ------
    InputError
        For the errors of torch's messages. A GPU's lack of memory stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_device_memory(error):
            raise
        raise InputError(
            "another of the processes has ended; see its message above, mend the cause, and go on with --resume"
        ) from error
