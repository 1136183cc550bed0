"""Which of two ways to take particles explains them better, and when that says that one of them is wrong.

A model that is misplaced, or of another shape, explains images like a blob: at low resolution, and there a wrong
alternative may well do better than the right one. What no blob can do is to agree with the images at finer rings. So
an alternative stands only if it does: clearly better than the model turned at random.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.reconstruction import reconstruct
from cocofold.preflight.check_report import AGREES, UNDECIDED, WRONG, CheckVerdict
from cocofold.preflight.scoring import (
    GIVEN,
    MIRRORS,
    SHIFT_CHOICES,
    Hypothesis,
    HypothesisScorer,
    other_ctfs,
)
from cocofold.structure.geometry import radius_of_gyration

# Standard errors over images by which one hypothesis is clearly better than another: many are compared, and to call
# something wrong that is right stops a run. Larger values leave more undecided.
CLEAR_STANDARD_ERRORS = 5.0
# Standard errors by which what is given must be better than all else for the verdict that it agrees.
AGREES_STANDARD_ERRORS = 4.0
# Least gain of what is clearly better, as a share of its own score: with many images a gain is significant long before
# it matters.
MIN_RELATIVE_GAIN = 0.1
# Fine rings must agree so many times as well as with the model turned at random, of which there are so many.
MIN_RATIO_TO_CHANCE = 2.0
RANDOM_TURNS = 12  # more make a chance agreement less likely to pass, and take longer
# Fine rings are those finer than this, at which a molecule is no blob, or than so many times the check's resolution.
_FINE_ANGSTROM = 14.0
_FINE_PER_RESOLUTION = 1.5
# Coarser rings hold the background of the images.
_COARSEST_ANGSTROM = 100.0


@dataclass(frozen=True)
class BandScores:
    """Mean ring correlation of each image, (n,): over all rings, and over the coarse and the fine ones."""

    whole: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray

    def __neg__(self) -> BandScores:
        return BandScores(-self.whole, -self.coarse, -self.fine)


@dataclass(frozen=True)
class MeanWithError:
    """A mean over images and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> MeanWithError:
        """Of values of images, (n,)."""
        if len(values) < 2:
            return cls(float(values.mean()), float("inf"))
        return cls(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5)

    @property
    def z_score(self) -> float:
        """The mean in units of its standard error."""
        if self.value == 0:
            return 0.0
        return self.value / self.error if self.error > 0 else float(np.copysign(np.inf, self.value))


class HypothesisComparer:
    """Compares hypotheses image by image.

    Parameters
    ----------
    scorer : HypothesisScorer
    seed : int
        Of the random turns.

    Attributes
    ----------
    random_turns : (n, 3, 3) float64
        Random rotations.
    fine_angstrom : float
        Rings finer than this are the fine ones.
    """

    def __init__(self, scorer: HypothesisScorer, seed: int = 0) -> None:
        self.scorer = scorer
        resolution = scorer.resolutions_angstrom
        self.fine_angstrom = max(_FINE_ANGSTROM, _FINE_PER_RESOLUTION * resolution[-1])
        # The error of a ring's correlation falls with the root of its pixels.
        weight = np.sqrt(np.arange(1, len(resolution) + 1)) * (resolution < _COARSEST_ANGSTROM)
        fine = resolution < self.fine_angstrom
        self._weights = [weight, weight * ~fine, weight * fine]
        self.random_turns = Rotation.random(RANDOM_TURNS, random_state=seed).as_matrix()
        self._known: dict[Hypothesis, BandScores] = {}
        self._chance: dict[Hypothesis, list[BandScores]] = {}

    def scores(self, hypothesis: Hypothesis) -> BandScores:
        """Scores of a hypothesis."""
        if hypothesis.contrast < 0:
            return -self.scores(hypothesis.without("contrast"))
        if hypothesis not in self._known:
            self._known[hypothesis] = self.band_scores(self.scorer.correlations(hypothesis))
        return self._known[hypothesis]

    def band_scores(self, correlations: np.ndarray) -> BandScores:
        """Scores from ring correlations, (n, n_rings)."""
        return BandScores(*(correlations @ weight / max(weight.sum(), 1e-12) for weight in self._weights))

    def scores_of_random_turns(self, hypothesis: Hypothesis) -> list[BandScores]:
        """Scores of the model turned at random about its centroid."""
        if hypothesis not in self._chance:
            self._chance[hypothesis] = [
                self.band_scores(self.scorer.correlations(hypothesis, turn)) for turn in self.random_turns
            ]
        return self._chance[hypothesis]

    def margin(self, one: Hypothesis, other: Hypothesis) -> MeanWithError:
        """How much better one is, image by image, over all rings."""
        return MeanWithError.of(self.scores(one).whole - self.scores(other).whole)

    def is_supported(self, hypothesis: Hypothesis) -> bool:
        """Whether fine rings agree with the model as they do for none of its random turns."""
        scores = self.scores(hypothesis)
        # The random turns cost far more than to see that there is nothing to compare.
        return MeanWithError.of(scores.fine).z_score >= CLEAR_STANDARD_ERRORS and is_above_chance(
            scores, self.scores_of_random_turns(hypothesis)
        )


def is_clearly_better(one: BandScores, other: BandScores) -> bool:
    """Whether one is clearly better: at all rings, at the fine ones, and by a tenth of what it explains."""
    whole, fine = MeanWithError.of(one.whole - other.whole), MeanWithError.of(one.fine - other.fine)
    enough = whole.value >= MIN_RELATIVE_GAIN * float(one.whole.mean())
    return enough and min(whole.z_score, fine.z_score) >= CLEAR_STANDARD_ERRORS


def is_above_chance(one: BandScores, by_chance: list[BandScores]) -> bool:
    """Whether fine rings agree twice as well as they do by chance at best, and clearly so."""
    fine = float(one.fine.mean())
    return MeanWithError.of(one.fine).z_score >= CLEAR_STANDARD_ERRORS and all(
        fine >= MIN_RATIO_TO_CHANCE * float(other.fine.mean())
        and MeanWithError.of(one.fine - other.fine).z_score >= CLEAR_STANDARD_ERRORS
        for other in by_chance
    )


# The best hypothesis keeps an attribute that is not as given only if it is better by so many standard errors with it.
_DISTINCT_STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class BestHypotheses:
    """What is accepted, and what scores best.

    Attributes
    ----------
    accepted : Hypothesis
        As given but for what is clearly wrong.
    best_scoring : Hypothesis
        What scores best, whether that means anything or not; of equals the one nearest to what is given.
    """

    accepted: Hypothesis
    best_scoring: Hypothesis

    @property
    def likely(self) -> list[Hypothesis]:
        """Both, the accepted one first, or one if they are the same."""
        return list(dict.fromkeys((self.accepted, self.best_scoring)))


def find_best_hypotheses(comparer: HypothesisComparer) -> BestHypotheses:
    """What is clearly the case, of all combinations of answers to all questions but the pixel size's."""
    given = Hypothesis()
    ctfs = (GIVEN, *other_ctfs(comparer.scorer.particles))
    every = (
        Hypothesis(contrast=contrast, transposed=transposed, mirror=mirror, shifts=shifts, ctf=ctf)
        for contrast, transposed, mirror, shifts, ctf in itertools.product(
            (1, -1), (False, True), (None, *MIRRORS), SHIFT_CHOICES, ctfs
        )
    )
    best = max(every, key=lambda one: float(comparer.scores(one).whole.mean()))
    for name in best.changes():
        if comparer.margin(best, best.without(name)).z_score < _DISTINCT_STANDARD_ERRORS:
            best = best.without(name)
    clear = best != given and is_clearly_better(comparer.scores(best), comparer.scores(given))
    if not clear or not comparer.is_supported(best):
        is_dark = looks_dark_at_low_resolution(comparer, given)
        return BestHypotheses(replace(given, contrast=-1) if is_dark else given, best)
    accepted = best
    for name in best.changes():
        if not is_clearly_better(comparer.scores(accepted), comparer.scores(accepted.without(name))):
            accepted = accepted.without(name)
    return BestHypotheses(accepted, best)


# How far beside its place the model is tried, in radii of gyration: beside a particle and one farther.
_STEPS_IN_RADII = (1.3, 2.6)
# White found there, times this, outweighs the dark here: a dark particle too has white fringes, but weaker ones.
_MIN_WHITE_RATIO = 1.5


def looks_dark_at_low_resolution(
    comparer: HypothesisComparer, hypothesis: Hypothesis, clear_standard_errors: float = CLEAR_STANDARD_ERRORS
) -> bool:
    """Whether the model, as a blob, lies where the images are dark.

    Beside a white particle images are darker than on average too. But there, moved to the particle, the model finds
    more white than it finds dark where it is.
    """
    here = MeanWithError.of(comparer.scores(hypothesis).coarse)
    if here.z_score > -clear_standard_errors:
        return False
    radius = radius_of_gyration(comparer.scorer.model.positions)
    for axis, sign, step in itertools.product(range(3), (1, -1), _STEPS_IN_RADII):
        move = sign * step * radius * np.eye(3)[axis]
        there = comparer.band_scores(comparer.scorer.correlations(hypothesis, move=move)).coarse.mean()
        if _MIN_WHITE_RATIO * there > -here.value:
            return False
    return True


# Defoci that are tried for every image: the range of single-particle work, in steps that are fine enough at the check's
# resolution.
_DEFOCI_ANGSTROM = np.arange(3_000.0, 40_000.0, 750.0)


def scores_at_best_defoci(
    comparer: HypothesisComparer, accepted: Hypothesis, turn: np.ndarray | None
) -> tuple[BandScores, np.ndarray]:
    """Scores with the defocus that each image shows best, and these defoci, (n,) Å.

    An image's defocus is chosen on half of its Fourier pixels and scored on the others, so that it gains nothing from
    the choice. ``turn`` rotates the model first, (3, 3).
    """
    halves = comparer.scorer.correlations_of_defoci(accepted, _DEFOCI_ANGSTROM, turn)
    every = np.arange(halves[0].shape[1])
    chosen, defoci = [], []
    for half, other in (halves, halves[::-1]):
        best = comparer.band_scores(half).whole.argmax(0)
        chosen.append(other[best, every])
        defoci.append(_DEFOCI_ANGSTROM[best])
    return comparer.band_scores((chosen[0] + chosen[1]) / 2), np.mean(defoci, 0)


IDENTITY = "identity"
# Finest resolution of the reconstruction that identity is asked of; finer shells of a few hundred images hold noise.
_IDENTITY_RESOLUTION_ANGSTROM = 7.0


def check_identity(comparer: HypothesisComparer, accepted: Hypothesis, device: torch.device | str) -> CheckVerdict:
    """Whether it is this molecule at all: whether it fits the particles' reconstruction better than turned at random.

    It makes sense where all else is right: with wrong poses no model fits.
    """
    particles, model = comparer.scorer.particles, comparer.scorer.model
    seen = particles if accepted.contrast > 0 else replace(particles, contrast=-particles.contrast)
    signal = ExplainedSignal(reconstruct(seen, device=device, resolution_angstrom=_IDENTITY_RESOLUTION_ANGSTROM))
    images = f"a reconstruction of {len(particles)} images"
    if not signal.can_judge(model):
        return CheckVerdict(IDENTITY, UNDECIDED, f"undecided: {images} shows little but an outline.")
    found = signal.placement(model)
    figures = {
        "correlation": round(found.correlation, 4),
        "correlation_of_random_turns": round(found.rivals_mean, 4),
        "z_score": round(found.z_score, 2),
        "resolution_of_images_angstrom": round(signal.resolution_angstrom, 2),
    }
    scores = (
        f"the model fits {images} to {found.correlation:.2f}, and turned at random to {found.rivals_mean:.2f} ± "
        f"{found.rivals_spread:.2f}"
    )
    if not found.is_by_chance:
        return CheckVerdict(IDENTITY, AGREES, f"belongs to these images: {scores}.", figures=figures)
    return CheckVerdict(
        IDENTITY,
        WRONG,
        f"does not belong to these images where it is: {scores}, which is no better than by chance.",
        "give the model of the molecule that was imaged; if it is, its place is wrong, and cocofold fit --map finds it",
        figures=figures,
    )
