"""Conversion of models and volumes between Scipion's frame and the engine's.

The engine's frame is that of the box: voxel (0, 0, 0) lies at 0 Å and the rotation centre at voxel N // 2. Scipion
shows volumes and models with voxel 0 at the volume's origin, by default -N/2 voxels. Models that other programs made
may lie in either frame; the density at their atoms decides which one it is.
"""

from __future__ import annotations

import os

import numpy as np
from pwem.convert.headers import Ccp4Header
from pwem.emlib.image import ImageHandler
from pwem.objects import Volume
from pyworkflow.utils import cleanPath

from .models import readPositions

MAP_ENDINGS = (".mrc", ".map", ".ccp4")


def originOf(volume: Volume) -> np.ndarray:
    """Return the position (Å) of a volume's voxel 0 in Scipion's frame, shape (3,)."""
    return np.array(volume.getOrigin(force=True).getShifts(), dtype=float)


def centredOrigin(box: int, sampling: float) -> np.ndarray:
    """Return the origin (Å) that Scipion gives to volumes that have none, shape (3,)."""
    return np.full(3, -0.5 * box * sampling)


def findShiftToBox(path: str, volume: Volume) -> tuple[np.ndarray, tuple[float, float]]:
    """Find the vector that moves a model, placed in a volume, from its own frame to the box's.

    Parameters
    ----------
    path : str
        Model that lies in the volume's density.
    volume : Volume

    Returns
    -------
    shift : (3,) float
        In Å: 0 for a model in the box's frame, minus the volume's origin for one in Scipion's frame.
    densities : tuple of float
        Mean density at the atoms with the shift, and with the other one, in standard deviations of the map.
    """
    positions = readPositions(path)
    candidates = [-originOf(volume), np.zeros(3)]
    found = [_meanDensity(volume, positions + shift) for shift in candidates]
    best = int(found[1] > found[0])
    return candidates[best], (found[best], found[1 - best])


def guessShiftToBox(path: str, box: int, sampling: float) -> np.ndarray:
    """Return the vector (Å) to the box's frame for a model without a volume.

    Of the two frames that are possible it is the one in which the model lies nearer the box's centre.
    """
    middle = readPositions(path).mean(axis=0)
    shift = -centredOrigin(box, sampling)
    candidates = [shift, np.zeros(3)]
    return min(candidates, key=lambda move: np.linalg.norm(middle + move - shift))


def convertToMrc(volume: Volume, folder: str) -> str:
    """Return the path of a volume as an MRC file, converted into a folder if it is in another format."""
    path: str = volume.getFileName().split(":")[0]
    if os.path.splitext(path)[1].lower() in MAP_ENDINGS:
        return path
    target = os.path.join(folder, os.path.splitext(os.path.basename(path))[0] + ".mrc")
    ImageHandler().convert(volume, target)
    Ccp4Header.fixFile(target, target, volume.getOrigin(force=True).getShifts(), volume.getSamplingRate())
    return target


def linkForViewers(volume: Volume, folder: str) -> str:
    """Return the path of a volume as an MRC file with a plain name and its pixel size in the header, in a folder."""
    source, target = convertToMrc(volume, folder), os.path.join(folder, "volume.mrc")
    cleanPath(target)
    if np.allclose(Ccp4Header(source, readHeader=True).getSampling(), volume.getSamplingRate(), rtol=1e-3):
        os.symlink(os.path.abspath(source), target)
    else:
        Ccp4Header.fixFile(source, target, originOf(volume), volume.getSamplingRate())
    return target


def _meanDensity(volume: Volume, positions: np.ndarray) -> float:
    """Return the mean density at positions in the box's frame, less the map's mean, in standard deviations."""
    values = np.squeeze(ImageHandler().read(volume).getData())
    sampling = volume.getSamplingRate()
    voxels = np.rint(positions / sampling).astype(int)[:, ::-1]
    inside = ((voxels >= 0) & (voxels < values.shape)).all(axis=1)
    found = np.where(inside, values[tuple(np.where(inside[:, None], voxels, 0).T)], values.mean())
    return float((found.mean() - values.mean()) / max(values.std(), 1e-12))
