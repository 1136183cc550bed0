"""Running the command in tests of simulations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cocofold.__main__ import main
from cocofold.commands.demo import open_state

Command = Callable[..., int]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small work goes fastest on one thread, above all on a machine that has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
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
def simulate(command: Command, tmp_path: Path) -> Callable[..., Path]:
    """Simulate small images of adenylate kinase into a new folder, which is returned; options may be added."""

    def run(*options: object, name: str = "particles", status: int = 0) -> Path:
        out = tmp_path / name
        settings = {"--model": open_state(), "--out": out, "--box": 48, "--pixel-size": 3, "--count": 60, "--snr": 0.1}
        given = [option for pair in settings.items() if pair[0] not in options for option in pair]
        assert command("simulate", *given, *options) == status
        return out

    return run
