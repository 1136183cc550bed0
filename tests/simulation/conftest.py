"""Running the command in tests of simulations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cocofold.commands.demo import open_state

Command = Callable[..., int]


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
