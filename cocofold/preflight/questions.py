"""The questions that are asked of particles and a model, and how their answers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.check_report import AGREES, UNDECIDED, WRONG, Alternative, CheckVerdict
from cocofold.preflight.judging import (
    AGREES_STANDARD_ERRORS,
    BandScores,
    HypothesisComparer,
    MeanWithError,
    find_best_hypotheses,
    is_above_chance,
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
SMALL_SHIFTS_ANGSTROM = 1.0

_FINDINGS = {
    "dark": "protein looks dark",
    "transposed": "they look transposed (the inverse rotations)",
    NEGATED: "the sign looks wrong",
    ABSENT: "they look as if they were applied already",
}
_ADVICE = {
    "dark": (
        "invert the images, or say --contrast dark; if they are white after all, the CTF's sign is wrong, which looks "
        "the same"
    ),
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
    UNFLIPPED: "set rlnCtfDataArePhaseFlipped and rlnCtfPremultiplied to 0",
    ABSENT: "images without CTF, or corrected for it: fine-tune with the images as recorded",
    OPPOSITE_DEFOCUS: "negate rlnDefocusU and rlnDefocusV: underfocus is positive",
}


@dataclass(frozen=True)
class Question:
    """One question and what may be the case instead of what the file says."""

    name: str
    attributes: tuple[str, ...]
    options: dict[str, dict[str, object]]

    def hypotheses(self, state: Hypothesis) -> dict[str, Hypothesis]:
        """The alternatives by name, everything else as in ``state``."""
        return {name: replace(self.as_given(state), **changed) for name, changed in self.options.items()}  # type: ignore[arg-type]

    def as_given(self, state: Hypothesis) -> Hypothesis:
        """``state`` with what is asked as the file says."""
        for attribute in self.attributes:
            state = state.without(attribute)
        return state


def questions_of(particles: ParticleSet) -> list[Question]:
    """All but that of the pixel size, in the order in which they are answered."""
    return [
        Question(CONTRAST, ("contrast",), {"dark": {"contrast": -1}}),
        Question(POSES, ("transposed",), {"transposed": {"transposed": True}}),
        Question(HAND, ("mirror",), {f"mirrored ({axis})": {"mirror": axis} for axis in MIRRORS}),
        Question(SHIFTS, ("shifts",), {NEGATED: {"shifts": NEGATED}, ABSENT: {"shifts": ABSENT}}),
        Question(CTF, ("ctf",), {name: {"ctf": name} for name in other_ctfs(particles)}),
    ]


def answer_question(question: Question, judge: HypothesisComparer, state: Hypothesis, doubt: str) -> CheckVerdict:
    """The verdict on a question, the other ones being answered as in ``state``.

    Parameters
    ----------
    question : Question
    judge : HypothesisComparer
    state : Hypothesis
        Of alternatives it holds none but those that are clear.
    doubt : str
        Why a better alternative may mean nothing; empty if the model explains fine rings.
    """
    given = question.as_given(state)
    others = question.hypotheses(state)
    table = tabulate(judge, given, {GIVEN: given, **others})
    wrong = next((name for name, one in others.items() if one == state), None)
    if wrong is not None:
        return _wrong_answer(question, judge, others, wrong, table)
    return agrees_or_undecided(question.name, table, [judge.margin(given, one) for one in others.values()], doubt)


def tabulate(
    judge: HypothesisComparer, given: Hypothesis, hypotheses: dict[str, Hypothesis]
) -> tuple[Alternative, ...]:
    """Scores and margins of hypotheses against one."""
    rows = []
    for name, one in hypotheses.items():
        scores = judge.scores(one)
        margin = 0.0 if one == given else judge.margin(one, given).z_score
        rows.append(make_alternative(name, scores, margin))
    return tuple(rows)


def make_alternative(name: str, scores: BandScores, margin: float) -> Alternative:
    """A row of a verdict's table."""
    whole = MeanWithError.of(scores.whole)
    return Alternative(name, whole.value, whole.error, float(scores.fine.mean()), margin)


def agrees_or_undecided(
    name: str, table: tuple[Alternative, ...], margins: Sequence[MeanWithError], doubt: str
) -> CheckVerdict:
    """Agrees or undecided, where no alternative is clearly right."""
    closest = table[1 + min(range(len(margins)), key=lambda row: margins[row].value)]
    against = f"{table[0].score:.2f} against {closest.score:.2f} ({closest.name})"
    least = min(margin.z_score for margin in margins)
    if least >= AGREES_STANDARD_ERRORS:
        verb = "agree" if name.endswith("s") else "agrees"
        return CheckVerdict(name, AGREES, f"{verb} with the model, {against}", "", table)
    apart = f"{abs(closest.margin):.1f} standard errors"
    if least > -AGREES_STANDARD_ERRORS:
        why = f"only {apart} apart" + (f": {doubt}" if doubt else "")
    else:
        why = f"{apart} the wrong way, but " + (doubt or "by too little, or not at all resolutions, to call it wrong")
    return CheckVerdict(name, UNDECIDED, f"undecided, {against}, {why}", "", table)


def _wrong_answer(
    question: Question,
    judge: HypothesisComparer,
    others: dict[str, Hypothesis],
    wrong: str,
    table: tuple[Alternative, ...],
) -> CheckVerdict:
    score = next(row.score for row in table if row.name == wrong)
    figures = f"{score:.2f} against {table[0].score:.2f} as given"
    if question.name == HAND:
        line, advice = f"the poses look mirrored (axis {wrong[10:-1]})", _ADVICE["mirrored"]
    elif question.name == CTF:
        wrong = _flipped_or_absent(judge, others, wrong)
        line, advice = _CTF_FINDINGS[wrong], _CTF_ADVICE[wrong]
    else:
        line, advice = _FINDINGS[wrong], _ADVICE[wrong]
    return CheckVerdict(question.name, WRONG, f"{line}, {figures}", advice, table)


def _flipped_or_absent(judge: HypothesisComparer, others: dict[str, Hypothesis], found: str) -> str:
    """Which of the two it is: in each ring they predict the same, but not how rings compare."""
    if found not in (FLIPPED, ABSENT) or FLIPPED not in others:
        return found
    flipped, absent = (judge.scorer.matched(others[name]) for name in (FLIPPED, ABSENT))
    return FLIPPED if MeanWithError.of(flipped - absent).value > 0 else ABSENT


_DEFOCI_ANGSTROM = np.arange(3_000.0, 40_000.0, 750.0)
_CHANCE_TURNS = 6


def try_other_defoci(judge: HypothesisComparer, state: Hypothesis, verdict: CheckVerdict) -> CheckVerdict:
    """The verdict on the CTF, with the defocus that each image shows best as a further alternative.

    An image's defocus is chosen on half of its Fourier pixels and scored on the others, so that it gains nothing from
    the choice.
    """
    state = replace(state, ctf=GIVEN)
    given = judge.scores(state)
    scores, defoci = _scores_at_best_defoci(judge, state, None)
    margin = MeanWithError.of(scores.whole - given.whole)
    row = make_alternative("defoci as the images show", scores, margin.z_score)
    verdict = replace(verdict, alternatives=(*verdict.alternatives, row))
    if not is_clearly_better(scores, given):
        return verdict
    by_chance = [_scores_at_best_defoci(judge, state, turn)[0] for turn in judge.turns[:_CHANCE_TURNS]]
    if not is_above_chance(scores, by_chance):
        return verdict
    low, middle, high = np.percentile(defoci, (10, 50, 90)) / 1e4
    stated = np.percentile(judge.scorer.particles.defocus_u_angstrom, 50) / 1e4
    return replace(
        verdict,
        verdict=WRONG,
        line=(
            f"the defoci look wrong, {row.score:.2f} with about {middle:.1f} µm ({low:.1f} to {high:.1f}) against "
            f"{given.whole.mean():.2f} with those of the file ({stated:.2f} µm)"
        ),
        advice="give the particles their defoci (rlnDefocusU, rlnDefocusV, in Å), or estimate the CTFs again",
        figures={"defocus_shown_angstrom": [round(1e4 * float(value)) for value in (low, middle, high)]},
    )


def _scores_at_best_defoci(
    judge: HypothesisComparer, state: Hypothesis, turn: np.ndarray | None
) -> tuple[BandScores, np.ndarray]:
    halves = judge.scorer.correlations_of_defoci(state, _DEFOCI_ANGSTROM, turn)
    every = np.arange(halves[0].shape[1])
    chosen, defoci = [], []
    for half, other in (halves, halves[::-1]):
        best = judge.summed(half).whole.argmax(0)
        chosen.append(other[best, every])
        defoci.append(_DEFOCI_ANGSTROM[best])
    return judge.summed((chosen[0] + chosen[1]) / 2), np.mean(defoci, 0)


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


def check_pixel_size(
    judge: HypothesisComparer,
    states: list[Hypothesis],
    model: Model,
    judge_of: Callable[[ParticleSet, Model], HypothesisComparer],
    doubt: str,
) -> tuple[CheckVerdict, CorrectedPixelSize | None]:
    """The verdict on the pixel size, and the one that explains the images if that is clear.

    Parameters
    ----------
    judge : HypothesisComparer
    states : list of Hypothesis
        Under which it is asked: the first is what is held to be right.
    model : Model
    judge_of : callable
        Makes a judge of particles and a model.
    doubt : str
        Why a better alternative may mean nothing.
    """
    particles = judge.scorer.particles
    size, held = particles.pixel_size_angstrom, states[0]
    table = [make_alternative(f"{size:.4g} Å", judge.scores(held), 0.0)]
    margins: list[MeanWithError] = []
    found: tuple[float, HypothesisComparer, Hypothesis, Alternative] | None = None
    for far in _FAR_FACTORS:
        other = judge_of(with_pixel_size(particles, far), model)
        base = replace(held, pixel_factor=1 / far)
        # Where nothing agrees with the model, nothing else could be told before the pixels have their size.
        likely = [*states, find_best_hypotheses(other)[1]] if doubt else states
        tried = [replace(state, origins_factor=origins) for state in likely for origins in (1.0, far)]
        best = _best_hypothesis(other, tried)
        row, margin = _row(f"{size * far:.4g} Å", other, best, base)
        table.append(row)
        margins.append(margin)
        if _is_clear(other, best, base):
            found = (far, other, best, row)
    near = [replace(state, pixel_factor=factor) for state in states for factor in _NEAR_FACTORS]
    scaled = [replace(state, model_factor=factor) for state in states for factor in _MODEL_FACTORS]
    for one in (*near, *scaled):
        kind = "" if one.model_factor == 1 else ", all else in pixels"
        row, margin = _row(f"{size * one.pixel_factor * one.model_factor:.4g} Å{kind}", judge, one, held)
        if one.without("pixel_factor").without("model_factor") == held:
            table.append(row)
            margins.append(margin)
    best = _best_hypothesis(judge, [*near, *scaled])
    if found is None and _is_clear(judge, best, held):
        best = _refine_factor(judge, best)
        factor = best.pixel_factor * best.model_factor
        found = (factor, judge, best, _row(f"{size * factor:.4g} Å", judge, best, held)[0])
    if found is None:
        return agrees_or_undecided(PIXEL_SIZE, tuple(table), margins, doubt), None
    factor, _, best, row = found
    if row not in table:
        table.append(row)
    return _wrong_pixel_size(size, factor, best, row, table), _corrected_pixel_size(particles, model, factor, best)


def _best_hypothesis(judge: HypothesisComparer, hypotheses: list[Hypothesis]) -> Hypothesis:
    return max(hypotheses, key=lambda one: float(judge.scores(one).whole.mean()))


def _row(name: str, judge: HypothesisComparer, one: Hypothesis, base: Hypothesis) -> tuple[Alternative, MeanWithError]:
    margin = judge.margin(base, one)
    return make_alternative(name, judge.scores(one), -margin.z_score), margin


def _is_clear(judge: HypothesisComparer, best: Hypothesis, base: Hypothesis) -> bool:
    return is_clearly_better(judge.scores(best), judge.scores(base)) and judge.stands(best)


def _refine_factor(judge: HypothesisComparer, best: Hypothesis) -> Hypothesis:
    name = "pixel_factor" if best.model_factor == 1 else "model_factor"
    around = [replace(best, **{name: getattr(best, name) + step}) for step in _FACTOR_STEPS]
    return _best_hypothesis(judge, [best, *around])


def _wrong_pixel_size(
    size: float, factor: float, best: Hypothesis, row: Alternative, table: list[Alternative]
) -> CheckVerdict:
    line = (
        f"{size:.4g} Å looks wrong by {factor:.3g}, {row.score:.2f} with {size * factor:.4g} Å against "
        f"{table[0].score:.2f} as given"
    )
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


def _corrected_pixel_size(particles: ParticleSet, model: Model, factor: float, best: Hypothesis) -> CorrectedPixelSize:
    if best.model_factor != 1:
        centroid = np.average(model.positions, axis=0, weights=model.atomic_numbers)
        return CorrectedPixelSize(factor, particles, model.moved_to(centroid + (model.positions - centroid) / factor))
    origins = particles.origins_angstrom * best.origins_factor
    return CorrectedPixelSize(factor, replace(with_pixel_size(particles, factor), origins_angstrom=origins), model)
