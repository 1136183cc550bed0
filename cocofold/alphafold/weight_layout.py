"""Arrays of AlphaFold's weight files: names and shapes, and where each belongs in our module and in OpenFold's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, List, Tuple

import numpy as np
import torch

SCOPE = "alphafold/alphafold_iteration/"

MODULE_SCOPES = tuple(
    SCOPE + part for part in ("structure_module/", "predicted_lddt_head/", "predicted_aligned_error_head/")
)
"""Parts of AlphaFold's files in which no array may be unknown."""

OPENFOLD_SCOPES = ("structure_module.", "aux_heads.plddt.", "aux_heads.tm.")
"""The same of OpenFold's checkpoints."""

_FOLD_ITERATION = "structure_module/fold_iteration/"
_ATTENTION = f"{_FOLD_ITERATION}invariant_point_attention/"
_SIDECHAIN = f"{_FOLD_ITERATION}rigid_sidechain/"
_IPA, _ANGLES, _TRANSITION = "structure_module.ipa.", "structure_module.angle_resnet.", "structure_module.transition."


@dataclass(frozen=True)
class WeightArray:
    """One array.

    Attributes
    ----------
    official : str
        Its name in AlphaFold's files.
    shape : tuple of int
        Its shape there.
    ours, openfold : str
        Name in the state of ``StructureModule``, and in OpenFold's checkpoints.
    """

    official: str
    shape: Tuple[int, ...]
    ours: str
    openfold: str

    @property
    def is_matrix(self) -> bool:
        """Whether it is the matrix of a linear layer: input first there, output first in torch."""
        return self.official.endswith("//weights")

    @property
    def torch_shape(self) -> Tuple[int, ...]:
        """Shape in our module and in OpenFold's."""
        outputs = 1
        for size in self.shape[1:]:
            outputs *= size
        return (outputs, self.shape[0]) if self.is_matrix else (outputs * self.shape[0],)

    def to_torch(self, array: torch.Tensor) -> torch.Tensor:
        """From AlphaFold's layout to torch's."""
        return array.reshape(self.torch_shape[::-1]).T if self.is_matrix else array.flatten()

    def from_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """From torch's layout to AlphaFold's."""
        return (tensor.T if self.is_matrix else tensor).reshape(self.shape).contiguous()


def _linear(official: str, shape: Tuple[int, ...], ours: str, openfold: str, bias: bool = True) -> List[WeightArray]:
    arrays = [WeightArray(f"{SCOPE}{official}//weights", shape, f"{ours}.weight", f"{openfold}.weight")]
    if bias:
        arrays.append(WeightArray(f"{SCOPE}{official}//bias", shape[1:], f"{ours}.bias", f"{openfold}.bias"))
    return arrays


def _norm(official: str, width: int, ours: str, openfold: str) -> List[WeightArray]:
    return [
        WeightArray(f"{SCOPE}{official}//scale", (width,), f"{ours}.weight", f"{openfold}.weight"),
        WeightArray(f"{SCOPE}{official}//offset", (width,), f"{ours}.bias", f"{openfold}.bias"),
    ]


def _attention() -> List[WeightArray]:
    arrays = [
        *_linear(f"{_ATTENTION}attention_2d", (128, 12), "attention.pair_bias", f"{_IPA}linear_b"),
        *_linear(f"{_ATTENTION}output_projection", (2112, 384), "attention.output", f"{_IPA}linear_out"),
        WeightArray(
            f"{SCOPE}{_ATTENTION}/trainable_point_weights", (12,), "attention.point_weights", f"{_IPA}head_weights"
        ),
    ]
    for letter, ours, points in (("q", "query", 12), ("k", "key", 12), ("v", "value", 24)):
        scalar = f"{_ATTENTION}{letter}_scalar_projection"
        point = f"{_ATTENTION}{letter}_point_projection/point_projection"
        arrays += _linear(scalar, (384, 12, 16), f"attention.{ours}", f"{_IPA}linear_{letter}", bias=False)
        arrays += _linear(point, (384, 12, points), f"attention.{ours}_points", f"{_IPA}linear_{letter}_points.linear")
    return arrays


def _transition() -> List[WeightArray]:
    arrays = _norm(f"{_FOLD_ITERATION}transition_layer_norm", 384, "transition.norm", f"{_TRANSITION}layer_norm")
    for number, name in enumerate(("transition", "transition_1", "transition_2")):
        openfold = f"{_TRANSITION}layers.0.linear_{number + 1}"
        arrays += _linear(f"{_FOLD_ITERATION}{name}", (384, 384), f"transition.layers.{number}", openfold)
    return arrays


def _torsions() -> List[WeightArray]:
    arrays = [
        *_linear(f"{_SIDECHAIN}input_projection", (384, 128), "torsions.from_act", f"{_ANGLES}linear_in"),
        *_linear(f"{_SIDECHAIN}input_projection_1", (384, 128), "torsions.from_single", f"{_ANGLES}linear_initial"),
        *_linear(f"{_SIDECHAIN}unnormalized_angles", (128, 14), "torsions.angles", f"{_ANGLES}linear_out"),
    ]
    for block, ending in enumerate(("", "_1")):
        for number, ours in ((1, "first"), (2, "second")):
            arrays += _linear(
                f"{_SIDECHAIN}resblock{number}{ending}",
                (128, 128),
                f"torsions.blocks.{block}.{ours}",
                f"{_ANGLES}layers.{block}.linear_{number}",
            )
    return arrays


def _confidence_heads() -> List[WeightArray]:
    plddt, openfold = "predicted_lddt_head/", "aux_heads.plddt."
    return [
        *_norm(f"{plddt}input_layer_norm", 384, "confidence.norm", f"{openfold}layer_norm"),
        *_linear(f"{plddt}act_0", (384, 128), "confidence.first", f"{openfold}linear_1"),
        *_linear(f"{plddt}act_1", (128, 128), "confidence.second", f"{openfold}linear_2"),
        *_linear(f"{plddt}logits", (128, 50), "confidence.logits", f"{openfold}linear_3"),
        *_linear("predicted_aligned_error_head/logits", (128, 64), "aligned_error.logits", "aux_heads.tm.linear"),
    ]


MODULE_ARRAYS: Tuple[WeightArray, ...] = (
    *_norm("structure_module/single_layer_norm", 384, "single_norm", "structure_module.layer_norm_s"),
    *_norm("structure_module/pair_layer_norm", 128, "attention.pair_norm", "structure_module.layer_norm_z"),
    *_linear("structure_module/initial_projection", (384, 384), "initial", "structure_module.linear_in"),
    *_attention(),
    *_norm(f"{_FOLD_ITERATION}attention_layer_norm", 384, "attention_norm", "structure_module.layer_norm_ipa"),
    *_transition(),
    *_linear(f"{_FOLD_ITERATION}quat_rigid/rigid", (384, 6), "update", "structure_module.bb_update.linear"),
    *_torsions(),
    *_confidence_heads(),
)
"""The 46 arrays of the structure module, and 10 of the heads."""

SINGLE_ACTIVATIONS: Tuple[WeightArray, ...] = tuple(
    _linear("evoformer/single_activations", (256, 384), "", "evoformer.linear")
)
"""The projection of the first row of the alignment's representation to the single one."""


# Layers whose result is added to what there is: small, so that eight iterations do not explode.
_UPDATE_LAYERS = ("output_projection", "transition_2", "rigid", "resblock2", "resblock2_1")
_UPDATE_SCALE = 0.1
# Softplus of it is one.
_POINT_WEIGHT = math.log(math.expm1(1.0))


def random_weights(seed: int) -> Dict[str, torch.Tensor]:
    """All 56 arrays of the structure module and its heads and the two of the single activations, float32.

    Matrices have a variance of one over their inputs, and a hundredth of that where their result is an update;
    normalisations are the identity, biases zero.

    Parameters
    ----------
    seed : int
        The same seed gives the same numbers everywhere.
    """
    generator = np.random.default_rng(seed)
    return {array.official: _draw_array(array, generator) for array in (*MODULE_ARRAYS, *SINGLE_ACTIVATIONS)}


def _draw_array(array: WeightArray, generator: np.random.Generator) -> torch.Tensor:
    layer, kind = array.official.split("//")
    if kind == "weights":
        scale = (_UPDATE_SCALE if layer.endswith(tuple("/" + name for name in _UPDATE_LAYERS)) else 1.0) / math.sqrt(
            array.shape[0]
        )
        values = scale * generator.standard_normal(array.shape)
    else:
        values = np.full(array.shape, {"scale": 1.0, "trainable_point_weights": _POINT_WEIGHT}.get(kind, 0.0))
    return torch.from_numpy(values.astype(np.float32))
