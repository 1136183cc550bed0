"""Fixtures for all tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data sets that lie beside the project and are not part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data sets are not at {folder}")
    return folder


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """SIGINT and SIGHUP end the processes that a test starts, also where the tests run under nohup or in a script.

    There these signals are ignored, and processes inherit that. A signal that is caught instead is back at its default
    in a process that is started; the tests themselves still go on when it comes.
    """
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
