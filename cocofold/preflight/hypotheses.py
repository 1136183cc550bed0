"""What particles may turn out to be: alternatives to what their file says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cocofold.particles import ParticleSet

GIVEN = "as given"
NEGATED, ABSENT = "negated", "none"
FLIPPED, UNFLIPPED, OTHER_FOCUS = "phases flipped", "phases not flipped", "defocus of opposite sign"
SHIFTS = (GIVEN, NEGATED, ABSENT)
MIRRORS = {"x": (-1.0, 1.0, 1.0), "y": (1.0, -1.0, 1.0), "z": (1.0, 1.0, -1.0), "centre": (-1.0, -1.0, -1.0)}
_ALONG_VIEW = np.array([[1.0], [1.0], [-1.0]])


@dataclass(frozen=True)
class Hypothesis:
    """One way to take particles; by default as their file says.

    Attributes
    ----------
    contrast : int
        1: protein is white as images are read; -1: dark.
    transposed : bool
        Each pose is the inverse of what it should be.
    mirror : str or None
        Poses are those of the map mirrored along x, y or z, or through its centre. Two of these differ by a half turn
        of the model, which one knows only from where the model lies.
    shifts : str
        As given, negated, or none, as if the images were centred already.
    ctf : str
        As given, none, of flipped phases, or of the opposite defocus.
    pixel_factor : float
        By which pixels are larger; poses' origins, defoci and the model stay as they are in Å.
    model_factor : float
        By which pixels are larger, where all stays as it is in pixels: the model is drawn smaller, about its centroid.
    origins_factor : float
        On the poses' origins, which are in pixels of another size.
    """

    contrast: int = 1
    transposed: bool = False
    mirror: str | None = None
    shifts: str = GIVEN
    ctf: str = GIVEN
    pixel_factor: float = 1.0
    model_factor: float = 1.0
    origins_factor: float = 1.0

    def rotations(self, given: np.ndarray) -> np.ndarray:
        """Poses, (n, 3, 3): ``A' = diag(1, 1, -1) A M`` of a map mirrored by M."""
        rotations = given.transpose(0, 2, 1) if self.transposed else given
        return rotations if self.mirror is None else _ALONG_VIEW * rotations * np.array(MIRRORS[self.mirror])

    @property
    def shift_factor(self) -> float:
        """Of the origins."""
        return {GIVEN: 1.0, NEGATED: -1.0, ABSENT: 0.0}[self.shifts] * self.origins_factor

    def changes(self) -> tuple[str, ...]:
        """Names of the attributes that are not as the file says."""
        return tuple(name for name, value in vars(self).items() if value != getattr(Hypothesis, name))

    def without(self, name: str) -> Hypothesis:
        """With one attribute as the file says."""
        return replace(self, **{name: getattr(Hypothesis, name)})


def other_ctfs(particles: ParticleSet) -> tuple[str, ...]:
    """Names of the CTFs that images may have instead of theirs."""
    flipped = any(group.phase_flipped or group.ctf_premultiplied for group in particles.optics)
    return (UNFLIPPED if flipped else FLIPPED, ABSENT, OTHER_FOCUS)


def with_ctf(particles: ParticleSet, name: str) -> ParticleSet:
    """Particles with the optics of one of ``other_ctfs``, but for ``ABSENT``, of which there are none."""
    if name == OTHER_FOCUS:
        return with_defocus(particles, -particles.defocus_u_angstrom, -particles.defocus_v_angstrom)
    if name in (FLIPPED, UNFLIPPED):
        flipped = name == FLIPPED
        optics = tuple(replace(one, phase_flipped=flipped, ctf_premultiplied=False) for one in particles.optics)
        return replace(particles, optics=optics)
    return particles


def with_defocus(particles: ParticleSet, u_angstrom: np.ndarray, v_angstrom: np.ndarray) -> ParticleSet:
    """Particles of other defoci, both (n,) Å."""
    return replace(particles, defocus_u_angstrom=u_angstrom, defocus_v_angstrom=v_angstrom)


def with_pixel_size(particles: ParticleSet, factor: float) -> ParticleSet:
    """Particles with pixels larger by a factor; all else stays as it is in Å."""
    if factor == 1.0:
        return particles
    optics = tuple(replace(one, pixel_size_angstrom=one.pixel_size_angstrom * factor) for one in particles.optics)
    return replace(particles, optics=optics)
