"""Adenylate kinase, its density drawn by another part of the project, and both together."""

import numpy as np
import pytest
from drawn_maps import BOX, PIXEL_SIZE, drawn

from cocofold.commands.demo import open_state
from cocofold.mapfit.density_map import DensityMap
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="session")
def kinase() -> Model:
    """In the middle of the box, but for a few Å."""
    model = read_model(open_state())
    shift = BOX // 2 * PIXEL_SIZE + np.array([3.0, -2.0, 4.0]) - model.positions.mean(0)
    return model.moved_to(model.positions + shift)


@pytest.fixture(scope="session")
def kinase_map(kinase: Model) -> DensityMap:
    """The model's density with noise as strong as it."""
    return drawn(kinase, 1.0)
