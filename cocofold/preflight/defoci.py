"""Whether images show other defoci than their file says, if these tell nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cocofold.preflight.hypotheses import GIVEN, Hypothesis
from cocofold.preflight.judging import Judge, Mean, Scores, above_chance, beats
from cocofold.preflight.questions import alternative
from cocofold.preflight.report import WRONG, Verdict

_DEFOCI_ANGSTROM = np.arange(3_000.0, 40_000.0, 750.0)
_TURNS = 6


def other_defoci(judge: Judge, state: Hypothesis, verdict: Verdict) -> Verdict:
    """The verdict on the CTF, with the defocus that each image shows best as a further alternative.

    An image's defocus is chosen on half of its Fourier pixels and scored on the others, so that it gains nothing from
    the choice.
    """
    state = replace(state, ctf=GIVEN)
    given = judge.scores(state)
    scores, defoci = _fitted(judge, state, None)
    margin = Mean.of(scores.whole - given.whole)
    row = alternative("defoci as the images show", scores, margin.in_errors)
    verdict = replace(verdict, alternatives=(*verdict.alternatives, row))
    if not beats(scores, given):
        return verdict
    by_chance = [_fitted(judge, state, turn)[0] for turn in judge.turns[:_TURNS]]
    if not above_chance(scores, by_chance):
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


def _fitted(judge: Judge, state: Hypothesis, turn: np.ndarray | None) -> tuple[Scores, np.ndarray]:
    halves = judge.scorer.correlations_of_defoci(state, _DEFOCI_ANGSTROM, turn)
    every = np.arange(halves[0].shape[1])
    chosen, defoci = [], []
    for half, other in (halves, halves[::-1]):
        best = judge.summed(half).whole.argmax(0)
        chosen.append(other[best, every])
        defoci.append(_DEFOCI_ANGSTROM[best])
    return judge.summed((chosen[0] + chosen[1]) / 2), np.mean(defoci, 0)
