"""Bodies of a prediction: residues that it is sure of relative to each other."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import average, fcluster
from scipy.spatial.distance import squareform

from cocofold.placement.selections import describe
from cocofold.structure import Model

_SURE_ANGSTROM = 10.0
_FEWEST_RESIDUES = 30


def bodies_by_error(model: Model, error_angstrom: np.ndarray) -> str:
    """Bodies for ``bodies_of``, split where the predicted aligned error is large.

    Residues are clustered by average linkage up to a mean error of 10 Å; a cluster of fewer than 30 residues joins the
    one that it has the least error to.

    Parameters
    ----------
    model : Model
        Of amino acids alone.
    error_angstrom : (n_residues, n_residues) float
        Expected error of a residue (column) in the frame of another (row).
    """
    error = np.asarray(error_angstrom, dtype=float)
    error = (error + error.T) / 2
    np.fill_diagonal(error, 0.0)
    if len(error) < 2 * _FEWEST_RESIDUES:
        return describe(model, np.ones(len(error), dtype=bool))
    of_residue = fcluster(average(squareform(error, checks=False)), _SURE_ANGSTROM, criterion="distance")
    large = [name for name in np.unique(of_residue) if (of_residue == name).sum() >= _FEWEST_RESIDUES]
    if not large:
        return describe(model, np.ones(len(error), dtype=bool))
    to_each = np.stack([error[:, of_residue == name].mean(1) for name in large], axis=1)
    nearest = np.array(large)[to_each.argmin(1)]
    of_residue = np.where(np.isin(of_residue, large), of_residue, nearest)
    in_order = dict.fromkeys(of_residue.tolist())
    return ";".join(describe(model, of_residue == name) for name in in_order)
