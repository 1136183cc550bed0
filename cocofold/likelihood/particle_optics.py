"""Optics and poses of particles in the terms of ``cocofold.imaging``; and how far poses are off (``PoseEquations``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cocofold.imaging.fourier import (
    Ctf,
    RingPixels,
    antisymmetric_phase,
    apply_magnification,
    contrast_transfer,
    electron_wavelength_angstrom,
    radiation_damage,
    symmetric_phase,
)
from cocofold.imaging.projection import Poses
from cocofold.particles.particle_set import IDENTITY_MAGNIFICATION, NEGLIGIBLE_ABERRATION, OpticsGroup, ParticleSet
from cocofold.particles.poses import turned_matrices
from cocofold.system.errors import InputError

ANGSTROM_PER_MM = 1e7
# Microscopes are anisotropic by a few per cent at most; a matrix that stretches an axis by less than this, or by more
# than its inverse, is taken for a damaged one.
_MIN_MAGNIFICATION = 0.8
# Phases (degrees) that are wrong by so much cost 1.5 % of a correlation, and only where they are largest.
_NEGLIGIBLE_PHASE_DEG = 10.0


class ParticleOptics:
    """What the microscope does to each particle's image, at the pixels of some rings.

    Parameters
    ----------
    particles : ParticleSet
    rings : RingPixels
        The finest; others hold the first of its pixels.
    """

    def __init__(self, particles: ParticleSet, rings: RingPixels) -> None:
        device = rings.kx.device
        self._ctf = ctf_of(particles).to(device)
        self._group = torch.as_tensor(np.array(particles.optics_index), dtype=torch.long, device=device)
        step = 1 / (particles.box * particles.pixel_size_angstrom)
        self._kx, self._ky = rings.kx * step, rings.ky * step
        kx, ky = rings.kx.cpu().double() * step, rings.ky.cpu().double() * step
        groups = particles.optics
        frequencies = [apply_magnification(kx, ky, group.magnification_matrix) for group in groups]
        self._magnified_frequencies = None
        if any(group.magnification_matrix != IDENTITY_MAGNIFICATION for group in groups):
            self._magnified_frequencies = tuple(torch.stack(axis).float().to(device) for axis in zip(*frequencies))
        symmetric = _symmetric_phases(groups, frequencies)
        antisymmetric = _antisymmetric_factors(groups, frequencies)
        self._symmetric = None if symmetric is None else symmetric.to(device)
        self._antisymmetric = None if antisymmetric is None else antisymmetric.to(device)

    def transfer(self, rows: torch.Tensor, rings: RingPixels) -> torch.Tensor:
        """CTF of images with their even aberrations, (n, n_pixels of ``rings``)."""
        phase = None if self._symmetric is None else self._symmetric[self._group[rows], : len(rings)]
        return contrast_transfer(self._ctf[rows], *self.frequencies(rows, rings), phase)

    def frequencies(self, rows: torch.Tensor, rings: RingPixels) -> tuple[torch.Tensor, torch.Tensor]:
        """Frequencies kx and ky (1/Å) of the specimen at the pixels of images, (n, n_pixels), or (n_pixels,) of all."""
        if self._magnified_frequencies is None:
            return self._kx[: len(rings)], self._ky[: len(rings)]
        kx, ky = (axis[self._group[rows], : len(rings)] for axis in self._magnified_frequencies)
        return kx, ky

    def without_antisymmetric_phase(self, planes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Transforms of images, (n, n_pixels) complex at all pixels, with beam tilt and odd aberrations taken out."""
        if self._antisymmetric is None:
            return planes
        factor = self._antisymmetric[self._group[rows]]
        # Products of complex tensors are rounded differently at their ends; of real ones everywhere alike.
        real = planes.real * factor.real - planes.imag * factor.imag
        imaginary = planes.real * factor.imag + planes.imag * factor.real
        return torch.complex(real, imaginary)


def _symmetric_phases(
    groups: Sequence[OpticsGroup], frequencies: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """Phases of even aberrations, (n_groups, n_pixels) radian; None if no group has any.

    ``frequencies`` are each group's kx and ky at the pixels, 1/Å, as its magnification shows them.
    """
    if not any(any(group.even_zernike) for group in groups):
        return None
    phases = [symmetric_phase(*at, group.even_zernike) for at, group in zip(frequencies, groups)]
    return torch.stack(phases).float()


def _antisymmetric_factors(
    groups: Sequence[OpticsGroup], frequencies: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """Factors that take out beam tilt and odd aberrations, (n_groups, n_pixels) complex; None if no group has any."""
    if not any(any(group.beam_tilt_mrad) or any(group.odd_zernike) for group in groups):
        return None
    phases = [
        antisymmetric_phase(
            *at,
            group.beam_tilt_mrad,
            group.odd_zernike,
            group.cs_mm * ANGSTROM_PER_MM,
            electron_wavelength_angstrom(group.voltage_kv),
        )
        for at, group in zip(frequencies, groups)
    ]
    turns = torch.stack(phases)
    return torch.polar(torch.ones_like(turns), -turns).to(torch.complex64)


def magnified_poses(poses: Poses, particles: ParticleSet) -> Poses:
    """Poses that draw atoms as an anisotropic magnification shows them: in the plane at ``M^T u``.

    The transform of atoms at ``M^T u`` is that of atoms at u, at the frequencies ``M k``. Origins are those of the
    image and stay.
    """
    if all(group.magnification_matrix == IDENTITY_MAGNIFICATION for group in particles.optics):
        return poses
    matrices = np.array([group.magnification_matrix for group in particles.optics])[particles.optics_index]
    by_image = torch.as_tensor(matrices, dtype=poses.rotations.dtype, device=poses.rotations.device)
    planar = torch.matmul(by_image.transpose(1, 2), poses.rotations[:, :2])
    return Poses(torch.cat([planar, poses.rotations[:, 2:]], 1), poses.origins_angstrom)


def with_pose_errors(particles: ParticleSet, errors: np.ndarray) -> ParticleSet:
    """The same images with poses turned in the image (rotation vectors, rad) and origins shifted (Å) by (n, 5)."""
    turned = turned_matrices(particles.rotations, errors[:, :3])
    return replace(particles, rotations=turned, origins_angstrom=particles.origins_angstrom + errors[:, 3:])


def poses_of(particles: ParticleSet) -> Poses:
    """Poses of all particles, in one layout however the particles were read: it decides how a product is rounded."""
    return Poses(
        torch.as_tensor(particles.rotations, dtype=torch.float32).contiguous(),
        torch.as_tensor(particles.origins_angstrom, dtype=torch.float32).contiguous(),
    )


def ctf_of(particles: ParticleSet) -> Ctf:
    """CTF parameters of all particles."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        # A copy: particles' arrays may be read-only, which torch would warn of.
        return torch.as_tensor(np.array(values, dtype=np.float32))

    def by_group(value: Callable[[OpticsGroup], float]) -> torch.Tensor:
        return tensor(np.array([value(group) for group in particles.optics], dtype=float)[particles.optics_index])

    return Ctf(
        defocus_u_angstrom=tensor(particles.defocus_u_angstrom),
        defocus_v_angstrom=tensor(particles.defocus_v_angstrom),
        defocus_angle_rad=tensor(np.deg2rad(particles.defocus_angle_deg)),
        phase_shift_rad=tensor(np.deg2rad(particles.phase_shift_deg)),
        amplitude_contrast=by_group(lambda group: group.amplitude_contrast),
        wavelength_angstrom=by_group(lambda group: electron_wavelength_angstrom(group.voltage_kv)),
        cs_angstrom=by_group(lambda group: group.cs_mm * ANGSTROM_PER_MM),
        bfactor_a2=tensor(particles.ctf_bfactor_a2),
        scale=tensor(particles.ctf_scale),
        flipped=by_group(lambda group: group.phase_flipped),
        premultiplied=by_group(lambda group: group.ctf_premultiplied),
        dose=None if particles.dose_e_a2 is None else tensor(particles.dose_e_a2),
    )


def dose_weights(particles: ParticleSet, n_rings: int) -> torch.Tensor | None:
    """Weight of each image's correlation on each ring, (n, n_rings) float, of mean 1 on each ring; None without doses.

    It is what is left of the signal, to which the correlation of a noisy image is proportional.
    """
    if particles.dose_e_a2 is None:
        return None
    frequencies = torch.arange(1, n_rings + 1, dtype=torch.float64) / (particles.box * particles.pixel_size_angstrom)
    dose = torch.as_tensor(np.array(particles.dose_e_a2), dtype=torch.float64)
    left = radiation_damage(dose[:, None], frequencies) * torch.as_tensor(np.array(particles.ctf_scale))[:, None]
    return (left / left.mean(0).clamp_min(torch.finfo(left.dtype).tiny)).float()


def leave_out_aberrations(particles: ParticleSet, name: str, resolution: float | None = None) -> ParticleSet:
    """Particles without CryoSPARC's aberrations that cannot be applied, where they change little; a note says so.

    Parameters
    ----------
    particles : ParticleSet
    name : str
        What to call them in messages.
    resolution : float, optional
        Finest that is compared, Å; by default all rings.

    Raises
    ------
    InputError
        If an optics group has phases of more than 10 degrees in the finest ring compared.
    """
    told = _unsettled_phases(particles, resolution)
    if not told:
        return particles
    messages = [message for message, degrees in told if degrees >= _NEGLIGIBLE_PHASE_DEG]
    if messages:
        raise InputError(f"{name}: {_joined(messages)}; {_UNSETTLED_REMEDY}")
    return particles.without_cryosparc_aberrations(f"{name}: {_joined([what for what, _ in told])}; they are left out")


def unsupported_aberrations(particles: ParticleSet) -> list[str]:
    """One message for each optics group and aberration that cannot be applied; empty if there is none.

    Beam tilt, Zernike terms and anisotropic magnification are applied with RELION's conventions. Those of CryoSPARC
    whose signs are not settled are not, nor is what RELION would not apply as written: a beam tilt overrides the odd
    terms (3, -1) and (3, 1), the fourth and fifth of ``odd_zernike``.
    """
    phases = _unsettled_phases(particles)
    messages = [f"{what}; {_UNSETTLED_REMEDY}" for what, degrees in phases if degrees >= _NEGLIGIBLE_PHASE_DEG]
    for group in (particles.optics[index] for index in np.unique(particles.optics_index)):
        found = []
        if _has(group.beam_tilt_mrad) and _has(group.odd_zernike[3:5]):
            found.append(
                f"beam tilt (mrad) {group.beam_tilt_mrad} as well as odd Zernike terms 4 and 5 {group.odd_zernike}, "
                "of which RELION would use the beam tilt only: set these two terms to 0"
            )
        stretch = np.linalg.svd(np.array(group.magnification_matrix), compute_uv=False)
        if not (stretch.min() > _MIN_MAGNIFICATION and stretch.max() < 1 / _MIN_MAGNIFICATION):
            found.append(f"magnification {group.magnification_matrix}, which is far from 1: repair the file")
        messages += [f"optics group {group.name} has {what}" for what in found]
    return messages


_UNSETTLED_REMEDY = (
    f"phases up to {_NEGLIGIBLE_PHASE_DEG:g} degrees are left out: give --ignore-aberrations to leave out these too, "
    "or particles whose aberrations RELION has fitted"
)
_MOST_GROUPS_TOLD = 3


def _unsettled_phases(particles: ParticleSet, resolution: float | None = None) -> list[tuple[str, float]]:
    """For each optics group that has any of CryoSPARC's aberrations, what it has and their largest phase, degrees."""
    finest = (particles.box // 2 - 1) / (particles.box * particles.pixel_size_angstrom)
    k = finest if resolution is None else min(finest, 1 / resolution)
    told = []
    for group in (particles.optics[index] for index in np.unique(particles.optics_index)):
        if not group.cryosparc_aberrations:
            continue
        phases = {name: cryosparc_phase_deg(group, name, values, k) for name, values in group.cryosparc_aberrations}
        listed = ", ".join(f"{name} {degrees:.2g} degrees" for name, degrees in phases.items())
        what = (
            f"optics group {group.name} has aberrations of CryoSPARC whose signs are not settled, with phases at "
            f"{1 / k:.3g} Å, the finest ring, of up to {listed}"
        )
        told.append((what, sum(phases.values())))
    return told


def cryosparc_phase_deg(group: OpticsGroup, name: str, values: Sequence[float], frequency: float) -> float:
    """Largest phase, in degrees, of an aberration of a .cs file on the ring of a frequency, 1/Å.

    Public programs agree on the sizes: 2 pi s k for a shift s, 2 pi lam^2 t k^3 for a tilt (RELION's tilt times Cs),
    a third of that for a trefoil, lam^3 k^4 times 2 pi and pi / 2 for the two- and fourfold parts of a tetrafoil.
    Infinite for another name.
    """
    wavelength = electron_wavelength_angstrom(group.voltage_kv)
    third, fourth = 2 * math.pi * wavelength**2 * frequency**3, wavelength**3 * frequency**4
    phases = {
        "ctf/shift_A": 2 * math.pi * frequency * math.hypot(*values),
        "ctf/tilt_A": third * math.hypot(*values),
        "ctf/trefoil_A": third / 3 * math.hypot(*values),
        "ctf/tetra_A": fourth * (2 * math.pi * math.hypot(*values[:2]) + math.pi / 2 * math.hypot(*values[2:])),
    }
    return math.degrees(phases.get(name, math.inf))


def _joined(messages: Sequence[str]) -> str:
    more = len(messages) - _MOST_GROUPS_TOLD
    return "; ".join(messages[:_MOST_GROUPS_TOLD]) + (f"; and {more} more groups" if more > 0 else "")


def _has(coefficients: Sequence[float]) -> bool:
    return bool(np.any(np.abs(coefficients) > NEGLIGIBLE_ABERRATION))


ERRORS_PER_POSE = 5
# Numbers of an image's equations: the gradient, then rows of the lower triangle of the matrix.
EQUATION_NUMBERS = ERRORS_PER_POSE + ERRORS_PER_POSE * (ERRORS_PER_POSE + 1) // 2
# Widths that are tried: from where no image notices an error to where a local search makes no sense, in steps that are
# finer than the widths are known.
_TURNS_DEG, _SHIFTS_ANGSTROM, _WIDTH_STEP = (0.1, 12.0), (0.02, 8.0), 1.2
# Images that tell the widths, at most: of more they would be known better than the steps between them.
_MOST_TELLING_IMAGES = 500
# Rounds in which the width of turns or that of shifts is changed, the one that gives more; they end where neither does.
_MOST_WIDTH_ROUNDS = 10


@dataclass(frozen=True)
class PosePrior:
    """How far poses are off: standard deviations of each of three turns (rad) and of each of two shifts (Å)."""

    turn_rad: float = 0.0
    shift_angstrom: float = 0.0

    @property
    def turn_deg(self) -> float:
        """Root mean square of the whole turn, degrees."""
        return math.degrees(math.sqrt(3) * self.turn_rad)

    @property
    def is_zero(self) -> bool:
        """Whether poses are taken for right."""
        return self.turn_rad == 0 and self.shift_angstrom == 0

    def __str__(self) -> str:
        return f"by {self.turn_deg:.2f}° and {self.shift_angstrom:.2f} Å along x and y (root mean square)"

    def widths(self) -> np.ndarray:
        """Standard deviation of each of the five errors, (5,)."""
        return np.repeat([self.turn_rad, self.shift_angstrom], [3, 2])


@dataclass(frozen=True)
class PoseEquations:
    """Quadratic log-likelihoods of errors d of poses, ``target d - d matrix d / 2``, less those of d = 0.

    Attributes
    ----------
    matrix : (n, 5, 5) float64
    target : (n, 5) float64
    """

    matrix: np.ndarray
    target: np.ndarray

    @classmethod
    def unpack(cls, packed: np.ndarray, errors: np.ndarray) -> PoseEquations:
        """Of what ``pose_equations`` found, (n, 20), with poses taken for off by ``errors``, (n, 5)."""
        matrix = np.zeros((len(packed), ERRORS_PER_POSE, ERRORS_PER_POSE))
        rows, columns = np.tril_indices(ERRORS_PER_POSE)
        matrix[:, rows, columns] = matrix[:, columns, rows] = packed[:, ERRORS_PER_POSE:]
        return cls(matrix, packed[:, :ERRORS_PER_POSE] + np.einsum("nij,nj->ni", matrix, errors))

    def usable(self) -> PoseEquations:
        """Of images whose numbers are all finite."""
        finite = np.isfinite(self.target).all(1) & np.isfinite(self.matrix).all((1, 2))
        return PoseEquations(self.matrix[finite], self.target[finite])

    def spread(self, most: int) -> PoseEquations:
        """Of so many images at most, from all over the set."""
        rows = np.linspace(0, len(self.target) - 1, min(len(self.target), most)).round().astype(int)
        return PoseEquations(self.matrix[rows], self.target[rows])

    def evidence(self, prior: PosePrior) -> float:
        """Log of the marginal likelihood of all images under a prior, less that with poses as they are given."""
        inner, sized = self._sized(prior)
        solved = np.linalg.solve(inner, sized[..., None])[..., 0]
        return float(0.5 * ((sized * solved).sum(1) - np.linalg.slogdet(inner)[1]).sum())

    def solve(self, prior: PosePrior) -> np.ndarray:
        """Errors of highest posterior probability, (n, 5); zero for images whose numbers are not finite."""
        finite = np.isfinite(self.target).all(1) & np.isfinite(self.matrix).all((1, 2))
        inner, sized = self.usable()._sized(prior)
        found = np.zeros_like(self.target)
        found[finite] = prior.widths() * np.linalg.solve(inner, sized[..., None])[..., 0]
        return found

    def _sized(self, prior: PosePrior) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and target with errors in units of the prior's widths, which may be zero."""
        widths = prior.widths()
        return np.eye(ERRORS_PER_POSE) + widths[:, None] * self.matrix * widths, widths * self.target

    def estimate_prior(self) -> tuple[PosePrior, float]:
        """Prior of the highest evidence, and that evidence; widths that no image asks for are zero."""
        some = self.usable().spread(_MOST_TELLING_IMAGES)
        turns = [0.0, *(math.radians(value) / math.sqrt(3) for value in _widths(*_TURNS_DEG))]
        shifts = [0.0, *_widths(*_SHIFTS_ANGSTROM)]
        best, highest = PosePrior(), 0.0
        for _ in range(_MOST_WIDTH_ROUNDS):
            tried = [PosePrior(best.turn_rad, shift) for shift in shifts]
            tried += [PosePrior(turn, best.shift_angstrom) for turn in turns]
            found = [some.evidence(prior) for prior in tried]
            if max(found) <= highest:
                break
            highest = max(found)
            best = tried[int(np.argmax(found))]
        return best, highest


def _widths(least: float, most: float) -> list[float]:
    """Widths in even steps of their logarithm."""
    count = math.floor(math.log(most / least) / math.log(_WIDTH_STEP))
    return [least * _WIDTH_STEP**step for step in range(count + 1)]
