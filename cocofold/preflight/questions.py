"""The questions that are asked of particles and a model, and how their answers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cocofold.particles import ParticleSet
from cocofold.preflight.hypotheses import (
    ABSENT,
    FLIPPED,
    GIVEN,
    MIRRORS,
    NEGATED,
    OTHER_FOCUS,
    UNFLIPPED,
    Hypothesis,
    other_ctfs,
)
from cocofold.preflight.judging import AGREES_IN_ERRORS, Judge, Mean, Scores
from cocofold.preflight.report import AGREES, UNDECIDED, WRONG, Alternative, Verdict

CONTRAST, POSES, HAND, SHIFTS, CTF, PIXEL_SIZE = "contrast", "poses", "hand", "shifts", "CTF", "pixel size"
SMALL_SHIFTS_ANGSTROM = 1.0

_LOOKS = {
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
_CTF_LOOKS = {
    FLIPPED: "the images' phases look flipped",
    UNFLIPPED: "the images' phases do not look flipped",
    ABSENT: "the images look as if they had no CTF",
    OTHER_FOCUS: "the defoci's sign looks wrong",
}
_CTF_ADVICE = {
    FLIPPED: "set rlnCtfDataArePhaseFlipped to 1, or extract the particles without flipping",
    UNFLIPPED: "set rlnCtfDataArePhaseFlipped and rlnCtfPremultiplied to 0",
    ABSENT: "images without CTF, or corrected for it: fine-tune with the images as recorded",
    OTHER_FOCUS: "negate rlnDefocusU and rlnDefocusV: underfocus is positive",
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


def answer(question: Question, judge: Judge, state: Hypothesis, doubt: str) -> Verdict:
    """The verdict on a question, the other ones being answered as in ``state``.

    Parameters
    ----------
    question : Question
    judge : Judge
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
        return _wrong(question, judge, others, wrong, table)
    return settle(question.name, table, [judge.margin(given, one) for one in others.values()], doubt)


def tabulate(judge: Judge, given: Hypothesis, hypotheses: dict[str, Hypothesis]) -> tuple[Alternative, ...]:
    """Scores and margins of hypotheses against one."""
    rows = []
    for name, one in hypotheses.items():
        scores = judge.scores(one)
        margin = 0.0 if one == given else judge.margin(one, given).in_errors
        rows.append(alternative(name, scores, margin))
    return tuple(rows)


def alternative(name: str, scores: Scores, margin: float) -> Alternative:
    """A row of a verdict's table."""
    whole = Mean.of(scores.whole)
    return Alternative(name, whole.value, whole.error, float(scores.fine.mean()), margin)


def settle(name: str, table: tuple[Alternative, ...], margins: Sequence[Mean], doubt: str) -> Verdict:
    """Agrees or undecided, where no alternative is clearly right."""
    closest = table[1 + min(range(len(margins)), key=lambda row: margins[row].value)]
    against = f"{table[0].score:.2f} against {closest.score:.2f} ({closest.name})"
    least = min(margin.in_errors for margin in margins)
    if least >= AGREES_IN_ERRORS:
        verb = "agree" if name.endswith("s") else "agrees"
        return Verdict(name, AGREES, f"{verb} with the model, {against}", "", table)
    apart = f"{abs(closest.margin):.1f} standard errors"
    if least > -AGREES_IN_ERRORS:
        why = f"only {apart} apart" + (f": {doubt}" if doubt else "")
    else:
        why = f"{apart} the wrong way, but " + (doubt or "by too little, or not at all resolutions, to call it wrong")
    return Verdict(name, UNDECIDED, f"undecided, {against}, {why}", "", table)


def _wrong(
    question: Question, judge: Judge, others: dict[str, Hypothesis], wrong: str, table: tuple[Alternative, ...]
) -> Verdict:
    score = next(row.score for row in table if row.name == wrong)
    figures = f"{score:.2f} against {table[0].score:.2f} as given"
    if question.name == HAND:
        line, advice = f"the poses look mirrored (axis {wrong[10:-1]})", _ADVICE["mirrored"]
    elif question.name == CTF:
        wrong = _flipped_or_absent(judge, others, wrong)
        line, advice = _CTF_LOOKS[wrong], _CTF_ADVICE[wrong]
    else:
        line, advice = _LOOKS[wrong], _ADVICE[wrong]
    return Verdict(question.name, WRONG, f"{line}, {figures}", advice, table)


def _flipped_or_absent(judge: Judge, others: dict[str, Hypothesis], found: str) -> str:
    """Which of the two it is: in each ring they predict the same, but not how rings compare."""
    if found not in (FLIPPED, ABSENT) or FLIPPED not in others:
        return found
    flipped, absent = (judge.scorer.matched(others[name]) for name in (FLIPPED, ABSENT))
    return FLIPPED if Mean.of(flipped - absent).value > 0 else ABSENT
