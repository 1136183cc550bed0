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

from cocofold.alphafold.residue_constants import PAIR_WIDTH

_PAIR_ELEMENTS_AT_ONCE = 1 << 22
# Below, the pair is too small for its copy to pay.
_MIN_RESIDUES_FOR_BFLOAT16 = 1000


class SegmentPairAddition(nn.Module):
    """z_ijc = values_{s(i) s(j) c} for residues i, j in segments s: learned, zero at the start, never written out.

    With a residue in each segment it is any addition there can be; its size depends on the segments alone.

    Parameters
    ----------
    segment : (n,) int
        Of each residue, from ``split_into_segments``.
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
        self.register_buffer("place", segment * self._longest + _index_within_segment(segment))
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


def split_into_segments(chain: torch.Tensor, most: int) -> torch.Tensor:
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


def _index_within_segment(segment: torch.Tensor) -> torch.Tensor:
    """Place of each residue in its segment, from 0."""
    counts = torch.bincount(segment)
    return torch.arange(len(segment), device=segment.device) - (counts.cumsum(0) - counts)[segment]


@dataclass(frozen=True)
class PairRepresentation:
    """What is between n residues.

    Attributes
    ----------
    values : (n, n, 128) float
        Normalised without scale and offset, of any float type; no gradient is taken to it unless it asks for one.
    added : SegmentPairAddition, optional
    backward_values : (n, n, 128) float, optional
        A copy of the values, of a shorter type, for attention's backward pass.
    """

    values: torch.Tensor
    added: Optional[SegmentPairAddition] = None
    backward_values: Optional[torch.Tensor] = None

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        if self.values.requires_grad:
            frozen = torch.matmul(self.values.to(weight.dtype), weight.T).permute(2, 0, 1)
        else:
            frozen = _FrozenPairProjection.apply(weight, self.values)
        return frozen if self.added is None else frozen + self.added.project(weight)


def choose_pair_dtypes(
    precision: str, residues: int, device: torch.device | str = "cpu"
) -> Tuple[torch.dtype, torch.dtype]:
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
    is_short = residues >= _MIN_RESIDUES_FOR_BFLOAT16 and _multiplies_bfloat16(torch.device(device))
    return torch.float32, torch.bfloat16 if is_short else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


def normalise_pair(
    pair: torch.Tensor, dtype: torch.dtype = torch.float32, backward_dtype: Optional[torch.dtype] = None
) -> PairRepresentation:
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
        return PairRepresentation(nn.functional.layer_norm(pair.to(dtype), (PAIR_WIDTH,)))
    values = torch.empty(pair.shape, dtype=dtype, device=pair.device)
    compute = torch.promote_types(dtype, torch.float32)
    for rows in _pair_row_blocks(pair):
        values[rows] = nn.functional.layer_norm(pair[rows].to(compute), (PAIR_WIDTH,)).to(dtype)
    return PairRepresentation(
        values, backward_values=None if backward_dtype in (None, dtype) else values.to(backward_dtype)
    )


def _pair_row_blocks(values: torch.Tensor) -> list[slice]:
    """Rows of a pair, few enough that a copy of them is small."""
    step = max(1, _PAIR_ELEMENTS_AT_ONCE // max(1, values[0].numel()))
    return [slice(start, start + step) for start in range(0, len(values), step)]


class _FrozenPairProjection(torch.autograd.Function):
    """``PairRepresentation.project`` with a gradient to the weight only; the pair is converted a block at a time."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        ctx.values = values
        n, heads = len(values), len(weight)
        out = torch.empty(heads, n, n, dtype=weight.dtype, device=weight.device)
        for rows in _pair_row_blocks(values):
            block = values[rows].to(weight.dtype).flatten(0, 1)
            out[:, rows] = torch.matmul(weight, block.T).view(heads, -1, n)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[torch.Tensor, None]:
        (gradient,) = gradients
        total = gradient.new_zeros(len(gradient), PAIR_WIDTH)
        for rows in _pair_row_blocks(ctx.values):
            block = ctx.values[rows].to(gradient.dtype).flatten(0, 1)
            total += torch.matmul(gradient[:, rows].flatten(1), block)
        return total, None


# Logits of a block: what stays in the cache while it is worked on, and what keeps a GPU busy.
_LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}


class _GradientAccumulator:
    """A gradient that several backward passes add to, a few rows at a time."""

    def __init__(self) -> None:
        self._total: Optional[torch.Tensor] = None

    def add(self, rows: slice, part: torch.Tensor) -> None:
        if self._total is None:
            heads, _, n = part.shape
            self._total = part.new_zeros(heads, n, n)
        self._total[:, rows] += part

    def taken(self) -> Optional[torch.Tensor]:
        """The sum; the next begins anew."""
        total, self._total = self._total, None
        return total


class SharedBias:
    """A bias of the logits that several attentions have in common; their gradients are added in one place.

    Autograd would write a gradient of size heads x n x n for each attention and then add them. Here each attention adds
    a block while it is in the cache; ``token`` stands for the bias in autograd's graph, which asks for the sum when
    the last of them is done.

    Parameters
    ----------
    values : (h, n, n) float
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values.detach()
        self.gradient = _GradientAccumulator()
        self.token: torch.Tensor = _BiasToken.apply(values, self.gradient)


class _BiasToken(torch.autograd.Function):
    """One number that stands for a bias."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gradient: _GradientAccumulator) -> torch.Tensor:
        ctx.gradient = gradient
        return values.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Tuple[Optional[torch.Tensor], None]:
        return ctx.gradient.taken(), None


def attend_with_pair(
    query: torch.Tensor,
    key: torch.Tensor,
    bias: SharedBias,
    values: torch.Tensor,
    pair: torch.Tensor,
    columns: Optional[torch.Tensor] = None,
    backward_pair: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values and pairs, weighted by a = softmax(query keyᵀ + bias) over keys.

    Parameters
    ----------
    query, key : (h, n, c) float
    bias : SharedBias
        Of (h, n, n).
    values : (h, n, d) float
    pair : (n, n, p) float
        Of any float type; products with it are made in this type.
    columns : (n, s) float, optional
        Constant values that all heads share.
    backward_pair : (n, n, p) float, optional
        A copy of the pair, perhaps of a shorter type, for products in the backward pass.

    Returns
    -------
    (h, n, d) float
        Σ_j a_hij values_hjd.
    (n, h, p) float
        Σ_j a_hij pair_ijp.
    (h, n, s) float
        Σ_j a_hij columns_js.
    """
    columns = values.new_empty(len(pair), 0) if columns is None else columns
    sums: Tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _PairAttention.apply(
        query, key, bias.token, values, pair, columns, bias, pair if backward_pair is None else backward_pair
    )
    return sums


class _PairAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        token: torch.Tensor,
        values: torch.Tensor,
        pair: torch.Tensor,
        columns: torch.Tensor,
        bias: SharedBias,
        backward_pair: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gathered = torch.empty_like(values)
        met = query.new_empty(len(query), len(pair), columns.shape[1])
        between = query.new_empty(len(pair), len(query), pair.shape[2])
        scale = query.new_empty(len(query), len(pair), 1)
        for rows in _query_row_blocks(query):
            attention = torch.baddbmm(bias.values[:, rows], query[:, rows], key.transpose(1, 2))
            greatest = attention.amax(2, keepdim=True)
            total = attention.sub_(greatest).exp_().sum(2, keepdim=True)
            scale[:, rows] = greatest + total.log()
            gathered[:, rows] = torch.bmm(attention, values) / total
            met[:, rows] = torch.matmul(attention, columns) / total
            between[rows] = torch.bmm(attention.transpose(0, 1).to(pair.dtype), pair[rows]) / total.transpose(0, 1)
        ctx.save_for_backward(query, key, values, backward_pair, columns, gathered, between, met, scale)
        ctx.bias = bias
        return gathered, between, met

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:
        query, key, values, pair, columns, gathered, between, met, scale = ctx.saved_tensors
        by_gathered, by_between, by_met = gradients
        by_query, by_key, by_values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(values)
        by_pair = torch.empty_like(pair) if ctx.needs_input_grad[4] else None
        # The softmax's gradient is a (g - Σ a g); this sum over keys needs the results alone.
        mean = (by_gathered * gathered).sum(2) + (by_between * between).sum(2).T + (by_met * met).sum(2)
        # One product each for what would be two or three: the sums go along as one more column of ones.
        one = scale.new_ones(len(key), len(pair), 1)
        scaled_query, keys = torch.cat([query, -scale], 2), torch.cat([key, one], 2).transpose(1, 2)
        toward_values = torch.cat([by_gathered, by_met, -mean[..., None]], 2)
        all_values = torch.cat([values, columns.expand(len(key), -1, -1), one], 2).transpose(1, 2)
        for rows in _query_row_blocks(query):
            attention = torch.baddbmm(ctx.bias.values[:, rows], scaled_query[:, rows], keys).exp_()
            toward = by_between[rows].to(pair.dtype)
            by_logits = torch.bmm(toward_values[:, rows], all_values)
            by_logits += torch.bmm(toward, pair[rows].transpose(1, 2)).transpose(0, 1)
            by_logits *= attention
            by_values += torch.bmm(attention.transpose(1, 2), by_gathered[:, rows])
            by_query[:, rows] = torch.bmm(by_logits, key)
            by_key += torch.bmm(by_logits.transpose(1, 2), query[:, rows])
            if ctx.needs_input_grad[2]:
                ctx.bias.gradient.add(rows, by_logits)
            if by_pair is not None:
                by_pair[rows] = torch.bmm(attention.permute(1, 2, 0).to(pair.dtype), toward)
        by_token = query.new_zeros(()) if ctx.needs_input_grad[2] else None
        return by_query, by_key, by_token, by_values, by_pair, None, None, None


def _query_row_blocks(query: torch.Tensor) -> list[slice]:
    heads, n, _ = query.shape
    step = max(1, _LOGITS_AT_ONCE.get(query.device.type, _LOGITS_AT_ONCE["cpu"]) // (heads * n))
    return [slice(start, start + step) for start in range(0, n, step)]
