"""Checks of values that particles' files of every kind must pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cocofold.errors import InputError
from cocofold.particles.particle_set import OpticsGroup

RANGES = {
    "voltage_kv": (10.0, 2000.0, "acceleration voltage (kV)"),
    "cs_mm": (-20.0, 20.0, "spherical aberration (mm)"),
    "amplitude_contrast": (0.0, 1.0, "amplitude contrast (fraction)"),
    "pixel_size_angstrom": (0.05, 100.0, "pixel size (Å)"),
}
SAME_PIXEL_SIZE = 1e-5  # relative: 0.003 Å over a box of 300 Å


def require_finite(values: np.ndarray, label: str, path: Path, shown: Sequence[object] | None = None) -> np.ndarray:
    """Return (n,) or (n, k) numbers if all are finite.

    Parameters
    ----------
    values : (n,) or (n, k) float
    label : str
        The file's name of the column.
    path : Path
    shown : sequence of length n, optional
        What to quote in the message, the raw values of the file.

    Raises
    ------
    InputError
        Naming the first row, counted from 1, that is not finite.
    """
    finite = np.isfinite(values)
    bad = np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(axis=tuple(range(1, finite.ndim)))))
    if len(bad):
        value = (values if shown is None else shown)[bad[0]]
        raise InputError(
            f"{path}: row {bad[0] + 1} has {label} = {value} ({len(bad)} such rows); every value must be a finite "
            "number: remove these rows or repair them"
        )
    return values


def require_half_sets(values: np.ndarray, label: str, path: Path) -> np.ndarray:
    """Return (n,) int half sets if all are 1 or 2."""
    bad = np.flatnonzero(~np.isin(values, (1, 2)))
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} has {label} for half set {values[bad[0]]:g}; half sets are 1 and 2: "
            "remove the column or repair it"
        )
    return values.astype(int)


def require_usable_optics(groups: Sequence[OpticsGroup], path: Path) -> None:
    """Check that optics groups have possible values, even boxes, and one box and pixel size.

    Groups whose box is not known yet have ``box`` 0.

    Raises
    ------
    InputError
    """
    for group in groups:
        for name, (lowest, highest, meaning) in RANGES.items():
            value = getattr(group, name)
            if not lowest <= value <= highest:
                raise InputError(
                    f"{path}: optics group {group.name} has {meaning} {value:g}; "
                    f"values from {lowest:g} to {highest:g} are possible: repair the file"
                )
    for group in groups:
        require_even_box(group.box, f"{path}: optics group {group.name}")
    sizes = np.array([group.pixel_size_angstrom for group in groups])
    if np.ptp(sizes) > SAME_PIXEL_SIZE * sizes[0]:
        raise InputError(
            _differ(path, "pixel size", [f"{group.name} {group.pixel_size_angstrom:g} Å" for group in groups])
        )
    if len({group.box for group in groups}) > 1:
        raise InputError(_differ(path, "box", [f"{group.name} {group.box} pixels" for group in groups]))


def require_even_box(box: int, where: str) -> None:
    """Refuse odd boxes, for which programs disagree by a pixel on the centre."""
    if box % 2:
        raise InputError(
            f"{where} has a box of {box} pixels; odd boxes are not accepted, because programs disagree by a pixel on "
            f"their centre: extract the particles again with {box - 1} or {box + 1} pixels"
        )


def _differ(path: Path, what: str, groups: Sequence[str]) -> str:
    shown = list(dict.fromkeys(groups))
    listed = ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
    return (
        f"{path}: optics groups differ in {what}: {listed}; all particles must have one box and one pixel size: "
        "rescale them to the same, or give one of the groups"
    )
