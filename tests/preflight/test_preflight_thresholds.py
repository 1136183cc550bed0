"""How many standard errors, and what gain, a verdict of the check takes."""

from __future__ import annotations

import numpy as np
import pytest

from cocofold.preflight.check_report import Alternative, CheckVerdict
from cocofold.preflight.judging import BandScores, MeanWithError, is_above_chance, is_clearly_better
from cocofold.preflight.questions import agrees_or_undecided, score_sentence

IMAGES = 100
FLAT = np.zeros(IMAGES)


def _with_errors(mean: float, errors: float) -> np.ndarray:
    """Values of images with a mean that is so many times its standard error."""
    scatter = np.linspace(-1, 1, IMAGES)
    scatter *= mean / errors * IMAGES**0.5 / scatter.std(ddof=1)
    return mean + scatter


def _gaining(whole_errors: float, fine_errors: float, gain: float = 0.1) -> tuple[BandScores, BandScores]:
    """Scores of 0.2 and better ones, by so many standard errors over all rings and over the fine ones."""
    given = BandScores(FLAT + 0.2, FLAT + 0.2, FLAT + 0.1)
    whole, fine = _with_errors(gain, whole_errors), _with_errors(gain, fine_errors)
    return BandScores(given.whole + whole, given.coarse + whole, given.fine + fine), given


@pytest.mark.parametrize(
    ("whole_errors", "fine_errors", "expected"),
    [(5.5, 5.5, True), (4.5, 5.5, False), (5.5, 4.5, False), (50.0, 4.5, False)],
)
def test_a_clear_gain_is_five_standard_errors_at_all_and_at_fine_rings(
    whole_errors: float, fine_errors: float, expected: bool
) -> None:
    assert is_clearly_better(*_gaining(whole_errors, fine_errors)) is expected


@pytest.mark.parametrize(("gain", "expected"), [(0.018, False), (0.026, True)])
def test_a_clear_gain_is_a_tenth_of_what_is_explained(gain: float, expected: bool) -> None:
    assert is_clearly_better(*_gaining(50.0, 50.0, gain)) is expected


def test_equal_scores_and_a_gain_at_coarse_rings_only_are_no_clear_gain() -> None:
    """A blob explains coarse rings."""
    better, given = _gaining(50.0, 50.0)
    assert not is_clearly_better(given, given)
    assert not is_clearly_better(BandScores(better.whole, better.coarse, given.fine), given)


@pytest.mark.parametrize(("errors", "expected"), [(5.5, True), (4.5, False), (-50.0, False)])
def test_fine_rings_agree_by_five_standard_errors(errors: float, expected: bool) -> None:
    fine = _with_errors(0.1 * np.sign(errors), errors)
    assert is_above_chance(BandScores(FLAT, FLAT, fine), [BandScores(FLAT, FLAT, FLAT)]) is expected


@pytest.mark.parametrize(("chance", "expected"), [(0.045, True), (0.055, False)])
def test_fine_rings_agree_twice_as_well_as_the_best_of_chance(chance: float, expected: bool) -> None:
    fine = _with_errors(0.1, 50.0)
    by_chance = [BandScores(FLAT, FLAT, FLAT + value) for value in (0.0, chance, 0.01)]
    assert is_above_chance(BandScores(FLAT, FLAT, fine), by_chance) is expected


def test_a_mean_of_one_image_or_of_equals_says_nothing() -> None:
    assert MeanWithError.of(np.array([0.5])).z_score == 0
    assert MeanWithError.of(np.zeros(5)).z_score == 0
    assert MeanWithError.of(np.ones(5)).z_score == np.inf


@pytest.mark.parametrize(
    ("errors", "verdict", "words"),
    [
        ([9.0, 4.5], "agrees", "poses: agree with the model: "),
        ([9.0, 3.5], "undecided", ", which is too close to tell (3.5 standard errors, and 4 are needed)."),
        ([9.0, -3.5], "undecided", ", which is too close to tell (3.5 standard errors, and 4 are needed)."),
        ([9.0, -4.5], "undecided", ", which is better by 4.5 standard errors, but by too little"),
    ],
)
def test_an_answer_agrees_from_four_standard_errors_on(errors: list[float], verdict: str, words: str) -> None:
    table = (
        Alternative("as given", 0.3, 0.01, 0.2, 0.0),
        Alternative("far", 0.1, 0.01, 0.0, -errors[0]),
        Alternative("near", 0.28, 0.01, 0.18, -errors[1]),
    )
    margins = [MeanWithError(0.01 * number, 0.01) for number in errors]
    found = agrees_or_undecided("poses", table, margins, "")
    assert found.verdict == verdict
    assert words in str(found)
    assert "the score is 0.30 as given, and 0.28 for the alternative 'near'" in found.line


def test_scores_have_the_digits_that_tell_them_apart() -> None:
    given = Alternative("2.5 Å", 0.1604, 0.01, 0.2, 0.0)
    assert score_sentence(given, Alternative("2.54 Å", 0.1631, 0.01, 0.2, 5.9)) == (
        "the score is 0.160 as given, and 0.163 for the alternative '2.54 Å'"
    )


def test_what_to_do_is_a_sentence_of_its_own() -> None:
    assert str(CheckVerdict("hand", "wrong", "the poses look mirrored.", "mirror the map")) == (
        "hand: the poses look mirrored. What to do: mirror the map."
    )
