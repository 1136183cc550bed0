"""A small set of simulated particles, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import command, succeed

from cocofold.commands.demo import closed_state, open_state
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings


@pytest.fixture(scope="session")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STAR of 80 particles of open adenylate kinase."""
    return _simulated(tmp_path_factory, 64, 2.5)


@pytest.fixture(scope="session")
def coarse_particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with fewer pixels: for tests to which it is one whether images tell much."""
    return _simulated(tmp_path_factory, 32, 5.0)


def _simulated(tmp_path_factory: pytest.TempPathFactory, box: int, pixel_size: float) -> Path:
    given = {"model": str(open_state()), "box": box, "pixel_size": pixel_size, "count": 80, "snr": 0.3, "seed": 3}
    folder = tmp_path_factory.mktemp("simulated") / "particles"
    simulate(SimulationSettings(**given), folder)  # type: ignore[arg-type]
    return folder / "particles.star"


@pytest.fixture(scope="session")
def start() -> Path:
    """The closed state."""
    return closed_state()


@pytest.fixture(scope="session")
def truth() -> Path:
    """The open state, which was imaged."""
    return open_state()


@pytest.fixture(scope="session")
def finished(particles: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    succeed(command(particles, start, out))
    return out
