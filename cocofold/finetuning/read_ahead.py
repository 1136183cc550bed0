"""Work done in a thread ahead of its use: batches are read while the step before them computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
_PLANS_KEPT = 4


class _Plan(Generic[T]):
    """Pieces in the order of their use; the first ones have been handed to the thread."""

    def __init__(self, pieces: Sequence[torch.Tensor], most_ahead: int) -> None:
        self.pieces = deque(pieces)
        self.most_ahead = most_ahead
        self.begun: deque[Future[T]] = deque()


class ReadAhead(Generic[T]):
    """Loads pieces of rows in a thread, in the order announced, a bounded number ahead of their use.

    An error in the thread is raised where its piece is taken. Of what was announced but never taken, the last four
    announcements are remembered.

    Parameters
    ----------
    load : callable
        From rows, (n,) int, to their data; called by the thread.
    """

    def __init__(self, load: Callable[[torch.Tensor], T]) -> None:
        self._load = load
        self._plans: deque[_Plan[T]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def announce(self, pieces: Sequence[torch.Tensor], most_ahead: int) -> None:
        """Say which pieces will be taken, in which order; so many are loaded before their use, and one at least."""
        self._plans.append(_Plan(pieces, max(1, most_ahead)))
        while len(self._plans) > _PLANS_KEPT:
            _cancel(self._plans.popleft())
        self._begin(self._plans[-1])

    def take(self, rows: torch.Tensor) -> T | None:
        """Data of a piece, None if it was not announced."""
        for plan in self._plans:
            if plan.begun and torch.equal(plan.pieces[0], rows):
                plan.pieces.popleft()
                future = plan.begun.popleft()
                self._begin(plan)
                if not plan.pieces:
                    self._plans.remove(plan)
                return future.result()
        return None

    def _begin(self, plan: _Plan[T]) -> None:
        while len(plan.begun) < min(plan.most_ahead, len(plan.pieces)):
            if self._thread is None:
                self._thread = _one_thread()
            plan.begun.append(self._thread.submit(self._load, plan.pieces[len(plan.begun)]))

    def close(self) -> None:
        """Forget what was announced, and wait for the thread to end."""
        while self._plans:
            _cancel(self._plans.popleft())
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None


def _one_thread() -> ThreadPoolExecutor:
    """A thread whose tensors are worked on by itself alone.

    With helpers of its own there would be more threads than cores, and OpenMP would let all of them sleep, those of the
    main thread too, between any two operations: the steps then take a quarter longer.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    pool.submit(_work_alone).result()
    # Threads that begin later take the number that was set last, by whichever thread.
    torch.set_num_threads(threads)
    return pool


def _work_alone() -> None:
    torch.set_num_threads(1)
    # A thread settles on its number when it is first asked for it.
    torch.get_num_threads()


def _cancel(plan: _Plan) -> None:
    for future in plan.begun:
        future.cancel()
