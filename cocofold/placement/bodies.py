"""Bodies of a placed model, each moved on its own to where the others leave density."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cocofold.placement.finding import Tell, find, find_near, polish
from cocofold.placement.motions import Motions
from cocofold.placement.rivals import TRUSTED, Standing, in_standard_errors, stand
from cocofold.placement.target import Atoms, Target

_CLASH_ANGSTROM = 3.0
MOST_CLASHING = 0.03


def place_bodies(
    bodies: list[Atoms], target: Target, whole: Motions, centroid: np.ndarray, tell: Tell
) -> list[tuple[Motions, Standing]]:
    """Place bodies one after the other, each in the density that those before it leave.

    Each is sought within 40° and 12 Å of where the whole model has it; if no place there stands out, everywhere. At the
    end all are moved uphill again in the density that all others leave.

    Parameters
    ----------
    bodies : list of Atoms
        In the model's frame.
    target : Target
    whole : Motions
        One: the whole model's.
    centroid : (3,) float
        Of the whole model, in its own frame.
    tell

    Returns
    -------
    list of (Motions, Standing)
        For each body one motion of its centred atoms with its correlation in what the others leave, and how it stands
        against other places.
    """
    found: list[Motions] = []
    placed: list[Atoms] = []
    for number, body in enumerate(bodies, start=1):
        tell(f"body {number}", 0.0)
        centre = whole.rotations[0] @ (body.centroid - centroid) + whole.centres[0]
        start = Motions(whole.rotations, centre[None], np.zeros(1))
        best = _sought(body, target, start, placed, tell)
        found.append(best)
        placed.append(body.moved(best.rotations[0], best.centres[0]))
    for number, body in enumerate(bodies):
        others = placed[:number] + placed[number + 1 :]
        settled = polish(body, target, found[number][:1], Atoms.joined(others))
        moved = body.moved(settled.rotations[0], settled.centres[0])
        if overlap(moved, others) <= max(MOST_CLASHING, overlap(placed[number], others)):
            placed[number] = moved
            found[number] = Motions.in_turn([settled, found[number][1:]])
    return [(motions, stand(body, target, motions)) for body, motions in zip(bodies, found)]


def _sought(body: Atoms, target: Target, start: Motions, placed: list[Atoms], tell: Tell) -> Motions:
    """Where a body goes, then its rivals: near the start if a place there stands out, or else anywhere."""
    explained = Atoms.joined(placed)
    near = find_near(body, target, start, explained)
    free = _free_of(body, near, placed)
    ranked = Motions.in_turn([near[free], near[~free]])
    if free.any() and stand(body, target, ranked).trusted:
        return ranked
    far = find(body, [target], explained, tell)[0]
    far_free = _free_of(body, far, placed)
    rivals = Motions.joined([near, far])
    if not far_free.any():
        return Motions.in_turn([near[free][:1] if free.any() else start, rivals])
    clear = not free.any() or in_standard_errors(body, target, far[far_free].scores[0], near[free].scores[0]) > TRUSTED
    first = far[far_free][:1] if clear else near[free][:1]
    return Motions.in_turn([first, rivals])


def overlap(body: Atoms, others: list[Atoms]) -> float:
    """Share of a body's CA atoms that lie within 3 Å of another body's."""
    if not others:
        return 0.0
    tree = cKDTree(np.concatenate([other.alphas for other in others]))
    return float((tree.query(body.alphas)[0] < _CLASH_ANGSTROM).mean())


def _free_of(body: Atoms, motions: Motions, placed: list[Atoms]) -> np.ndarray:
    """Which motions put the body where no other is, (n,) bool."""
    moved = [body.moved(turn, centre) for turn, centre in zip(motions.rotations, motions.centres)]
    return np.array([overlap(one, placed) <= MOST_CLASHING for one in moved], dtype=bool)
