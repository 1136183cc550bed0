"""Particles from STAR files of RELION 3.0, 3.1, 4 and 5."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cocofold.particles.particle_set import (
    OpticsGroup,
    ParticleSet,
    join_pixel_sizes,
    require_even_box,
    require_usable_optics,
)
from cocofold.particles.poses import matrices_from_relion, tilts_of_particles, with_tilt_images
from cocofold.particles.stack_files import check_stacks, find_stacks, parse_image_names
from cocofold.particles.star_tables import (
    StarBlock,
    read_star_blocks,
    require_half_sets,
)
from cocofold.system.errors import InputError

EULER_ANGLE_LABELS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
DEFOCUS_LABELS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
UNMIRRORED_VALUES = ("0", "0.0", "false")
# What names a single tilt image's tomogram and particle
NAMES_IN_TOMOGRAPHY = ("rlnTomoName", "rlnTomoParticleName", "rlnTomoParticleId")
HELD_OUT_LABEL, SCORED_RINGS_LABEL = "cocofoldHeldOut", "cocofoldScoredRings"


def read_star(path: Path, particles_dir: Path | None = None) -> ParticleSet:
    """Read a STAR file of single-particle images with poses and CTF.

    Where labels are absent: origins, phase shift and B factor are 0, the CTF's scale is 1, the defocus angle is 0 if
    U equals V in every row, and there are no half sets. Nothing stands in for other labels. ``rlnOriginXAngst`` wins
    over ``rlnOriginX``, and the optics block over a particle's row.

    Parameters
    ----------
    path : Path
    particles_dir : Path, optional
        Folder from which the stacks' paths count.

    Raises
    ------
    InputError
        For every file that cannot be used, with the reason and the remedy.
    """
    blocks = with_tilt_images(path, read_star_blocks(path), particles_dir)
    particles, optics = find_particle_and_optics_blocks(path, blocks)
    image_names = _image_names(particles)
    _refuse_tomography_and_mirrored(particles, optics, blocks, image_names)
    _require_labels(particles, optics)
    if len(particles) == 0:
        raise InputError(f"{path}: data_{particles.name} has no particles; give a file with at least one")
    groups, optics_index = read_optics(particles, optics)
    require_usable_optics(groups, path)
    rotations = _rotations(particles)
    half_set = None
    if "rlnRandomSubset" in particles:
        subsets = pd.to_numeric(particles.table["rlnRandomSubset"], errors="coerce")
        half_set = require_half_sets(subsets.to_numpy(dtype=float, na_value=np.nan), "rlnRandomSubset", path)
    names, stack_index, slice_index = parse_image_names(image_names, path)
    pixel_size = np.array([group.pixel_size_angstrom for group in groups])[optics_index]
    origins = np.stack([_origins(particles, axis, pixel_size) for axis in "XY"], axis=1)
    values: dict[str, Any] = {
        "defocus_u_angstrom": particles.numbers("rlnDefocusU"),
        "defocus_v_angstrom": particles.numbers("rlnDefocusV"),
        "defocus_angle_deg": particles.numbers("rlnDefocusAngle", default=0.0),
        "phase_shift_deg": particles.numbers("rlnPhaseShift", default=0.0),
        "ctf_bfactor_a2": particles.numbers("rlnCtfBfactor", default=0.0),
        "ctf_scale": particles.numbers("rlnCtfScalefactor", default=1.0),
        "contrast": _contrast(particles),
        "held_out": _held_out(particles),
        **tilts_of_particles(particles),
        "scored_rings": _scored_rings(particles),
    }
    groups, scale, notes = join_pixel_sizes(groups, optics_index, path)
    stacks = find_stacks(names, path, particles_dir)
    whole = np.flatnonzero(["@" not in name for name in image_names])
    box = check_stacks(stacks, stack_index, slice_index, groups[0].box or None, path, whole)
    require_even_box(box, str(stacks[0]))
    return ParticleSet(
        optics=tuple(replace(group, box=box) for group in groups),
        optics_index=optics_index,
        rotations=rotations,
        origins_angstrom=origins * scale[optics_index, None],
        half_set=half_set,
        stacks=stacks,
        stack_index=stack_index,
        slice_index=slice_index,
        notes=notes,
        **values,
    )


def find_particle_and_optics_blocks(path: Path, blocks: dict[str, StarBlock]) -> tuple[StarBlock, StarBlock | None]:
    """The block of the particles and that of optics groups, which RELION 3.0 does not have.

    Raises
    ------
    InputError
        If no block lists images.
    """
    with_images = [block for block in blocks.values() if "rlnImageName" in block]
    if "particles" in blocks:
        particles = blocks["particles"]
    elif with_images:
        particles = next((block for block in with_images if len(block)), with_images[0])
    else:
        found = ", ".join(f"data_{name}" for name in blocks)
        raise InputError(
            f"{path}: no block has rlnImageName (blocks found: {found}); give the STAR of a particle set, "
            "such as run_data.star of a 3D refinement"
        )
    return particles, blocks.get("optics")


def _refuse_tomography_and_mirrored(
    particles: StarBlock, optics: StarBlock | None, blocks: dict[str, StarBlock], image_names: list[str]
) -> None:
    labels = [str(label) for block in blocks.values() for label in block.table.columns]
    stated = [block for block in (particles, optics) if block is not None and "rlnImageDimensionality" in block]
    dimensions = [block.numbers("rlnImageDimensionality") for block in stated]
    tomography = [f"rlnImageDimensionality {sizes[sizes != 2][0]:g}" for sizes in dimensions if (sizes != 2).any()]
    in_stacks = all("@" in name for name in image_names)
    harmless = NAMES_IN_TOMOGRAPHY if in_stacks else ()
    tomography += sorted({label for label in labels if label.startswith("rlnTomo") and label not in harmless})
    # Of two-dimensional images it names the picture of a fitted CTF, which Scipion keeps; of subtomograms, which have
    # a file each, the CTF itself.
    if "rlnCtfImage" in labels and not stated and not in_stacks:
        tomography.append("rlnCtfImage")
    if tomography:
        raise InputError(
            f"{particles.path}: subtomograms as volumes ({', '.join(tomography)}), of which images cannot be compared; "
            "extract the particles as 2D stacks (RELION 5: Extract subtomos with 2D stacks) and give the "
            "optimisation_set.star of that job, or a STAR of single tilt images with their poses"
        )
    if "rlnIsFlip" in particles:
        mirrored = np.flatnonzero([str(flag).lower() not in UNMIRRORED_VALUES for flag in particles.table["rlnIsFlip"]])
        if len(mirrored):
            raise InputError(
                f"{particles.path}: row {mirrored[0] + 1} is mirrored (rlnIsFlip, {len(mirrored)} such rows); "
                "a mirrored image is not a pose in three dimensions: give the particles of a 3D refinement"
            )


def _image_names(particles: StarBlock) -> list[str]:
    # As a list at once: pandas' own iteration over text takes ten times as long.
    column = particles.table["rlnImageName"].to_numpy(dtype=object).tolist() if "rlnImageName" in particles else []
    return [str(name) for name in column]


def _require_labels(particles: StarBlock, optics: StarBlock | None) -> None:
    """Refuse a file with missing labels, all named in one message."""
    missing = [] if "rlnImageName" in particles else ["rlnImageName"]
    poses = [label for label in EULER_ANGLE_LABELS if label not in particles]
    ctf = [label for label in DEFOCUS_LABELS[:2] if label not in particles]
    if not ctf and DEFOCUS_LABELS[2] not in particles:
        astigmatic = (
            len(particles) and (particles.numbers(DEFOCUS_LABELS[0]) != particles.numbers(DEFOCUS_LABELS[1])).any()
        )
        ctf = [DEFOCUS_LABELS[2]] if astigmatic else []
    for axis, other in (("X", "Y"), ("Y", "X")):
        labels = {f"rlnOrigin{axis}", f"rlnOrigin{axis}Angst"}
        has_other = f"rlnOrigin{other}" in particles or f"rlnOrigin{other}Angst" in particles
        if has_other and not labels & set(particles.table.columns):
            missing.append(f"rlnOrigin{axis}Angst")
    rest = missing_optics_labels(particles, optics)
    if not (missing or poses or ctf or rest):
        return
    remedies = []
    if poses:
        remedies.append("no poses: give the particles of a 3D refinement (run_data.star), not of extraction or 2D")
    if ctf:
        remedies.append("no CTF: give particles whose CTF was estimated")
    if "rlnAmplitudeContrast" in rest:
        remedies.append("add rlnAmplitudeContrast with the value used in CTF estimation (0.1 or 0.07 in most programs)")
    if optics is None and "rlnOpticsGroup" in particles and rest:
        remedies.append("the file has rlnOpticsGroup but no data_optics block, which may have been lost")
    if not remedies:
        remedies.append("add them to the file, or give the STAR as RELION wrote it")
    raise InputError(f"{particles.path}: missing {', '.join(missing + poses + ctf + rest)}; {'; '.join(remedies)}")


def _rotations(particles: StarBlock) -> np.ndarray:
    rot, tilt, psi = (particles.numbers(label) for label in EULER_ANGLE_LABELS)
    if len(rot) > 1 and not rot.any() and not tilt.any() and psi.any():
        raise InputError(
            f"{particles.path}: no poses: rlnAngleRot and rlnAngleTilt are 0 in every row and only rlnAnglePsi "
            "differs, as 2D classification leaves them; give the particles of a 3D refinement"
        )
    return matrices_from_relion(rot, tilt, psi)


def _origins(particles: StarBlock, axis: str, pixel_size: np.ndarray) -> np.ndarray:
    if f"rlnOrigin{axis}Angst" in particles:
        return particles.numbers(f"rlnOrigin{axis}Angst")
    return particles.numbers(f"rlnOrigin{axis}", default=0.0) * pixel_size


def _contrast(particles: StarBlock) -> np.ndarray:
    contrast = particles.numbers("cocofoldContrast", default=1.0)
    if not np.isin(contrast, (-1, 1)).all():
        raise InputError(f"{particles.path}: cocofoldContrast must be 1 (protein white) or -1 (dark) in every row")
    return contrast


def _held_out(particles: StarBlock) -> np.ndarray | None:
    if HELD_OUT_LABEL not in particles:
        return None
    marks = particles.numbers(HELD_OUT_LABEL)
    if not np.isin(marks, (0, 1)).all():
        raise InputError(
            f"{particles.path}: {HELD_OUT_LABEL} must be 1 (held out) or 0 in every row; remove the column"
        )
    return marks == 1


def _scored_rings(particles: StarBlock) -> tuple[int, ...]:
    """Rings that any row names, as sets may have been joined."""
    if SCORED_RINGS_LABEL not in particles:
        return ()
    texts = particles.table[SCORED_RINGS_LABEL].unique()
    rings = {ring for text in texts for ring in parse_number_list(particles, SCORED_RINGS_LABEL, text)}
    if not all(ring > 1 and ring == int(ring) for ring in rings):
        raise InputError(f"{particles.path}: {SCORED_RINGS_LABEL} must be whole numbers from 2 on, such as [4,8,12]")
    return tuple(sorted(int(ring) for ring in rings))


MAGNIFICATION_LABELS = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
REQUIRED_OPTICS_LABELS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
NUMERIC_OPTICS_LABELS = (
    *REQUIRED_OPTICS_LABELS,
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnCtfDataArePhaseFlipped",
    "rlnCtfDataAreCtfPremultiplied",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    *MAGNIFICATION_LABELS,
)
TEXT_OPTICS_LABELS = ("rlnOpticsGroupName", "rlnOddZernike", "rlnEvenZernike", "cocofoldCryosparcAberrations")


def missing_optics_labels(particles: StarBlock, optics: StarBlock | None) -> list[str]:
    """Labels needed for the optics that neither block has."""
    present = set(particles.table.columns) | (set() if optics is None else set(optics.table.columns))
    missing = [label for label in REQUIRED_OPTICS_LABELS if label not in present]
    if "rlnImagePixelSize" not in present and not {"rlnDetectorPixelSize", "rlnMagnification"} <= present:
        missing.append("rlnImagePixelSize (or rlnDetectorPixelSize and rlnMagnification)")
    if present & set(MAGNIFICATION_LABELS):
        missing += [label for label in MAGNIFICATION_LABELS if label not in present]
    if optics is not None:
        missing += [
            f"rlnOpticsGroup in data_{block.name}" for block in (optics, particles) if "rlnOpticsGroup" not in block
        ]
    return missing


def read_optics(particles: StarBlock, optics: StarBlock | None) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Optics groups that particles use, in the order of their first particle.

    A label is taken from the optics block if it is there, else from the particles' rows.

    Parameters
    ----------
    particles : StarBlock
    optics : StarBlock or None
        None for RELION 3.0: particles with the same values then form a group.

    Returns
    -------
    groups : tuple of OpticsGroup
        ``box`` is 0 where the file does not give it.
    index : (n,) int
        Each particle's group.

    Raises
    ------
    InputError
        If a particle's group is not in the optics block, a group is there twice, or a value is no number.
    """
    joined = pd.DataFrame(index=range(len(particles)))
    rows = np.zeros(len(particles), dtype=int) if optics is None else _optics_rows_of_particles(particles, optics)
    stated = any(block is not None and "rlnImagePixelSize" in block for block in (particles, optics))
    pixel = ("rlnImagePixelSize",) if stated else ("rlnDetectorPixelSize", "rlnMagnification")
    used = None if optics is None else StarBlock(optics.path, optics.name, optics.table.iloc[np.unique(rows)])
    for label in (*NUMERIC_OPTICS_LABELS, *pixel, *TEXT_OPTICS_LABELS):
        if optics is not None and used is not None and label in optics:
            if label not in TEXT_OPTICS_LABELS:
                used.numbers(label)
            joined[label] = optics.table[label].to_numpy()[rows]
        elif label in particles:
            joined[label] = (
                particles.table[label].to_numpy() if label in TEXT_OPTICS_LABELS else particles.numbers(label)
            )
    joined["group"] = rows
    index, _ = pd.factorize(joined.groupby(list(joined.columns), sort=False, dropna=False).ngroup())
    _, first = np.unique(index, return_index=True)
    table = StarBlock(particles.path, "optics", joined.iloc[first].reset_index(drop=True))
    return _groups_from_table(table), index.astype(int)


def _optics_rows_of_particles(particles: StarBlock, optics: StarBlock) -> np.ndarray:
    known = optics.numbers("rlnOpticsGroup")
    asked = particles.numbers("rlnOpticsGroup")
    order = np.argsort(known)
    if len(np.unique(known)) < len(known):
        raise InputError(f"{optics.path}: data_{optics.name} has the same rlnOpticsGroup twice; number groups apart")
    if len(known) == 0:
        raise InputError(f"{optics.path}: data_{optics.name} is empty; it must describe every optics group")
    at = order[np.minimum(np.searchsorted(known[order], asked), len(known) - 1)]
    lost = np.flatnonzero(known[at] != asked)
    if len(lost):
        listed = ", ".join(f"{group:g}" for group in known)
        raise InputError(
            f"{particles.path}: row {lost[0] + 1} is of optics group {asked[lost[0]]:g} ({len(lost)} such rows), but "
            f"data_{optics.name} has {listed}; add the group there or remove the particles"
        )
    return at


def _groups_from_table(table: StarBlock) -> tuple[OpticsGroup, ...]:
    n = len(table)
    if "rlnImagePixelSize" in table:
        pixel_size = table.numbers("rlnImagePixelSize")
    else:
        magnification = table.numbers("rlnMagnification")
        if (magnification <= 0).any():
            raise InputError(f"{table.path}: rlnMagnification is {magnification.min():g}; it must be above 0")
        pixel_size = 1e4 * table.numbers("rlnDetectorPixelSize") / magnification
    identity = dict(zip(MAGNIFICATION_LABELS, (1.0, 0.0, 0.0, 1.0)))
    columns = {label: table.numbers(label, default=identity.get(label, 0.0)) for label in NUMERIC_OPTICS_LABELS}
    zernike = {
        label: table.table[label].tolist() if label in table else ["[]"] * n
        for label in ("rlnOddZernike", "rlnEvenZernike")
    }
    names = table.table["rlnOpticsGroupName"].tolist() if "rlnOpticsGroupName" in table else [""] * n
    stored = "cocofoldCryosparcAberrations"
    cryosparc = table.table[stored].tolist() if stored in table else ["none"] * n
    return tuple(
        OpticsGroup(
            name=str(names[i]) or f"opticsGroup{i + 1}",
            voltage_kv=float(columns["rlnVoltage"][i]),
            cs_mm=float(columns["rlnSphericalAberration"][i]),
            amplitude_contrast=float(columns["rlnAmplitudeContrast"][i]),
            pixel_size_angstrom=float(pixel_size[i]),
            box=int(columns["rlnImageSize"][i]),
            phase_flipped=bool(columns["rlnCtfDataArePhaseFlipped"][i]),
            ctf_premultiplied=bool(columns["rlnCtfDataAreCtfPremultiplied"][i]),
            beam_tilt_mrad=(float(columns["rlnBeamTiltX"][i]), float(columns["rlnBeamTiltY"][i])),
            odd_zernike=parse_number_list(table, "rlnOddZernike", zernike["rlnOddZernike"][i]),
            even_zernike=parse_number_list(table, "rlnEvenZernike", zernike["rlnEvenZernike"][i]),
            magnification_matrix=(
                (float(columns["rlnMagMat00"][i]), float(columns["rlnMagMat01"][i])),
                (float(columns["rlnMagMat10"][i]), float(columns["rlnMagMat11"][i])),
            ),
            cryosparc_aberrations=_parse_cryosparc_aberrations(table, stored, cryosparc[i]),
        )
        for i in range(n)
    )


def parse_number_list(block: StarBlock, label: str, text: object) -> tuple[float, ...]:
    """``[0.1,0,-2]`` as numbers."""
    stripped = str(text).strip()
    try:
        if not (stripped.startswith("[") and stripped.endswith("]")):
            raise ValueError
        values = tuple(float(part) for part in stripped[1:-1].split(",") if part.strip())
        if not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        raise InputError(
            f"{block.path}: {label} is {stripped}; a list of finite numbers such as [0.1,0,-2] is needed"
        ) from None
    return values


def _parse_cryosparc_aberrations(block: StarBlock, label: str, text: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """``(('ctf/tilt_A',(0.1,0.2)),)`` as written by ``write_star``, or ``none``."""
    if text == "none":
        return ()
    try:
        return tuple((str(name), tuple(float(value) for value in values)) for name, values in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):
        raise InputError(f"{block.path}: {label} is {text:.200}, which is not as written by this program") from None
