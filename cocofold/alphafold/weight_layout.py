"""Widths of the structure module, and the arrays of AlphaFold's weight files that fill it.

For each array: its name and shape in AlphaFold's files, its key in the state of ``StructureModule`` and in OpenFold's
checkpoints. ``check_arrays`` refuses arrays that do not fit, without building the network; ``random_weights`` draws
arrays for tests and benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cocofold.alphafold.sequences import TORSIONS_PER_RESIDUE
from cocofold.system.errors import InputError

# Widths of AlphaFold-Multimer v2.3, from ``CONFIG_MULTIMER`` in its model/config.py; the weight files have these shapes
# and no others.
MSA_WIDTH, SINGLE_WIDTH, PAIR_WIDTH = 256, 384, 128
"""Channels of the alignment's, the single and the pair representation (``msa_channel``, ``seq_channel``,
``pair_channel``)."""

HIDDEN_WIDTH = 128
"""Channels of the hidden layers of the torsion head and of the confidence head (``num_channel``, ``num_channels``)."""

ATTENTION_HEADS, HEAD_CHANNELS, QUERY_POINTS, VALUE_POINTS = 12, 16, 4, 8
"""Of the invariant point attention: ``num_head``; ``num_scalar_qk``, which is ``num_scalar_v``; ``num_point_qk``;
``num_point_v``."""

TRANSITION_LAYERS, RESIDUAL_BLOCKS = 3, 2
"""Layers of the transition (``num_layer_in_transition``), and residual blocks of the torsion head
(``num_residual_block``)."""

LDDT_BINS, ERROR_BINS = 50, 64
"""Bins of the predicted lDDT and of the predicted aligned error (``num_bins``)."""

ATTENTION_OUTPUTS = ATTENTION_HEADS * (HEAD_CHANNELS + 4 * VALUE_POINTS + PAIR_WIDTH)
"""Numbers that the attention gives a residue: for each head channels, points with their norms, and pair channels."""

SCOPE = "alphafold/alphafold_iteration/"
"""Beginning of all names in AlphaFold's files."""

MODULE_SCOPES = tuple(
    SCOPE + part for part in ("structure_module/", "predicted_lddt_head/", "predicted_aligned_error_head/")
)
"""Parts of AlphaFold's files in which no array may be unknown."""

OPENFOLD_SCOPES = ("structure_module.", "aux_heads.plddt.", "aux_heads.tm.")
"""Parts of OpenFold's checkpoints in which no tensor may be unknown."""

WEIGHT_FILE_ADVICE = "give params_model_K_multimer_v3.npz of AlphaFold-Multimer v2.3, as it was downloaded"

# Names that a message lists; the others are counted.
_MAX_LISTED_NAMES = 4

_FOLD_ITERATION = "structure_module/fold_iteration/"
_ATTENTION = f"{_FOLD_ITERATION}invariant_point_attention/"
_SIDECHAIN = f"{_FOLD_ITERATION}rigid_sidechain/"
_IPA, _ANGLES, _TRANSITION = "structure_module.ipa.", "structure_module.angle_resnet.", "structure_module.transition."


@dataclass(frozen=True)
class WeightArray:
    """Name, shape and place of one array.

    Attributes
    ----------
    alphafold_key : str
        Name in AlphaFold's files.
    shape : tuple of int
        Shape in AlphaFold's files.
    module_key, openfold_key : str
        Name in the state of ``StructureModule``, and in OpenFold's checkpoints.
    """

    alphafold_key: str
    shape: tuple[int, ...]
    module_key: str
    openfold_key: str

    @property
    def is_matrix(self) -> bool:
        """Whether it is the matrix of a linear layer, with the input first in AlphaFold's files, last in torch."""
        return self.alphafold_key.endswith("//weights")

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape in ``StructureModule`` and in OpenFold's checkpoints."""
        outputs = math.prod(self.shape[1:])
        return (outputs, self.shape[0]) if self.is_matrix else (outputs * self.shape[0],)

    def to_torch(self, array: torch.Tensor) -> torch.Tensor:
        """From AlphaFold's layout to torch's."""
        return array.reshape(self.torch_shape[::-1]).T if self.is_matrix else array.flatten()

    def from_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """From torch's layout to AlphaFold's."""
        return (tensor.T if self.is_matrix else tensor).reshape(self.shape).contiguous()


def check_arrays(
    arrays: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], scopes: tuple[str, ...], where: str
) -> dict[str, torch.Tensor]:
    """Arrays in float32, if all are there, as they must be, and no others in the scopes.

    Parameters
    ----------
    arrays
        By name; those that ``shapes`` does not ask for are left out.
    shapes
        Shape of each array that is needed.
    scopes
        Beginnings of names, under which no array may be unknown.
    where
        What the message starts with.

    Raises
    ------
    InputError
        Naming arrays that are missing, unknown, of another shape, or not finite.
    """
    present = {name: arrays[name] for name in shapes if name in arrays}
    faults = {
        "missing": [name for name in shapes if name not in present],
        "unknown": [name for name in arrays if name not in shapes and name.startswith(scopes)],
        "of another shape": [
            f"{name} {tuple(array.shape)}, must be {shapes[name]}"
            for name, array in present.items()
            if tuple(array.shape) != shapes[name]
        ],
        "not finite": [name for name, array in present.items() if not bool(torch.isfinite(array).all())],
    }
    found = [f"{fault}: {_list_names(names)}" for fault, names in faults.items() if names]
    if found:
        raise InputError(f"{where}: {'; '.join(found)}; {WEIGHT_FILE_ADVICE}")
    return {name: array.detach().float() for name, array in present.items()}


def check_module_arrays(arrays: Mapping[str, torch.Tensor], where: str = "weights") -> dict[str, torch.Tensor]:
    """The 56 arrays of the structure module and its heads, in AlphaFold's names and layout, checked.

    Raises
    ------
    InputError
        As ``check_arrays``.
    """
    return check_arrays(arrays, {array.alphafold_key: array.shape for array in MODULE_ARRAYS}, MODULE_SCOPES, where)


def _list_names(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_LISTED_NAMES
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(name.removeprefix(SCOPE) for name in names[:_MAX_LISTED_NAMES]) + more


def _linear(alphafold: str, shape: tuple[int, ...], module: str, openfold: str, bias: bool = True) -> list[WeightArray]:
    arrays = [WeightArray(f"{SCOPE}{alphafold}//weights", shape, f"{module}.weight", f"{openfold}.weight")]
    if bias:
        arrays.append(WeightArray(f"{SCOPE}{alphafold}//bias", shape[1:], f"{module}.bias", f"{openfold}.bias"))
    return arrays


def _norm(alphafold: str, width: int, module: str, openfold: str) -> list[WeightArray]:
    return [
        WeightArray(f"{SCOPE}{alphafold}//scale", (width,), f"{module}.weight", f"{openfold}.weight"),
        WeightArray(f"{SCOPE}{alphafold}//offset", (width,), f"{module}.bias", f"{openfold}.bias"),
    ]


def _attention() -> list[WeightArray]:
    heads, bias, output = (ATTENTION_HEADS,), (PAIR_WIDTH, ATTENTION_HEADS), (ATTENTION_OUTPUTS, SINGLE_WIDTH)
    arrays = [
        *_linear(f"{_ATTENTION}attention_2d", bias, "attention.pair_bias", f"{_IPA}linear_b"),
        *_linear(f"{_ATTENTION}output_projection", output, "attention.output", f"{_IPA}linear_out"),
        WeightArray(
            f"{SCOPE}{_ATTENTION}/trainable_point_weights", heads, "attention.point_weights", f"{_IPA}head_weights"
        ),
    ]
    for letter, name, points in (
        ("q", "query", QUERY_POINTS),
        ("k", "key", QUERY_POINTS),
        ("v", "value", VALUE_POINTS),
    ):
        scalar = f"{_ATTENTION}{letter}_scalar_projection"
        point = f"{_ATTENTION}{letter}_point_projection/point_projection"
        scalar_shape = (SINGLE_WIDTH, ATTENTION_HEADS, HEAD_CHANNELS)
        point_shape = (SINGLE_WIDTH, ATTENTION_HEADS, 3 * points)
        arrays += _linear(scalar, scalar_shape, f"attention.{name}", f"{_IPA}linear_{letter}", bias=False)
        arrays += _linear(point, point_shape, f"attention.{name}_points", f"{_IPA}linear_{letter}_points.linear")
    return arrays


def _transition() -> list[WeightArray]:
    norm = f"{_FOLD_ITERATION}transition_layer_norm"
    arrays = _norm(norm, SINGLE_WIDTH, "transition.norm", f"{_TRANSITION}layer_norm")
    for number in range(TRANSITION_LAYERS):
        name = f"{_FOLD_ITERATION}transition{_numbered(number)}"
        openfold = f"{_TRANSITION}layers.0.linear_{number + 1}"
        arrays += _linear(name, (SINGLE_WIDTH, SINGLE_WIDTH), f"transition.layers.{number}", openfold)
    return arrays


def _torsions() -> list[WeightArray]:
    inputs, outputs = (SINGLE_WIDTH, HIDDEN_WIDTH), (HIDDEN_WIDTH, 2 * TORSIONS_PER_RESIDUE)
    arrays = [
        *_linear(f"{_SIDECHAIN}input_projection", inputs, "torsions.from_act", f"{_ANGLES}linear_in"),
        *_linear(f"{_SIDECHAIN}input_projection_1", inputs, "torsions.from_single", f"{_ANGLES}linear_initial"),
        *_linear(f"{_SIDECHAIN}unnormalized_angles", outputs, "torsions.angles", f"{_ANGLES}linear_out"),
    ]
    for block in range(RESIDUAL_BLOCKS):
        for number, layer in ((1, "first"), (2, "second")):
            arrays += _linear(
                f"{_SIDECHAIN}resblock{number}{_numbered(block)}",
                (HIDDEN_WIDTH, HIDDEN_WIDTH),
                f"torsions.blocks.{block}.{layer}",
                f"{_ANGLES}layers.{block}.linear_{number}",
            )
    return arrays


def _numbered(number: int) -> str:
    """What haiku adds to the name of a layer that is not the first of its name."""
    return f"_{number}" if number else ""


def _confidence_heads() -> list[WeightArray]:
    lddt, openfold = "predicted_lddt_head/", "aux_heads.plddt."
    error, hidden = "predicted_aligned_error_head/logits", (HIDDEN_WIDTH, HIDDEN_WIDTH)
    return [
        *_norm(f"{lddt}input_layer_norm", SINGLE_WIDTH, "confidence.norm", f"{openfold}layer_norm"),
        *_linear(f"{lddt}act_0", (SINGLE_WIDTH, HIDDEN_WIDTH), "confidence.first", f"{openfold}linear_1"),
        *_linear(f"{lddt}act_1", hidden, "confidence.second", f"{openfold}linear_2"),
        *_linear(f"{lddt}logits", (HIDDEN_WIDTH, LDDT_BINS), "confidence.logits", f"{openfold}linear_3"),
        *_linear(error, (PAIR_WIDTH, ERROR_BINS), "aligned_error.logits", "aux_heads.tm.linear"),
    ]


def _structure_module() -> list[WeightArray]:
    part, openfold = "structure_module/", "structure_module."
    initial, update = (SINGLE_WIDTH, SINGLE_WIDTH), (SINGLE_WIDTH, 6)
    return [
        *_norm(f"{part}single_layer_norm", SINGLE_WIDTH, "single_norm", f"{openfold}layer_norm_s"),
        *_norm(f"{part}pair_layer_norm", PAIR_WIDTH, "attention.pair_norm", f"{openfold}layer_norm_z"),
        *_linear(f"{part}initial_projection", initial, "initial", f"{openfold}linear_in"),
        *_attention(),
        *_norm(f"{_FOLD_ITERATION}attention_layer_norm", SINGLE_WIDTH, "attention_norm", f"{openfold}layer_norm_ipa"),
        *_transition(),
        *_linear(f"{_FOLD_ITERATION}quat_rigid/rigid", update, "update", f"{openfold}bb_update.linear"),
        *_torsions(),
    ]


MODULE_ARRAYS: tuple[WeightArray, ...] = (*_structure_module(), *_confidence_heads())
"""The 46 arrays of the structure module, and 10 of the heads."""

SINGLE_ACTIVATIONS: tuple[WeightArray, ...] = tuple(
    _linear("evoformer/single_activations", (MSA_WIDTH, SINGLE_WIDTH), "", "evoformer.linear")
)
"""The projection of the first row of the alignment's representation to the single one."""


# Layers whose result is added to the activations or frames, and the factor of their standard deviation, which keeps
# eight iterations with random weights from diverging.
_UPDATE_LAYERS = ("output_projection", "transition_2", "rigid", "resblock2", "resblock2_1")
_UPDATE_SCALE = 0.1
# Its softplus is one, as where AlphaFold begins to train.
_POINT_WEIGHT = math.log(math.expm1(1.0))


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    """Random arrays: the 56 of the structure module and its heads, and the two of the single activations, float32.

    A matrix has a variance of one over the number of its inputs, and a hundredth of that where its result is an update;
    normalisations are the identity, biases zero.

    Parameters
    ----------
    seed : int
        Seed of numpy's generator; the same seed gives the same arrays on all machines.
    """
    generator = np.random.default_rng(seed)
    return {array.alphafold_key: _draw_array(array, generator) for array in (*MODULE_ARRAYS, *SINGLE_ACTIVATIONS)}


def _draw_array(array: WeightArray, generator: np.random.Generator) -> torch.Tensor:
    layer, kind = array.alphafold_key.split("//")
    if kind == "weights":
        scale = (_UPDATE_SCALE if layer.endswith(tuple("/" + name for name in _UPDATE_LAYERS)) else 1.0) / math.sqrt(
            array.shape[0]
        )
        values = scale * generator.standard_normal(array.shape)
    else:
        values = np.full(array.shape, {"scale": 1.0, "trainable_point_weights": _POINT_WEIGHT}.get(kind, 0.0))
    return torch.from_numpy(values.astype(np.float32))
