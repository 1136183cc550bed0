"""Whether the images' pixels are of another size than the file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cocofold.particles import ParticleSet
from cocofold.preflight.answers import find_answers
from cocofold.preflight.hypotheses import Hypothesis, with_pixel_size
from cocofold.preflight.judging import Judge, Mean, beats
from cocofold.preflight.questions import PIXEL_SIZE, alternative, settle
from cocofold.preflight.report import WRONG, Alternative, Verdict
from cocofold.structure import Model

_NEAR = (0.9, 0.95, 0.97, 0.985, 1.015, 1.03, 1.05, 1.1)
_OF_MODEL = (0.9, 0.95, 1.05, 1.1)
_FAR = (0.5, 2.0)
_FINER = (-0.01, -0.005, 0.005, 0.01)


@dataclass(frozen=True)
class OtherSize:
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


def ask_pixel_size(
    judge: Judge, states: list[Hypothesis], model: Model, judge_of: Callable[[ParticleSet, Model], Judge], doubt: str
) -> tuple[Verdict, OtherSize | None]:
    """The verdict on the pixel size, and the one that explains the images if that is clear.

    Parameters
    ----------
    judge : Judge
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
    table = [alternative(f"{size:.4g} Å", judge.scores(held), 0.0)]
    margins: list[Mean] = []
    found: tuple[float, Judge, Hypothesis, Alternative] | None = None
    for far in _FAR:
        other = judge_of(with_pixel_size(particles, far), model)
        base = replace(held, pixel_factor=1 / far)
        # Where nothing agrees with the model, nothing else could be told before the pixels have their size.
        likely = [*states, find_answers(other)[1]] if doubt else states
        tried = [replace(state, origins_factor=origins) for state in likely for origins in (1.0, far)]
        best = _best(other, tried)
        row, margin = _row(f"{size * far:.4g} Å", other, best, base)
        table.append(row)
        margins.append(margin)
        if _clear(other, best, base):
            found = (far, other, best, row)
    near = [replace(state, pixel_factor=factor) for state in states for factor in _NEAR]
    scaled = [replace(state, model_factor=factor) for state in states for factor in _OF_MODEL]
    for one in (*near, *scaled):
        kind = "" if one.model_factor == 1 else ", all else in pixels"
        row, margin = _row(f"{size * one.pixel_factor * one.model_factor:.4g} Å{kind}", judge, one, held)
        if one.without("pixel_factor").without("model_factor") == held:
            table.append(row)
            margins.append(margin)
    best = _best(judge, [*near, *scaled])
    if found is None and _clear(judge, best, held):
        best = _finer(judge, best)
        factor = best.pixel_factor * best.model_factor
        found = (factor, judge, best, _row(f"{size * factor:.4g} Å", judge, best, held)[0])
    if found is None:
        return settle(PIXEL_SIZE, tuple(table), margins, doubt), None
    factor, _, best, row = found
    if row not in table:
        table.append(row)
    return _wrong(size, factor, best, row, table), _other_size(particles, model, factor, best)


def _best(judge: Judge, hypotheses: list[Hypothesis]) -> Hypothesis:
    return max(hypotheses, key=lambda one: float(judge.scores(one).whole.mean()))


def _row(name: str, judge: Judge, one: Hypothesis, base: Hypothesis) -> tuple[Alternative, Mean]:
    margin = judge.margin(base, one)
    return alternative(name, judge.scores(one), -margin.in_errors), margin


def _clear(judge: Judge, best: Hypothesis, base: Hypothesis) -> bool:
    return beats(judge.scores(best), judge.scores(base)) and judge.stands(best)


def _finer(judge: Judge, best: Hypothesis) -> Hypothesis:
    name = "pixel_factor" if best.model_factor == 1 else "model_factor"
    around = [replace(best, **{name: getattr(best, name) + step}) for step in _FINER]
    return _best(judge, [best, *around])


def _wrong(size: float, factor: float, best: Hypothesis, row: Alternative, table: list[Alternative]) -> Verdict:
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
    return Verdict(
        PIXEL_SIZE, WRONG, line, advice, tuple(table), {"pixel_size_found_angstrom": round(size * factor, 4)}
    )


def _other_size(particles: ParticleSet, model: Model, factor: float, best: Hypothesis) -> OtherSize:
    if best.model_factor != 1:
        centroid = np.average(model.positions, axis=0, weights=model.atomic_numbers)
        return OtherSize(factor, particles, model.moved_to(centroid + (model.positions - centroid) / factor))
    origins = particles.origins_angstrom * best.origins_factor
    return OtherSize(factor, replace(with_pixel_size(particles, factor), origins_angstrom=origins), model)
