"""Pixel sizes as files have them, read without any other program: STAR, CryoSPARC's .cs, MRC."""

from __future__ import annotations

import os
import shlex
import struct
from typing import Optional

import numpy as np
from pwem.convert.headers import Ccp4Header
from pwem.objects import SetOfParticles

from .frames import MAP_ENDINGS

# Two pixel sizes that differ by more than this contradict each other; programs write them with few digits
_MOST_DIFFERENCE = 0.01
_IMAGE_SIZE, _DETECTOR, _MAGNIFICATION = "_rlnImagePixelSize", "_rlnDetectorPixelSize", "_rlnMagnification"
# Pixel sizes of a detector are in µm
_ANGSTROM_PER_MICROMETRE = 1e4


def filePixelSize(path: str) -> Optional[float]:
    """Return the pixel size (Å) that a file of particles or a map has, None where it has none or cannot be read."""
    ending = os.path.splitext(path)[1].lower()
    try:
        if ending == ".star":
            return _ofStar(path)
        if ending == ".cs":
            found = np.load(path)
            return float(found["blob/psize_A"][0])
        if ending in (*MAP_ENDINGS, ".mrcs"):
            return mapPixelSize(path)
    except (OSError, ValueError, KeyError, IndexError, struct.error):
        pass
    return None


def mapPixelSize(path: str) -> Optional[float]:
    """Return the pixel size (Å) in the header of an MRC file, None where the header does not say."""
    with np.errstate(all="ignore"):
        size = float(Ccp4Header(path, readHeader=True).getSampling()[0])
    return size if np.isfinite(size) and size > 0 else None


def pixelSizeOfStack(particles: SetOfParticles) -> Optional[float]:
    """Return the pixel size (Å) in the header of the stack of a set's first particle, None without one."""
    first = particles.getFirstItem()
    return None if first is None else filePixelSize(str(first.getFileName()).split(":")[0])


def contradict(first: float, second: float) -> bool:
    """Return whether two pixel sizes (Å) cannot be one and the same."""
    return abs(first - second) > _MOST_DIFFERENCE * max(first, second)


def _ofStar(path: str) -> Optional[float]:
    """Return the pixel size of a STAR file's first optics group, or that of its first particle in older files."""
    labels: list[str] = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if not words or words[0].startswith(("#", "data_")):
                continue
            if words[0] == "loop_":
                labels = []
            elif words[0].startswith("_"):
                labels.append(words[0])
            elif labels:
                row = dict(zip(labels, shlex.split(line) if "'" in line or '"' in line else words))
                if _IMAGE_SIZE in row:
                    return float(row[_IMAGE_SIZE])
                if _DETECTOR in row and _MAGNIFICATION in row:
                    return float(row[_DETECTOR]) * _ANGSTROM_PER_MICROMETRE / float(row[_MAGNIFICATION])
                # The first row of a loop tells
                labels = []
    return None
