"""Some rows of a STAR file as a STAR file of its own."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_blocks import read_blocks
from cocofold.particles.star_reading import particles_and_optics
from cocofold.particles.star_writing import image_names, marks, require_writable, write_blocks, write_star

_LABEL = re.compile(r"^[ \t]*_(\S+)", re.MULTILINE)


def write_chosen(path: Path, particles: ParticleSet, source: Path, rows: np.ndarray) -> None:
    """Write a STAR of the rows of a particles' file that were chosen; images stay where they are.

    Of a STAR file all blocks and columns are kept, digit by digit, but for ``rlnImageName``, which leads to the images
    from where the STAR is written, and what ``particles`` are marked with. Of a .cs file it is what ``write_star``
    writes.

    Parameters
    ----------
    path : Path
        File to write; it appears whole or not at all.
    particles : ParticleSet
        Those chosen, in the order of ``rows``.
    source : Path
        File from which all were read.
    rows : (n,) int
        Of the particles in ``source``, from 0.

    Raises
    ------
    InputError
        If the folder does not exist or there are no particles.
    """
    if source.suffix.lower() != ".star":
        write_star(path, particles)
        return
    require_writable(path, particles)
    blocks = _as_text(source)
    name = next(title for title in blocks if title.split("#")[0].strip() == _name_of_particles(source))
    # A block of one row may be written without a loop, and then it is a mapping.
    table = blocks[name] if isinstance(blocks[name], pd.DataFrame) else pd.DataFrame([blocks[name]])
    blocks[name] = table.iloc[rows].assign(rlnImageName=image_names(particles, path), **marks(particles))
    write_blocks(path, blocks)


def _name_of_particles(source: Path) -> str:
    return particles_and_optics(source, read_blocks(source))[0].name


def _as_text(source: Path) -> dict:
    """All blocks of a STAR file with every value as it is written."""
    labels = list(dict.fromkeys(_LABEL.findall(source.read_text(encoding="utf-8"))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        blocks = starfile.read(source, always_dict=True, parse_as_string=labels)
    # The parser takes "nan" for a missing value whatever the column is.
    return {name: block.fillna("nan") if isinstance(block, pd.DataFrame) else block for name, block in blocks.items()}
