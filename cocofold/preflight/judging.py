"""Which of two ways to take particles explains them better, and when that says that one of them is wrong.

A model that is misplaced, or of another shape, explains images like a blob: at low resolution, and there a wrong
alternative may well do better than the right one. What no blob can do is to agree with the images at finer rings. So
an alternative stands only if it does: clearly better than the model turned at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cocofold.preflight.hypotheses import Hypothesis
from cocofold.preflight.scoring import Scorer

CLEAR_IN_ERRORS = 5.0
AGREES_IN_ERRORS = 4.0
LEAST_GAIN = 0.1
ABOVE_CHANCE = 2.0
TURNS = 12
_FINE_ANGSTROM = 14.0
_FINE_RANGE = 1.5
_COARSEST_ANGSTROM = 100.0


@dataclass(frozen=True)
class Scores:
    """Mean ring correlation of each image, (n,): over all rings, and over the coarse and the fine ones."""

    whole: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray

    def __neg__(self) -> Scores:
        return Scores(-self.whole, -self.coarse, -self.fine)


@dataclass(frozen=True)
class Mean:
    """A mean over images and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Of values of images, (n,)."""
        if len(values) < 2:
            return cls(float(values.mean()), float("inf"))
        return cls(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5)

    @property
    def in_errors(self) -> float:
        """The mean in units of its standard error."""
        if self.value == 0:
            return 0.0
        return self.value / self.error if self.error > 0 else float(np.copysign(np.inf, self.value))


class Judge:
    """Compares hypotheses image by image.

    Parameters
    ----------
    scorer : Scorer
    seed : int
        Of the random turns.

    Attributes
    ----------
    turns : (n, 3, 3) float64
        Random rotations.
    fine_angstrom : float
        Rings finer than this are the fine ones.
    """

    def __init__(self, scorer: Scorer, seed: int = 0) -> None:
        self.scorer = scorer
        resolution = scorer.resolutions_angstrom
        self.fine_angstrom = max(_FINE_ANGSTROM, _FINE_RANGE * resolution[-1])
        # The error of a ring's correlation falls with the root of its pixels.
        weight = np.sqrt(np.arange(1, len(resolution) + 1)) * (resolution < _COARSEST_ANGSTROM)
        fine = resolution < self.fine_angstrom
        self._weights = [weight, weight * ~fine, weight * fine]
        self.turns = Rotation.random(TURNS, random_state=seed).as_matrix()
        self._known: dict[Hypothesis, Scores] = {}
        self._chance: dict[Hypothesis, list[Scores]] = {}

    def scores(self, hypothesis: Hypothesis) -> Scores:
        """Scores of a hypothesis."""
        if hypothesis.contrast < 0:
            return -self.scores(hypothesis.without("contrast"))
        if hypothesis not in self._known:
            self._known[hypothesis] = self.summed(self.scorer.correlations(hypothesis))
        return self._known[hypothesis]

    def summed(self, correlations: np.ndarray) -> Scores:
        """Scores from ring correlations, (n, n_rings)."""
        return Scores(*(correlations @ weight / max(weight.sum(), 1e-12) for weight in self._weights))

    def by_chance(self, hypothesis: Hypothesis) -> list[Scores]:
        """Scores of the model turned at random about its centroid."""
        if hypothesis not in self._chance:
            self._chance[hypothesis] = [self.summed(self.scorer.correlations(hypothesis, turn)) for turn in self.turns]
        return self._chance[hypothesis]

    def margin(self, one: Hypothesis, other: Hypothesis) -> Mean:
        """How much better one is, image by image, over all rings."""
        return Mean.of(self.scores(one).whole - self.scores(other).whole)

    def stands(self, hypothesis: Hypothesis) -> bool:
        """Whether fine rings agree with the model as they do for none of its random turns."""
        scores = self.scores(hypothesis)
        # The random turns cost far more than to see that there is nothing to compare.
        return Mean.of(scores.fine).in_errors >= CLEAR_IN_ERRORS and above_chance(scores, self.by_chance(hypothesis))


def beats(one: Scores, other: Scores) -> bool:
    """Whether one is clearly better: at all rings, at the fine ones, and by a tenth of what it explains."""
    whole, fine = Mean.of(one.whole - other.whole), Mean.of(one.fine - other.fine)
    enough = whole.value >= LEAST_GAIN * float(one.whole.mean())
    return enough and min(whole.in_errors, fine.in_errors) >= CLEAR_IN_ERRORS


def above_chance(one: Scores, by_chance: list[Scores]) -> bool:
    """Whether fine rings agree twice as well as they do by chance at best, and clearly so."""
    fine = float(one.fine.mean())
    return Mean.of(one.fine).in_errors >= CLEAR_IN_ERRORS and all(
        fine >= ABOVE_CHANCE * float(other.fine.mean()) and Mean.of(one.fine - other.fine).in_errors >= CLEAR_IN_ERRORS
        for other in by_chance
    )
