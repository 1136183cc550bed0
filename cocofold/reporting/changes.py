"""What changed from start to result, residue by residue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cocofold.assessment import superpose
from cocofold.errors import InputError
from cocofold.structure import Model


@dataclass(frozen=True)
class Changes:
    """Residues of the result, with where they were in the start.

    Attributes
    ----------
    start_row : (n,) int
        Row in the start's residues of each of the result's.
    in_place, superposed : (n,) float
        Distance (Å) of CA from start to result as they lie, and after one superposition of all; NaN without CA.
    places : (n_start,) int
        Numbers of the start's residues that rise by one where the author's do, and by two elsewhere.
    """

    start_row: np.ndarray
    in_place: np.ndarray
    superposed: np.ndarray
    places: np.ndarray

    @property
    def rms_in_place(self) -> float:
        """Root mean square displacement (Å) of CA as they lie."""
        return _root_mean_square(self.in_place)

    @property
    def rms_superposed(self) -> float:
        """CA RMSD (Å) of the result from the start."""
        return _root_mean_square(self.superposed)


def changes(start: Model, answer: Model) -> Changes:
    """Compare a result with its start, of which it has all residues or some.

    Raises
    ------
    InputError
        If the result has residues that the start has not.
    """
    known = {key: row for row, key in enumerate(start.residues)}
    unknown = [key for key in answer.residues if key not in known]
    if unknown:
        key = unknown[0]
        raise InputError(f"the result has residue {key.name} {key.chain}{key.number}, which its start has not")
    rows = np.array([known[key] for key in answer.residues])
    alpha = answer.atoms_named("CA")
    has_alpha = np.zeros(len(rows), bool)
    has_alpha[answer.backbone()[0]] = True
    in_place, superposed = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    there = answer.positions[alpha[has_alpha]]
    here = start.positions[start.atoms_named("CA")[rows[has_alpha]]]
    in_place[has_alpha] = np.linalg.norm(there - here, axis=1)
    rotation, translation = superpose(there, here)
    superposed[has_alpha] = np.linalg.norm(there @ rotation.T + translation - here, axis=1)
    return Changes(rows, in_place, superposed, _places(start))


def _places(model: Model) -> np.ndarray:
    steps = [
        1 if after.chain == before.chain and after.number - before.number in (0, 1) else 2
        for before, after in zip(model.residues, model.residues[1:])
    ]
    return np.cumsum([0, *steps])


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(values**2)))
