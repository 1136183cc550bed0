"""The map of simulated particles: it is that of the model, where the model is, and as good as the images allow."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.commands.demo import open_state
from cocofold.imaging.projection import render_density
from cocofold.likelihood.reconstruction import reconstruct
from cocofold.particles import read_particles
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow

BOX, PIXEL = 64, 2.5


def shells(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation, shells 0 to box / 2."""
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(BOX) * BOX
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    cross, one, two = (np.bincount(shell, values.ravel()) for values in ((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2))
    return (cross / np.sqrt(one * two))[: BOX // 2]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    settings = SimulationSettings(
        model=str(open_state()), box=BOX, pixel_size=PIXEL, count=150, snr=2.0, seed=1, map=True, centre=True
    )
    return simulate(settings, tmp_path_factory.mktemp("map") / "particles")


def expected(model: Path) -> np.ndarray:
    model_read = read_model(model)
    amplitudes = model_read.atomic_numbers.astype(float)
    return render_density(model_read.positions, amplitudes, np.full(len(amplitudes), 0.675), BOX, PIXEL)


def test_the_map_is_that_of_the_model_where_it_lies(simulated):
    with mrcfile.open(simulated.map) as file:
        found = file.data.copy()
        assert float(file.voxel_size.x) == pytest.approx(PIXEL)
    fsc = shells(found, expected(simulated.model))
    # 10 Å is shell 16: one voxel of displacement would turn the phases there by 90 degrees
    assert fsc[1:17].min() > 0.7


def test_without_the_ctf_or_with_transposed_poses_it_is_not(simulated):
    from dataclasses import replace

    particles = read_particles(simulated.star).subset(np.arange(50))
    known = expected(simulated.model)
    right = shells(reconstruct(particles).map, known)[1:17].mean()
    transposed = replace(particles, rotations=particles.rotations.transpose(0, 2, 1))
    displaced = replace(particles, origins_angstrom=-particles.origins_angstrom)
    defocused = replace(particles, defocus_u_angstrom=particles.defocus_u_angstrom * 2)
    for wrong in (transposed, displaced, defocused):
        assert shells(reconstruct(wrong).map, known)[1:17].mean() < right - 0.1
