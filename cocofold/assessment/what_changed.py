"""What changed between two models of the same molecule: bodies that moved as they are, about which axis and hinges.

Bodies are found from the two models alone. Short segments of the chains are merged, those first whose common
superposition costs least (Ward's criterion on the squared distances after superposition), as long as what is merged
lies apart by less than a tolerance. Stretches of the chains then go to the body whose motion explains them best,
until nothing changes. A body's motion is that of a screw (Chasles): a turn about an axis and a shift along
it, relative to the largest body, which counts as at rest.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from cocofold.assessment.matching import match_residues, matched_positions, traces_of_both
from cocofold.likelihood.residue_support import Stretch, stretches_of
from cocofold.structure.geometry import (
    ScrewMotion,
    find_superposition,
    pair_moments,
    rmsd,
    squared_distance_weights,
    superpose_from_moments,
    superpose_onto,
)
from cocofold.structure.model import Model

# Residues of a segment: fewer turn by chance, more hide the hinge between two bodies.
_SEGMENT_RESIDUES = 5
# Segments whose CA atoms come that close may belong to one body.
_CONTACT_ANGSTROM = 8.0
# Two bodies lie apart if what is merged differs by more than this, root mean square over the smaller one: models of one
# state fitted to different images differ by 0.5 Å. Of a large change, a share of its CA RMSD is bending within bodies.
_TOLERANCE_ANGSTROM, _TOLERANCE_SHARE = 1.0, 0.3
# Of fewer residues nothing is called a body: a loop or a helix that moves alone.
_FEWEST_OF_BODY = 15
# A residue goes with a body up to so many tolerances, and a chain goes over into another body where that is worth as
# much as so many residues that lie a tolerance apart.
_WITHIN_TOLERANCES, _CHANGE_COST = 1.5, 4.0
_REFINEMENT_ROUNDS = 20
# Residues on either side of a border between bodies that are named as its hinge
_HINGE_REACH = 2


@dataclass(frozen=True)
class RigidBody:
    """Residues that moved together.

    Attributes
    ----------
    stretches : tuple of Stretch
        By the names of the second model.
    residues : (n,) int
        Rows in the second model.
    hinges : tuple of Stretch
        Where the chain goes over into another body.
    motion : ScrewMotion
        Relative to the body at rest, in the frame of the second model; that of the body at rest is its own.
    rotation, translation : (3, 3) and (3,) float
        ``second ≈ rotation @ first + translation``, Å, as the models lie.
    rms_angstrom : float
        CA RMSD within the body.
    frc_gain : float or None
        What its motion added to the mean ring correlation, where images were asked.
    """

    stretches: tuple[Stretch, ...]
    residues: np.ndarray
    hinges: tuple[Stretch, ...]
    motion: ScrewMotion
    rotation: np.ndarray
    translation: np.ndarray
    rms_angstrom: float
    frc_gain: float | None = None

    @property
    def name(self) -> str:
        """Its stretches in a row."""
        return ", ".join(map(str, self.stretches))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "residues": [str(stretch) for stretch in self.stretches],
            "count": len(self.residues),
            "hinges": [str(stretch) for stretch in self.hinges],
            **self.motion.as_dict(),
            "rms_angstrom": round(self.rms_angstrom, 3),
            "frc_gain": None if self.frc_gain is None else round(self.frc_gain, 5),
        }


@dataclass(frozen=True)
class WhatChanged:
    """What changed from one model to another.

    Attributes
    ----------
    matched_residues : int
    ca_rmsd, ca_rmsd_in_place : float
        Å, after a superposition of all, and as the models lie.
    at_rest : RigidBody or None
        The largest body; None if no residues keep together.
    moved : tuple of RigidBody
        The others, the largest first.
    flexible : tuple of Stretch
        Residues that go with no body.
    """

    matched_residues: int
    ca_rmsd: float
    ca_rmsd_in_place: float
    at_rest: RigidBody | None
    moved: tuple[RigidBody, ...]
    flexible: tuple[Stretch, ...]

    def with_gains(self, gains: list[float]) -> WhatChanged:
        """With what each moved body's motion added to the mean ring correlation."""
        return replace(self, moved=tuple(replace(body, frc_gain=gain) for body, gain in zip(self.moved, gains)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "matched_residues": self.matched_residues,
            "ca_rmsd": round(self.ca_rmsd, 3),
            "ca_rmsd_in_place": round(self.ca_rmsd_in_place, 3),
            "at_rest": None if self.at_rest is None else self.at_rest.as_dict(),
            "moved": [body.as_dict() for body in self.moved],
            "flexible": [str(stretch) for stretch in self.flexible],
            "sentences": self.sentences(),
        }

    def sentences(self) -> list[str]:
        """The changes in words."""
        whole = f"CA atoms differ by {self.ca_rmsd:.2f} Å after superposition, {self.ca_rmsd_in_place:.2f} Å in place"
        if self.at_rest is None:
            return [f"{whole}; no {_FEWEST_OF_BODY} residues keep together."]
        found = [f"{whole}, over {self.matched_residues} residues."]
        own = self.at_rest.motion
        if not self.moved:
            found.append(f"No part moved against another by more than {_TOLERANCE_ANGSTROM:g} Å as a body.")
        for body in self.moved:
            text = f"{body.name} ({len(body.residues)} residues) {body.motion}, relative to {self.at_rest.name}."
            if body.hinges:
                text += f" Hinges: {', '.join(map(str, body.hinges))}."
            if body.frc_gain is not None:
                text += f" This motion added {body.frc_gain:+.4f} to the ring correlation."
            found.append(text)
        if own.centre_shift_angstrom >= _TOLERANCE_ANGSTROM or own.axis is not None:
            found.append(
                f"As the models lie, {self.at_rest.name} itself is turned by {own.angle_degrees:.1f}° and its centre "
                f"shifted by {own.centre_shift_angstrom:.1f} Å."
            )
        if self.flexible:
            found.append(f"With no body go {', '.join(map(str, self.flexible))}.")
        return found


def what_changed(before: Model, after: Model) -> WhatChanged:
    """Bodies that moved from one model to another, and how.

    Parameters
    ----------
    before, after : Model
        Of one molecule; residues are matched as ``assess`` matches them.

    Raises
    ------
    InputError
        If they have fewer than three residues in common.
    """
    _, traces, others = traces_of_both(after, before)
    matches = match_residues(traces, others).superposed
    second, first = matched_positions(matches, traces, others)
    rows = np.concatenate([traces[match.model].residues[match.pairs[:, 0]] for match in matches])
    order = np.argsort(rows, kind="stable")
    rows, first, second = rows[order], first[order], second[order]
    whole = rmsd(superpose_onto(first, second), second)
    chains = np.array([after.residues[row].chain for row in rows])
    pieces = _unbroken(rows, chains)
    labels = find_bodies(first, second, pieces, max(_TOLERANCE_ANGSTROM, _TOLERANCE_SHARE * whole))
    bodies = _describe(after, rows, first, second, labels, pieces)
    loose = np.zeros(len(after.residues), dtype=bool)
    loose[rows[labels < 0]] = True
    at_rest, moved = (bodies[0], tuple(bodies[1:])) if bodies else (None, ())
    return WhatChanged(len(rows), whole, rmsd(first, second), at_rest, moved, stretches_of(after, loose))


def _unbroken(rows: np.ndarray, chains: np.ndarray) -> list[np.ndarray]:
    """Places of matched residues that follow each other in a chain of the second model."""
    breaks = np.flatnonzero((np.diff(rows) != 1) | (chains[1:] != chains[:-1])) + 1
    return np.split(np.arange(len(rows)), breaks)


def find_bodies(first: np.ndarray, second: np.ndarray, pieces: list[np.ndarray], tolerance: float) -> np.ndarray:
    """Body of each residue, (n,) int from 0, the largest first; -1 for those that go with none.

    Parameters
    ----------
    first, second : (n, 3) float
        CA atoms before and after, Å.
    pieces : list of (m,) int
        Places that follow each other in a chain.
    tolerance : float
        Å; see the module.
    """
    segments = np.full(len(first), -1)
    for number, part in enumerate(
        part for piece in pieces for part in np.array_split(piece, max(1, len(piece) // _SEGMENT_RESIDUES))
    ):
        segments[part] = number
    # Round-off of moments grows with the distance from the origin.
    moments = pair_moments(first - first.mean(0), second - second.mean(0))
    touching = np.concatenate(
        [cKDTree(some).query_pairs(_CONTACT_ANGSTROM, output_type="ndarray") for some in (first, second)]
    )
    labels = _merge(segments, touching, moments, tolerance)
    # Parts that do not touch may yet move alike.
    labels = _largest_first(labels)
    one_of_each = np.unique(labels[labels >= 0], return_index=True)[1]
    pairs = np.flatnonzero(labels >= 0)[one_of_each][np.stack(np.triu_indices(len(one_of_each), 1), 1)]
    labels = _largest_first(_merge(labels, pairs, moments, tolerance))
    for _ in range(_REFINEMENT_ROUNDS):
        count = labels.max() + 1
        if count == 0:
            break
        sums = np.array([moments[labels == body].sum(0) for body in range(count)])
        squares = moments @ squared_distance_weights(*superpose_from_moments(sums)).T
        anew = _assign(squares.clip(0), pieces, tolerance)
        anew = _largest_first(anew)
        if (anew == labels).all():
            break
        labels = anew
    return labels


def _assign(squares: np.ndarray, pieces: list[np.ndarray], tolerance: float) -> np.ndarray:
    """Body of each residue, (n,): the cheapest way along each chain, where changes of body cost (Viterbi); -1 for none.

    Parameters
    ----------
    squares : (n, n_bodies) float
        Squared distance of each residue under each body's motion, Å².
    pieces : list of (m,) int
    tolerance : float
        Å.
    """
    worst = _WITHIN_TOLERANCES**2
    # The last column is for no body.
    costs = np.column_stack([np.minimum(squares / tolerance**2, 2 * worst), np.full(len(squares), worst)])
    labels = np.full(len(squares), -1)
    for piece in pieces:
        total, came_from = costs[piece[0]], []
        for row in piece[1:]:
            best = int(total.argmin())
            stays = total <= total[best] + _CHANGE_COST
            came_from.append(np.where(stays, np.arange(len(total)), best))
            total = np.where(stays, total, total[best] + _CHANGE_COST) + costs[row]
        state = int(total.argmin())
        for row, before in zip(piece[::-1], [*came_from[::-1], np.arange(len(total))]):
            labels[row] = state
            state = int(before[state])
    labels[labels == costs.shape[1] - 1] = -1
    return labels


def _largest_first(labels: np.ndarray) -> np.ndarray:
    """Labels anew by size; bodies of too few residues are none."""
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    kept = [name for name, count in sorted(zip(names, counts), key=lambda one: (-one[1], one[0]))]
    kept = [name for name in kept if (labels == name).sum() >= _FEWEST_OF_BODY]
    found = np.full(len(labels), -1)
    for place, name in enumerate(kept):
        found[labels == name] = place
    return found


def _merge(labels: np.ndarray, pairs: np.ndarray, moments: np.ndarray, tolerance: float) -> np.ndarray:
    """Merge sets of residues that touch, the cheapest pair first.

    Parameters
    ----------
    labels : (n,) int
        Set of each residue; -1 for none.
    pairs : (m, 2) int
        Residues by which sets touch.
    moments : (n, 17) float
    tolerance : float
        Å.

    Returns
    -------
    (n,) int
        Set of each residue after merging.
    """
    owner = labels.copy()
    sums = {number: moments[owner == number].sum(0) for number in np.unique(owner[owner >= 0]).tolist()}
    touching: dict[int, set[int]] = {number: set() for number in sums}
    for one, other in owner[pairs].tolist():
        if one != other and min(one, other) >= 0:
            touching[one].add(other)
            touching[other].add(one)
    errors = {number: float(_errors(total[None])[0]) for number, total in sums.items()}
    queue: list[tuple[float, int, int]] = []

    def propose(number: int, others: list[int]) -> None:
        together = _errors(np.array([sums[number] + sums[other] for other in others]).reshape(-1, 17))
        for other, error in zip(others, together.tolist()):
            added = max(error - errors[number] - errors[other], 0.0)
            if added <= min(sums[number][0], sums[other][0]) * tolerance**2:
                heapq.heappush(queue, (added, min(number, other), max(number, other)))

    for number, others in touching.items():
        propose(number, [other for other in sorted(others) if other > number])
    following = max(sums, default=0) + 1
    while queue:
        _, one, other = heapq.heappop(queue)
        if one not in sums or other not in sums:
            continue
        sums[following] = sums.pop(one) + sums.pop(other)
        errors[following] = float(_errors(sums[following][None])[0])
        owner[(owner == one) | (owner == other)] = following
        touching[following] = (touching.pop(one) | touching.pop(other)) - {one, other}
        for neighbour in touching[following]:
            touching[neighbour] = (touching[neighbour] - {one, other}) | {following}
        propose(following, sorted(touching[following]))
        following += 1
    return owner


def _errors(sums: np.ndarray) -> np.ndarray:
    """Sums of squared distances after the best superposition, (n,) Å², of moments summed over sets, (n, 17)."""
    count, moving, fixed = sums[:, :1], sums[:, 1:4], sums[:, 4:7]
    covariance = sums[:, 7:16].reshape(-1, 3, 3) - fixed[:, :, None] * (moving / count)[:, None, :]
    squares = sums[:, 16] - ((moving**2 + fixed**2) / count).sum(1)
    traces = np.linalg.svd(covariance, compute_uv=False)
    # A mirror image is not reflected back (Kabsch).
    traces[:, 2] *= np.sign(np.linalg.det(covariance))
    return squares - 2 * traces.sum(1)


def _describe(
    after: Model,
    rows: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    pieces: list[np.ndarray],
) -> list[RigidBody]:
    """Bodies with their names and motions, the one at rest at first."""
    found: list[RigidBody] = []
    rest_rotation, rest_translation = np.eye(3), np.zeros(3)
    for body in range(labels.max() + 1):
        own = labels == body
        rotation, translation = find_superposition(first[own], second[own])
        relative = rotation @ rest_rotation.T
        shift = translation - relative @ rest_translation
        centre = rest_rotation @ first[own].mean(0) + rest_translation
        motion = ScrewMotion.of(relative, shift, centre)
        if body == 0:
            rest_rotation, rest_translation = rotation, translation
        within = rmsd(first[own] @ rotation.T + translation, second[own])
        flags = np.zeros((2, len(after.residues)), dtype=bool)
        flags[0, rows[own]] = True
        flags[1, rows[_hinge(own, labels, pieces)]] = True
        stretches, hinged = (stretches_of(after, chosen) for chosen in flags)
        found.append(RigidBody(stretches, rows[own], hinged, motion, rotation, translation, within))
    return found


def _hinge(own: np.ndarray, labels: np.ndarray, pieces: list[np.ndarray]) -> np.ndarray:
    """Where the chain goes over from a body into another, (n,) bool: what lies between, and two residues beside it."""
    found = np.zeros(len(own), dtype=bool)
    for piece in pieces:
        settled = piece[labels[piece] >= 0]
        for one, other in zip(settled[:-1], settled[1:]):
            if own[one] != own[other]:
                found[max(piece[0], one - _HINGE_REACH + 1) : min(piece[-1], other + _HINGE_REACH - 1) + 1] = True
    return found
