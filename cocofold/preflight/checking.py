"""The check: particles and a model, asked whether they belong together before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from cocofold.errors import InputError, require_within
from cocofold.particles import ParticleSet, unsupported_aberrations
from cocofold.placement import DensityMap
from cocofold.preflight.answers import find_answers
from cocofold.preflight.defoci import other_defoci
from cocofold.preflight.hypotheses import Hypothesis
from cocofold.preflight.judging import CLEAR_IN_ERRORS, Judge, Mean
from cocofold.preflight.maps import ask_of_map
from cocofold.preflight.pixel_sizes import ask_pixel_size
from cocofold.preflight.questions import CONTRAST, CTF, SMALL_SHIFTS_ANGSTROM, answer, questions_of
from cocofold.preflight.questions import SHIFTS as OF_SHIFTS
from cocofold.preflight.report import AGREES, UNDECIDED, WRONG, Report, Verdict
from cocofold.preflight.scoring import Scorer, radius_of_gyration
from cocofold.structure import Model

RESOLUTION_ANGSTROM = 7.0
COUNT = 200
# The larger the model, the farther its rim moves with what may be wrong.
_RESOLUTION_PER_RADIUS = 0.2


@dataclass(frozen=True)
class Settings:
    """How to check.

    Attributes
    ----------
    count : int
        Particles that are drawn.
    seed : int
        Of the draw.
    resolution_angstrom : float
        Finer rings are not looked at, nor those finer than a fifth of the radius of gyration of a large model.
    contrast : str
        What protein is said to be in the images: white, dark, or auto, where either is fine.
    """

    count: int = COUNT
    seed: int = 0
    resolution_angstrom: float = RESOLUTION_ANGSTROM
    contrast: str = "white"

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        require_within("--count", self.count, 10, 100_000)
        require_within("--resolution", self.resolution_angstrom, 1, 30)
        if self.contrast not in ("white", "dark", "auto"):
            raise InputError(f"--contrast {self.contrast}: give white, dark or auto")


def check(
    particles: ParticleSet,
    model: Model,
    settings: Settings | None = None,
    density: DensityMap | None = None,
    device: torch.device | str = "cpu",
) -> Report:
    """Ask of some particles whether contrast, poses, hand, shifts, CTF and pixel size agree with a model in place.

    Each alternative is scored with everything else as it was found, so that one fault does not hide another.

    Parameters
    ----------
    particles : ParticleSet
        Of them ``settings.count`` are read.
    model : Model
        In the map's frame.
    settings : Settings, optional
    density : DensityMap, optional
        The particles' map: whether model and particles go with it is asked too.
    device

    Raises
    ------
    InputError
        If images cannot be read, or their optics cannot be applied.
    """
    settings = settings or Settings()
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError("; ".join(aberrations))
    if len(particles) == 0:
        raise InputError("there are no particles; give a file that lists some")
    drawn = _draw(particles, settings)

    resolution = max(settings.resolution_angstrom, _RESOLUTION_PER_RADIUS * radius_of_gyration(model))

    def judge_of(some: ParticleSet, placed: Model) -> Judge:
        return Judge(Scorer(some, placed, resolution, device), settings.seed)

    judge = judge_of(drawn, model)
    state, hunch = find_answers(judge)
    doubt = _doubt(judge, state)
    states = [state] if hunch == state else [state, hunch]
    pixel_size, other = ask_pixel_size(judge, states, model, judge_of, doubt)
    if other is not None:
        judge = judge_of(other.particles, other.model)
        state, _ = find_answers(judge)
        doubt = _doubt(judge, state)
    verdicts = []
    for question in questions_of(drawn):
        verdict = answer(question, judge, state, doubt)
        if question.name == CONTRAST:
            verdict = _as_said(verdict, settings.contrast)
        elif question.name == OF_SHIFTS:
            verdict = _if_large_enough(verdict, judge)
        elif question.name == CTF and verdict.verdict == UNDECIDED:
            verdict = other_defoci(judge, state, verdict)
        verdicts.append(verdict)
    facts = {
        "particles": len(drawn),
        "of_particles": len(particles),
        "seed": settings.seed,
        "resolution_angstrom": round(float(judge.scorer.resolutions_angstrom[-1]), 3),
        "fine_below_angstrom": round(judge.fine_angstrom, 3),
        "model_explains_fine_rings": not doubt,
    }
    of_map = [] if density is None else ask_of_map(drawn, model, density, device, settings.seed)
    return Report((*verdicts, pixel_size, *of_map), facts)


def _draw(particles: ParticleSet, settings: Settings) -> ParticleSet:
    if settings.contrast == "dark":
        particles = replace(particles, contrast=-particles.contrast)
    if len(particles) <= settings.count:
        return particles
    rows = np.random.default_rng(settings.seed).choice(len(particles), settings.count, replace=False)
    return particles.subset(np.sort(rows))


def _doubt(judge: Judge, state: Hypothesis) -> str:
    """Why a better alternative may mean nothing; empty if there is no reason."""
    coarse = Mean.of(judge.scores(state).coarse)
    if abs(coarse.in_errors) < CLEAR_IN_ERRORS:
        return "the images show nothing of the model"
    if not judge.stands(state):
        return f"the model explains nothing finer than {judge.fine_angstrom:.0f} Å where it is"
    return ""


def _as_said(verdict: Verdict, said: str) -> Verdict:
    """The verdict on the contrast; where nobody said what it is, either is fine."""
    if verdict.verdict != WRONG:
        return verdict
    if said == "auto":
        return replace(verdict, verdict=AGREES, line=verdict.line.replace("looks", "is"), advice="")
    if said == "dark":
        line = verdict.line.replace("dark", "white")
        return replace(verdict, line=line, advice=verdict.advice.replace("--contrast dark", "--contrast white"))
    return verdict


def _if_large_enough(verdict: Verdict, judge: Judge) -> Verdict:
    spread = float(np.sqrt((judge.scorer.particles.origins_angstrom**2).mean()))
    if spread >= SMALL_SHIFTS_ANGSTROM or verdict.verdict != UNDECIDED:
        return verdict
    return replace(verdict, line=f"undecided, they are too small to tell ({spread:.1f} Å on average)")
