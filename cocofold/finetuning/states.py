"""Runs that fit several models, each to the particles that show it: states, their shares, and particles that show none.

A short run with all particles, or each of several starts, gives the first models. Particles are parted by the
likelihood of each image (``likelihood.image_likelihood``), and each part is fitted from the start on, as a run of its
own in the folder ``states``. Held-out particles tell whether a part is a state, before it is fitted and after.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.finetuning.holdout import FEWEST_HELD_OUT
from cocofold.finetuning.options import LEAST_EFFORT, Options
from cocofold.finetuning.preparation import choose_particles
from cocofold.finetuning.run import errors_explained, finetune, run_inside
from cocofold.finetuning.run_folder import RunFolder
from cocofold.finetuning.state_files import (
    CERTAIN,
    FEWEST_PARTICLES,
    JUNK_FROM,
    LEAST_EVIDENCE,
    FittedState,
    answer_of,
    are_same,
    held_out_particles,
    is_enough,
    metrics_of_states,
    require_possible_states,
    start_as_fitted,
    tensor_of,
    write_states,
)
from cocofold.finetuning.verdict import NO_SINGLE_MODEL, SUPPORTED
from cocofold.imaging.fourier import RingPixels, ring_count
from cocofold.likelihood.distributed import WorkerGroup
from cocofold.likelihood.frc_loss import AtomGaussians, images_per_chunk, settle_contrast
from cocofold.likelihood.image_likelihood import (
    Mixture,
    RingSums,
    evidence_of_each,
    fit_mixture,
    image_ring_sums,
    numbers_in_rings,
    pull_apart,
)
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.set_aside import read_context
from cocofold.mapfit.workflow import PLACEMENT_FILE
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star_subset
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.processes import SignalHandler

# Effort of the run that gives a first model: with 0.3 of a run 299 of 300 images of adenylate kinase's closed state and
# all of the open one were told apart by it and the start.
_FIRST_EFFORT = 0.3
# A state is not fitted again where so few of its particles are others than before.
_MOST_CHANGED = 0.05
_WAYS_TO_PART = ("start and result", "the main pull of single images")
# Least share of the particles of what is told apart
_LEAST_SHARE = 0.04
# Resolution at which the motion is sought along which single images pull (Å), and how many of them are asked at most
_PULL_RESOLUTION_ANGSTROM = 12.0
_MOST_PULLING = 2000


def finetune_states(
    options: Options,
    out: Path,
    resume: bool = False,
    stop_with: int | None = None,
    processes: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Fine-tune one model or several; returns the content of ``metrics.json``.

    Parameters and errors are those of ``finetune``, which does it where one model is asked for and no junk.
    """
    if not options.tells_particles_apart:
        return finetune(options, out, resume, stop_with, processes)
    with SignalHandler(stop_with) as endings, contextlib.ExitStack() as at_end:
        with endings.deferred():
            folder = at_end.enter_context(RunFolder(out, options, resume))
        if folder.finished and resume:
            return folder.read_metrics()
        with errors_explained(folder, options, processes):
            began = time.monotonic()
            paths = options.particles, options.particles_dir, options.passthrough
            every = read_particles(*paths, options.ignore_aberrations)
            particles, rows = choose_particles(every, options)
            require_possible_states(options, particles)
            folder.settle_inputs(particles)
            inside = functools.partial(run_inside, endings, stop_with=stop_with, processes=processes)
            return _States(options, folder, particles, rows, inside, at_end).execute(began)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A model and where it comes from.

    Attributes
    ----------
    run : Path or None
        Folder of the run that gave it; None for a start.
    start : str or None
        Model file that its run starts from.
    model : Model
    sums : RingSums
        Of all particles with it.
    metrics : dict
    chosen : (n,) bool, optional
        Particles that were fitted and that judged them.
    """

    run: Path | None
    start: str | None
    model: Model
    sums: RingSums
    metrics: dict[str, Any]
    chosen: np.ndarray | None = None


class _States:
    """Parting of a run's particles, and the fit of each part."""

    def __init__(
        self,
        options: Options,
        folder: RunFolder,
        particles: ParticleSet,
        rows: np.ndarray,
        run_inside: Callable[[Options, Path], dict[str, Any]],
        at_end: contextlib.ExitStack,
    ) -> None:
        self.options, self.folder, self.particles, self.rows = options, folder, particles, rows
        self._run_inside, self._at_end = run_inside, at_end
        self.device = find_device(options.device)
        self.heldout = held_out_particles(self.particles, options)
        self._observations: Observations | None = None
        self._beside: Model | None = None
        self._starts: dict[str | None, Model] = {}
        self._told: list[dict[str, Any]] = []

    def execute(self, began: float) -> dict[str, Any]:
        """Part, fit and judge, and write what was found."""
        (self.folder.path / "states").mkdir(exist_ok=True)
        fits = self._first_models()
        level = 1
        if len(fits) > 1:
            fits = self._fit_parts(fits, level)
        while len(fits) < self.options.most_states:
            parted = self._part_further(fits)
            if parted is None:
                break
            level, before = level + 1, len(fits)
            fits = self._fit_parts(parted, level)
            if len(fits) <= before:
                break
        # Particles may have gone to other states meanwhile, and a state that is not supported gives its away.
        fits = self._supported(self._fit_parts(self._supported(fits), level + 1))
        return self._finish(fits, began)

    def _first_models(self) -> list[_Fit]:
        """The starts, or the model of a short run with all particles."""
        starts = self.options.starts
        if len(starts) > 1:
            given = self.particles, self.folder, self._run_inside
            self._starts = {path: start_as_fitted(self.options, path, *given) for path in starts}
            self._open(self._starts[starts[0]])
            return [self._unfitted(path, self._starts[path]) for path in starts]
        self.folder.log("a short run with all particles gives a first model; see states/first")
        run = self.folder.path / "states" / "first"
        everything = np.ones(len(self.particles), dtype=bool)
        # Of a mixed set the first stages may explain less than the start: nothing is to stop them.
        metrics = self._run(run, everything, None, max(LEAST_EFFORT, _FIRST_EFFORT * self.options.effort), first=True)
        self._starts = {None: read_model(run / "models" / "cycle_00.cif")}
        self._open(self._starts[None])
        model = answer_of(run)
        return [_Fit(None, None, model, self._sums(model), metrics)]

    def _unfitted(self, start: str | None, model: Model) -> _Fit:
        return _Fit(None, start, model, self._sums(model), {})

    def _run(
        self, run: Path, chosen: np.ndarray, start: str | None, effort: float, first: bool = False
    ) -> dict[str, Any]:
        """A run of its own with some of the particles, (n,) bool; the first one goes through all stages unjudged."""
        star = run.parent / f"{run.name}.star"
        marked = chosen & self.heldout
        judged = int(marked.sum()) >= FEWEST_HELD_OUT and not first
        taken = np.flatnonzero(chosen if judged else chosen & ~self.heldout)
        some = replace(self.particles.subset(taken), held_out=self.heldout[taken] if judged else None)
        if not star.is_file():
            write_star_subset(star, some, Path(self.options.particles), self.rows[taken])
        place = self.folder.path / "states" / "first" / "placement" / PLACEMENT_FILE
        # The first run itself has placed the model, also where it is gone on with.
        placement = place if place.is_file() and not first else None
        own = self.options.for_state(star, start, placement, effort, first and self.options.check, judged)
        metrics = self._run_inside(replace(own, twin=None) if first else own, run)
        self._told.append({**metrics, "run": str(run.relative_to(self.folder.path))})
        return metrics

    def _open(self, start: Model) -> None:
        """Images of all particles, in the hand and with the contrast that the start tells."""
        particles = self.particles.mirrored() if start.in_mirror_image else self.particles
        rings = ring_count(particles.box, particles.pixel_size_angstrom, self.options.resolution)
        self._observations = Observations(particles, rings, self.device, on_warning=self.folder.log)
        self._at_end.callback(self._observations.close)
        if self.options.context is not None:
            mirrored = start.in_mirror_image
            self._beside = read_context(Path(self.options.context), start, mirrored, particles, self.folder.log)
        settle_contrast(self._observations, *self._atoms(start), self.options.contrast)

    @property
    def observations(self) -> Observations:
        """Images of all particles."""
        assert self._observations is not None, "known with the first model"
        return self._observations

    def _atoms(self, model: Model) -> tuple[torch.Tensor, AtomGaussians]:
        """Atoms of a model, and those that lie beside it in every image."""
        parts = [model] if self._beside is None else [model, self._beside]
        places = np.concatenate([part.positions for part in parts])
        gaussians = [AtomGaussians.of_model(part, self.device) for part in parts]
        return torch.as_tensor(places, dtype=torch.float32, device=self.device), AtomGaussians(
            torch.cat([one.amplitudes for one in gaussians]), torch.cat([one.widths_angstrom for one in gaussians])
        )

    def _sums(self, model: Model) -> RingSums:
        every = torch.arange(len(self.particles))
        rings = self.observations.rings(self.observations.finest_rings)
        return image_ring_sums(*self._atoms(model), self.observations, every, rings, images_per_chunk(len(model)))

    def _numbers(self, rings: RingPixels | None = None) -> torch.Tensor:
        """How many numbers each ring has, none of those by which the particles were chosen."""
        rings = rings or self.observations.rings(self.observations.finest_rings)
        asked = torch.tensor([ring + 1 not in self.particles.scored_rings for ring in range(rings.n_rings)])
        return numbers_in_rings(rings) * asked

    def mixture(self, fits: list[_Fit]) -> Mixture:
        """Which model each particle shows; by the particles that are fitted."""
        fitted = tensor_of(~self.heldout)
        return fit_mixture([one.sums for one in fits], self._numbers(), rows=fitted, may_be_empty=True)

    def _fit_parts(self, fits: list[_Fit], level: int) -> list[_Fit]:
        """Fit each model anew, from its start on, to the particles that show it."""
        found = self.mixture(fits)
        best = found.chances[:, : len(fits)].argmax(1).numpy()
        chosen = np.ones(len(best), dtype=bool)
        if self.options.junk == "auto":
            chosen = (found.chances[:, -1] < JUNK_FROM).numpy()
        fitted = []
        for number, one in enumerate(fits):
            run = self.folder.path / "states" / f"round_{level}_state_{number + 1}"
            mine = chosen & (best == number)
            if one.chosen is not None and (one.chosen != mine).sum() <= _MOST_CHANGED * mine.sum():
                fitted.append(one)
                continue
            if (mine & ~self.heldout).sum() < FEWEST_PARTICLES // 2:
                self.folder.log(f"{int(mine.sum())} particles are too few to fit a model to: they are no state")
                continue
            self.folder.log(f"{int(mine.sum())} particles are fitted by themselves; see states/{run.name}")
            metrics = self._run(run, mine, one.start, self.options.effort)
            model = answer_of(run)
            fitted.append(_Fit(run, one.start, model, self._sums(model), metrics, mine))
        if fitted:
            return self._different(fitted)
        raise InputError(f"{self.options.particles}: too few of the particles show a state; give more particles")

    def _different(self, fits: list[_Fit]) -> list[_Fit]:
        """Without models that became those of another state."""
        kept: list[_Fit] = []
        for one in fits:
            if any(are_same(one.model, other.model) for other in kept):
                self.folder.log(f"states/{one.run.name if one.run else one.start}: became the same as another state")
            else:
                kept.append(one)
        return kept

    def _part_further(self, fits: list[_Fit]) -> list[_Fit] | None:
        """Models of which one was parted into two, or None; the first way that held-out particles support."""
        best = self.mixture(fits).chances[:, : len(fits)].argmax(1).numpy()
        for number in np.argsort(-np.bincount(best, minlength=len(fits)), kind="stable").tolist():
            one, mine = fits[number], best == number
            others = fits[:number] + fits[number + 1 :]
            start = self._starts[one.start]
            # To parts of fewer particles no model could be fitted.
            for way in _WAYS_TO_PART if (mine & ~self.heldout).sum() >= FEWEST_PARTICLES // 2 else ():
                models = [start, one.model] if way == _WAYS_TO_PART[0] else self._pulled_apart(one.model, mine)
                if are_same(*models):
                    continue
                two = [self._unfitted(one.start, model) for model in models]
                if self._is_supported([*two, *others], [one, *others], mine, way):
                    return [*others, *two]
        return None

    def _is_supported(self, fits: list[_Fit], before: list[_Fit], mine: np.ndarray, name: str) -> bool:
        """Whether held-out particles support that both of the first two models are shown, by some particles.

        Of two models on either side of the right one each is better than the other for many particles, but the right
        one is better for all.
        """
        shares = self.mixture(fits).chances[torch.as_tensor(mine)].mean(0)
        evidence = self._evidence(fits)[:2]
        gained = float((self._log_evidence(fits) - self._log_evidence(before)).sum())
        said = ", ".join(f"{share:.0%} ({total:.0f}, {count})" for share, (total, count) in zip(shares[:2], evidence))
        self.folder.log(
            f"parted by {name}: shares (held-out evidence, particles that are certain) {said}; evidence for both "
            f"instead of one {gained:.0f}"
        )
        enough = gained > LEAST_EVIDENCE and all(map(is_enough, evidence))
        return enough and bool((shares[:2] >= _LEAST_SHARE).all())

    def _log_evidence(self, fits: list[_Fit]) -> torch.Tensor:
        """Log-likelihood of each judging particle, given some models."""
        judging = tensor_of(self.heldout) if self.heldout.any() else tensor_of(~self.heldout)
        return self.mixture(fits).log_evidence([one.sums.of_rows(judging) for one in fits])

    def _evidence(self, fits: list[_Fit]) -> list[tuple[float, int]]:
        """For each model the log-likelihood that judging particles lose without it, and how many are certain."""
        judging, fitted = map(tensor_of, (self.heldout, ~self.heldout))
        if not len(judging):
            judging = fitted
        gains = evidence_of_each([one.sums for one in fits], self._numbers(), fitted, judging)
        certain = (self.mixture(fits).chances[judging] > CERTAIN).sum(0).tolist()
        return [(float(gain.sum()), count) for gain, count in zip(gains, certain)]

    def _pulled_apart(self, model: Model, mine: np.ndarray) -> list[Model]:
        """A model moved both ways along the motion in which single images pull it apart."""
        work = np.flatnonzero(mine & ~self.heldout)
        work = work[np.sort(np.random.default_rng([self.options.seed, 4]).permutation(len(work))[:_MOST_PULLING])]
        count = ring_count(self.particles.box, self.particles.pixel_size_angstrom, _PULL_RESOLUTION_ANGSTROM)
        rings = self.observations.rings(min(count, self.observations.finest_rings))
        pair, ratio = pull_apart(
            model, self.observations, torch.as_tensor(work), rings, self._numbers(rings), self.options.seed
        )
        self.folder.log(f"single images pull along one motion {ratio:.1f} times as noise does")
        return pair

    def _supported(self, fits: list[_Fit]) -> list[_Fit]:
        """States that held-out particles support; at least the one with most particles."""
        kept = fits
        while len(kept) > 1:
            evidence = self._evidence(kept)
            weakest = int(np.argmin([total for total, _ in evidence]))
            if all(map(is_enough, evidence)):
                break
            total, count = evidence[weakest]
            run = kept[weakest].run
            self.folder.log(
                f"held-out particles do not support states/{run.name if run else ''} (evidence {total:.0f}, {count} "
                "particles that are certain): it is not written"
            )
            kept = kept[:weakest] + kept[weakest + 1 :]
        return kept

    def _finish(self, fits: list[_Fit], began: float) -> dict[str, Any]:
        """Write models, particles and figures."""
        states = [self._settled(fits, number) for number in range(len(fits))]
        found = fit_mixture([self._sums(one.model) for one in states], self._numbers(), may_be_empty=True)
        in_hand = self.observations.particles
        if self.observations.contrast_sign < 0:
            in_hand = replace(in_hand, contrast=-in_hand.contrast)
        given = self.folder, Path(self.options.particles), self.particles, self.rows, in_hand
        told = write_states(*given, states, found, self.options.junk == "auto", self.device)
        metrics = metrics_of_states(told, self._told, self.heldout, time.monotonic() - began)
        self.folder.write_metrics(metrics)
        self.folder.log(metrics["verdict_headline"] + " " + metrics["verdict_explanation"])
        return metrics

    def _settled(self, fits: list[_Fit], number: int) -> FittedState:
        """A state with the fit's answer as its model, or with its start.

        The run of a state that few particles show has few held out; here all that are judge.
        """
        one, verdict = fits[number], fits[number].metrics["verdict"]
        assert one.run is not None, "each state has a run of its own"
        written = one.run / "model.cif"
        if not (one.run / "candidate.cif").is_file():
            return FittedState(one.run, written, one.model, one.metrics)
        others, start = fits[:number] + fits[number + 1 :], read_model(written)
        if verdict not in NO_SINGLE_MODEL and others and self.heldout.any():
            without = [*others, replace(one, sums=self._sums(start))]
            gained = float((self._log_evidence([*others, one]) - self._log_evidence(without)).sum())
            if gained > LEAST_EVIDENCE:
                metrics = {**one.metrics, "verdict": SUPPORTED}
                return FittedState(one.run, one.run / "candidate.cif", one.model, metrics)
        return FittedState(one.run, written, start, one.metrics)
