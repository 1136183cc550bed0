"""Particles written as a STAR file of RELION 3.1 and later."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from cocofold.particles.particle_set import IDENTITY_MAGNIFICATION, ParticleSet
from cocofold.particles.poses import DOSE_LABEL, PARTICLE_LABEL, has_tilt_stacks, relion_from_matrices
from cocofold.particles.star_read import HELD_OUT_LABEL, SCORED_RINGS_LABEL, find_particle_and_optics_blocks
from cocofold.particles.star_tables import StarBlock, read_star_blocks
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError

# Where rows and values of tables are split: a tab, and all that Python takes for the end of a line
_ENDS_OF_VALUES = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")


def write_star(
    path: str | os.PathLike[str], particles: ParticleSet, columns: dict[str, np.ndarray] | None = None
) -> None:
    """Write the metadata of particles; their images stay where they are.

    Paths of stacks below the STAR's folder are relative to it, others absolute. What RELION has no label for is
    written under names that it keeps but ignores, and that ``read_particles`` understands: ``cocofoldContrast`` (-1
    where images are stored dark), ``cocofoldHeldOut`` (1 or 0), ``cocofoldParticle`` (of which an image is a tilt),
    ``cocofoldScoredRings`` and ``cocofoldCryosparcAberrations``.

    Parameters
    ----------
    path : path
        File to write; it appears whole or not at all.
    particles : ParticleSet
    columns : dict, optional
        Further columns of the particles by their labels, each (n,).

    Raises
    ------
    InputError
        If the folder does not exist or there are no particles.
    """
    path = Path(path)
    require_writable(path, particles)
    table = _particle_table(particles, path).assign(**(columns or {}))
    write_star_blocks(path, {"optics": _optics_table(particles), "particles": table})


def write_star_blocks(path: Path, blocks: dict) -> None:
    """Write the blocks of a STAR file, which appears whole or not at all.

    Raises
    ------
    InputError
        If a value holds letters that end rows or values, of which STAR files consist.
    """
    for name, block in blocks.items():
        table = block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
        for label in table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]:
            wrong = list(filter(_ENDS_OF_VALUES.search, map(str, table[label].to_numpy(dtype=object))))
            if wrong:
                raise InputError(
                    f"{path}: {label} of data_{name} is {wrong[0]!r}, and values of a STAR file hold no tabs or "
                    "ends of lines; rename the file or folder"
                )
    with atomic_path(path) as partial:
        starfile.write(blocks, partial)


def require_writable(path: Path, particles: ParticleSet) -> None:
    """Refuse to write no particles, or into no folder.

    Raises
    ------
    InputError
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if len(particles) == 0:
        raise InputError(f"{path}: there are no particles to write; choose at least one")


def image_names(particles: ParticleSet, path: Path) -> list[str]:
    """``rlnImageName`` of each particle in a STAR at ``path``; only stacks below its folder are relative to it."""
    folder = os.path.abspath(path.parent)
    stacks = [os.path.abspath(stack) for stack in particles.stacks]
    names = [os.path.relpath(stack, folder) if stack.startswith(folder + os.sep) else stack for stack in stacks]
    # Bytes of a name that are no UTF-8 are written as letters of Latin-1, by which the reader finds the file again.
    names = [
        os.fsencode(name).decode("latin-1") if any("\udc80" <= letter <= "\udcff" for letter in name) else name
        for name in names
    ]
    return [
        f"{image + 1:06d}@{names[stack]}"
        for image, stack in zip(particles.slice_index.tolist(), particles.stack_index.tolist())
    ]


def selection_columns(particles: ParticleSet) -> dict[str, np.ndarray]:
    """Columns of what particles are marked with: those held out, and the rings by which they were chosen."""
    columns: dict[str, np.ndarray] = {}
    if particles.held_out is not None:
        columns[HELD_OUT_LABEL] = particles.held_out.astype(int)
    if particles.scored_rings:
        listed = ",".join(str(ring) for ring in particles.scored_rings)
        columns[SCORED_RINGS_LABEL] = np.full(len(particles), f"[{listed}]")
    return columns


def _optics_table(particles: ParticleSet) -> pd.DataFrame:
    groups = particles.optics
    columns: dict[str, list[object]] = {
        "rlnOpticsGroup": list(range(1, len(groups) + 1)),
        "rlnOpticsGroupName": ["_".join(group.name.split()) for group in groups],
        "rlnVoltage": [_format_single_precision(group.voltage_kv) for group in groups],
        "rlnSphericalAberration": [_format_single_precision(group.cs_mm) for group in groups],
        "rlnAmplitudeContrast": [_format_single_precision(group.amplitude_contrast) for group in groups],
        "rlnImagePixelSize": [_format_single_precision(group.pixel_size_angstrom) for group in groups],
        "rlnImageSize": [group.box for group in groups],
        "rlnImageDimensionality": [2] * len(groups),
    }
    if any(group.phase_flipped for group in groups):
        columns["rlnCtfDataArePhaseFlipped"] = [int(group.phase_flipped) for group in groups]
    if any(group.ctf_premultiplied for group in groups):
        columns["rlnCtfDataAreCtfPremultiplied"] = [int(group.ctf_premultiplied) for group in groups]
    if any(any(group.beam_tilt_mrad) for group in groups):
        for axis, label in enumerate(("rlnBeamTiltX", "rlnBeamTiltY")):
            columns[label] = [_format_single_precision(group.beam_tilt_mrad[axis]) for group in groups]
    for label, terms in (
        ("rlnOddZernike", [group.odd_zernike for group in groups]),
        ("rlnEvenZernike", [group.even_zernike for group in groups]),
    ):
        longest = max(len(values) for values in terms)
        if longest:
            padded = [values + (0.0,) * (longest - len(values)) for values in terms]
            columns[label] = [
                "[" + ",".join(_format_single_precision(value) for value in values) + "]" for values in padded
            ]
    if any(group.magnification_matrix != IDENTITY_MAGNIFICATION for group in groups):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            label = f"rlnMagMat{row}{column}"
            columns[label] = [_format_single_precision(group.magnification_matrix[row][column]) for group in groups]
    if any(group.cryosparc_aberrations for group in groups):
        columns["cocofoldCryosparcAberrations"] = [
            repr(group.cryosparc_aberrations).replace(" ", "").replace("'", '"')
            if group.cryosparc_aberrations
            else "none"
            for group in groups
        ]
    return pd.DataFrame(columns)


def _particle_table(particles: ParticleSet, path: Path) -> pd.DataFrame:
    angles = relion_from_matrices(particles.rotations)
    columns = {
        "rlnImageName": image_names(particles, path),
        "rlnOpticsGroup": particles.optics_index + 1,
        "rlnAngleRot": angles[:, 0],
        "rlnAngleTilt": angles[:, 1],
        "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": particles.origins_angstrom[:, 0],
        "rlnOriginYAngst": particles.origins_angstrom[:, 1],
        "rlnDefocusU": particles.defocus_u_angstrom,
        "rlnDefocusV": particles.defocus_v_angstrom,
        "rlnDefocusAngle": particles.defocus_angle_deg,
        "rlnPhaseShift": particles.phase_shift_deg,
        "rlnCtfBfactor": particles.ctf_bfactor_a2,
        "rlnCtfScalefactor": particles.ctf_scale,
    }
    if particles.half_set is not None:
        columns["rlnRandomSubset"] = particles.half_set
    if particles.particle_index is not None:
        columns[PARTICLE_LABEL] = particles.particle_numbers + 1
    if particles.dose_e_a2 is not None:
        columns[DOSE_LABEL] = particles.dose_e_a2
    if (np.asarray(particles.contrast) < 0).any():
        columns["cocofoldContrast"] = particles.contrast.astype(int)
    return pd.DataFrame({**columns, **selection_columns(particles)})


def _format_single_precision(value: float) -> str:
    """A number with the digits that single precision holds."""
    return f"{value:.9g}"


def write_star_subset(
    path: Path,
    particles: ParticleSet,
    source: Path,
    rows: np.ndarray,
    columns: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a STAR of the rows of a particles' file that were chosen; images stay where they are.

    Of a STAR file all blocks and columns are kept, digit by digit, but for ``rlnImageName``, which leads to the images
    from where the STAR is written, and what ``particles`` are marked with. Of a .cs file, and of
    stacks of tilts, it is what ``write_star`` writes.

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
    columns : dict, optional
        Columns by their labels, each (n,), in place of the file's own or besides them.

    Raises
    ------
    InputError
        If the folder does not exist or there are no particles.
    """
    if source.suffix.lower() != ".star":
        write_star(path, particles, columns)
        return
    require_writable(path, particles)
    blocks = read_star_blocks(source, as_text=True)
    if has_tilt_stacks(blocks):
        write_star(path, particles, columns)
        return
    name = find_particle_and_optics_blocks(source, blocks)[0].name
    written = {other: _as_written(block) for other, block in blocks.items()}
    # Marks of the file itself go where these particles have none.
    chosen = blocks[name].table.iloc[rows].drop(columns=HELD_OUT_LABEL, errors="ignore").map(_quoted)
    marks = {**selection_columns(particles), **(columns or {})}
    written[name] = chosen.assign(rlnImageName=image_names(particles, path), **marks)
    write_star_blocks(path, written)


def _as_written(block: StarBlock) -> pd.DataFrame | dict[str, str]:
    """A block as a loop or as labels with a value beside each, as it was."""
    table = block.table.map(_quoted)
    return table if block.has_rows else {str(label): str(value) for label, value in table.iloc[0].items()}


def _quoted(value: str) -> str:
    """A value in quotes where its first letter would mean something else; blanks are quoted when it is written."""
    return f'"{value}"' if value[:1] in ("#", "'", '"') and " " not in value else value
