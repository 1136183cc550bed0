"""Optics groups of a STAR file: from its optics block (RELION 3.1 and later) or from each particle's row (3.0)."""

from __future__ import annotations

import ast

import numpy as np
import pandas as pd

from cocofold.errors import InputError
from cocofold.particles.particle_set import OpticsGroup
from cocofold.particles.star_blocks import Block

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
NEEDED = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
NUMBERS = (
    *NEEDED,
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnCtfDataArePhaseFlipped",
    "rlnCtfDataAreCtfPremultiplied",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    *MAGNIFICATION,
)
TEXTS = ("rlnOpticsGroupName", "rlnOddZernike", "rlnEvenZernike", "cocofoldCryosparcAberrations")


def missing_optics_labels(particles: Block, optics: Block | None) -> list[str]:
    """Labels needed for the optics that neither block has."""
    present = set(particles.table.columns) | (set() if optics is None else set(optics.table.columns))
    missing = [label for label in NEEDED if label not in present]
    if "rlnImagePixelSize" not in present and not {"rlnDetectorPixelSize", "rlnMagnification"} <= present:
        missing.append("rlnImagePixelSize (or rlnDetectorPixelSize and rlnMagnification)")
    if present & set(MAGNIFICATION):
        missing += [label for label in MAGNIFICATION if label not in present]
    if optics is not None:
        missing += [
            f"rlnOpticsGroup in data_{block.name}" for block in (optics, particles) if "rlnOpticsGroup" not in block
        ]
    return missing


def read_optics(particles: Block, optics: Block | None) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Optics groups that particles use, in the order of their first particle.

    A label is taken from the optics block if it is there, else from the particles' rows.

    Parameters
    ----------
    particles : Block
    optics : Block or None
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
    rows = np.zeros(len(particles), dtype=int) if optics is None else _rows_in_optics(particles, optics)
    stated = any(block is not None and "rlnImagePixelSize" in block for block in (particles, optics))
    pixel = ("rlnImagePixelSize",) if stated else ("rlnDetectorPixelSize", "rlnMagnification")
    used = None if optics is None else Block(optics.path, optics.name, optics.table.iloc[np.unique(rows)])
    for label in (*NUMBERS, *pixel, *TEXTS):
        if optics is not None and used is not None and label in optics:
            if label not in TEXTS:
                used.numbers(label)
            joined[label] = optics.table[label].to_numpy()[rows]
        elif label in particles:
            joined[label] = particles.table[label].to_numpy() if label in TEXTS else particles.numbers(label)
    joined["group"] = rows
    index, _ = pd.factorize(joined.groupby(list(joined.columns), sort=False, dropna=False).ngroup())
    _, first = np.unique(index, return_index=True)
    table = Block(particles.path, "optics", joined.iloc[first].reset_index(drop=True))
    return _groups(table), index.astype(int)


def _rows_in_optics(particles: Block, optics: Block) -> np.ndarray:
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


def _groups(table: Block) -> tuple[OpticsGroup, ...]:
    n = len(table)
    if "rlnImagePixelSize" in table:
        pixel_size = table.numbers("rlnImagePixelSize")
    else:
        magnification = table.numbers("rlnMagnification")
        if (magnification <= 0).any():
            raise InputError(f"{table.path}: rlnMagnification is {magnification.min():g}; it must be above 0")
        pixel_size = 1e4 * table.numbers("rlnDetectorPixelSize") / magnification
    identity = dict(zip(MAGNIFICATION, (1.0, 0.0, 0.0, 1.0)))
    columns = {label: table.numbers(label, default=identity.get(label, 0.0)) for label in NUMBERS}
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
            odd_zernike=numbers_in_brackets(table, "rlnOddZernike", zernike["rlnOddZernike"][i]),
            even_zernike=numbers_in_brackets(table, "rlnEvenZernike", zernike["rlnEvenZernike"][i]),
            magnification_matrix=(
                (float(columns["rlnMagMat00"][i]), float(columns["rlnMagMat01"][i])),
                (float(columns["rlnMagMat10"][i]), float(columns["rlnMagMat11"][i])),
            ),
            cryosparc_aberrations=_named_numbers(table, stored, cryosparc[i]),
        )
        for i in range(n)
    )


def numbers_in_brackets(block: Block, label: str, text: object) -> tuple[float, ...]:
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


def _named_numbers(block: Block, label: str, text: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """``(('ctf/tilt_A',(0.1,0.2)),)`` as written by ``write_star``, or ``none``."""
    if text == "none":
        return ()
    try:
        return tuple((str(name), tuple(float(value) for value in values)) for name, values in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        raise InputError(f"{block.path}: {label} is {text}, which is not as written by this program") from None
