"""Which of several processes this one is, and the others that it starts; known before anything large is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cocofold.system.errors import InputError

# Tells a process that the first has started its rank and their count
_WORKER_VARIABLE = "COCOFOLD_MEMBER"
# Set by torchrun, of its processes
_TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class WorkerProcess:
    """One of several processes that work together; those that it has started are gone when its context ends.

    Attributes
    ----------
    rank, count : int
        Its number, from 0, and how many there are.
    here : int
        How many are on this machine.
    by_torchrun : bool
        Whether torchrun has started all.
    others : sequence of Popen
        Those that it has started; they read on their standard input where it is found.
    """

    rank: int
    count: int
    here: int = 1
    by_torchrun: bool = False
    others: Sequence[subprocess.Popen] = ()

    @classmethod
    def wanted(cls, count: int) -> WorkerProcess:
        """This process, of ``count``, the others of which it starts on this machine, or of those of torchrun.

        Raises
        ------
        InputError
            For a count below 1, or one besides torchrun's.
        """
        if count < 1:
            raise InputError(f"--processes {count}: give 1 or more")
        ours = os.environ.get(_WORKER_VARIABLE)
        if ours:
            rank, every = map(int, ours.split(":"))
            return cls(rank, every, every)
        if _TORCHRUN_VARIABLE in os.environ:
            every = int(os.environ["WORLD_SIZE"])
            if count not in (1, every):
                raise InputError(f"--processes {count}: torchrun has started {every}; leave the option out")
            return cls(int(os.environ["RANK"]), every, int(os.environ["LOCAL_WORLD_SIZE"]), by_torchrun=True)
        return cls._starting(count) if count > 1 else cls(0, 1)

    @classmethod
    def _starting(cls, count: int) -> WorkerProcess:
        others = [
            subprocess.Popen(
                [sys.executable, "-m", "cocofold", *sys.argv[1:]],
                env={**os.environ, _WORKER_VARIABLE: f"{rank}:{count}", "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # Signals of a terminal are for the first, which ends the others.
                start_new_session=True,
            )
            for rank in range(1, count)
        ]
        return cls(0, count, count, others=others)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.others:
            process.kill()
            process.communicate()
