"""Simulated particles for tests of the check."""

from __future__ import annotations

from pathlib import Path

from cocofold.commands.demo import open_state
from cocofold.simulation.particle_simulation import Simulated, simulate
from cocofold.simulation.simulation_settings import Settings

COUNT = 40


def simulated(folder: Path, **changed: float) -> Simulated:
    """Small images of the open state."""
    settings = {"box": 48, "pixel_size": 3.0, "count": COUNT, "snr": 0.3, "seed": 5, "shift_spread": 3.0, **changed}
    return simulate(Settings(model=str(open_state()), centre=True, **settings), folder)  # type: ignore[arg-type]
