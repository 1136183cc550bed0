"""The pair representation, as far as attention needs it: two linear maps, not necessarily its numbers.

Attention asks what is between residues for a bias and for a weighted sum. Both are linear, so whatever can give the two
may stand in for a pair or be added to one: a frozen tensor in half precision, or an addition of low rank that is never
written out.
"""

from __future__ import annotations

from typing import Any, Protocol, Tuple

import torch
from torch import nn

from cocofold.network.sizes import PAIR_WIDTH

_BLOCK_NUMBERS = 1 << 22


class Pair(Protocol):
    """What is between n residues, z of (n, n, 128)."""

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        ...

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """Σ_j a_hij z_ijc for an attention (h, n, n): (n, h, 128)."""
        ...


class DensePair:
    """A pair given as a tensor, of any float type; no gradient is taken to it unless it asks for one.

    Parameters
    ----------
    values : (n, n, 128) float
        Already normalised, see ``normalise_pair``.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        if self.values.requires_grad:
            return torch.matmul(self.values.to(weight.dtype), weight.T).permute(2, 0, 1)
        return _Project.apply(weight, self.values)

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        if self.values.requires_grad:
            return torch.matmul(attention.transpose(0, 1), self.values.to(attention.dtype))
        return _Gather.apply(attention, self.values)


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

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        left = self.left * torch.matmul(weight, self.channel.T)[:, None]
        return torch.matmul(left, self.right.T)

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        met = torch.matmul(attention, self.right).transpose(0, 1) * self.left[:, None]
        return torch.matmul(met, self.channel)


class PairSum:
    """Several pairs added up.

    Parameters
    ----------
    terms : Pair
        At least one.
    """

    def __init__(self, *terms: Pair) -> None:
        self.terms = terms

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        return _sum([term.project(weight) for term in self.terms])

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """See ``Pair``."""
        return _sum([term.gather(attention) for term in self.terms])


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def normalise_pair(pair: torch.Tensor, dtype: torch.dtype = torch.float32) -> DensePair:
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
        return DensePair(nn.functional.layer_norm(pair.to(dtype), (PAIR_WIDTH,)))
    values = torch.empty(pair.shape, dtype=dtype, device=pair.device)
    compute = torch.promote_types(dtype, torch.float32)
    for rows in _blocks(pair):
        values[rows] = nn.functional.layer_norm(pair[rows].to(compute), (PAIR_WIDTH,)).to(dtype)
    return DensePair(values)


def _blocks(values: torch.Tensor) -> list[slice]:
    """Rows of a pair, few enough that a copy of them is small."""
    step = max(1, _BLOCK_NUMBERS // max(1, values[0].numel()))
    return [slice(start, start + step) for start in range(0, len(values), step)]


class _Project(torch.autograd.Function):
    """``DensePair.project`` with a gradient to the weight only; the pair is converted a block at a time."""

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


class _Gather(torch.autograd.Function):
    """``DensePair.gather`` with a gradient to the attention only; the pair is converted a block at a time."""

    @staticmethod
    def forward(ctx: Any, attention: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        ctx.values = values
        n, heads = len(values), len(attention)
        out = torch.empty(n, heads, PAIR_WIDTH, dtype=attention.dtype, device=attention.device)
        for rows in _blocks(values):
            out[rows] = torch.matmul(attention[:, rows].transpose(0, 1), values[rows].to(attention.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[torch.Tensor, None]:
        (gradient,) = gradients
        n, heads = gradient.shape[:2]
        out = torch.empty(heads, n, n, dtype=gradient.dtype, device=gradient.device)
        for rows in _blocks(ctx.values):
            block = ctx.values[rows].to(gradient.dtype)
            out[:, rows] = torch.matmul(gradient[rows], block.transpose(1, 2)).transpose(0, 1)
        return out, None
