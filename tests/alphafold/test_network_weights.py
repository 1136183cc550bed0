"""Weights in AlphaFold's and OpenFold's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from network_inputs import random_inputs, rough_weights

from cocofold.alphafold import load_structure_module
from cocofold.alphafold.weight_layout import random_weights
from cocofold.alphafold.weights import (
    load_single_activations,
    official_weights,
    read_weights,
    save_weights,
)
from cocofold.system.errors import InputError

SCOPE = "alphafold/alphafold_iteration/"
ATTENTION = f"{SCOPE}structure_module/fold_iteration/invariant_point_attention"
UPDATE = f"{SCOPE}structure_module/fold_iteration/quat_rigid/rigid//weights"
SINGLE = f"{SCOPE}evoformer/single_activations//"


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return rough_weights()


@pytest.fixture
def path(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A file with the 58 arrays, and others as AlphaFold's files have them."""
    path = tmp_path / "params_model_1_multimer_v3.npz"
    others = {
        f"{SCOPE}evoformer/preprocess_1d//weights": torch.ones(21, 256),
        f"{SCOPE}distogram_head//b": torch.ones(2),
    }
    save_weights({**weights, **others}, path)
    return path


def _openfold(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The arrays as OpenFold's multimer models name and arrange them, translated one by one."""
    fold, head, side = "structure_module/fold_iteration/", "predicted_lddt_head/", "rigid_sidechain/"
    point = "_point_projection/point_projection"
    linear = {
        "structure_module.linear_in": "structure_module/initial_projection",
        "structure_module.bb_update.linear": f"{fold}quat_rigid/rigid",
        "structure_module.transition.layers.0.linear_1": f"{fold}transition",
        "structure_module.transition.layers.0.linear_2": f"{fold}transition_1",
        "structure_module.transition.layers.0.linear_3": f"{fold}transition_2",
        "structure_module.angle_resnet.linear_in": f"{fold}{side}input_projection",
        "structure_module.angle_resnet.linear_initial": f"{fold}{side}input_projection_1",
        "structure_module.angle_resnet.layers.0.linear_1": f"{fold}{side}resblock1",
        "structure_module.angle_resnet.layers.0.linear_2": f"{fold}{side}resblock2",
        "structure_module.angle_resnet.layers.1.linear_1": f"{fold}{side}resblock1_1",
        "structure_module.angle_resnet.layers.1.linear_2": f"{fold}{side}resblock2_1",
        "structure_module.angle_resnet.linear_out": f"{fold}{side}unnormalized_angles",
        "structure_module.ipa.linear_b": f"{fold}invariant_point_attention/attention_2d",
        "structure_module.ipa.linear_out": f"{fold}invariant_point_attention/output_projection",
        "structure_module.ipa.linear_q_points.linear": f"{fold}invariant_point_attention/q{point}",
        "structure_module.ipa.linear_k_points.linear": f"{fold}invariant_point_attention/k{point}",
        "structure_module.ipa.linear_v_points.linear": f"{fold}invariant_point_attention/v{point}",
        "aux_heads.plddt.linear_1": f"{head}act_0",
        "aux_heads.plddt.linear_2": f"{head}act_1",
        "aux_heads.plddt.linear_3": f"{head}logits",
        "aux_heads.tm.linear": "predicted_aligned_error_head/logits",
        "evoformer.linear": "evoformer/single_activations",
    }
    norms = {
        "structure_module.layer_norm_s": "structure_module/single_layer_norm",
        "structure_module.layer_norm_z": "structure_module/pair_layer_norm",
        "structure_module.layer_norm_ipa": f"{fold}attention_layer_norm",
        "structure_module.transition.layer_norm": f"{fold}transition_layer_norm",
        "aux_heads.plddt.layer_norm": f"{head}input_layer_norm",
    }
    state = {"structure_module.ipa.head_weights": weights[f"{ATTENTION}//trainable_point_weights"]}
    for letter in "qkv":
        array = weights[f"{ATTENTION}/{letter}_scalar_projection//weights"]
        state[f"structure_module.ipa.linear_{letter}.weight"] = array.reshape(384, 192).T.contiguous()
    for name, official in linear.items():
        array = weights[f"{SCOPE}{official}//weights"]
        state[f"{name}.weight"] = array.reshape(len(array), -1).T.contiguous()
        state[f"{name}.bias"] = weights[f"{SCOPE}{official}//bias"].flatten()
    for name, official in norms.items():
        state[f"{name}.weight"] = weights[f"{SCOPE}{official}//scale"]
        state[f"{name}.bias"] = weights[f"{SCOPE}{official}//offset"]
    return {**state, "evoformer.blocks.0.msa_transition.linear_1.weight": torch.ones(3, 3)}


@pytest.mark.independent
def test_arrays_are_those_of_alphafold(shared_data: Path) -> None:
    with np.load(shared_data / "afm" / "sm_params.npz") as file:
        shapes = {name: file[name].shape for name in file.files}
    ours = {name: tuple(array.shape) for name, array in random_weights(0).items()}
    assert len(shapes) == 56
    assert {name: shape for name, shape in ours.items() if not name.startswith(SINGLE)} == shapes


def test_a_file_comes_back_bit_by_bit(tmp_path: Path, path: Path, weights: dict[str, torch.Tensor]) -> None:
    module = load_structure_module(path)
    save_weights(official_weights(module.with_adapter()), tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz", allow_pickle=False) as file:
        assert len(file.files) == 56
        for name in file.files:
            assert file[name].dtype == np.float32
            assert np.array_equal(file[name], weights[name].numpy())
    assert sorted(read_weights(path)) == sorted(official_weights(module))


def test_arrays_serve_as_well_as_a_file(path: Path) -> None:
    inputs = random_inputs(5)
    one, other = load_structure_module(path), load_structure_module(read_weights(path))
    assert torch.equal(one(*inputs).atom14, other(*inputs).atom14)


def test_loading_leaves_random_numbers_alone(path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_structure_module(path)
    assert torch.equal(torch.rand(3), expected)


def test_single_activations_are_alphafolds(path: Path, weights: dict[str, torch.Tensor]) -> None:
    first_row = torch.randn(4, 256)
    expected = first_row @ weights[f"{SINGLE}weights"] + weights[f"{SINGLE}bias"]
    torch.testing.assert_close(load_single_activations(path)(first_row), expected)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"ema": {"params": s}}, lambda s: {"state_dict": _prefixed(s)}])
def test_openfolds_checkpoint_is_the_same_model(tmp_path: Path, path: Path, wrap: object) -> None:
    checkpoint = tmp_path / "openfold.pt"
    torch.save(wrap(_openfold(rough_weights())), checkpoint)
    expected, found = read_weights(path), read_weights(checkpoint)
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert torch.equal(found[name], array), name
    layer = load_single_activations(checkpoint)
    assert torch.equal(layer.weight, load_single_activations(path).weight)
    inputs = random_inputs(5)
    one, other = load_structure_module(path), load_structure_module(checkpoint)
    assert torch.equal(one(*inputs).atom14, other(*inputs).atom14)


def _prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"model.{name}": tensor for name, tensor in state.items()}


def _without(name: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: array for key, array in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: _without(UPDATE, w), "missing: structure_module/fold_iteration/quat_rigid/rigid//weights"),
        (
            lambda w: {**w, f"{SCOPE}structure_module/extra//bias": torch.ones(2)},
            "unknown: structure_module/extra//bias",
        ),
        (
            lambda w: {**w, f"{SCOPE}predicted_lddt_head/act_2//bias": torch.ones(2)},
            "unknown: predicted_lddt_head/act_2",
        ),
        (lambda w: {**w, UPDATE: w[UPDATE].T}, r"quat_rigid/rigid//weights \(6, 384\), must be \(384, 6\)"),
        (lambda w: {**w, UPDATE: w[UPDATE] * np.nan}, "not finite: .*quat_rigid/rigid//weights"),
        (lambda w: {f"{ATTENTION}/kv_scalar//weights": torch.ones(2)}, "monomer"),
        (lambda w: {}, "missing: .* and 52 more"),
    ],
)
def test_arrays_that_are_not_as_they_must_be_are_named(
    tmp_path: Path, weights: dict[str, torch.Tensor], change: object, words: str
) -> None:
    path = tmp_path / "params.npz"
    save_weights(change(weights), path)
    with pytest.raises(InputError, match=words):
        load_structure_module(path)


def test_arrays_given_as_such_are_checked_too(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"weights: missing: .*quat_rigid"):
        load_structure_module(_without(UPDATE, weights))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: _without("structure_module.bb_update.linear.bias", s),
            "missing: structure_module.bb_update.linear.bias",
        ),
        (
            lambda s: {**s, "structure_module.ipa.linear_x.weight": torch.ones(2)},
            "unknown: structure_module.ipa.linear_x",
        ),
        (
            lambda s: {**s, "aux_heads.tm.linear.bias": torch.ones(2)},
            r"aux_heads.tm.linear.bias \(2,\), must be \(64,\)",
        ),
        (lambda s: {**s, "structure_module.ipa.linear_kv.weight": torch.ones(2)}, "monomer"),
        (lambda s: {"state_dict": s, "settings": Path("x")}, "holds more than tensors"),
    ],
)
def test_openfolds_checkpoints_are_checked_too(
    tmp_path: Path, weights: dict[str, torch.Tensor], change: object, words: str
) -> None:
    path = tmp_path / "openfold.pt"
    torch.save(change(_openfold(weights)), path)
    with pytest.raises(InputError, match=words):
        load_structure_module(path)


@pytest.mark.parametrize("name", ["params.npz", "checkpoint.pt", "weights.bin"])
def test_files_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="no such weight file"):
        load_structure_module(path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(InputError, match=r"damaged|cannot be read as a file of arrays|must be \.npz"):
        load_structure_module(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read as a file of arrays"):
        load_structure_module(path)


def test_pickled_objects_are_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "params.npz"
    arrays = {name: array.numpy() for name, array in weights.items()}
    np.savez(path, **{**arrays, UPDATE: np.array([{"a": 1}], dtype=object)})
    with pytest.raises(InputError, match="cannot be read as a file of arrays"):
        load_structure_module(path)


def test_random_weights_fold_into_something_finite() -> None:
    one, same, other = random_weights(1), random_weights(1), random_weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[UPDATE], other[UPDATE])
    with torch.no_grad():
        folded = load_structure_module(one)(*random_inputs(60))
    radius = float((folded.frames[:, :, 3] ** 2).sum(1).mean().sqrt())
    assert bool(torch.isfinite(folded.atom14).all())
    assert 1 < radius < 100
