"""Particles of adenylate kinase, in which faults are planted."""

from __future__ import annotations

import pytest
from preflight_sets import simulated

from cocofold.commands.demo import closed_state, open_state
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.simulation.particle_simulation import SimulationOutput
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimulationOutput:
    """The simulated set."""
    return simulated(tmp_path_factory.mktemp("preflight") / "particles")


@pytest.fixture(scope="session")
def particles(files: SimulationOutput) -> ParticleSet:
    """As read."""
    return read_particles(files.star)


@pytest.fixture(scope="session")
def truth(files: SimulationOutput) -> Model:
    """What was imaged, in place."""
    return read_model(files.model)


@pytest.fixture(scope="session")
def closed(truth: Model) -> Model:
    """Another conformation, its largest domain where the truth has it."""
    model = read_model(closed_state())
    return model.moved_to(model.positions + truth.positions[0] - read_model(open_state()).positions[0])
