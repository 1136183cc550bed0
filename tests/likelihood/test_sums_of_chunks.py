"""Sums of chunks, two halves at a time: the same bits, whoever adds what."""

from __future__ import annotations

import pytest
import torch

from cocofold.likelihood.frc_loss import pairwise_spans, sum_pairwise


def _parts(count: int) -> torch.Tensor:
    """Numbers whose sum depends on the order in which they are added."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 50, generator=generator) * 10 ** torch.linspace(-4, 4, 50)


def _sum(parts: torch.Tensor, first: int, last: int) -> torch.Tensor:
    return sum_pairwise(first, last, lambda begin, end: parts[begin] if end - begin == 1 else None)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 16, 21])
def test_shares_of_processes_add_up_to_the_sum_of_one(count: int) -> None:
    parts = _parts(count)
    expected = _sum(parts, 0, count)
    torch.testing.assert_close(expected, parts.sum(0), rtol=1e-4, atol=1e-4)
    for processes in range(1, 8):
        cuts = [rank * count // processes for rank in range(processes + 1)]
        spans = [span for begin, end in zip(cuts, cuts[1:]) for span in pairwise_spans(0, count, begin, end)]
        # Each chunk once, in order
        assert [row for first, last in spans for row in range(first, last)] == list(range(count))
        sent = {span: _sum(parts, *span) for span in spans}
        assert torch.equal(sum_pairwise(0, count, lambda first, last, sent=sent: sent.get((first, last))), expected)


def test_even_shares_are_sent_as_one_sum() -> None:
    for count in (2, 16, 21):
        assert all(len(pairwise_spans(0, count, *share)) == 1 for share in ((0, count // 2), (count // 2, count)))
    assert pairwise_spans(0, 16, 3, 12) == [(3, 4), (4, 8), (8, 12)]
    assert not pairwise_spans(0, 16, 5, 5)


def test_one_after_another_would_give_other_bits() -> None:
    """Otherwise nothing above could fail."""
    parts = _parts(16)
    assert not torch.equal(sum(parts[1:], parts[0]), _sum(parts, 0, 16))
