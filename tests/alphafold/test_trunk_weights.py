"""The weight file: read strictly, and the single representation computed as ColabFold does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.alphafold.weights import project_single_representation
from cocofold.system.errors import InputError

SCOPE = "alphafold/alphafold_iteration/evoformer/single_activations//"


def _bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Rounded to eight significant bits, ties to even, as float32."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    path = tmp_path / "params_model_1_multimer_v3.npz"
    weights = random.normal(size=(256, 384), scale=1 / 16).astype(np.float32)
    np.savez(path, **{SCOPE + "weights": weights, SCOPE + "bias": random.normal(size=384).astype(np.float32)})
    return path


def _parameters(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(file) as arrays:
        return arrays[SCOPE + "weights"], arrays[SCOPE + "bias"]


def test_a_run_in_float32_gives_the_linear_map(file: Path) -> None:
    weights, bias = _parameters(file)
    row = np.random.default_rng(3).normal(size=(30, 256)).astype(np.float16)
    single = project_single_representation(torch.from_numpy(row), file)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, row.astype(float) @ weights + bias, atol=1e-5)


def test_a_run_in_bfloat16_rounds_as_colabfold_does(file: Path) -> None:
    weights, bias = _parameters(file)
    row = _bfloat16(np.random.default_rng(3).normal(size=(30, 256)))
    single = project_single_representation(torch.from_numpy(row.astype(np.float16)), file).numpy()
    product = row.astype(float) @ _bfloat16(weights)
    # Where the sum lies between two bfloat16 numbers, float32 and float64 may disagree.
    np.testing.assert_allclose(single, _bfloat16(product) + _bfloat16(bias), atol=0.04, rtol=0)
    assert np.mean(single == _bfloat16(product) + _bfloat16(bias)) > 0.99
    assert np.abs(single - (row.astype(float) @ weights + bias)).max() > 0.005


def test_a_file_without_the_projection_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="missing: evoformer/single_activations//weights"):
        project_single_representation(torch.zeros(3, 256), tmp_path / "other.npz")
