"""Which particles are fitted and which held out, what is known of each cycle, and what the data support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError

# From this number of particles on, 5 % are enough to judge by, and one pass does. Below, a fifth is held out, which is
# too much to leave unused: a second pass fits them too.
_ONE_PASS_FROM = 500
_HELD_OUT_SHARE, _FEWEST_OF_SHARE = 0.05, 50  # at least 50: 5 % of fewer than 1,000 are less
_SMALL_SET_DIVISOR = 5
# Of fewer particles none are held out: a fifth of them would be three.
_FEWEST_TO_HOLD_OUT = 20
# Of fewer images a fit follows their noise; then twins say more of that than of the whole set's errors.
_FEWEST_OF_HALF = 10
# Least number of held-out particles: the standard error of fewer paired gains says next to nothing.
FEWEST_HELD_OUT = 4
# Gains over the start, in standard errors of the mean gain of held-out images: above the first a cycle is an answer,
# below the second nothing points to one. Larger values leave the start more often.
_CLEAR_IN_ERRORS = 3.0
_HINT_IN_ERRORS = 1.0
# Cycles in a row without a new highest held-out correlation after which a pass ends. More go on longer after the best
# cycle; fewer may stop at a stage that does not gain before one that does.
MOST_CYCLES_WITHOUT_GAIN = 4
# By how much the root mean square deviation of C-N bonds may rise above the start's in a fold that a network has kept.
# Larger values let broken chains be answers.
MOST_ADDED_LINK_RMS_ANGSTROM = 0.1


@dataclass
class Cycle:
    """What is known at the end of a cycle; cycle 0 is the start.

    ``images`` counts how many images have been compared; ``frc_work`` and ``frc_heldout`` are mean correlations over
    rings and a fixed set of particles; ``moved_angstrom`` is the root mean square displacement of CA atoms from the
    start, ``worst_link_angstrom`` the largest deviation of a C-N bond, ``link_rms_angstrom`` the root mean square one.
    """

    number: int
    step: int
    images: int
    stage: str
    seconds: float
    frc_work: float
    frc_heldout: float | None
    moved_angstrom: float
    worst_link_angstrom: float
    link_rms_angstrom: float

    def summary(self, seconds_left: float) -> str:
        """A line for the log; ``seconds_left`` counts from cycle 1 on."""
        judged = "" if self.frc_heldout is None else f"  held-out {self.frc_heldout:.4f}"
        left = "" if self.number == 0 else f", left {seconds_left:.0f} s at most"
        return (
            f"cycle {self.number:2d}  {self.stage:>8}  step {self.step:5d}  FRC work {self.frc_work:.4f}{judged}  "
            f"moved {self.moved_angstrom:5.2f} Å  worst link {self.worst_link_angstrom:.3f} Å  {self.seconds:6.1f} s"
            f"{left}"
        )


@dataclass
class TrainingPass:
    """One way through the stages: which particles are fitted, which are held out, and what came of it.

    ``best`` is the cycle that is the answer: the one that explains held-out particles best, of those that explain them
    clearly better than the start; with none held out the last one. ``highest`` is the cycle with the highest held-out
    correlation, however little that says, and ``gain_in_errors`` its gain over the start, image by image, in standard
    errors. Where rows share images, ``heldout_images``, (n_heldout,) int, numbers them, and each counts once in that
    error. Where ``watches_fold`` is set, a cycle whose C-N bonds deviate by 0.1 Å more than the start's, root mean
    square, is no answer, whatever it explains. ``judging_rings`` are those, from 1, that judge once poses are refined;
    None as long as all rings judge at the poses given. ``shared_cycles`` after the start are those of the first pass.
    """

    work: torch.Tensor
    heldout: torch.Tensor
    watches_fold: bool = False
    heldout_images: np.ndarray | None = None
    last_cycle: int | None = None
    cycles: list[Cycle] = field(default_factory=list)
    best: int = 0
    highest: int = 0
    gain_in_errors: float = 0.0
    start_images: list[float] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    judging_rings: list[int] | None = None
    shared_cycles: int = 0

    def go_on_from(self, first: TrainingPass, cycle: int) -> None:
        """Share the cycles of another pass after the start, up to one."""
        self.cycles += [replace(one, frc_heldout=None) for one in first.cycles[1 : cycle + 1]]
        self.shared_cycles = cycle

    def judged(self, scores: torch.Tensor) -> torch.Tensor:
        """Correlations, (n, n_rings), on the rings that judge."""
        return scores if self.judging_rings is None else scores[:, [ring - 1 for ring in self.judging_rings]]

    def judge_anew(self, rings: list[int], judge: Callable[[Any], torch.Tensor], start: Any, best: Any) -> None:
        """From now on judge refined poses, by rings (from 1) that were not asked for them.

        ``judge`` gives correlations of the held-out images, (n_heldout, n_rings), with a model, at poses refined with
        it: with the start and with the answer so far, ``best``.
        """
        # A signal may end the run while images are scored: what is known changes after that, as a whole.
        of_start = judge(start).cpu() if len(self.heldout) else None
        of_best = judge(best).cpu() if len(self.heldout) and self.best else None
        self.judging_rings = rings
        if of_start is not None:
            self.start_images = self.judged(of_start).mean(1).tolist()
            self.cycles[0].frc_heldout = mean_of_finite(self.judged(of_start))
            self.curves["held-out, start"] = of_start.nanmean(0).tolist()
            self.highest, self.gain_in_errors = self.best, 0.0
        if of_best is not None:
            self.cycles[self.best].frc_heldout = mean_of_finite(self.judged(of_best))
            self._note_gain(self.cycles[self.best], self.judged(of_best).mean(1).numpy())
            self.curves["held-out, end"] = of_best.nanmean(0).tolist()

    def add(self, cycle: Cycle, work: torch.Tensor, heldout: torch.Tensor | None) -> bool:
        """Take note of a cycle; returns whether it is the answer so far.

        Parameters
        ----------
        cycle : Cycle
        work, heldout : (n, n_rings) float
            Correlations of each image on each ring; no ``heldout`` if no particles are.
        """
        self.cycles.append(cycle)
        if cycle.number == 0:
            self.start_images = [] if heldout is None else self.judged(heldout).mean(1).tolist()
            self._keep_curves("start", work, heldout)
        is_answer = cycle.number == 0
        if not is_answer and self.keeps_fold(cycle):
            is_answer = heldout is None or self._explains_more(
                cycle, self._note_gain(cycle, self.judged(heldout).mean(1).numpy())
            )
        if is_answer:
            self.best = cycle.number
            self._keep_curves("end", work, heldout)
        return is_answer

    def keeps_fold(self, cycle: Cycle) -> bool:
        """Whether a cycle's geometry lets it be an answer."""
        added = cycle.link_rms_angstrom - self.cycles[0].link_rms_angstrom
        return not self.watches_fold or added <= MOST_ADDED_LINK_RMS_ANGSTROM

    def _note_gain(self, cycle: Cycle, images: np.ndarray) -> float:
        """Gain of held-out images, (n,), over the start in standard errors; kept for the highest cycle."""
        gains = images - np.array(self.start_images)
        known = np.isfinite(gains)
        gains = gains[known]
        if self.heldout_images is not None:
            numbers = np.unique(self.heldout_images[known], return_inverse=True)[1]
            gains = np.bincount(numbers, gains) / np.bincount(numbers)
        gain = _in_standard_errors(gains)
        if (cycle.frc_heldout or 0.0) >= (self.cycles[self.highest].frc_heldout or 0.0):
            self.highest, self.gain_in_errors = cycle.number, gain
        return gain

    def _explains_more(self, cycle: Cycle, gain_in_errors: float) -> bool:
        """Whether a cycle clearly explains more than the start, and at least as much as the answer so far."""
        so_far = self.cycles[self.best].frc_heldout or 0.0
        return gain_in_errors > _CLEAR_IN_ERRORS and (cycle.frc_heldout or 0.0) >= so_far

    def _keep_curves(self, when: str, work: torch.Tensor, heldout: torch.Tensor | None) -> None:
        self.curves[f"work, {when}"] = work.nanmean(0).tolist()
        if heldout is not None:
            self.curves[f"held-out, {when}"] = heldout.nanmean(0).tolist()

    @property
    def has_stopped_gaining(self) -> bool:
        """Whether held-out particles tell that later cycles are no better."""
        return len(self.heldout) > 0 and self.cycles[-1].number - self.highest >= MOST_CYCLES_WITHOUT_GAIN

    @property
    def gave_answer(self) -> bool:
        """Whether it came to an answer; one that was to follow another may have lost the fold where that had not."""
        return bool(self.cycles) and self.last_cycle in (None, self.best)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {name: getattr(self, name) for name in _KEPT_IN_CHECKPOINT}
        return {**kept, _HELD_OUT_BY_IMAGE: True, "cycles": [asdict(cycle) for cycle in self.cycles]}

    def restore_from_checkpoint(self, facts: dict[str, Any]) -> None:
        """Take back what ``facts`` gave.

        Raises
        ------
        InputError
            If an older version fitted some rows of an image and held out others: its gains say nothing.
        """
        if self.heldout_images is not None and not facts.get(_HELD_OUT_BY_IMAGE):
            raise InputError(
                "the run was started by an older version, which fitted some rows of an image and held out others; "
                "start it anew in another folder"
            )
        # A checkpoint of an older version may lack some.
        for name in set(_KEPT_IN_CHECKPOINT) & set(facts):
            setattr(self, name, facts[name])
        self.cycles = [Cycle(**cycle) for cycle in facts["cycles"]]


def lost_folds(passes: list[TrainingPass]) -> tuple[int, str | None]:
    """Number of cycles that are no answer for their geometry, and a sentence about them."""
    known = [(this, cycle) for this in passes for cycle in this.cycles if not 0 < cycle.number <= this.shared_cycles]
    cycles = [cycle for this, cycle in known if not this.keeps_fold(cycle)]
    if not cycles:
        return 0, None
    worst, start = max(cycle.link_rms_angstrom for cycle in cycles), passes[0].cycles[0].link_rms_angstrom
    return len(cycles), (
        f"{len(cycles)} cycles have lost the fold and are no answer: C-N bonds deviate by up to {worst:.2f} Å "
        f"root mean square (start {start:.2f} Å, allowed {start + MOST_ADDED_LINK_RMS_ANGSTROM:.2f} Å)"
    )


# Key of checkpoints in which rows that share an image are held out or fitted together.
_HELD_OUT_BY_IMAGE = "held_out_by_image"
# Fields of a pass that are keys of checkpoints, besides its cycles; names stay, so that older runs resume.
_KEPT_IN_CHECKPOINT = (
    "watches_fold",
    "last_cycle",
    "best",
    "highest",
    "gain_in_errors",
    "start_images",
    "curves",
    "judging_rings",
    "shared_cycles",
)


def spread_draw(rows: torch.Tensor, most: int, seed: int) -> torch.Tensor:
    """So many of the rows, (n,) int, drawn with the seed from all over the file, in their order; or all of fewer."""
    if len(rows) <= most:
        return rows
    # The second number keeps this draw apart from others with the same seed.
    drawn = np.random.default_rng([seed, 3]).permutation(len(rows))[:most]
    return rows[torch.as_tensor(np.sort(drawn))]


def mean_of_finite(scores: torch.Tensor) -> float:
    """Mean of the scores, (n, n_rings) or (n,), of images whose scores are all numbers; NaN if there are none."""
    finite = torch.isfinite(scores).reshape(len(scores), -1).all(1)
    return float(scores[finite].mean())


def _in_standard_errors(gain: np.ndarray) -> float:
    if len(gain) < FEWEST_HELD_OUT:
        return 0.0
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return float(gain.mean() / error) if error > 0 else 0.0


def heldout_count(n_particles: int, share: float | None = None) -> int:
    """Number of particles that are held out: a share, by default 5 % and at least 50, or a fifth of fewer than 500.

    Of fewer than 20 particles none are held out.
    """
    if share == 0 or n_particles < _FEWEST_TO_HOLD_OUT:
        return 0
    if share is not None:
        return min(max(FEWEST_HELD_OUT, round(share * n_particles)), n_particles // 2)
    if n_particles < _ONE_PASS_FROM:
        return n_particles // _SMALL_SET_DIVISOR
    return max(_FEWEST_OF_SHARE, round(_HELD_OUT_SHARE * n_particles))


def split_into_passes(
    n_particles: int,
    seed: int,
    share: float | None = None,
    watches_fold: bool = False,
    marked: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> list[TrainingPass]:
    """Split particles into fitted and held-out ones, in one or two passes.

    Parameters
    ----------
    n_particles : int
    seed : int
    share : float, optional
        Of the particles that are held out; 0 for none, and then nothing tells when to stop. See ``heldout_count``.
    watches_fold : bool
        Of the passes.
    marked : (n_particles,) bool, optional
        Particles that are held out; by default they are drawn with the seed.
    images : (n_particles,) int, optional
        Number of each row's particle (``ParticleSet.particle_numbers``). Rows that share an image or are tilts of one
        particle are held out or fitted together, and numbers of particles are those of images; by default each has
        its own.
    """
    if images is None:
        images = np.arange(n_particles)
    n_images = len(np.unique(images))
    everything = torch.arange(n_particles)
    if marked is not None:
        is_held_out = np.isin(images, images[marked])
    else:
        count = heldout_count(n_images, share)
        if count == 0:
            return [TrainingPass(everything, everything[:0], watches_fold)]
        drawn = np.random.default_rng([seed, 1]).permutation(n_images)[:count]
        is_held_out = np.isin(images, np.unique(images)[drawn])
    mask = torch.as_tensor(is_held_out)
    shared = None if n_images == n_particles else np.unique(images[is_held_out], return_inverse=True)[1]
    first = TrainingPass(everything[~mask], everything[mask], watches_fold, shared)
    return [first] if n_images >= _ONE_PASS_FROM else [first, TrainingPass(everything, everything[:0], watches_fold)]


def half_of(fitted: torch.Tensor, images: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Rows of a random half of the fitted ones, (n,) int, ascending; halves 2k and 2k + 1 share no image.

    ``images``, (n_particles,) int, numbers each particle's image; ``number`` is that of the half, from 0.

    Raises
    ------
    InputError
        If a half would have fewer than ten images.
    """
    rows = fitted.numpy()
    numbers = np.unique(images[rows])
    if len(numbers) < 2 * _FEWEST_OF_HALF:
        raise InputError(
            f"--twin: {len(numbers)} particles are too few for halves of at least {_FEWEST_OF_HALF}; leave --twin out"
        )
    drawn = np.random.default_rng([seed, 5, number // 2]).permutation(numbers)
    half = drawn[: len(drawn) // 2] if number % 2 == 0 else drawn[len(drawn) // 2 :]
    return rows[np.isin(images[rows], half)]


def verdict_of_pass(judged: TrainingPass) -> str:
    """What the data support: "supported", "not supported" or "undecided".

    Without held-out particles nothing can be said. With none of the cycles clearly better than the start, the best of
    them may still hint at something; then it is undecided.
    """
    if not judged.start_images:
        return "undecided"
    if judged.best > 0:
        return "supported"
    return "undecided" if judged.gain_in_errors > _HINT_IN_ERRORS else "not supported"


def answer_pass(passes: list[TrainingPass]) -> TrainingPass:
    """Pass whose best cycle is the answer: the last one, or the first where the last came to none."""
    return passes[-1] if passes[-1].gave_answer else passes[0]


def answer_curves(passes: list[TrainingPass]) -> dict[str, list[float]]:
    """Ring correlations at the start and end: held-out ones of the first pass, of fitted particles those of the answer.

    Keys are those of ``metrics.json``, such as "work, start".
    """
    fitted = {name: curve for name, curve in answer_pass(passes).curves.items() if name.startswith("work")}
    return {**passes[0].curves, **fitted}


def plot_curves(path: Path, resolutions: list[float], curves: dict[str, list[float]]) -> None:
    """Draw the Fourier ring correlation curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    frequency = 1 / np.array(resolutions)
    for name, curve in sorted(curves.items()):
        kind, when = name.split(", ")
        axes.plot(
            frequency,
            curve,
            color="tab:blue" if kind == "work" else "tab:orange",
            linestyle=":" if when == "start" else "-",
            label=name,
        )
    axes.axhline(0, color="grey", linewidth=0.5)
    ticks = np.linspace(frequency[0], frequency[-1], 6)
    axes.set_xticks(ticks, [f"{1 / tick:.1f}" for tick in ticks])
    axes.set_xlabel("resolution (Å)")
    axes.set_ylabel("Fourier ring correlation, mean over images")
    axes.legend(frameon=False)
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure).print_figure(str(partial), format="png", dpi=120)


def highest_gain(judged: TrainingPass) -> dict[str, float | None]:
    """The highest gain of the mean held-out correlation over the start's, and its standard error; None if unknown."""
    before, after = judged.cycles[0].frc_heldout, judged.cycles[judged.highest].frc_heldout
    if before is None or after is None or judged.highest == 0:
        return {"heldout_gain": None, "heldout_gain_error": None}
    gain, in_errors = after - before, judged.gain_in_errors
    return {"heldout_gain": gain, "heldout_gain_error": abs(gain / in_errors) if in_errors else None}
