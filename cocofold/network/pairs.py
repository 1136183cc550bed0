"""The pair representation, as far as attention needs it: a frozen part, and an addition that is learned.

Attention asks what is between residues for a bias and for a weighted sum. Both are linear, so an addition of low rank
need never be written out: it becomes a few more columns of queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import torch
from torch import nn

from cocofold.network.sizes import PAIR_WIDTH

_BLOCK_NUMBERS = 1 << 22


class LowRankPair(nn.Module):
    """z_ijc = Σ_r left_ir right_jr channel_rc, learned, never written out: memory and time of n² h, not n² 128.

    It starts at zero, with ``channel`` zero and the others random.

    Parameters
    ----------
    n : int
        Residues.
    rank : int
    seed : int
    """

    def __init__(self, n: int, rank: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.left = nn.Parameter(torch.randn(n, rank, generator=generator))
        self.right = nn.Parameter(torch.randn(n, rank, generator=generator))
        self.channel = nn.Parameter(torch.zeros(rank, PAIR_WIDTH))

    def query_columns(self, weight: torch.Tensor) -> torch.Tensor:
        """Columns that, times ``right``, are Σ_c z_ijc w_hc for a weight (h, 128): (h, n, rank)."""
        return self.left * torch.matmul(weight, self.channel.T)[:, None]

    def gathered(self, met: torch.Tensor) -> torch.Tensor:
        """Σ_j a_hij z_ijc from ``met``, Σ_j a_hij right_jr (h, n, rank): (n, h, 128)."""
        return torch.matmul(met.transpose(0, 1) * self.left[:, None], self.channel)


@dataclass(frozen=True)
class Pair:
    """What is between n residues.

    Attributes
    ----------
    values : (n, n, 128) float
        Normalised without scale and offset, of any float type; no gradient is taken to it unless it asks for one.
    added : LowRankPair, optional
    """

    values: torch.Tensor
    added: Optional[LowRankPair] = None

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc of ``values``, without the addition, for a weight (h, 128): (h, n, n)."""
        if self.values.requires_grad:
            return torch.matmul(self.values.to(weight.dtype), weight.T).permute(2, 0, 1)
        return _Project.apply(weight, self.values)


def normalise_pair(pair: torch.Tensor, dtype: torch.dtype = torch.float32) -> Pair:
    """Layer normalisation without scale and offset, which are left to attention: once for all iterations and steps.

    Parameters
    ----------
    pair : (n, n, 128) float
        AlphaFold's pair representation, of any float type. It is not changed, and may be let go of afterwards.
    dtype : torch.dtype
        What to keep the result in. Half of the memory with ``torch.bfloat16`` (two to three digits) or with
        ``torch.float16`` (three to four): normalised values stay below 12, within its range.
    """
    if pair.requires_grad:
        return Pair(nn.functional.layer_norm(pair.to(dtype), (PAIR_WIDTH,)))
    values = torch.empty(pair.shape, dtype=dtype, device=pair.device)
    compute = torch.promote_types(dtype, torch.float32)
    for rows in _blocks(pair):
        values[rows] = nn.functional.layer_norm(pair[rows].to(compute), (PAIR_WIDTH,)).to(dtype)
    return Pair(values)


def _blocks(values: torch.Tensor) -> list[slice]:
    """Rows of a pair, few enough that a copy of them is small."""
    step = max(1, _BLOCK_NUMBERS // max(1, values[0].numel()))
    return [slice(start, start + step) for start in range(0, len(values), step)]


class _Project(torch.autograd.Function):
    """``Pair.project`` with a gradient to the weight only; the pair is converted a block at a time."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        ctx.values = values
        n, heads = len(values), len(weight)
        out = torch.empty(heads, n, n, dtype=weight.dtype, device=weight.device)
        for rows in _blocks(values):
            block = values[rows].to(weight.dtype).flatten(0, 1)
            out[:, rows] = torch.matmul(weight, block.T).view(heads, -1, n)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[torch.Tensor, None]:
        (gradient,) = gradients
        total = gradient.new_zeros(len(gradient), PAIR_WIDTH)
        for rows in _blocks(ctx.values):
            block = ctx.values[rows].to(gradient.dtype).flatten(0, 1)
            total += torch.matmul(gradient[:, rows].flatten(1), block)
        return total, None
