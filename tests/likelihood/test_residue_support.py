"""What each residue adds to the agreement with images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.likelihood.residue_support import ImageAgreement
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="module")
def model(shared_data: Path) -> Model:
    return read_model(shared_data / "adk" / "start_closed.cif")


def test_support_is_the_slope_of_the_correlation(shared_data: Path, model: Model, monkeypatch) -> None:
    """As a residue's amplitudes are scaled, by differences."""
    images = ImageAgreement(model, shared_data / "adk" / "uniform" / "particles_200.star", None, {}, 30, "cpu")
    support = images.support(model)
    assert support.correlation == pytest.approx(images.mean(model.positions, model.atomic_numbers), abs=1e-5)
    plain = images._gaussians

    def scaled(residue: int, factor: float) -> float:
        def gaussians(numbers: np.ndarray):
            found = plain(numbers)
            inside = torch.from_numpy(model.residue_of_atom == residue)
            found.amplitudes.data[inside] *= factor
            return found

        monkeypatch.setattr(images, "_gaussians", gaussians)
        return images.mean(model.positions, model.atomic_numbers)

    for residue in (10, 45, 140):
        slope = (scaled(residue, 1.3) - scaled(residue, 0.7)) / 0.6
        assert slope == pytest.approx(support.residues[residue], rel=0.03, abs=2e-5)


def test_few_images_name_no_stretch(shared_data: Path, model: Model) -> None:
    images = ImageAgreement(model, shared_data / "adk" / "uniform" / "particles_200.star", None, {}, 6, "cpu")
    support = images.support(model)
    assert np.isinf(support.standard_errors).all()
    assert support.against == ()
