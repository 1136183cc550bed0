"""Random weights in the layout of AlphaFold's files: a start for training, and tests without the real ones."""

from __future__ import annotations

import math
from typing import Dict

import numpy as np
import torch

from cocofold.network.official import MODULE_ARRAYS, SINGLE_ACTIVATIONS, WeightArray

# Layers whose result is added to what there is: small, so that eight iterations do not explode.
_SMALL = ("output_projection", "transition_2", "rigid", "resblock2", "resblock2_1")
_SMALL_SCALE = 0.1
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
    return {array.official: _draw(array, generator) for array in (*MODULE_ARRAYS, *SINGLE_ACTIVATIONS)}


def _draw(array: WeightArray, generator: np.random.Generator) -> torch.Tensor:
    layer, kind = array.official.split("//")
    if kind == "weights":
        scale = (_SMALL_SCALE if layer.endswith(tuple("/" + name for name in _SMALL)) else 1.0) / math.sqrt(
            array.shape[0]
        )
        values = scale * generator.standard_normal(array.shape)
    else:
        values = np.full(array.shape, {"scale": 1.0, "trainable_point_weights": _POINT_WEIGHT}.get(kind, 0.0))
    return torch.from_numpy(values.astype(np.float32))
