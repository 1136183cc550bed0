"""Whether protein is white or dark, where the model explains no fine rings."""

from __future__ import annotations

import itertools

import numpy as np

from cocofold.preflight.hypotheses import Hypothesis
from cocofold.preflight.judging import CLEAR_IN_ERRORS, Judge, Mean
from cocofold.preflight.scoring import radius_of_gyration

_STEPS_IN_RADII = (1.3, 2.6)
_OUTSTANDING = 1.5


def is_a_dark_blob(judge: Judge, state: Hypothesis) -> bool:
    """Whether the model, as a blob, lies where the images are dark.

    Beside a white particle images are darker than on average too. But there, moved to the particle, the model finds
    more white than it finds dark where it is.
    """
    here = Mean.of(judge.scores(state).coarse)
    if here.in_errors > -CLEAR_IN_ERRORS:
        return False
    radius = radius_of_gyration(judge.scorer.model)
    for axis, sign, step in itertools.product(range(3), (1, -1), _STEPS_IN_RADII):
        move = sign * step * radius * np.eye(3)[axis]
        there = judge.summed(judge.scorer.correlations(state, move=move)).coarse.mean()
        if _OUTSTANDING * there > -here.value:
            return False
    return True
