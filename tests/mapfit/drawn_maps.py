"""Maps drawn from models by another part of the project."""

import numpy as np

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.mapfit.density_map import DensityMap
from cocofold.structure.model import Model

BOX, PIXEL_SIZE = 48, 3.0


def drawn(model: Model, noise: float = 0.0) -> DensityMap:
    """Density of a model, with white noise of so many standard deviations of the density."""
    widths = np.full(len(model), REFERENCE_WIDTH_ANGSTROM)
    values = render_density(model.positions, model.atomic_numbers.astype(float), widths, BOX, PIXEL_SIZE)
    rng = np.random.default_rng(1)
    values = values + noise * values.std() * rng.standard_normal(values.shape)
    return DensityMap(values.astype(np.float32), PIXEL_SIZE)
