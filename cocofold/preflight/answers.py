"""The answers to all questions together, so that one fault does not hide another."""

from __future__ import annotations

import itertools
from dataclasses import replace

from cocofold.preflight.contrast import is_a_dark_blob
from cocofold.preflight.hypotheses import GIVEN, MIRRORS, SHIFTS, Hypothesis, other_ctfs
from cocofold.preflight.judging import Judge, beats

_SAME_IN_ERRORS = 3.0


def find_answers(judge: Judge) -> tuple[Hypothesis, Hypothesis]:
    """What is clearly the case, of all combinations of answers to all questions but the pixel size's.

    Returns
    -------
    state : Hypothesis
        As given but for what is clearly wrong.
    best : Hypothesis
        What scores best, whether that means anything or not; of equals the one nearest to what is given.
    """
    given = Hypothesis()
    ctfs = (GIVEN, *other_ctfs(judge.scorer.particles))
    every = itertools.product((1, -1), (False, True), (None, *MIRRORS), SHIFTS, ctfs)
    best = max((Hypothesis(*one) for one in every), key=lambda one: float(judge.scores(one).whole.mean()))
    for name in best.changes():
        if judge.margin(best, best.without(name)).in_errors < _SAME_IN_ERRORS:
            best = best.without(name)
    if best == given or not beats(judge.scores(best), judge.scores(given)) or not judge.stands(best):
        return (replace(given, contrast=-1) if is_a_dark_blob(judge, given) else given), best
    state = best
    for name in best.changes():
        if not beats(judge.scores(state), judge.scores(state.without(name))):
            state = state.without(name)
    return state, best
