"""Sums of few rows with fixed weights, against the dense matrix."""

from __future__ import annotations

import torch

from cocofold.structure.restraints import WeightedSums

ROWS, COUNT = torch.tensor([[3, 0, 3], [1, 1, 4], [0, 3, 1]]), 6


def _dense(weights: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(len(ROWS), COUNT, dtype=weights.dtype)
    for row, (columns, values) in enumerate(zip(ROWS, weights)):
        for column, value in zip(columns.tolist(), values):
            matrix[row, column] += value
    return matrix


def test_sums_are_those_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, table = (torch.randn(shape, generator=generator) for shape in ((3, 3), (COUNT, 4)))
    torch.testing.assert_close(WeightedSums(ROWS, weights, COUNT)(table), _dense(weights) @ table)


def test_the_gradient_reaches_each_row_that_is_summed() -> None:
    """Rows 2 and 5 of the table are in no sum, rows 1 and 3 twice in one."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    table = torch.randn(COUNT, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    toward = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    WeightedSums(ROWS, weights, COUNT)(table).backward(toward)
    assert table.grad is not None
    torch.testing.assert_close(table.grad, _dense(weights).T @ toward)
    assert not table.grad[[2, 5]].any()
