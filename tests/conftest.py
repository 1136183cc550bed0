"""Fixtures for all tests, and what is said of those that are skipped."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stand_in
import torch

from cocofold.__main__ import main

# Folders of tests whose fixtures are whole runs of programs, but for files that hardly use them
TOGETHER = ("scipion", "reporting")
APART = ("test_templates", "test_stopping")
# Groups that take longest, in this order: they start first, so that no process has a long one left when others end.
# By their seconds of CPU, which `--durations=0` tells on an idle machine; an old order costs time and nothing else.
LONGEST = (
    "scipion",
    "test_templates",
    "test_processes",
    "test_interruptions",
    "test_prediction",
    "test_simulation_demo",
    "reporting",
    "test_relaxation",
    "test_pretend_verbs",
    "test_stopping",
    "test_python_api",
    "test_memory_plan",
    "test_layout",
)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# xdist takes note of groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what shares costly fixtures where several processes run the tests; skip what has no data."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item.path)))
        # Groups are handed out in the order of their first tests (`--no-loadscope-reorder`).
        items.sort(key=lambda item: LONGEST.index(_group(item.path)) if _group(item.path) in LONGEST else len(LONGEST))
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("independent"):
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"needs files of other programs, and the shared data sets are not at {SHARED}"
                    )
                )


def _group(path: Path) -> str:
    """Tests that one process runs one after the other: those of a file, or of a folder."""
    return path.parent.name if path.parent.name in TOGETHER and path.stem not in APART else path.stem


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Small work goes fastest on one thread, above all where several processes share the tests; so do fixtures."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip tests, with their number."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data sets that lie beside the project, or of what stands for them where they are not."""
    return SHARED if SHARED.is_dir() else stand_in.make(tmp_path_factory.mktemp("stand_in"))


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of files as other programs and people make them, each a case of its own; never stood in for."""
    if not (SHARED / "cases").is_dir():
        pytest.skip(f"needs the cases of other people's files, which are not at {SHARED / 'cases'}")
    return SHARED / "cases"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``cocofold`` with these arguments in this process; returns the exit status."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["cocofold", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


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
