"""When a stretch of a chain counts as one that the images speak against."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cocofold.commands.demo import closed_state, open_state
from cocofold.likelihood import residue_support
from cocofold.likelihood.frc_loss import CorrelationGradient
from cocofold.likelihood.residue_support import ImageAgreement, ParticlesOfModel, ResidueSupport
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model

IMAGES = 20
CORRELATION = 0.3
FIRST, LAST = 80, 100


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> ImageAgreement:
    """Images of adenylate kinase; what they say is replaced below."""
    folder = tmp_path_factory.mktemp("simulated") / "particles"
    settings = SimulationSettings(model=str(open_state()), box=40, pixel_size=4.0, count=IMAGES, snr=1.0, seed=3)
    simulate(settings, folder)
    return ImageAgreement.read(
        read_model(closed_state()), ParticlesOfModel(folder / "particles.star", most=IMAGES), "cpu"
    )


@pytest.fixture
def told(agreement: ImageAgreement, monkeypatch: pytest.MonkeyPatch):
    """Support where residues from ``FIRST`` on have these shares of the mean, each with an error, likewise a share."""
    model = read_model(closed_state())
    sizes = np.bincount(model.residue_of_atom)
    mean = CORRELATION / len(model.residues)

    def support(shares: list[float], error: float = 0.01, chance: float = 0.0) -> ResidueSupport:
        residues = np.zeros(len(sizes))
        residues[FIRST : FIRST + len(shares)] = shares
        # The standard error of ten values that lie three errors above and below their mean in turn is one error.
        calls = SimpleNamespace(count=0)

        def gradient(positions, gaussians, *others):
            sign = 1 - 2 * (calls.count % 2)
            calls.count += 1
            wanted = mean * (residues + chance + 3 * error * sign)
            by_amplitude = (wanted / sizes)[model.residue_of_atom] / gaussians.amplitudes.double().numpy()
            zeros = torch.zeros(len(positions))
            return CorrelationGradient(
                CORRELATION, torch.zeros(len(positions), 3), torch.as_tensor(by_amplitude), zeros
            )

        monkeypatch.setattr(residue_support, "mean_correlation_gradient", gradient)
        found = agreement.support(model)
        assert calls.count == 10
        np.testing.assert_allclose(found.residues, mean * (residues + chance), atol=1e-7)
        np.testing.assert_allclose(found.standard_errors, mean * error, rtol=1e-3)
        return found

    return support


def _names(first: int, last: int) -> tuple[str, ...]:
    residues = read_model(closed_state()).residues
    return (f"{residues[first].chain} {residues[first].number}-{residues[last].number}",)


def test_a_stretch_is_against_below_half_of_a_mean_share(told) -> None:
    count = LAST - FIRST + 1
    # Half of a mean share takes seven of nine residues at -0.65, but five at -0.95, as around the first and the last.
    assert tuple(map(str, told([-0.65] * count).against)) == _names(FIRST + 2, LAST - 2)
    assert tuple(map(str, told([-0.95] * count).against)) == _names(FIRST, LAST)
    assert tuple(map(str, told([-0.45] * count).against)) == ()
    assert tuple(map(str, told([0.95] * count).against)) == ()


def test_it_takes_three_standard_errors(told) -> None:
    count = LAST - FIRST + 1
    assert told([-1.0] * count, error=0.32).against
    assert tuple(map(str, told([-1.0] * count, error=0.34).against)) == ()


def test_a_single_residue_is_no_stretch(told) -> None:
    """The mean of nine counts: neither one bad residue, nor the mean of a whole domain."""
    assert tuple(map(str, told([-4.0]).against)) == ()
    assert tuple(map(str, told([-1.0] * 5).against)) == _names(FIRST, FIRST + 4)
    assert tuple(map(str, told([-1.0] * 4).against)) == ()


def test_two_stretches_are_two(told) -> None:
    found = told([-1.0] * 12 + [1.0] * 12 + [-1.0] * 12).against
    assert len(found) == 2
