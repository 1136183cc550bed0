"""What the program does before anything large is imported, and what it leaves behind if it ends early."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cocofold.system.errors import InputError
from cocofold.system.processes import Interrupted, SignalHandler, WorkerProcess

LARGE = {"torch", "numpy", "scipy", "pandas", "gemmi", "matplotlib"}
HELP = "from cocofold.__main__ import app; app(['finetune', '--help'], standalone_mode=False)"
# Torch's compiler takes seconds to import; nothing of it is used.
OPTIMISER = """
import torch, cocofold.finetuning.run, cocofold.mapfit.workflow
from cocofold.sources.base import Adam
values = torch.ones(3, requires_grad=True)
optimiser = Adam([{"params": [values], "lr": 0.1}])
values.sum().backward()
optimiser.step()
"""
ASSESSMENT = "import " + ", ".join(
    f"cocofold.assessment.{name}" for name in ("comparison", "matching", "tm_score", "backbone_geometry")
)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import cocofold", LARGE),
        # What `--help` waits for, and every worker before it knows that it is one
        ("import cocofold.__main__", LARGE),
        (HELP, LARGE),
        (ASSESSMENT, {"torch", "matplotlib"}),
        (OPTIMISER, {"torch._dynamo"}),
    ],
    ids=["package", "command", "help", "assessment", "optimiser"],
)
def test_imports_stay_cheap(code: str, absent: set[str]) -> None:
    program = f"{code}\nimport sys; print(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "cocofold" in loaded
    assert not absent & loaded


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_watched_process_is_opened_within_the_context_and_closed_after_it() -> None:
    before = _open_files()
    handler = SignalHandler(os.getpid())
    assert _open_files() == before
    with handler:
        assert _open_files() == before + 1
        handler.check()
    assert _open_files() == before
    absent = SignalHandler(2**22 - 1)
    with pytest.raises(InputError, match="no such process"), absent:
        pass
    assert _open_files() == before


def test_the_end_of_the_watched_process_is_noticed() -> None:
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with waiting as other, SignalHandler(other.pid) as handler:
        handler.check()
        other.communicate()
        with pytest.raises(Interrupted, match=f"process {other.pid}"):
            handler.check()


def test_workers_know_their_rank_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process that starts them says it in their environment."""
    started: list[dict[str, str]] = []

    def start(arguments: list[str], env: dict[str, str], **_: object) -> object:
        started.append(env)
        return None

    monkeypatch.setattr(subprocess, "Popen", start)
    first = WorkerProcess.start_or_join(3, oversubscribe=True)
    assert (first.rank, first.count, first.count_on_machine, len(first.started_processes)) == (0, 3, 3, 2)
    for rank, environment in enumerate(started, 1):
        for name in ("COCOFOLD_WORKER_RANK", "COCOFOLD_WORKER_COUNT"):
            monkeypatch.setenv(name, environment[name])
        worker = WorkerProcess.start_or_join(3, oversubscribe=True)
        assert (worker.rank, worker.count, worker.count_on_machine) == (rank, 3, 3)
        assert not worker.started_processes
