"""The paper's image adapter: an attention of its own beside the frozen one, shared by all iterations."""

from __future__ import annotations

import math

import torch
from torch import nn

from cocofold.network.sizes import CHANNELS, HEADS, MASKED_LOGIT, SINGLE_WIDTH

_WEIGHT_DEVIATION = 0.1
_LEAST_VARIANCE = 1e-5


class ImageAdapter(nn.Module):
    """Adds an attention over single activations, without pairs or points, to the scalar part o of the point attention.

    With the attention's input s: Q = s W₀ / √16, K = s W₁, V = s W₂, u = softmax((Q Kᵀ + mask) √(1/3)) V. Each residue
    and head's u is normalised over its 16 channels and takes on o's standard deviation and mean; o ← o + gate · u.

    Parameters
    ----------
    seed : int
        Of the weights, drawn from N(0, 0.1²).
    gated : bool
        Whether u passes a gate, one number a channel, which starts at zero, so that the adapter changes nothing at
        first. The paper has none.
    """

    def __init__(self, seed: int = 0, gated: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (SINGLE_WIDTH, HEADS * CHANNELS, 3)
        self.weight = nn.Parameter(_WEIGHT_DEVIATION * torch.randn(shape, generator=generator))
        self.gate = nn.Parameter(torch.zeros(HEADS, CHANNELS)) if gated else None

    def forward(self, act: torch.Tensor, mask: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        """Scalars with the adapter's part.

        Parameters
        ----------
        act : (n, 384) float
            Input of the point attention.
        mask : (n,) float
            1 for residues that count, else 0.
        scalars : (n, 12, 16) float
            Scalar part of the point attention's result.

        Returns
        -------
        (n, 12, 16) float
        """
        query, key, value = (
            torch.matmul(act, self.weight.permute(2, 0, 1)).unflatten(2, (HEADS, CHANNELS)).transpose(1, 2)
        )
        share = math.sqrt(1 / 3)
        attended = nn.functional.scaled_dot_product_attention(
            query[None],
            key[None],
            value[None],
            attn_mask=(share * MASKED_LOGIT * (1 - mask)).expand(1, 1, len(mask), len(mask)),
            scale=share / math.sqrt(CHANNELS),
        )
        added = _with_moments_of(scalars, attended[0].transpose(0, 1))
        return scalars + (added if self.gate is None else self.gate * added)


def _with_moments_of(model: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values shifted and scaled to the mean and standard deviation of a model's, over the last axis."""
    variance, mean = torch.var_mean(model, dim=-1, correction=0, keepdim=True)
    standard = nn.functional.layer_norm(values, values.shape[-1:], eps=_LEAST_VARIANCE)
    return standard * (variance + _LEAST_VARIANCE).sqrt() + mean
