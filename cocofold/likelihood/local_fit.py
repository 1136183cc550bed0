"""How well each stretch of a model is the density at its place, in all detail that the particles show.

What a whole model explains of the signal hardly changes where a helix is out of register or a loop is bent: most of
the power is at low resolution, and few residues are concerned. Here all shells count alike, and each stretch is
compared with the density around it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.structure.confidence import runs_of
from cocofold.structure.model import Model

# Voxels nearer to an atom than this belong to its residue, Å; residues on either side whose density counts with one's.
_REACH_ANGSTROM, _BESIDE = 3.0, 4
# Share of the density around a stretch that its atoms do not explain, above which it is wrong, by so many standard
# errors; and above which residues beside such a stretch are named with it.
_WRONG_ABOVE, _ERRORS, _DOUBTFUL_ABOVE = 0.25, 2.0, 0.15


@dataclass(frozen=True)
class LocalFit:
    """What of the density around each residue and its neighbours the model does not explain.

    Attributes
    ----------
    unexplained : (n_residues,) float
        One minus the squared correlation of the model with the density without its noise: 0 for the truth, 1 where
        both have nothing in common.
    error : float
        Standard error of ``unexplained``, by the noise of the images, over its square root: of a model that is the
        density, both the model's part in it and the whole change alike with the noise.
    wrong : (n_residues,) bool
        Stretches that clearly are not the density at their place.
    """

    unexplained: np.ndarray
    error: float
    wrong: np.ndarray


def find_local_fit(signal: ExplainedSignal, model: Model) -> LocalFit:
    """Compare each stretch of a model with the density around it.

    Parameters
    ----------
    signal : ExplainedSignal
    model : Model
    """
    drawn, halves = signal.flattened_densities(model)
    owner = _owners(model, drawn.shape[0], signal.grid_pixel_angstrom)
    chains = np.array([key.chain for key in model.residues])

    def around(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(owner[owner >= 0], values.ravel()[owner >= 0], len(chains))
        for chain in dict.fromkeys(chains.tolist()):
            rows = np.flatnonzero(chains == chain)
            count = np.r_[0.0, np.cumsum(sums[rows])]
            at = np.arange(len(rows))
            sums[rows] = count[np.minimum(at + _BESIDE + 1, len(rows))] - count[np.maximum(at - _BESIDE, 0)]
        return sums

    power, common = around(drawn**2), around(halves[0] * halves[1])
    floor = np.finfo(float).tiny

    def unexplained(density: np.ndarray) -> np.ndarray:
        shared = around(density * drawn)
        return 1 - np.sign(shared) * shared**2 / np.maximum(power * common, floor)

    # Where half maps share nothing, or no atom is drawn, there is nothing to compare.
    known = (common > 0) & (power > 0)
    found = np.where(known, np.clip(unexplained((halves[0] + halves[1]) / 2), 0, 1), 0.0)
    spread = (unexplained(halves[0]) - unexplained(halves[1]))[known] / 2
    error = float(np.sqrt((spread**2).mean())) if known.any() else 0.0
    return LocalFit(found, error, _wrong_stretches(found, error, chains))


def _owners(model: Model, side: int, pixel_angstrom: float) -> np.ndarray:
    """Residue whose atom is nearest to each voxel, (side³,) int in the order z, y, x; -1 where none is near."""
    heavy = np.flatnonzero(model.atomic_numbers > 1)
    steps = np.arange(side) * pixel_angstrom
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    near = cKDTree(model.positions[heavy]).query(
        np.stack([x, y, z], axis=-1).reshape(-1, 3), distance_upper_bound=_REACH_ANGSTROM
    )[1]
    return np.append(model.residue_of_atom[heavy], -1)[near]


def _wrong_stretches(unexplained: np.ndarray, error: float, chains: np.ndarray) -> np.ndarray:
    """Stretches in which a residue is wrong, with those beside it that are doubtful, (n_residues,) bool."""
    wrong = np.zeros(len(unexplained), dtype=bool)
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        for first, after in runs_of(unexplained[rows] > _DOUBTFUL_ABOVE):
            stretch = rows[first:after]
            most = unexplained[stretch].max()
            wrong[stretch] = most - _ERRORS * error * np.sqrt(most) > _WRONG_ABOVE
    return wrong
