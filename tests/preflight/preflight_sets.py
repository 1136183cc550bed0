"""Simulated particles for tests of the check."""

from __future__ import annotations

from pathlib import Path

from cocofold.commands.demo import open_state
from cocofold.simulation.particle_simulation import SimulationOutput, simulate
from cocofold.simulation.simulation_settings import SimulationSettings

COUNT = 40


def simulated(folder: Path, **changed: float) -> SimulationOutput:
    """Small images of the open state."""
    settings = {"box": 48, "pixel_size": 3.0, "count": COUNT, "snr": 0.3, "seed": 5, "shift_spread": 3.0, **changed}
    return simulate(SimulationSettings(model=str(open_state()), centre=True, **settings), folder)  # type: ignore[arg-type]
