"""The structure module against arrays that DeepMind's own code wrote for the same weights and inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.alphafold import load_structure_module
from cocofold.alphafold.pair_representation import normalise_pair
from cocofold.alphafold.structure_network import StructureModule, StructureModuleOutput

pytestmark = pytest.mark.independent

SETS = ("n22", "n40pad")


@pytest.fixture(scope="module")
def module(shared_data: Path) -> StructureModule:
    return load_structure_module(shared_data / "afm" / "sm_params.npz")


def _fold(
    module: StructureModule, given: dict[str, np.ndarray], dtype: torch.dtype = torch.float32
) -> StructureModuleOutput:
    with torch.no_grad():
        return module.to(dtype)(*(torch.from_numpy(given[name]) for name in ("single", "pair", "aatype", "seq_mask")))


def _deviation(ours: torch.Tensor, theirs: np.ndarray, residues: np.ndarray, axis: int = 0) -> float:
    return float(np.abs(np.compress(residues, ours.numpy() - theirs, axis=axis)).max())


@pytest.mark.parametrize("name", SETS)
def test_float32_answers_are_alphafolds(shared_data: Path, module: StructureModule, name: str) -> None:
    given = dict(np.load(shared_data / "afm" / f"sm_{name}.npz"))
    counted = given["seq_mask"] > 0
    folded = _fold(module, given)
    assert _deviation(folded.atom14, given["atom14"], counted) < 3e-4
    assert _deviation(folded.trajectory, given["traj"], counted, axis=1) < 3e-4
    assert torch.equal(folded.frames, folded.trajectory[-1])
    assert _deviation(folded.torsions, given["angles"][-1], counted) < 1e-4
    assert _deviation(folded.act, given["act"], counted) < 1e-4
    assert _deviation(folded.plddt, given["plddt"], counted) < 0.01
    assert np.array_equal(folded.atom14_mask.numpy(), (given["atom14_mask"] > 0) & counted[:, None])


@pytest.mark.parametrize("name", SETS)
def test_float64_answers_are_alphafolds(shared_data: Path, module: StructureModule, name: str) -> None:
    given = dict(np.load(shared_data / "afm" / f"sm_{name}.npz"))
    exact = dict(np.load(shared_data / "afm" / f"sm64_{name}.npz"))
    counted = given["seq_mask"] > 0
    folded = _fold(module, given, torch.float64)
    assert _deviation(folded.atom14, exact["atom14"], counted) < 1e-10
    assert _deviation(folded.trajectory, exact["traj"], counted, axis=1) < 1e-10
    assert _deviation(folded.torsions, exact["angles"][-1], counted) < 1e-12
    assert _deviation(folded.act, exact["act"], counted) < 1e-12


@pytest.mark.parametrize("name", SETS)
def test_frames_of_rigid_groups_are_alphafolds(shared_data: Path, module: StructureModule, name: str) -> None:
    given = dict(np.load(shared_data / "afm" / f"sm_{name}.npz"))
    theirs = given["frames_all"][-1]
    there = (given["seq_mask"] > 0)[:, None] & (np.abs(np.linalg.det(theirs[..., :3])) > 0.5)
    assert there.sum() > 4 * len(theirs) * 0.8
    ours = _fold(module, given).group_frames
    assert _deviation(ours.flatten(0, 1), theirs.reshape(-1, 3, 4), there.ravel()) < 3e-4


@pytest.mark.parametrize("name", SETS)
def test_aligned_errors_are_alphafolds(shared_data: Path, module: StructureModule, name: str) -> None:
    given = dict(np.load(shared_data / "afm" / f"sm_{name}.npz"))
    with torch.no_grad():
        error = module.float().aligned_error(torch.from_numpy(given["pair"]))
    assert np.abs(error.numpy() - given["pae"]).max() < 1e-4


def test_pair_in_bfloat16_is_close(shared_data: Path, module: StructureModule) -> None:
    given = dict(np.load(shared_data / "afm" / "sm_n22.npz"))
    exact = _fold(module, given)
    pair = normalise_pair(torch.from_numpy(given["pair"]), torch.bfloat16)
    assert pair.values.dtype == torch.bfloat16
    single, aatype, mask = (torch.from_numpy(given[name]) for name in ("single", "aatype", "seq_mask"))
    with torch.no_grad():
        folded = module.float()(single, pair, aatype, mask)
    assert 1e-5 < float((folded.atom14 - exact.atom14).abs().max()) < 0.3
