"""The questions that are asked of particles and a model, and how their answers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.check_report import AGREES, UNDECIDED, WRONG, Alternative, CheckVerdict
from cocofold.preflight.judging import (
    AGREES_STANDARD_ERRORS,
    BandScores,
    HypothesisComparer,
    MeanWithError,
    find_best_hypotheses,
    is_clearly_better,
)
from cocofold.preflight.scoring import (
    ABSENT,
    FLIPPED,
    GIVEN,
    MIRRORS,
    NEGATED,
    OPPOSITE_DEFOCUS,
    UNFLIPPED,
    Hypothesis,
    other_ctfs,
    with_pixel_size,
)
from cocofold.structure.model import Model

CONTRAST, POSES, HAND, SHIFTS, CTF, PIXEL_SIZE = "contrast", "poses", "hand", "shifts", "CTF", "pixel size"
# Root mean square of the origins below which the sign of shifts cannot be told at the check's resolution.
SMALL_SHIFTS_ANGSTROM = 1.0

# What protein looks like where it does not look as was said.
_OTHER_CONTRAST = {"white": "dark", "dark": "white"}
_FINDINGS = {
    "transposed": "they look transposed (the inverse rotations)",
    NEGATED: "the sign looks wrong",
    ABSENT: "they look as if they were applied already",
}
_ADVICE = {
    "transposed": "write the inverse of each rotation (RELION's angles become -psi, -tilt, -rot)",
    "mirrored": (
        "the poses belong to the mirror image of the map: mirror the map with cocofold fit --map, which then gives "
        "fine-tuning the hand, or refine the particles again in a map of the right hand"
    ),
    NEGATED: "negate both origins (rlnOriginXAngst and rlnOriginYAngst, or alignments3D/shift)",
    ABSENT: "set both origins to zero: the images seem to be centred already",
}
_CTF_FINDINGS = {
    FLIPPED: "the images' phases look flipped",
    UNFLIPPED: "the images' phases do not look flipped",
    ABSENT: "the images look as if they had no CTF",
    OPPOSITE_DEFOCUS: "the defoci's sign looks wrong",
}
_CTF_ADVICE = {
    FLIPPED: "set rlnCtfDataArePhaseFlipped to 1, or extract the particles without flipping",
    UNFLIPPED: "set rlnCtfDataArePhaseFlipped and rlnCtfDataAreCtfPremultiplied to 0",
    ABSENT: "images without CTF, or corrected for it: fine-tune with the images as recorded",
    OPPOSITE_DEFOCUS: "negate rlnDefocusU and rlnDefocusV: underfocus is positive",
}


@dataclass(frozen=True)
class Question:
    """One question and what may be the case instead of what the file says.

    Attributes
    ----------
    name : str
    attribute : str
        The attribute of a hypothesis that is asked for.
    values : dict
        Its other values by the names of the alternatives.
    """

    name: str
    attribute: str
    values: dict[str, Any]

    def hypotheses(self, accepted: Hypothesis) -> dict[str, Hypothesis]:
        """The alternatives by name, everything else as in ``accepted``."""
        return {name: replace(accepted, **{self.attribute: value}) for name, value in self.values.items()}

    def as_given(self, accepted: Hypothesis) -> Hypothesis:
        """``accepted`` with what is asked as the file says."""
        return accepted.without(self.attribute)


def questions_of(particles: ParticleSet) -> list[Question]:
    """All but that of the pixel size, in the order in which they are answered."""
    return [
        Question(CONTRAST, "contrast", {"dark": -1}),
        Question(POSES, "transposed", {"transposed": True}),
        Question(HAND, "mirror", {f"mirrored ({axis})": axis for axis in MIRRORS}),
        Question(SHIFTS, "shifts", {NEGATED: NEGATED, ABSENT: ABSENT}),
        Question(CTF, "ctf", {name: name for name in other_ctfs(particles)}),
    ]


def answer_question(
    question: Question, comparer: HypothesisComparer, accepted: Hypothesis, doubt: str, stated_contrast: str = "white"
) -> CheckVerdict:
    """The verdict on a question, the other ones being answered as in ``accepted``.

    Parameters
    ----------
    question : Question
    comparer : HypothesisComparer
    accepted : Hypothesis
        It differs from the file only by what is clear.
    doubt : str
        Why a better alternative may mean nothing; empty if the model explains fine rings.
    stated_contrast : str
        What protein is said to be in the images, which the comparer's are of: white, dark, or auto, where nobody said.
    """
    given = question.as_given(accepted)
    others = question.hypotheses(accepted)
    table = tabulate(comparer, given, others)
    found = next((name for name, one in others.items() if one == accepted), None)
    if found is not None:
        return _wrong_answer(question, comparer, others, found, table, stated_contrast)
    margins = [comparer.margin(given, one) for one in others.values()]
    return agrees_or_undecided(question.name, table, margins, doubt)


def tabulate(comparer: HypothesisComparer, given: Hypothesis, others: dict[str, Hypothesis]) -> tuple[Alternative, ...]:
    """Rows of a verdict's table: what is given, then the others with their margins against it."""
    first = make_alternative(GIVEN, comparer.scores(given), 0.0)
    rows = (
        make_alternative(name, comparer.scores(one), comparer.margin(one, given).z_score)
        for name, one in others.items()
    )
    return (first, *rows)


def make_alternative(name: str, scores: BandScores, margin: float) -> Alternative:
    """A row of a verdict's table."""
    whole = MeanWithError.of(scores.whole)
    return Alternative(name, whole.value, whole.error, float(scores.fine.mean()), margin)


def agrees_or_undecided(
    name: str, table: tuple[Alternative, ...], margins: Sequence[MeanWithError], doubt: str
) -> CheckVerdict:
    """Agrees or undecided, where no alternative is clearly right."""
    given, *others = table
    closest = others[min(range(len(margins)), key=lambda row: margins[row].value)]
    least = min(margin.z_score for margin in margins)
    scores = score_sentence(given, closest)
    if least >= AGREES_STANDARD_ERRORS:
        verb = "agree" if name.endswith("s") else "agrees"
        return CheckVerdict(name, AGREES, f"{verb} with the model: {scores}.", "", table)
    apart = f"{abs(closest.margin):.1f} standard errors"
    if least > -AGREES_STANDARD_ERRORS:
        why = f"which is too close to tell ({apart}, and {AGREES_STANDARD_ERRORS:g} are needed)"
        why += f", since {doubt}" if doubt else ""
    elif doubt:
        why = f"which is better by {apart} but means little, since {doubt}"
    else:
        why = f"which is better by {apart}, but {_TOO_LITTLE}"
    return CheckVerdict(name, UNDECIDED, f"undecided: {scores}, {why}.", "", table)


# Why an alternative that is better by many standard errors is not called right, where the model explains fine rings.
_TOO_LITTLE = "by too little, or not at all resolutions, as happens with a model in another conformation"


def score_sentence(given: Alternative, other: Alternative) -> str:
    """The scores of what is given and of an alternative, with as many digits as tell them apart."""
    digits = 2 if f"{given.score:.2f}" != f"{other.score:.2f}" else 3
    was, is_other = f"{given.score:.{digits}f}", f"{other.score:.{digits}f}"
    return f"the score is {was} as given, and {is_other} for the alternative '{other.name}'"


def _wrong_answer(
    question: Question,
    comparer: HypothesisComparer,
    others: dict[str, Hypothesis],
    found: str,
    table: tuple[Alternative, ...],
    stated_contrast: str,
) -> CheckVerdict:
    figures = score_sentence(table[0], next(row for row in table if row.name == found))
    if question.name == CONTRAST:
        return _contrast_answer(stated_contrast, figures, table)
    if question.name == HAND:
        line, advice = f"the poses look mirrored (axis {others[found].mirror})", _ADVICE["mirrored"]
    elif question.name == CTF:
        kind = _flipped_or_absent(comparer, others, found)
        line, advice = _CTF_FINDINGS[kind], _CTF_ADVICE[kind]
    else:
        line, advice = _FINDINGS[found], _ADVICE[found]
    return CheckVerdict(question.name, WRONG, f"{line}: {figures}.", advice, table)


def _contrast_answer(stated: str, figures: str, table: tuple[Alternative, ...]) -> CheckVerdict:
    """Protein has not the contrast as which the images were read; where nobody said what it is, either is fine."""
    if stated == "auto":
        return CheckVerdict(CONTRAST, AGREES, f"protein is dark: {figures}.", "", table)
    seen = _OTHER_CONTRAST[stated]
    advice = (
        f"invert the images, or say --contrast {seen}; if protein is {stated} after all, the CTF's sign is wrong, "
        "which looks the same"
    )
    return CheckVerdict(CONTRAST, WRONG, f"protein looks {seen}: {figures}.", advice, table)


def _flipped_or_absent(comparer: HypothesisComparer, others: dict[str, Hypothesis], found: str) -> str:
    """Which of the two it is: in each ring they predict the same, but not how rings compare."""
    if found not in (FLIPPED, ABSENT) or FLIPPED not in others:
        return found
    flipped, absent = (comparer.scorer.spectrum_correlations(others[name]) for name in (FLIPPED, ABSENT))
    return FLIPPED if MeanWithError.of(flipped - absent).value > 0 else ABSENT


# Factors on the pixel size that are tried: those of a slip of calibration (of all, or of the model alone, as where a
# map was scaled), those of binning by two, and the steps to the next ones around the best of the former.
_NEAR_FACTORS = (0.9, 0.95, 0.97, 0.985, 1.015, 1.03, 1.05, 1.1)
_MODEL_FACTORS = (0.9, 0.95, 1.05, 1.1)
_FAR_FACTORS = (0.5, 2.0)
_FACTOR_STEPS = (-0.01, -0.005, 0.005, 0.01)


@dataclass(frozen=True)
class CorrectedPixelSize:
    """A pixel size that explains the images clearly better than the given one.

    Attributes
    ----------
    factor : float
        On the given one.
    particles : ParticleSet
        With it.
    model : Model
        Which is scaled where all but the model is right in pixels.
    """

    factor: float
    particles: ParticleSet
    model: Model


@dataclass(frozen=True)
class _FoundSize:
    """A factor on the pixel size that is clearly better, the hypothesis that tells it, and its row of the table."""

    factor: float
    hypothesis: Hypothesis
    row: Alternative


@dataclass
class _SizeTable:
    """Rows of the verdict, that of the given size first, and by how much that is better than each of the others."""

    rows: list[Alternative]
    margins: list[MeanWithError] = field(default_factory=list)

    def add(self, row: Alternative, margin: MeanWithError) -> None:
        """Add another size."""
        self.rows.append(row)
        self.margins.append(margin)


def check_pixel_size(
    comparer: HypothesisComparer,
    likely: list[Hypothesis],
    model: Model,
    comparer_of: Callable[[ParticleSet, Model], HypothesisComparer],
    doubt: str,
) -> tuple[CheckVerdict, CorrectedPixelSize | None]:
    """The verdict on the pixel size, and the one that explains the images if that is clear.

    Parameters
    ----------
    comparer : HypothesisComparer
    likely : list of Hypothesis
        Under which it is asked: the first is the accepted one.
    model : Model
    comparer_of : callable
        Makes a comparer of particles and a model.
    doubt : str
        Why a better alternative may mean nothing.
    """
    particles = comparer.scorer.particles
    size, accepted = particles.pixel_size_angstrom, likely[0]
    table = _SizeTable([make_alternative(f"{size:.4g} Å", comparer.scores(accepted), 0.0)])
    found: _FoundSize | None = None
    for factor in _FAR_FACTORS:
        far = comparer_of(with_pixel_size(particles, factor), model)
        found = _try_far_size(far, likely, factor, table, bool(doubt)) or found
    near = _try_near_sizes(comparer, likely, table)
    found = found or near
    if found is None:
        return agrees_or_undecided(PIXEL_SIZE, tuple(table.rows), table.margins, doubt), None
    if found.row not in table.rows:
        table.rows.append(found.row)
    return _wrong_pixel_size(size, found, table.rows), _corrected_pixel_size(particles, model, found)


def _try_far_size(
    far: HypothesisComparer, likely: list[Hypothesis], factor: float, table: _SizeTable, doubtful: bool
) -> _FoundSize | None:
    """Compare a size that is far off, for which ``far`` has the rings, with the given one."""
    given = replace(likely[0], pixel_factor=1 / factor)
    # Where nothing agrees with the model, nothing else could be told before the pixels have their size.
    bases = [*likely, find_best_hypotheses(far).best_scoring] if doubtful else likely
    tried = [replace(one, origins_factor=origins) for one in bases for origins in (1.0, factor)]
    best = _best_hypothesis(far, tried)
    size = far.scorer.particles.pixel_size_angstrom
    row, margin = _row(f"{size:.4g} Å", far, best, given)
    table.add(row, margin)
    return _FoundSize(factor, best, row) if _is_clear(far, best, given) else None


def _try_near_sizes(comparer: HypothesisComparer, likely: list[Hypothesis], table: _SizeTable) -> _FoundSize | None:
    """Compare sizes that are a little off, of all or in the model alone, with the given one."""
    size, accepted = comparer.scorer.particles.pixel_size_angstrom, likely[0]
    near = [replace(one, pixel_factor=factor) for one in likely for factor in _NEAR_FACTORS]
    scaled = [replace(one, model_factor=factor) for one in likely for factor in _MODEL_FACTORS]
    for one in (*near, *scaled):
        if one.without("pixel_factor").without("model_factor") == accepted:
            kind = "" if one.model_factor == 1 else ", all else in pixels"
            table.add(*_row(f"{size * one.pixel_factor * one.model_factor:.4g} Å{kind}", comparer, one, accepted))
    best = _best_hypothesis(comparer, [*near, *scaled])
    if not _is_clear(comparer, best, accepted):
        return None
    best = _refine_factor(comparer, best)
    factor = best.pixel_factor * best.model_factor
    row, _ = _row(f"{size * factor:.4g} Å", comparer, best, accepted)
    return _FoundSize(factor, best, row)


def _best_hypothesis(comparer: HypothesisComparer, hypotheses: list[Hypothesis]) -> Hypothesis:
    return max(hypotheses, key=lambda one: float(comparer.scores(one).whole.mean()))


def _row(
    name: str, comparer: HypothesisComparer, one: Hypothesis, base: Hypothesis
) -> tuple[Alternative, MeanWithError]:
    margin = comparer.margin(base, one)
    return make_alternative(name, comparer.scores(one), -margin.z_score), margin


def _is_clear(comparer: HypothesisComparer, best: Hypothesis, base: Hypothesis) -> bool:
    return is_clearly_better(comparer.scores(best), comparer.scores(base)) and comparer.is_supported(best)


def _refine_factor(comparer: HypothesisComparer, best: Hypothesis) -> Hypothesis:
    name = "pixel_factor" if best.model_factor == 1 else "model_factor"
    around = [replace(best, **{name: getattr(best, name) + step}) for step in _FACTOR_STEPS]
    return _best_hypothesis(comparer, [best, *around])


def _wrong_pixel_size(size: float, found: _FoundSize, table: list[Alternative]) -> CheckVerdict:
    factor, best = found.factor, found.hypothesis
    right = replace(found.row, name=f"{size * factor:.4g} Å")
    line = f"{size:.4g} Å looks wrong by a factor of {factor:.3g}: {score_sentence(table[0], right)}."
    advice = f"set rlnImagePixelSize (blob/psize_A) to {size * factor:.4g} Å"
    if best.origins_factor != 1:
        advice += f" and multiply the origins in Å by {factor:.3g}"
    if best.model_factor != 1:
        advice += (
            ", scale origins with it and defoci with its square, and place the model in the map at that pixel size"
        )
    return CheckVerdict(
        PIXEL_SIZE, WRONG, line, advice, tuple(table), {"pixel_size_found_angstrom": round(size * factor, 4)}
    )


def _corrected_pixel_size(particles: ParticleSet, model: Model, found: _FoundSize) -> CorrectedPixelSize:
    factor, best = found.factor, found.hypothesis
    if best.model_factor != 1:
        centroid = np.average(model.positions, axis=0, weights=model.atomic_numbers)
        return CorrectedPixelSize(factor, particles, model.moved_to(centroid + (model.positions - centroid) / factor))
    origins = particles.origins_angstrom * best.origins_factor
    return CorrectedPixelSize(factor, replace(with_pixel_size(particles, factor), origins_angstrom=origins), model)
