"""The pair representation, as far as attention needs it: a frozen part, and an addition that is learned.

Attention asks what is between residues for a bias and for a weighted sum. Both are linear, so an addition that is the
same for all residues of two segments need never be written out: it becomes a term of the bias and more columns of the
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Tuple

import torch
from torch import nn

from cocofold.network.sizes import PAIR_WIDTH

_BLOCK_NUMBERS = 1 << 22
# Below, the pair is too small for its copy to pay.
_LARGE = 1000


class SegmentPair(nn.Module):
    """z_ijc = values_{s(i) s(j) c} for residues i, j in segments s: learned, zero at the start, never written out.

    With a residue in each segment it is any addition there can be; its size depends on the segments alone.

    Parameters
    ----------
    segment : (n,) int
        Of each residue, from ``segments_of``.
    """

    segment: torch.Tensor
    place: torch.Tensor
    columns: torch.Tensor

    def __init__(self, segment: torch.Tensor) -> None:
        super().__init__()
        count = int(segment.max()) + 1
        self.values = nn.Parameter(torch.zeros(count, count, PAIR_WIDTH))
        self._longest = int(torch.bincount(segment).max())
        self.register_buffer("segment", segment)
        self.register_buffer("place", segment * self._longest + _places_within(segment))
        self.register_buffer("columns", nn.functional.one_hot(segment, count).to(self.values.dtype))

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        of_segments = torch.matmul(self.values, weight.T).permute(2, 0, 1)
        return of_segments.index_select(1, self.segment).index_select(2, self.segment)

    def gathered(self, met: torch.Tensor) -> torch.Tensor:
        """Σ_j a_hij z_ijc from a_hij summed over the residues j of each segment, (h, n, segments): (n, h, 128)."""
        heads, _, count = met.shape
        # Residues of a segment share a matrix; segments are filled up to the length of the longest.
        filled = met.new_zeros(count * self._longest, heads, count).index_copy(0, self.place, met.transpose(0, 1))
        out = torch.bmm(filled.view(count, -1, count), self.values)
        return out.view(-1, heads, PAIR_WIDTH).index_select(0, self.place)


def segments_of(chain: torch.Tensor, most: int) -> torch.Tensor:
    """Numbers of segments of equal length along chains, (n,) int: the shortest of which there are ``most`` or fewer.

    Parameters
    ----------
    chain : (n,) int
        Of each residue; a segment lies within one, so there may be more segments than ``most`` if there are so many
        chains.
    most : int
    """
    lengths = chain.unique_consecutive(return_counts=True)[1].tolist()
    length = next(
        size for size in range(1, len(chain) + 1) if sum(-(-n // size) for n in lengths) <= max(most, len(lengths))
    )
    pieces = [min(length, n - start) for n in lengths for start in range(0, n, length)]
    return torch.arange(len(pieces), device=chain.device).repeat_interleave(torch.tensor(pieces, device=chain.device))


def _places_within(segment: torch.Tensor) -> torch.Tensor:
    """Place of each residue in its segment, from 0."""
    counts = torch.bincount(segment)
    return torch.arange(len(segment), device=segment.device) - (counts.cumsum(0) - counts)[segment]


@dataclass(frozen=True)
class Pair:
    """What is between n residues.

    Attributes
    ----------
    values : (n, n, 128) float
        Normalised without scale and offset, of any float type; no gradient is taken to it unless it asks for one.
    added : SegmentPair, optional
    backward_values : (n, n, 128) float, optional
        A copy of the values, of a shorter type, for attention's backward pass.
    """

    values: torch.Tensor
    added: Optional[SegmentPair] = None
    backward_values: Optional[torch.Tensor] = None

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        if self.values.requires_grad:
            frozen = torch.matmul(self.values.to(weight.dtype), weight.T).permute(2, 0, 1)
        else:
            frozen = _Project.apply(weight, self.values)
        return frozen if self.added is None else frozen + self.added.project(weight)


def pair_types(precision: str, residues: int, device: torch.device | str = "cpu") -> Tuple[torch.dtype, torch.dtype]:
    """What a pair is kept in for the forward and for the backward pass.

    Parameters
    ----------
    precision : str
        A type's name, for both; or "auto": float32, and for the backward pass of large molecules bfloat16 where the
        processor multiplies matrices of it. The atoms are then exact and the gradient of 400 residues is off by 5e-4
        of its length (random weights).
    residues : int
    device : torch.device or str
    """
    if precision != "auto":
        return getattr(torch, precision), getattr(torch, precision)
    is_short = residues >= _LARGE and _multiplies_bfloat16(torch.device(device))
    return torch.float32, torch.bfloat16 if is_short else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


def normalise_pair(
    pair: torch.Tensor, dtype: torch.dtype = torch.float32, backward_dtype: Optional[torch.dtype] = None
) -> Pair:
    """Layer normalisation without scale and offset, which are left to attention: once for all iterations and steps.

    Parameters
    ----------
    pair : (n, n, 128) float
        AlphaFold's pair representation, of any float type. It is not changed, and may be let go of afterwards.
    dtype : torch.dtype
        What to keep the result in. Half of the memory with ``torch.bfloat16`` (two to three digits) or with
        ``torch.float16`` (three to four): normalised values stay below 12, within its range.
    backward_dtype : torch.dtype, optional
        Of a second copy, for attention's backward pass, where it should be another: the atoms are then those of
        ``dtype``, and their gradient is as good as this type's digits.
    """
    if pair.requires_grad:
        return Pair(nn.functional.layer_norm(pair.to(dtype), (PAIR_WIDTH,)))
    values = torch.empty(pair.shape, dtype=dtype, device=pair.device)
    compute = torch.promote_types(dtype, torch.float32)
    for rows in _blocks(pair):
        values[rows] = nn.functional.layer_norm(pair[rows].to(compute), (PAIR_WIDTH,)).to(dtype)
    return Pair(values, backward_values=None if backward_dtype in (None, dtype) else values.to(backward_dtype))


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
