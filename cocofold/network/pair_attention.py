"""Attention that also gathers what lies between residues, a few query rows at a time.

Nothing of size heads x n x n is kept: the backward pass computes the attention of each block of rows again, while they
are in the processor's cache, and reads the pair once for the forward and once for the backward pass. Both wait for
memory there, which is why the backward pass may read a shorter copy.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch

# Logits of a block: what stays in the cache while it is worked on, and what keeps a GPU busy.
_BLOCK_NUMBERS = {"cpu": 1 << 21, "cuda": 1 << 26}


class _Sum:
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
        self.gradient = _Sum()
        self.token: torch.Tensor = _Token.apply(values, self.gradient)


class _Token(torch.autograd.Function):
    """One number that stands for a bias."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gradient: _Sum) -> torch.Tensor:
        ctx.gradient = gradient
        return values.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Tuple[Optional[torch.Tensor], None]:
        return ctx.gradient.taken(), None


def attend(
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
    sums: Tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _Attend.apply(
        query, key, bias.token, values, pair, columns, bias, pair if backward_pair is None else backward_pair
    )
    return sums


class _Attend(torch.autograd.Function):
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
        for rows in _blocks(query):
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
        for rows in _blocks(query):
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


def _blocks(query: torch.Tensor) -> list[slice]:
    heads, n, _ = query.shape
    step = max(1, _BLOCK_NUMBERS.get(query.device.type, _BLOCK_NUMBERS["cpu"]) // (heads * n))
    return [slice(start, start + step) for start in range(0, n, step)]
