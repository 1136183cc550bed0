"""Sums of few rows of a table each, with fixed weights: a sparse matrix times a dense one."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding_bag


class WeightedSums:
    """A sparse matrix with as many entries in each row, which is multiplied by tables of numbers.

    Entries are sorted once for each direction, so that neither the product nor its gradient scatters: for 1,600 rows of
    sixteen entries that takes a twentieth of the time. (torch's own sparse matrices are said to be in beta.)

    Parameters
    ----------
    rows : (n, k) int
        Rows of the table that are summed.
    weights : (n, k) float
    count : int
        Rows of the table.
    """

    def __init__(self, rows: torch.Tensor, weights: torch.Tensor, count: int) -> None:
        rows, weights = rows.contiguous(), weights.contiguous()
        self._there = (rows, None, weights)
        order = rows.flatten().argsort(stable=True)
        counts = torch.bincount(rows.flatten(), minlength=count)
        self._back = (order // rows.shape[1], counts.cumsum(0) - counts, weights.flatten()[order])

    def __call__(self, table: torch.Tensor) -> torch.Tensor:
        """Sums of rows of a table, (count, columns) float: (n, columns), differentiable."""
        found: torch.Tensor = _Product.apply(table, self)
        return found

    def times(self, table: torch.Tensor) -> torch.Tensor:
        """As a call, without a gradient."""
        return _sums(table, *self._there)

    def transposed_times(self, table: torch.Tensor) -> torch.Tensor:
        """The transposed matrix times a table, (n, columns) float: (count, columns), without a gradient."""
        return _sums(table, *self._back)


def _sums(table: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor | None, weights: torch.Tensor) -> torch.Tensor:
    return embedding_bag(rows, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, sums: WeightedSums) -> torch.Tensor:
        ctx.sums = sums
        return sums.times(table)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.sums.transposed_times(gradients[0].contiguous()), None
