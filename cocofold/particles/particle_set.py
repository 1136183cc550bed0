"""The particles of a data set: poses, optics and where their images are."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cocofold.particles.mrc import StackReader, require_usable_images
from cocofold.particles.poses import mirrored_matrices
from cocofold.system.errors import InputError

# RELION's magnification matrix of images without anisotropic magnification
IDENTITY_MAGNIFICATION = ((1.0, 0.0), (0.0, 1.0))
# Aberration coefficients below this (in whatever unit they have: rad, mrad, Å) are zeros that were rounded; phases of
# this size change no image.
NEGLIGIBLE_ABERRATION = 1e-6
# Images by which stacks are known again: more notice smaller changes and take longer at the start of every run.
_SAMPLED_IMAGES = 64
# Of Å, degrees and matrices: far below what changes an image, far above what processors differ by.
_DECIMALS_OF_DIGESTS = 5


@dataclass(frozen=True)
class OpticsGroup:
    """What the images of one microscope session have in common.

    Attributes
    ----------
    name : str
    voltage_kv, cs_mm, amplitude_contrast : float
        Acceleration voltage, spherical aberration, fraction of amplitude contrast (0 to 1).
    pixel_size_angstrom : float
    box : int
        Pixels along each side of the images; even.
    phase_flipped : bool
        The images' phases were multiplied by the sign of the CTF.
    ctf_premultiplied : bool
        The images were multiplied by the CTF.
    beam_tilt_mrad : (x, y)
        RELION's beam tilt.
    odd_zernike, even_zernike : tuple of float
        RELION's coefficients of antisymmetric and symmetric aberrations, empty if none.
    magnification_matrix : 2 x 2
        RELION's anisotropic magnification, the identity if none.
    cryosparc_aberrations : tuple of (field, values)
        Non-zero aberrations of a .cs file whose signs are not settled, as stored:
        ``(("ctf/tilt_A", (0.1, 0.2)), ...)``. They are not applied.
    """

    name: str
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box: int
    phase_flipped: bool = False
    ctf_premultiplied: bool = False
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification_matrix: tuple[tuple[float, float], tuple[float, float]] = IDENTITY_MAGNIFICATION
    cryosparc_aberrations: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class ParticleSet:
    """Particles with one box and pixel size; images stay on disk until asked for.

    Attributes
    ----------
    optics : tuple of OpticsGroup
    optics_index : (n,) int
        Row in ``optics``.
    rotations : (n, 3, 3) float64
        A in ``u = A @ (x - centre)``: from the map's frame to the image's.
    origins_angstrom : (n, 2) float64
        x and y; a particle's content sits at centre - origin (RELION's convention).
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg : (n,) float64
        Underfocus is positive.
    phase_shift_deg, ctf_bfactor_a2, ctf_scale : (n,) float64
        Of a phase plate, added; of the envelope ``exp(-B k^2 / 4)``; overall factor.
    half_set : (n,) int or None
        1 or 2; 0 where a particle is in neither.
    stacks : tuple of Path
    stack_index, slice_index : (n,) int
        Row in ``stacks``; image in the stack, counted from 0.
    contrast : (n,) float64
        +1 or -1; images are multiplied by it when read, so that protein is white.
    held_out : (n,) bool or None
        Particles that are to judge a fit and not to be fitted; None if nobody has said.
    scored_rings : tuple of int
        Fourier rings by which the particles were chosen with a model, so that a fit leaves them out.
    particle_index : (n,) int or None
        Number of the particle of which each image is a tilt; None if each image is a particle of its own.
    dose_e_a2 : (n,) float64 or None
        Electrons per Å^2 that the specimen had seen before; None if nobody has said, or it does not matter.
    notes : tuple of str
        What a user should know of how the file was read.
    reader : StackReader
        Keeps stacks open from one call of ``images`` to the next; it is the only part that changes.
    """

    optics: tuple[OpticsGroup, ...]
    optics_index: np.ndarray
    rotations: np.ndarray
    origins_angstrom: np.ndarray
    defocus_u_angstrom: np.ndarray
    defocus_v_angstrom: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    ctf_bfactor_a2: np.ndarray
    ctf_scale: np.ndarray
    half_set: np.ndarray | None
    stacks: tuple[Path, ...]
    stack_index: np.ndarray
    slice_index: np.ndarray
    contrast: np.ndarray
    held_out: np.ndarray | None = None
    scored_rings: tuple[int, ...] = ()
    particle_index: np.ndarray | None = None
    dose_e_a2: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    reader: StackReader = field(default_factory=StackReader, repr=False)

    def __post_init__(self) -> None:
        n = len(self.rotations)
        if self.rotations.shape != (n, 3, 3) or self.origins_angstrom.shape != (n, 2):
            raise ValueError(
                f"rotations {self.rotations.shape} and origins {self.origins_angstrom.shape}, not (n, 3, 3) and (n, 2)"
            )
        for name in PER_PARTICLE_FIELDS:
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"{name} has {len(values)} values for {n} particles")

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def box(self) -> int:
        """Pixels along each side of the images."""
        return self.optics[0].box

    @property
    def pixel_size_angstrom(self) -> float:
        """Å."""
        return self.optics[0].pixel_size_angstrom

    @functools.cached_property
    def image_numbers(self) -> np.ndarray:
        """Number of each row's image, (n,) int, counted in the order of first appearance; repeats have one number."""
        real = [os.path.realpath(path) for path in self.stacks]
        files = {path: number for number, path in enumerate(dict.fromkeys(real))}
        stacks = np.array([files[path] for path in real], dtype=int)
        places = np.stack([stacks[self.stack_index], self.slice_index], axis=1)
        _, first, number = np.unique(places, axis=0, return_index=True, return_inverse=True)
        order = np.empty(len(first), dtype=int)
        order[np.argsort(first)] = np.arange(len(first))
        return order[number.reshape(-1)]

    @functools.cached_property
    def particle_numbers(self) -> np.ndarray:
        """Number of each row's particle, (n,) int, by first appearance; rows of one image or one's tilts share it."""
        if self.particle_index is None:
            return self.image_numbers
        _, first, number = np.unique(self.particle_index, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[number.reshape(-1)]

    def subset(self, indices: np.ndarray) -> ParticleSet:
        """The chosen particles in the order given, with the optics groups and stacks that they use.

        Parameters
        ----------
        indices : (k,) int or (n,) bool
        """
        rows = self._rows(indices)
        known = ((name, getattr(self, name)) for name in PER_PARTICLE_FIELDS)
        chosen: dict[str, Any] = {name: None if values is None else np.asarray(values)[rows] for name, values in known}
        if len(rows) == 0:
            return replace(self, **chosen)
        groups, chosen["optics_index"] = np.unique(self.optics_index[rows], return_inverse=True)
        stacks, chosen["stack_index"] = np.unique(self.stack_index[rows], return_inverse=True)
        return replace(
            self,
            optics=tuple(self.optics[group] for group in groups),
            stacks=tuple(self.stacks[stack] for stack in stacks),
            **chosen,
        )

    def limited_rows(self, first: int | None, most: int | None, seed: int) -> np.ndarray:
        """Rows, (n,) int, of the first so many particles, of them so many drawn with a seed, with all their tilts."""
        number = np.arange(len(self)) if self.particle_index is None else self.particle_numbers
        count = len(np.arange(int(number.max(initial=-1)) + 1)[:first])
        drawn = most is not None and most < count
        chosen = np.random.default_rng(seed).choice(count, most, replace=False) if drawn else np.arange(count)
        return np.flatnonzero(np.isin(number, chosen))

    def limited(self, first: int | None, most: int | None, seed: int) -> ParticleSet:
        """The particles of ``limited_rows``."""
        return self.subset(self.limited_rows(first, most, seed))

    def without_cryosparc_aberrations(self, note: str) -> ParticleSet:
        """The same particles without the aberrations that cannot be applied, and with a note of that."""
        groups = tuple(replace(group, cryosparc_aberrations=()) for group in self.optics)
        return replace(self, optics=groups, notes=(*self.notes, note))

    def mirrored(self) -> ParticleSet:
        """The same images with the poses that they have in the map's mirror image along z; nothing else changes."""
        return replace(self, rotations=mirrored_matrices(self.rotations))

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Images of the chosen particles, protein white.

        Parameters
        ----------
        indices : (k,) int or (n,) bool
            In any order, repeats allowed.

        Returns
        -------
        (k, box, box) float32
            Rows are y, columns x.

        Raises
        ------
        InputError
            If a stack cannot be read, has another box, or an image holds NaN, infinity or values that are no signal.
        """
        rows = self._rows(indices)
        images = np.empty((len(rows), self.box, self.box), dtype=np.float32)
        for stack in np.unique(self.stack_index[rows]):
            at = np.flatnonzero(self.stack_index[rows] == stack)
            at = at[np.argsort(self.slice_index[rows[at]], kind="stable")]
            slices = self.slice_index[rows[at]]
            read = self.reader.read(self.stacks[stack], slices)
            self._require_box(read, self.stacks[stack])
            empty = require_usable_images(read, self.stacks[stack], slices)
            read[empty] = 0  # so that rounding does not become signal
            self.reader.empty.update((self.stacks[stack], int(row)) for row in slices[empty])
            images[at] = read * self.contrast[rows[at], None, None].astype(np.float32)
        return images

    def metadata_digests(self) -> dict[str, str]:
        """Digest of each kind of metadata, in the particles' order, by its name.

        It depends neither on the folders in which the stacks are nor on the last bits of numbers, in which processors
        differ.
        """
        known: dict[str, Any] = {name: getattr(self, name) for name in PER_PARTICLE_FIELDS}
        known |= {one.name: [getattr(group, one.name) for group in self.optics] for one in fields(OpticsGroup)}
        known |= {"stacks": [path.name for path in self.stacks], "scored_rings": self.scored_rings}
        return {name: hashlib.sha256(_rounded_bytes(values)).hexdigest() for name, values in known.items()}

    def stack_digests(self) -> list[tuple[Path, list[Any]]]:
        """Each stack with its name, its bytes and a digest of a sample of its images, read anew."""
        sample = np.unique(np.linspace(0, len(self) - 1, min(len(self), _SAMPLED_IMAGES)).round().astype(int))
        found = []
        for number, path in enumerate(self.stacks):
            slices = np.sort(self.slice_index[sample[self.stack_index[sample] == number]])
            pixels = StackReader().read(path, slices).tobytes() if len(slices) else b""
            found.append((path, [path.name, path.stat().st_size, hashlib.sha256(pixels).hexdigest()]))
        return found

    def _require_box(self, images: np.ndarray, stack: Path) -> None:
        if images.shape[1:] != (self.box, self.box):
            raise InputError(
                f"{stack}: images of {images.shape[2]} x {images.shape[1]} pixels, "
                f"but the particles' metadata say {self.box} x {self.box}; give the stacks that belong to the file"
            )

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.size == 0:
            indices = indices.astype(int)
        return np.atleast_1d(np.arange(len(self))[indices])


def _rounded_bytes(values: Any) -> bytes:
    """Bytes of an array of any type, its numbers rounded and without the sign of zeros, or of a list as JSON."""
    if not isinstance(values, np.ndarray):
        return json.dumps(values, default=float).encode()
    return (np.ascontiguousarray(values, dtype=np.float64).round(_DECIMALS_OF_DIGESTS) + 0.0).tobytes()


PER_PARTICLE_FIELDS = (
    "optics_index",
    "rotations",
    "origins_angstrom",
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_deg",
    "phase_shift_deg",
    "ctf_bfactor_a2",
    "ctf_scale",
    "half_set",
    "stack_index",
    "slice_index",
    "contrast",
    "held_out",
    "particle_index",
    "dose_e_a2",
)


# Values beyond these are not of an electron microscope, but of a mistaken unit (volts for kilovolts, nanometres for Å).
OPTICS_LIMITS = {
    "voltage_kv": (10.0, 2000.0, "acceleration voltage (kV)"),
    "cs_mm": (-20.0, 20.0, "spherical aberration (mm)"),
    "amplitude_contrast": (0.0, 1.0, "amplitude contrast (fraction)"),
    "pixel_size_angstrom": (0.05, 100.0, "pixel size (Å)"),
}
PIXEL_SIZE_TOLERANCE = 1e-5  # relative: 0.003 Å over a box of 300 Å
# Relative difference up to which sessions are joined with their mean pixel size: as much as two calibrations of one
# microscope differ. At the edge of a box of 300 Å, 0.5 % between two sessions are 0.4 Å from the mean.
JOINED_PIXEL_SIZE_TOLERANCE = 5e-3


def require_usable_optics(groups: Sequence[OpticsGroup], path: Path) -> None:
    """Check that optics groups have possible values, even boxes, and one box and pixel size.

    Groups whose box is not known yet have ``box`` 0.

    Raises
    ------
    InputError
    """
    for group in groups:
        for name, (lowest, highest, meaning) in OPTICS_LIMITS.items():
            value = getattr(group, name)
            if not lowest <= value <= highest:
                raise InputError(
                    f"{path}: optics group {group.name} has {meaning} {value:g}; "
                    f"values from {lowest:g} to {highest:g} are possible: repair the file"
                )
    for group in groups:
        require_even_box(group.box, f"{path}: optics group {group.name}")
    sizes = np.array([group.pixel_size_angstrom for group in groups])
    if np.ptp(sizes) >= JOINED_PIXEL_SIZE_TOLERANCE * sizes.min():
        raise InputError(
            _differ(path, "pixel size", [f"{group.name} {group.pixel_size_angstrom:g} Å" for group in groups])
        )
    if len({group.box for group in groups}) > 1:
        raise InputError(_differ(path, "box", [f"{group.name} {group.box} pixels" for group in groups]))


def join_pixel_sizes(
    groups: Sequence[OpticsGroup], index: np.ndarray, path: Path
) -> tuple[tuple[OpticsGroup, ...], np.ndarray, tuple[str, ...]]:
    """Groups with one pixel size, the particles' mean where it differs a little, and a note of that.

    A group's own size then stands in its magnification matrix, so that every Fourier pixel keeps its frequency:
    ``k M / own size`` is ``k (M mean / own size) / mean``.

    ``groups`` are as ``require_usable_optics`` lets them pass, ``index``, (n,) int, is each particle's group. Besides
    the groups it gives the Å of the common pixel size for an Å of each group's own, (n_groups,), the factor of what is
    measured in its images.
    """
    sizes = np.array([group.pixel_size_angstrom for group in groups])
    if np.ptp(sizes) <= PIXEL_SIZE_TOLERANCE * sizes[0]:
        return tuple(groups), np.ones(len(groups)), ()
    mean = float(f"{sizes[index].mean():.7g}")
    note = (
        f"{path}: pixel sizes differ by {np.ptp(sizes) / sizes.min():.2%} between optics groups ({sizes.min():g} to "
        f"{sizes.max():g} Å); all particles are read with their mean, {mean:g} Å, and each group's own as its "
        "magnification"
    )
    scale = mean / sizes
    joined = []
    for group, factor in zip(groups, scale.tolist()):
        (xx, xy), (yx, yy) = group.magnification_matrix
        matrix = ((xx * factor, xy * factor), (yx * factor, yy * factor))
        joined.append(replace(group, pixel_size_angstrom=mean, magnification_matrix=matrix))
    return tuple(joined), scale, (note,)


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
