"""Simulated particles for tests of the check."""

from __future__ import annotations

from pathlib import Path

from cocofold.demonstration import open_state
from cocofold.simulation import Settings
from cocofold.simulation.simulate import Simulated, simulate

COUNT = 40


def simulated(folder: Path, **changed: float) -> Simulated:
    """Small images of the open state."""
    settings = {"box": 48, "pixel_size": 3.0, "count": COUNT, "snr": 0.3, "seed": 5, "shift_spread": 3.0, **changed}
    return simulate(Settings(model=str(open_state()), centre=True, **settings), folder)  # type: ignore[arg-type]
