"""The pair representation in attention: a frozen part, a learned addition, and the sums over both.

Attention uses the pair representation for a bias of the logits and for a weighted sum. Both are linear, so an addition
that is the same for all residues of two segments is never written out: it becomes a term of the bias, and attention
sums up its weights over the residues of each segment.

``attend_with_pair`` works on blocks of rows, so that neither the logits of all heads nor a converted copy of the pair
is ever held as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from cocofold.alphafold.weight_layout import PAIR_WIDTH

# Numbers of a pair that are converted at a time: 16 MB as float32. Larger blocks need more memory and give the same
# values, but sums over blocks (the gradient of the projection) may differ in their last digits.
_PAIR_ELEMENTS_AT_ONCE = 1 << 22
# Smallest molecule for which "auto" keeps a bfloat16 copy of the pair: smaller pairs gain too little time from it.
_MIN_RESIDUES_FOR_BFLOAT16 = 1000
# Logits of a block: on a CPU as many as stay in its cache (8 MB as float32), on a GPU as many as keep it busy (256 MB).
# The sums over blocks in the backward pass depend on it in their last digits.
_LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}
# A GPU multiplies matrices of bfloat16 from this compute capability on (Ampere).
_BFLOAT16_CAPABILITY = (8, 0)


class SegmentPairAddition(nn.Module):
    """z_ijc = values_{s(i) s(j) c} for residues i, j in segments s: learned, zero at the start, never written out.

    Segments of one residue allow any addition; the number of parameters depends on the number of segments alone.

    Parameters
    ----------
    segment : (n,) int
        Segment of each residue, from ``split_into_segments``.
    """

    segment: torch.Tensor
    padded_index: torch.Tensor
    segment_one_hot: torch.Tensor

    def __init__(self, segment: torch.Tensor) -> None:
        super().__init__()
        count = int(segment.max()) + 1
        self.values = nn.Parameter(torch.zeros(count, count, PAIR_WIDTH))
        self._longest = int(torch.bincount(segment).max())
        self.register_buffer("segment", segment)
        self.register_buffer("padded_index", segment * self._longest + _index_within_segment(segment))
        self.register_buffer("segment_one_hot", nn.functional.one_hot(segment, count).to(self.values.dtype))

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        of_segments = torch.matmul(self.values, weight.T).permute(2, 0, 1)
        return of_segments.index_select(1, self.segment).index_select(2, self.segment)

    def weighted_sum(self, segment_weights: torch.Tensor) -> torch.Tensor:
        """Σ_j a_hij z_ijc from a_hij summed over the residues j of each segment, (h, n, segments): (n, h, 128)."""
        heads, _, count = segment_weights.shape
        # Residues of a segment share a matrix; segments are filled up to the length of the longest.
        padded = segment_weights.new_zeros(count * self._longest, heads, count)
        padded = padded.index_copy(0, self.padded_index, segment_weights.transpose(0, 1))
        out = torch.bmm(padded.view(count, -1, count), self.values)
        return out.view(-1, heads, PAIR_WIDTH).index_select(0, self.padded_index)


def split_into_segments(chain: torch.Tensor, max_segments: int) -> torch.Tensor:
    """Number of each residue's segment, (n,) int; segments have one length, as short as ``max_segments`` allows.

    Parameters
    ----------
    chain : (n,) int
        Number of each residue's chain. A segment lies within one chain, so that more chains than ``max_segments`` give
        as many segments as chains.
    max_segments : int
    """
    lengths = chain.unique_consecutive(return_counts=True)[1].tolist()
    allowed = max(max_segments, len(lengths))
    length = next(size for size in range(1, len(chain) + 1) if sum(-(-n // size) for n in lengths) <= allowed)
    pieces = [min(length, n - start) for n in lengths for start in range(0, n, length)]
    return torch.arange(len(pieces), device=chain.device).repeat_interleave(torch.tensor(pieces, device=chain.device))


def _index_within_segment(segment: torch.Tensor) -> torch.Tensor:
    """Index of each residue within its segment, from 0, (n,) int."""
    counts = torch.bincount(segment)
    return torch.arange(len(segment), device=segment.device) - (counts.cumsum(0) - counts)[segment]


@dataclass(frozen=True)
class PairRepresentation:
    """Pair representation of n residues, prepared for attention.

    Attributes
    ----------
    values : (n, n, 128) float
        Normalised without scale and offset, of any float type; it gets a gradient only if it requires one.
    added : SegmentPairAddition, optional
    backward_values : (n, n, 128) float, optional
        A copy of the values, of a shorter type, for attention's backward pass.
    """

    values: torch.Tensor
    added: SegmentPairAddition | None = None
    backward_values: torch.Tensor | None = None

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ_c z_ijc w_hc for a weight (h, 128): (h, n, n)."""
        if self.values.requires_grad:
            frozen = torch.matmul(self.values.to(weight.dtype), weight.T).permute(2, 0, 1)
        else:
            frozen = _FrozenPairProjection.apply(weight, self.values)
        return frozen if self.added is None else frozen + self.added.project(weight)


def choose_pair_dtypes(
    precision: str, residues: int, device: torch.device | str = "cpu"
) -> tuple[torch.dtype, torch.dtype]:
    """Types in which a pair is kept for the forward and for the backward pass.

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
    uses_bfloat16 = residues >= _MIN_RESIDUES_FOR_BFLOAT16 and _multiplies_bfloat16(torch.device(device))
    return torch.float32, torch.bfloat16 if uses_bfloat16 else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_CAPABILITY
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


def normalise_pair(
    pair: torch.Tensor, dtype: torch.dtype = torch.float32, backward_dtype: torch.dtype | None = None
) -> PairRepresentation:
    """Layer normalisation without scale and offset, which are left to attention: once for all iterations and steps.

    Parameters
    ----------
    pair : (n, n, 128) float
        AlphaFold's pair representation, of any float type. It is not changed, and its memory can be freed afterwards.
    dtype : torch.dtype
        Type of the result. Half of the memory with ``torch.bfloat16`` (two to three digits) or with
        ``torch.float16`` (three to four): normalised values stay below 12, within its range.
    backward_dtype : torch.dtype, optional
        Type of a second copy for attention's backward pass, if it differs: the atoms are then those of ``dtype``, and
        their gradient has the digits of this type.
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
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        total = gradient.new_zeros(len(gradient), PAIR_WIDTH)
        for rows in _pair_row_blocks(ctx.values):
            block = ctx.values[rows].to(gradient.dtype).flatten(0, 1)
            total += torch.matmul(gradient[:, rows].flatten(1), block)
        return total, None


class _GradientAccumulator:
    """A gradient that several backward passes add to, a few rows at a time."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None

    def add(self, rows: slice, part: torch.Tensor) -> None:
        if self._total is None:
            heads, _, n = part.shape
            self._total = part.new_zeros(heads, n, n)
        self._total[:, rows] += part

    def pop_total(self) -> torch.Tensor | None:
        """The sum, or None if nothing was added; the next sum starts from zero."""
        total, self._total = self._total, None
        return total


class SharedBias:
    """A bias of the logits that several attentions share; their gradients are added in one place.

    Autograd would write a gradient of size heads x n x n for each attention and then add them. Here each attention adds
    a block while it is in the cache. ``token`` stands for the bias in autograd's graph, which asks for the sum after
    the last attention.

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
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        return ctx.gradient.pop_total(), None


class AttentionSums(NamedTuple):
    """Sums over residues j with the weights a_hij of an attention.

    Attributes
    ----------
    values : (h, n, d) float
        Σ_j a_hij values_hjd.
    pairs : (n, h, p) float
        Σ_j a_hij pair_ijp of the frozen part.
    segment_weights : (h, n, s) float
        Σ_j a_hij over the residues j of each segment; no segments where the pair has no learned addition.
    """

    values: torch.Tensor
    pairs: torch.Tensor
    segment_weights: torch.Tensor


def attend_with_pair(
    query: torch.Tensor, key: torch.Tensor, bias: SharedBias, values: torch.Tensor, pair: PairRepresentation
) -> AttentionSums:
    """Values and pairs, weighted by a = softmax(query keyᵀ + bias) over keys.

    Parameters
    ----------
    query, key : (h, n, c) float
    bias : SharedBias
        Bias of the logits, (h, n, n).
    values : (h, n, d) float
    pair : PairRepresentation
        Products with its values are made in their type, in the backward pass in that of ``backward_values``.
    """
    if pair.added is None:
        segment_one_hot = values.new_empty(len(pair.values), 0)
    else:
        segment_one_hot = pair.added.segment_one_hot
    backward_pair = pair.values if pair.backward_values is None else pair.backward_values
    return AttentionSums(
        *_PairAttention.apply(query, key, bias.token, values, pair.values, segment_one_hot, bias, backward_pair)
    )


class _PairAttention(torch.autograd.Function):
    """``attend_with_pair``, block by block; the backward pass makes each block's attention weights again.

    The weights are a_hij = exp(q_hi·k_hj + bias_hij - scale_hi) with scale = log Σ_j exp(q·k + bias), which the forward
    pass keeps.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        token: torch.Tensor,
        values: torch.Tensor,
        pair: torch.Tensor,
        segment_one_hot: torch.Tensor,
        bias: SharedBias,
        backward_pair: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        value_sum = torch.empty_like(values)
        segment_weights = query.new_empty(len(query), len(pair), segment_one_hot.shape[1])
        pair_sum = query.new_empty(len(pair), len(query), pair.shape[2])
        scale = query.new_empty(len(query), len(pair), 1)
        for rows in _query_row_blocks(query):
            attention = torch.baddbmm(bias.values[:, rows], query[:, rows], key.transpose(1, 2))
            greatest = attention.amax(2, keepdim=True)
            total = attention.sub_(greatest).exp_().sum(2, keepdim=True)
            scale[:, rows] = greatest + total.log()
            value_sum[:, rows] = torch.bmm(attention, values) / total
            segment_weights[:, rows] = torch.matmul(attention, segment_one_hot) / total
            pair_sum[rows] = torch.bmm(attention.transpose(0, 1).to(pair.dtype), pair[rows]) / total.transpose(0, 1)
        ctx.save_for_backward(
            query, key, values, backward_pair, segment_one_hot, value_sum, pair_sum, segment_weights, scale
        )
        ctx.bias = bias
        return value_sum, pair_sum, segment_weights

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients, written g_x for that of x.

        With the gradient of the weights g_a_hij = g_value_sum_hi·values_hj + g_pair_sum_hi·pair_ij +
        g_segment_weights_hi·one_hot_j, the softmax gives g_logits = a (g_a - Σ_j a g_a). The sum over j follows from
        the results alone: it is g_value_sum·value_sum + g_pair_sum·pair_sum + g_segment_weights·segment_weights.
        """
        query, key, values, pair, segment_one_hot, value_sum, pair_sum, segment_weights, scale = ctx.saved_tensors
        g_value_sum, g_pair_sum, g_segment_weights = gradients
        # In the order of forward's arguments.
        _, _, needs_bias, _, needs_pair, *_ = ctx.needs_input_grad
        g_query, g_key, g_values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(values)
        g_pair = torch.empty_like(pair) if needs_pair else None
        mean = (
            (g_value_sum * value_sum).sum(2)
            + (g_pair_sum * pair_sum).sum(2).T
            + (g_segment_weights * segment_weights).sum(2)
        )
        # A column of ones subtracts scale and mean within the products, which saves passes over the logits.
        one = scale.new_ones(len(key), len(pair), 1)
        scaled_query, keys = torch.cat([query, -scale], 2), torch.cat([key, one], 2).transpose(1, 2)
        g_sums = torch.cat([g_value_sum, g_segment_weights, -mean[..., None]], 2)
        summed = torch.cat([values, segment_one_hot.expand(len(key), -1, -1), one], 2).transpose(1, 2)
        for rows in _query_row_blocks(query):
            attention = torch.baddbmm(ctx.bias.values[:, rows], scaled_query[:, rows], keys).exp_()
            g_pair_rows = g_pair_sum[rows].to(pair.dtype)
            g_logits = torch.bmm(g_sums[:, rows], summed)
            g_logits += torch.bmm(g_pair_rows, pair[rows].transpose(1, 2)).transpose(0, 1)
            g_logits *= attention
            g_values += torch.bmm(attention.transpose(1, 2), g_value_sum[:, rows])
            g_query[:, rows] = torch.bmm(g_logits, key)
            g_key += torch.bmm(g_logits.transpose(1, 2), query[:, rows])
            if needs_bias:
                ctx.bias.gradient.add(rows, g_logits)
            if g_pair is not None:
                g_pair[rows] = torch.bmm(attention.permute(1, 2, 0).to(pair.dtype), g_pair_rows)
        g_token = query.new_zeros(()) if needs_bias else None
        return g_query, g_key, g_token, g_values, g_pair, None, None, None


def _query_row_blocks(query: torch.Tensor) -> list[slice]:
    heads, n, _ = query.shape
    step = max(1, _LOGITS_AT_ONCE.get(query.device.type, _LOGITS_AT_ONCE["cpu"]) // (heads * n))
    return [slice(start, start + step) for start in range(0, n, step)]
