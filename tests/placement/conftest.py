"""Adenylate kinase, its density drawn by another part of the project, and both together."""

from pathlib import Path

import numpy as np
import pytest
import torch

import cocofold.demonstration
from cocofold.imaging import REFERENCE_WIDTH_ANGSTROM
from cocofold.imaging.density import density_map
from cocofold.placement import DensityMap
from cocofold.structure import Model, read_model

BOX, PIXEL_SIZE = 48, 3.0


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def kinase() -> Model:
    """In the middle of the box, but for a few Å."""
    model = read_model(Path(cocofold.demonstration.__file__).parent / "adenylate_kinase_open.cif")
    shift = BOX // 2 * PIXEL_SIZE + np.array([3.0, -2.0, 4.0]) - model.positions.mean(0)
    return model.moved_to(model.positions + shift)


def drawn(model: Model, noise: float = 0.0) -> DensityMap:
    """Density of a model, with white noise of so many standard deviations of the density."""
    widths = np.full(len(model), REFERENCE_WIDTH_ANGSTROM)
    values = density_map(model.positions, model.atomic_numbers.astype(float), widths, BOX, PIXEL_SIZE)
    rng = np.random.default_rng(1)
    values = values + noise * values.std() * rng.standard_normal(values.shape)
    return DensityMap(values.astype(np.float32), PIXEL_SIZE)


@pytest.fixture(scope="session")
def kinase_map(kinase: Model) -> DensityMap:
    """The model's density with noise as strong as it."""
    return drawn(kinase, 1.0)
