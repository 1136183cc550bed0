"""Simulated particles from which tests select."""

from __future__ import annotations

import pytest

from cocofold.commands.demo import open_state
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.simulation.particle_simulation import SimulationOutput, simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model

COUNT = 80


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimulationOutput:
    """Small images of open adenylate kinase; two in five show something else or nothing."""
    settings = SimulationSettings(
        str(open_state()), box=48, pixel_size=3.0, count=COUNT, snr=0.3, junk=0.4, centre=True, seed=5
    )
    return simulate(settings, tmp_path_factory.mktemp("selection") / "particles")


@pytest.fixture(scope="session")
def particles(files: SimulationOutput) -> ParticleSet:
    """As read."""
    return read_particles(files.star)


@pytest.fixture(scope="session")
def truth(files: SimulationOutput) -> Model:
    """What was imaged, in place."""
    return read_model(files.model)
