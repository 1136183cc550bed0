"""Which of several processes this one is, and the others that it starts; known before anything large is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cocofold.errors import InputError

# Tells a process that the first has started its rank, their count and the port
_MEMBER = "COCOFOLD_MEMBER"
# Set by torchrun, of its processes
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Member:
    """One of several processes that work together; those that it has started are gone when its context ends.

    Attributes
    ----------
    rank, count : int
        Its number, from 0, and how many there are.
    here : int
        How many are on this machine.
    port : int or None
        Where the first process on this machine is found; None if torchrun tells.
    others : sequence of Popen
        Those that it has started.
    """

    rank: int
    count: int
    here: int = 1
    port: int | None = None
    others: Sequence[subprocess.Popen] = ()

    @classmethod
    def wanted(cls, count: int) -> Member:
        """This process, of ``count``, the others of which it starts on this machine, or of those of torchrun.

        Raises
        ------
        InputError
            For a count below 1, or one besides torchrun's.
        """
        if count < 1:
            raise InputError(f"--processes {count}: give 1 or more")
        ours = os.environ.get(_MEMBER)
        if ours:
            rank, every, port = map(int, ours.split(":"))
            return cls(rank, every, every, port)
        if _BY_TORCHRUN in os.environ:
            every = int(os.environ["WORLD_SIZE"])
            if count not in (1, every):
                raise InputError(f"--processes {count}: torchrun has started {every}; leave the option out")
            return cls(int(os.environ["RANK"]), every, int(os.environ["LOCAL_WORLD_SIZE"]))
        return cls._starting(count) if count > 1 else cls(0, 1)

    @classmethod
    def _starting(cls, count: int) -> Member:
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
        return cls(0, count, count, port, others)

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.others:
            process.kill()
            process.wait()
