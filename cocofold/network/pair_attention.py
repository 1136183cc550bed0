"""Attention that also gathers what lies between residues, a few query rows at a time.

Nothing of size heads x n x n is kept: the backward pass computes the attention of each block of rows again, while they
are in the processor's cache, and reads the pair once for the forward and once for the backward pass.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch

# Logits of a block: what a core's cache holds, and what keeps a GPU busy.
_BLOCK_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 26}


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    pair: torch.Tensor,
    columns: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values and pairs, weighted by a = softmax(query keyᵀ + bias) over keys.

    Parameters
    ----------
    query, key : (h, n, c) float
    bias : (h, n, n) float
    values : (h, n, d) float
    pair : (n, n, p) float
        Of any float type; products with it are made in this type.
    columns : (n, s) float, optional
        Constant values that all heads share.

    Returns
    -------
    (h, n, d) float
        Σ_j a_hij values_hjd.
    (n, h, p) float
        Σ_j a_hij pair_ijp.
    (h, n, s) float
        Σ_j a_hij columns_js.
    """
    none = values.new_empty(len(pair), 0)
    return _Attend.apply(query, key, bias, values, pair, none if columns is None else columns)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        bias: torch.Tensor,
        values: torch.Tensor,
        pair: torch.Tensor,
        columns: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gathered = torch.empty_like(values)
        met = query.new_empty(len(query), len(pair), columns.shape[1])
        between = query.new_empty(len(pair), len(query), pair.shape[2])
        for rows in _blocks(query):
            attention = _attention(query, key, bias, rows)
            gathered[:, rows] = torch.bmm(attention, values)
            met[:, rows] = torch.matmul(attention, columns)
            between[rows] = torch.bmm(attention.transpose(0, 1).to(pair.dtype), pair[rows]).to(query.dtype)
        ctx.save_for_backward(query, key, bias, values, pair, columns, gathered, between, met)
        return gathered, between, met

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:
        query, key, bias, values, pair, columns, gathered, between, met = ctx.saved_tensors
        by_gathered, by_between, by_met = gradients
        by_query, by_key, by_values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(values)
        by_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        by_pair = torch.empty_like(pair) if ctx.needs_input_grad[4] else None
        # The softmax's gradient is a (g - Σ a g); this sum over keys needs the results alone.
        mean = (by_gathered * gathered).sum(2) + (by_between * between).sum(2).T + (by_met * met).sum(2)
        for rows in _blocks(query):
            attention = _attention(query, key, bias, rows)
            toward = by_between[rows].to(pair.dtype)
            by_logits = torch.bmm(by_gathered[:, rows], values.transpose(1, 2))
            by_logits += torch.bmm(toward, pair[rows].transpose(1, 2)).transpose(0, 1)
            by_logits += torch.matmul(by_met[:, rows], columns.T)
            by_logits -= mean[:, rows, None]
            by_logits *= attention
            by_values += torch.bmm(attention.transpose(1, 2), by_gathered[:, rows])
            by_query[:, rows] = torch.bmm(by_logits, key)
            by_key += torch.bmm(by_logits.transpose(1, 2), query[:, rows])
            if by_bias is not None:
                by_bias[:, rows] = by_logits
            if by_pair is not None:
                by_pair[rows] = torch.bmm(attention.permute(1, 2, 0).to(pair.dtype), toward)
        return by_query, by_key, by_bias, by_values, by_pair, None


def _attention(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, rows: slice) -> torch.Tensor:
    """Shares of all keys in what some rows gather, (h, rows, n)."""
    return torch.baddbmm(bias[:, rows], query[:, rows], key.transpose(1, 2)).softmax(2)


def _blocks(query: torch.Tensor) -> list[slice]:
    heads, n, _ = query.shape
    step = max(1, _BLOCK_NUMBERS.get(query.device.type, _BLOCK_NUMBERS["cpu"]) // (heads * n))
    return [slice(start, start + step) for start in range(0, n, step)]
