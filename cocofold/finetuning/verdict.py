"""The verdict on a run in three questions: is the answer better than the start, are all its parts right, is it this
protein at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cocofold.likelihood.explained_signal import (
    ExplainedShare,
    ExplainedSignal,
    PartOccupancy,
    PlacementScore,
)
from cocofold.likelihood.residue_support import parts_of, stretches_of
from cocofold.likelihood.set_aside import LocalFit, find_local_fit
from cocofold.mapfit.unexplained_density import UnexplainedDensity
from cocofold.structure.model import Model

SUPPORTED, IN_PART, UNDECIDED = "supported", "supported in part", "undecided"
NOT_SUPPORTED, NOTHING_TO_CHANGE = "not supported", "nothing to change"
MIXED, NOT_BELONGING = "mixed", "does not belong"
# Verdicts with which model.cif is another model than the start
MOVES_THE_MODEL = (SUPPORTED, IN_PART)
# Those with which no one model is that of the images
NO_SINGLE_MODEL = (MIXED, NOT_BELONGING)

# Occupancy below which a part is not there, and bounds beyond which it is not right, each by three standard errors.
# Right answers had 0.92 to 1.09; chains and tails that no image shows 0 to 0.37; parts in the density of a missing
# domain 1.6; domains that are elsewhere in half of the particles 0.4 to 0.8.
_UNSEEN_BELOW, _RIGHT_FROM, _RIGHT_TO = 0.5, 0.75, 1.35
_ERRORS = 3.0
# Share of the signal that no atom explains above which an answer is right in part only, beyond two standard errors.
# Right answers leave -0.02 to 0.03.
_MOST_UNEXPLAINED, _UNEXPLAINED_ERRORS = 0.10, 2.0
# Share of unseen residues from which the others are fitted again without them: fewer hold little back.
_MOST_UNSEEN = 0.05
# Share of the first fit's gain that one without unseen parts may lack: it is simpler, and parts that were bent
# into noise and neighbours explain a little of held-out images, too.
_GAIN_LOST = 0.05
# Share of the signal below which an answer says nothing of a start that fits no better than by chance
_FOREIGN_BELOW_SHARE = 0.6
# Images that prefer the start to the answer are another state where two groups, on either side of zero, describe the
# gains so much better than one (difference of the Bayesian information criterion: "very strong" of Kass and Raftery,
# J. Am. Stat. Assoc. 90, 773, 1995), and at least this share of images is in the smaller one.
_LEAST_INFORMATION_GAIN, _LEAST_MINORITY = 10.0, 0.05
_MIXTURE_STEPS = 200


@dataclass(frozen=True)
class Evidence:
    """What the particles' own reconstruction and single images say of start and answer.

    Attributes
    ----------
    resolution_angstrom : float
        To which the reconstruction shows signal.
    placement : PlacementScore or None
        Of the start; None where the answer explains so much that it was not asked.
    start, answer : ExplainedShare
        Of the parts that the images show.
    parts : tuple of PartOccupancy
        Of the answer.
    share_preferring_start : float or None
        Share of images that are explained by the start clearly better than by the answer; None if they are no group of
        their own.
    missing : UnexplainedDensity or None
        Density that no atom of the answer explains; None where little of the signal is unexplained.
    local : LocalFit or None
        What of the density around each residue the answer does not explain.
    """

    resolution_angstrom: float
    placement: PlacementScore | None
    start: ExplainedShare
    answer: ExplainedShare
    parts: tuple[PartOccupancy, ...]
    share_preferring_start: float | None
    missing: UnexplainedDensity | None = None
    local: LocalFit | None = None

    @property
    def belongs(self) -> bool:
        """Whether it is this protein, in about this place."""
        return self.placement is None or not self.placement.is_by_chance

    @property
    def unexplained(self) -> float:
        """Share of the signal that no atom explains."""
        return 1 - self.answer.share

    @property
    def misses_much(self) -> bool:
        """Whether clearly more is missing than errors of positions explain."""
        lacking = [(self.unexplained, self.answer.error)]
        if self.missing is not None:
            lacking.append((self.missing.missing_mass, self.missing.error))
        return any(share - _UNEXPLAINED_ERRORS * error > _MOST_UNEXPLAINED for share, error in lacking)

    @property
    def may_miss_something(self) -> bool:
        """Whether it is worth while to look for density that no atom explains."""
        return self.unexplained > _MOST_UNEXPLAINED / 2

    @property
    def asks_for_second_fit(self) -> bool:
        """Whether the model lacks parts, or has others, by which atoms may have been drawn to wrong places."""
        if not self.belongs or self.share_preferring_start is not None:
            return False
        return self.lacks_much or self.has_surplus

    @property
    def lacks_much(self) -> bool:
        """Whether atoms may have been drawn into density of what the model lacks."""
        lacking = self.missing
        return lacking is not None and lacking.missing_mass - _UNEXPLAINED_ERRORS * lacking.error > _MOST_UNEXPLAINED

    @property
    def has_surplus(self) -> bool:
        """Whether parts that no image shows may have held others away from their places."""
        unseen = self.unseen()
        return bool(unseen.any() and not unseen.all() and unseen.mean() > _MOST_UNSEEN)

    @property
    def why_again(self) -> str:
        """What asks for a second fit, in words."""
        lacking = f"{100 * self.unexplained:.0f} % of the signal is explained by no atom" if self.lacks_much else ""
        surplus = f"{int(self.unseen().sum())} residues are in no image" if self.has_surplus else ""
        return " and ".join(filter(None, (lacking, surplus)))

    def takes(self, again: dict[str, Any], before: float, reached: float) -> bool:
        """Whether a second fit is the answer, by held-out correlations of the start and of the first fit's answer."""
        stays = again["verdict"] not in MOVES_THE_MODEL
        if again["verdict"] in NO_SINGLE_MODEL or (stays and not self.has_surplus):
            return False
        lost = _GAIN_LOST * (reached - before) if self.has_surplus else 0.0
        return (again["frc_heldout"] or 0.0) >= reached - lost

    def unseen(self) -> np.ndarray:
        """Residues that no image shows, (n_residues,) bool."""
        return self._residues(lambda part: part.occupancy + _ERRORS * part.error < _UNSEEN_BELOW)

    def doubtful(self) -> np.ndarray:
        """Residues at whose place there is clearly less or more than they would give, (n_residues,) bool."""
        return self._residues(
            lambda part: (
                part.occupancy + _ERRORS * part.error >= _UNSEEN_BELOW
                and not _RIGHT_FROM - _ERRORS * part.error < part.occupancy < _RIGHT_TO + _ERRORS * part.error
            )
        )

    def misplaced(self) -> np.ndarray:
        """Residues in stretches that are not the density at their place, (n_residues,) bool."""
        seen = ~self.unseen()
        return seen & self.local.wrong if self.local is not None else np.zeros_like(seen)

    def _residues(self, chosen: Callable[[PartOccupancy], bool]) -> np.ndarray:
        found = np.zeros(sum(len(part.residues) for part in self.parts), dtype=bool)
        for part in self.parts:
            found[part.residues] = chosen(part)
        return found

    def occupancies(self) -> np.ndarray:
        """Occupancy of each residue, (n_residues,): that of its part where no image shows it, else 1."""
        found = np.ones(sum(len(part.residues) for part in self.parts))
        for part in self.parts:
            found[part.residues] = max(0.0, part.occupancy)
        return np.where(self.unseen(), found, 1.0)

    def as_dict(self, model: Model) -> dict[str, Any]:
        """Figures for ``metrics.json``."""
        return {
            "resolution_angstrom": round(self.resolution_angstrom, 2),
            "placement_z_score": None if self.placement is None else round(self.placement.z_score, 2),
            "explained_start": round(self.start.share, 4),
            "explained": round(self.answer.share, 4),
            "explained_error": round(self.answer.error, 4),
            "unexplained_percent": round(100 * self.unexplained, 1),
            "missing": None if self.missing is None else self.missing.as_dict(),
            "share_preferring_start": self.share_preferring_start and round(self.share_preferring_start, 4),
            "unseen": [str(stretch) for stretch in stretches_of(model, self.unseen())],
            "doubtful": [str(stretch) for stretch in stretches_of(model, self.doubtful())],
            "misplaced": [str(stretch) for stretch in stretches_of(model, self.misplaced())],
        }


def gather_evidence(
    signal: ExplainedSignal,
    start: Model,
    answer: Model,
    gains: Callable[[], np.ndarray],
) -> Evidence | None:
    """Evidence on an answer; None where the reconstruction shows no more than an outline.

    Parameters
    ----------
    signal : ExplainedSignal
    start, answer : Model
        The same atoms at both places.
    gains : callable
        Gives for single images, (n,), how much better the answer correlates with each than the start does.
    """
    if not signal.can_judge(start):
        return None
    parts = tuple(signal.occupancies(answer, parts_of(answer)))
    explained = signal.explained(answer)
    placement = signal.placement(start) if explained.share < _FOREIGN_BELOW_SHARE else None
    prefer_start = share_below_zero(gains())
    local, shown = find_local_fit(signal, answer), signal.resolution_angstrom
    found = Evidence(shown, placement, signal.explained(start), explained, parts, prefer_start, local=local)
    seen = ~found.unseen()
    if seen.all() or not seen.any():
        return found
    return replace(found, start=signal.explained(start, seen), answer=signal.explained(answer, seen))


def judge(better: str, evidence: Evidence | None, model: Model, held_out: bool = True) -> tuple[str, list[str]]:
    """The verdict and its reasons, in sentences.

    Parameters
    ----------
    better : str
        What held-out images say of the first question: "supported", "undecided" or "not supported".
    evidence : Evidence or None
    model : Model
        For the names of residues.
    held_out : bool
        Whether there are held-out images: without them nothing says that the start needs no change.
    """
    if evidence is None:
        return better, [
            "The reconstruction of these particles shows no more than an outline: whether all parts are right, and "
            "whether it is this protein, cannot be told."
        ]
    reasons = _reasons(evidence, model)
    if not evidence.belongs:
        return NOT_BELONGING, [
            "Where it is, the model fits the images no better than turned at random, and "
            f"{100 * evidence.answer.share:.0f} % of the signal is explained in the end.",
            *reasons,
        ]
    if evidence.share_preferring_start is not None and (better == SUPPORTED or held_out):
        share = evidence.share_preferring_start
        return MIXED, [
            f"The images show more than one state: {100 * share:.0f} % of them are clearly better explained by the "
            f"start, {100 * (1 - share):.0f} % by the new model. No single model is right: --states auto fits one to "
            "each.",
            *reasons,
        ]
    complete = not reasons
    if better == SUPPORTED:
        return (SUPPORTED if complete else IN_PART), reasons
    if complete and held_out:
        return NOTHING_TO_CHANGE, [
            f"The start explains {100 * evidence.start.share:.0f} % of the signal, and no candidate explains "
            "held-out images better: there is nothing to change."
        ]
    return better, reasons


def _reasons(evidence: Evidence, model: Model) -> list[str]:
    """What keeps an answer from being right as a whole."""
    found = []
    if evidence.misses_much:
        found.append(
            f"{100 * evidence.unexplained:.0f} % (± {100 * evidence.answer.error:.0f}) of the signal in the images is "
            "explained by no atom of the model: parts are missing, or elsewhere."
        )
        if evidence.missing is not None:
            lacking = evidence.missing
            found.append(
                f"Missing mass: {100 * lacking.missing_mass:.0f} % (± {100 * lacking.error:.0f}) of the particle's."
            )
            for piece in lacking.pieces[:1]:
                place = ", ".join(f"{value:.0f}" for value in piece.centre_angstrom)
                found.append(f"Its largest piece, {100 * piece.mass_share:.0f} %, lies around ({place}) Å.")
    if evidence.unseen().any():
        names = ", ".join(str(stretch) for stretch in stretches_of(model, evidence.unseen()))
        found.append(f"No image shows {names}.")
    if evidence.doubtful().any():
        names = ", ".join(str(stretch) for stretch in stretches_of(model, evidence.doubtful()))
        found.append(f"The density at {names} is clearly less or more than these residues give: do not trust them.")
    if evidence.misplaced().any():
        names = ", ".join(str(stretch) for stretch in stretches_of(model, evidence.misplaced()))
        found.append(
            f"The density at {names} is not that of these residues: they are bent, out of register, or their side "
            "chains point elsewhere."
        )
    return found


_HEADLINES = {
    NOTHING_TO_CHANGE: (
        "There is nothing to change: the model is the start.",
        "The start explains the images, and no cycle agreed with the held-out particles better.",
    ),
    MIXED: (
        "The images show more than one state: the model is the start.",
        "What the fit gave is candidate.cif; it is between the states, or one of them.",
    ),
    NOT_BELONGING: (
        "The model does not belong to these images: it is the start.",
        "What the fit gave is candidate.cif: a model that was bent into the density of another molecule.",
    ),
}


@dataclass(frozen=True)
class VerdictText:
    """A verdict in whole sentences, as the log, ``metrics.json``, the report and Scipion have it."""

    headline: str
    explanation: str


def verdict_text(
    verdict: str, heldout_particles: int, frc_start: float | None, frc_best: float | None, best_cycle: int
) -> VerdictText:
    """A verdict in words.

    ``frc_start`` and ``frc_best`` are mean ring correlations of held-out particles at the start and with the answer,
    None if there are none; ``best_cycle`` is the answer's, 0 for a start that stays in a second fit.
    """
    if verdict in _HEADLINES:
        return VerdictText(*_HEADLINES[verdict])
    if not heldout_particles or frc_start is None or frc_best is None:
        return VerdictText(
            "Nothing checks this model: no particles were held out.",
            f"The model is that of cycle {best_cycle}. Whether the particles support the change cannot be said. To "
            "know, run again with held-out particles (the default from 20 particles on).",
        )
    if verdict in MOVES_THE_MODEL and not best_cycle:
        return VerdictText(
            "The particles support the start, without parts that no image shows.",
            f"{heldout_particles} particles were held out, and no cycle agreed better with them than the start "
            f"without these parts: its mean Fourier ring correlation is {frc_best:.3f}, with them {frc_start:.3f}.",
        )
    if verdict in (SUPPORTED, IN_PART):
        return VerdictText(
            "The particles support the new model."
            if verdict == SUPPORTED
            else "The particles support the new model in part.",
            f"{heldout_particles} particles were held out of the fit, and they agree better with the new model than "
            f"with the start: their mean Fourier ring correlation rose from {frc_start:.3f} to {frc_best:.3f}, by more "
            "than three standard errors.",
        )
    if verdict == UNDECIDED:
        return VerdictText(
            "The particles do not decide: the model is the start.",
            f"A cycle agreed with the {heldout_particles} held-out particles a little better than the start did, by "
            "one to three standard errors, which is a hint and no more. More particles, or better poses, may decide.",
        )
    return VerdictText(
        "The particles do not support a change: the model is the start.",
        f"No cycle agreed with the {heldout_particles} held-out particles better than the start did by more than one "
        "standard error. A start that is right already ends like this, and so do particles that are too few, too noisy "
        "or too badly aligned to tell.",
    )


def share_below_zero(gains: np.ndarray) -> float | None:
    """Share of the group below zero, where values are two groups on either side of it; None where they are not.

    One normal distribution is compared with a mixture of two, by expectation and maximisation.
    """
    gains = np.asarray(gains, dtype=float)
    count, spread = len(gains), gains.std()
    below = gains < 0
    if count < 20 or spread == 0 or not 2 <= below.sum() <= count - 2:
        return None
    single = _log_normal(gains, gains.mean(), spread).sum()
    chance = np.stack([below, ~below]).astype(float)
    # No group is narrower than this share of all: single images that lie together by chance are none.
    narrowest = 0.1 * spread
    total = -np.inf
    for _ in range(_MIXTURE_STEPS):
        shares = chance.mean(1)
        means = chance @ gains / chance.sum(1)
        widths = np.sqrt((chance * (gains - means[:, None]) ** 2).sum(1) / chance.sum(1)).clip(narrowest)
        each = np.log(shares)[:, None] + _log_normal(gains, means[:, None], widths[:, None])
        together = np.logaddexp(*each)
        chance = np.exp(each - together)
        if together.sum() - total < 1e-6 * count:
            break
        total = together.sum()
        if chance.sum(1).min() < 1:
            return None
    # Three parameters more
    gained = 2 * (together.sum() - single) - 3 * np.log(count)
    apart = means[0] < -widths[0] and means[1] > widths[1]
    if gained < _LEAST_INFORMATION_GAIN or not apart or shares.min() < _LEAST_MINORITY:
        return None
    return float(shares[0])


def _log_normal(values: np.ndarray, mean: Any, width: Any) -> np.ndarray:
    return -0.5 * ((values - mean) / width) ** 2 - np.log(width) - 0.5 * np.log(2 * np.pi)
