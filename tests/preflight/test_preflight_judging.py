"""What it takes to call something wrong."""

from __future__ import annotations

import numpy as np
import pytest

from cocofold.preflight.judging import BandScores, MeanWithError, is_above_chance, is_clearly_better

pytestmark = pytest.mark.slow

IMAGES = 100


def _scores(whole: float, fine: float, seed: int = 0) -> BandScores:
    """Scores of images about these means, each with its own error of 0.02."""
    noise = 0.02 * np.random.default_rng(seed).standard_normal((2, IMAGES))
    noise -= noise.mean(1, keepdims=True)
    return BandScores(whole + noise[0], whole + noise[0], fine + noise[1])


@pytest.mark.parametrize(
    ("whole", "fine", "expected"),
    [
        (0.30, 0.12, True),
        (0.30, 0.05, False),  # a blob: nothing gained at fine rings
        (0.16, 0.12, False),  # clear, but by less than a tenth
        (0.15, 0.05, False),
    ],
)
def test_a_gain_must_be_large_and_at_fine_rings_too(whole: float, fine: float, expected: bool) -> None:
    assert is_clearly_better(_scores(whole, fine, 1), _scores(0.15, 0.05, 2)) is expected


@pytest.mark.parametrize(("fine", "expected"), [(0.12, True), (0.07, False), (0.01, False), (-0.1, False)])
def test_fine_rings_must_agree_twice_as_well_as_by_chance(fine: float, expected: bool) -> None:
    by_chance = [_scores(0.2, chance, seed) for seed, chance in enumerate((0.0, 0.04, -0.02), start=2)]
    assert is_above_chance(_scores(0.3, fine, 1), by_chance) is expected


def test_a_mean_of_one_image_or_of_equals_says_nothing() -> None:
    assert MeanWithError.of(np.array([0.5])).z_score == 0
    assert MeanWithError.of(np.zeros(5)).z_score == 0
    assert MeanWithError.of(np.ones(5)).z_score == np.inf
