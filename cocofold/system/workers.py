"""Which of several processes this one is, and the workers that it starts; known before anything large is imported.

The coordinator, of rank 0, runs the program; the workers compare their share of the images for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cocofold.system.errors import InputError

# The coordinator tells a worker its rank, and the number of processes, in these.
_RANK_VARIABLE, _COUNT_VARIABLE = "COCOFOLD_WORKER_RANK", "COCOFOLD_WORKER_COUNT"
# Set by torchrun for the processes that it starts.
_TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class WorkerProcess:
    """One of several processes that work together; those that it has started are gone when its context ends.

    Attributes
    ----------
    rank, count : int
        Number of this process, from 0 (the coordinator), and number of all processes.
    count_on_machine : int
        Number of those on this machine.
    by_torchrun : bool
        Whether torchrun has started all.
    started_processes : sequence of Popen
        Workers that this process has started; each reads on its standard input where the coordinator is found.
    """

    rank: int
    count: int
    count_on_machine: int = 1
    by_torchrun: bool = False
    started_processes: Sequence[subprocess.Popen] = ()

    @classmethod
    def start_or_join(cls, count: int) -> WorkerProcess:
        """Find out which process this is; if it is the first of ``count``, start the workers on this machine.

        Raises
        ------
        InputError
            For a count below 1, or one that is not torchrun's.
        """
        if count < 1:
            raise InputError(f"--processes {count}: give 1 or more")
        if _RANK_VARIABLE in os.environ:
            every = int(os.environ[_COUNT_VARIABLE])
            return cls(int(os.environ[_RANK_VARIABLE]), every, every)
        if _TORCHRUN_VARIABLE in os.environ:
            every = int(os.environ["WORLD_SIZE"])
            if count not in (1, every):
                raise InputError(f"--processes {count}: torchrun has started {every}; leave the option out")
            return cls(int(os.environ["RANK"]), every, int(os.environ["LOCAL_WORLD_SIZE"]), by_torchrun=True)
        return cls._start_workers(count) if count > 1 else cls(0, 1)

    @classmethod
    def _start_workers(cls, count: int) -> WorkerProcess:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "cocofold", *sys.argv[1:]],
                env={
                    **os.environ,
                    _RANK_VARIABLE: str(rank),
                    _COUNT_VARIABLE: str(count),
                    "LOCAL_RANK": str(rank),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # Signals of a terminal are for the coordinator, which ends the workers.
                start_new_session=True,
            )
            for rank in range(1, count)
        ]
        return cls(0, count, count, started_processes=workers)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.started_processes:
            process.kill()
            process.communicate()
