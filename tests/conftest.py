"""Fixtures for all tests, and what is said of those that are skipped."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in

# Folders of tests whose fixtures are whole runs of programs.
TOGETHER = ("scipion", "reporting")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what shares costly fixtures where several processes run the tests; skip what has no data."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder = item.path.parent.name
            item.add_marker(pytest.mark.xdist_group(folder if folder in TOGETHER else item.path.stem))
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("independent"):
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"needs files of other programs, and the shared data sets are not at {SHARED}"
                    )
                )


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
