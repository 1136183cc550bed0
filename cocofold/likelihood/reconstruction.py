"""A map reconstructed from particles at their poses: back-projection in Fourier space, corrected for their optics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, normalise_rings, ring_count
from cocofold.likelihood.observed_images import Batch, Observations, ring_transforms
from cocofold.likelihood.particle_optics import ParticleOptics, magnified_poses, poses_of
from cocofold.particles.particle_set import ParticleSet
from cocofold.system.errors import InputError
from cocofold.system.hardware import free_bytes, is_out_of_device_memory

# Voxels of the Fourier volume along an axis for one of the map. With 2, what trilinear interpolation blurs and folds
# back stays outside the map's inner half; 1 leaves ghosts at its edges, 3 takes 3.4 times the memory.
_PADDING = 2
# Least weight of a Fourier voxel, as a share of its shell's mean. With RELION's 0.001 the noise of voxels that
# hardly an image reaches stands out (200 particles: FSC with the truth 0.45 at 10 Å in place of 0.51); with 0.3 the
# scale of such sets falls by a tenth.
_LEAST_WEIGHT = 0.1
# Voxels over which the sphere of a map ends: RELION's
_EDGE_PIXELS = 3
# Points of images put into the volume at a time, for memory alone: 60 bytes each.
_POINTS_AT_ONCE = 1 << 20
# Steps to the eight voxels around a point, among which trilinear interpolation shares out its value
_CORNERS = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
# Bytes per voxel of half a Fourier volume, measured for a box of 256: two volumes of three sums, and what makes a map
_BYTES_PER_VOXEL = 60


@dataclass(frozen=True)
class Reconstruction:
    """Maps of particles.

    Attributes
    ----------
    map : (box, box, box) float32
        Of all images, indexed z, y, x; protein is positive if it is white in the images. Voxel (0, 0, 0) is at 0 Å and
        the rotation centre at voxel ``box // 2``; a projection of it (the sum of voxels along an axis) has the scale of
        the images.
    half_maps : tuple of two such maps
    weights : (box, box, box // 2 + 1) float32
        Mean sum of the squared CTFs of all images around each frequency, in the order of ``numpy.fft.rfftn``.
    trusted_share : (box, box, box // 2 + 1) float32
        How much of the transform is there, from 0 where no image has any of it to 1.
    half_shares : tuple of two such shares
        Of the half maps.
    pixel_size_angstrom : float
    images : tuple of int
        Number of images of the map and of both halves.
    """

    map: np.ndarray
    half_maps: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray
    trusted_share: np.ndarray
    half_shares: tuple[np.ndarray, np.ndarray]
    pixel_size_angstrom: float
    images: tuple[int, int, int]


def reconstruct(
    particles: ParticleSet,
    rotations: np.ndarray | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    resolution_angstrom: float | None = None,
) -> Reconstruction:
    """Reconstruct a map and two half maps.

    Each Fourier pixel k of an image belongs to ``A.T @ (M k, 0)`` of the map, with M its anisotropic magnification. It
    is shared out among the eight nearest voxels of a volume padded twofold, weighted by the CTF, and the sum divided by
    that of the squared CTFs. Antisymmetric aberrations are taken out before. All frequencies to the ring before Nyquist
    are used.

    Parameters
    ----------
    particles : ParticleSet
    rotations : (c, 3, 3) float, optional
        Rotations of the point group; each image is put in at all of them.
    seed : int
        Of the split into halves where the particles name no half sets.
    device
        A GPU whose memory does not hold the Fourier volumes leaves them to the processor.
    progress : callable, optional
        Told the number of images done and of all.
    resolution_angstrom : float, optional
        Finer frequencies are left out, and voxels are as large as that allows: much less time and memory.

    Raises
    ------
    InputError
        If the memory does not hold the Fourier volume, or images cannot be read.
    """
    rotations = np.eye(3)[None] if rotations is None else rotations
    n_rings = ring_count(particles.box, particles.pixel_size_angstrom, resolution_angstrom)
    side, processor = 2 * (n_rings + 1), torch.device("cpu")
    where = _device_with_room(side, torch.device(device))
    given = (particles, rotations, n_rings, split_into_halves(particles, seed), progress)
    try:
        return _reconstruct_on(where, *given)
    except RuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
    return _reconstruct_on(_device_with_room(side, processor), *given)


def _reconstruct_on(
    device: torch.device,
    particles: ParticleSet,
    rotations: np.ndarray,
    n_rings: int,
    halves: tuple[np.ndarray, np.ndarray],
    progress: Callable[[int, int], None] | None,
) -> Reconstruction:
    """Maps of the particles and of two halves of them, on a device; see ``reconstruct``."""
    side = 2 * (n_rings + 1)
    rest = np.setdiff1d(np.arange(len(particles)), np.concatenate(halves))
    source = _ImageTransforms(particles, rotations, n_rings, device)
    counted = 0

    def tell(images: int) -> None:
        nonlocal counted
        counted += images
        if progress is not None:
            progress(counted, len(particles))

    whole = _FourierVolume(side, device)
    source.add_to(whole, halves[0], tell)
    first, first_share = whole.to_map(), whole.coverage()[1]
    other = _FourierVolume(side, device)
    source.add_to(other, halves[1], tell)
    second, half_shares = other.to_map(), (first_share, other.coverage()[1])
    whole.merge(other)
    del other
    source.add_to(whole, rest, tell)
    weights, share = whole.coverage()
    images = (len(particles), len(halves[0]), len(halves[1]))
    return Reconstruction(
        whole.to_map(),
        (first, second),
        weights,
        share,
        half_shares,
        particles.pixel_size_angstrom * particles.box / side,
        images,
    )


def split_into_halves(particles: ParticleSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two halves: the particles' own half sets, or else all images drawn into two.

    Rows of one image, as in a set expanded by symmetry, and tilts of one particle go into the same half.
    """
    half = particles.half_set
    if half is not None and (half == 1).any() and (half == 2).any():
        return np.flatnonzero(half == 1), np.flatnonzero(half == 2)
    numbers = particles.particle_numbers
    order = np.random.default_rng(seed).permutation(numbers.max() + 1)
    in_first = order[numbers] % 2 == 0
    return np.flatnonzero(in_first), np.flatnonzero(~in_first)


class _ImageTransforms:
    """Transforms of images with the particle's centre moved to the origin, and where they belong in the map."""

    def __init__(self, particles: ParticleSet, rotations: np.ndarray, n_rings: int, device: torch.device) -> None:
        self._particles = particles
        self._pixels = _all_pixels(particles.box, n_rings, device)
        self._optics = ParticleOptics(particles, self._pixels)
        self._symmetry = torch.as_tensor(rotations, dtype=torch.float32, device=device)
        poses = magnified_poses(poses_of(particles), particles).to(device)
        self._axes, self._origins = poses.rotations[:, :2], poses.origins_angstrom / particles.pixel_size_angstrom
        premultiplied = np.array([group.ctf_premultiplied for group in particles.optics])[particles.optics_index]
        self._premultiplied = torch.as_tensor(premultiplied, device=device)
        self._frequencies = torch.stack([self._pixels.kx, self._pixels.ky]).float()

    def add_to(self, volume: _FourierVolume, rows: np.ndarray, tell: Callable[[int], None]) -> None:
        """Put images into a volume, a bounded number at a time."""
        at_once = max(1, _POINTS_AT_ONCE // len(self._pixels))
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            on_device = torch.as_tensor(some, device=self._frequencies.device)
            planes = ring_transforms(self._particles, some, self._pixels, self._optics)
            # What sits at box // 2 minus the origin belongs at the origin.
            places = self._particles.box // 2 - self._origins[on_device]
            turns = 2 * torch.pi / self._particles.box * (places @ self._frequencies)
            planes = planes * torch.polar(torch.ones_like(turns), turns)
            transfer = self._optics.transfer(on_device, self._pixels)
            # Images that were multiplied by their CTF have its square for a transfer function, and its noise.
            factor = torch.where(self._premultiplied[on_device, None], torch.ones_like(transfer), transfer)
            # The column kx = 0 holds each pixel and its Friedel mate.
            factor = factor * (self._pixels.weight / 2)
            for turn in self._symmetry:
                at = torch.einsum("nai,ji,ak->jnk", self._axes[on_device], turn, self._frequencies)
                volume.add(at.flatten(1), (factor * planes).flatten(), (factor * transfer).flatten())
            tell(len(some))


def _all_pixels(box: int, n_rings: int, device: torch.device) -> RingPixels:
    """Pixels of the rings up to ``n_rings``, and last that of frequency 0, of which ``ring`` is -1."""
    rings = RingPixels.up_to(box, n_rings, device)

    def with_zero(values: torch.Tensor, last: int) -> torch.Tensor:
        return torch.cat([values, values.new_tensor([last])])

    return replace(
        rings,
        ky=with_zero(rings.ky, 0),
        kx=with_zero(rings.kx, 0),
        ring=with_zero(rings.ring, -1),
        weight=with_zero(rings.weight, 1),
    )


class _FourierVolume:
    """Half of a padded Fourier volume, x from 0 up: weighted sums of transforms, and of weights."""

    def __init__(self, box: int, device: torch.device) -> None:
        self._box, self._side = box, _PADDING * box
        self._shape = (self._side, self._side, self._side // 2 + 1)
        voxels = int(np.prod(self._shape))
        self._real, self._imaginary, self._weight = (torch.zeros(voxels, device=device) for _ in range(3))

    def add(self, at: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
        """Share out values, (n,) complex, and weights at frequencies (x, y, z), (3, n) in pixels of the map."""
        place = _PADDING * at
        # What lies at x < 0 is the complex conjugate of what lies opposite.
        sign = torch.where(place[0] < 0, -1.0, 1.0)
        place = place * sign
        # A magnification may move pixels beyond the volume.
        inside = (place.abs() < self._side // 2 - 1).all(0)
        parts = (values.real, values.imag * sign, weights)
        if not inside.all():
            place, parts = place[:, inside], (parts[0][inside], parts[1][inside], parts[2][inside])
        for index, share in _voxels_around(place, self._side):
            for sums, part in zip((self._real, self._imaginary, self._weight), parts):
                sums.index_add_(0, index, share * part)

    def merge(self, other: _FourierVolume) -> None:
        """Add the sums of another volume."""
        for mine, others in zip(
            (self._real, self._imaginary, self._weight), (other._real, other._imaginary, other._weight)
        ):
            mine += others

    def to_map(self) -> np.ndarray:
        """The map, (box, box, box) float32."""
        weight = self._hermitian(self._weight)
        spectrum = torch.complex(self._hermitian(self._real), self._hermitian(self._imaginary, -1.0))
        spectrum /= torch.maximum(weight, _least_weights(weight))
        values = torch.fft.irfftn(spectrum, s=(self._side,) * 3)
        del spectrum, weight
        near = torch.arange(-(self._box // 2), self._box - self._box // 2, device=values.device)
        for axis in range(3):
            values = values.index_select(axis, near % self._side)
            # What trilinear interpolation in Fourier space multiplies the map by
            shape = [1, 1, 1]
            shape[axis] = -1
            values /= torch.sinc(near / self._side).square().view(shape)
        return _level_corners(values.cpu().numpy())

    def coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and trusted share around each frequency of the map, both (box, box, box // 2 + 1) float32."""
        weight = self._hermitian(self._weight)
        share = weight / torch.maximum(weight, _least_weights(weight))
        weight, share = (self._mean_around(values)[::_PADDING, ::_PADDING, ::_PADDING] for values in (weight, share))
        return weight.cpu().numpy(), share.cpu().numpy()

    def _mean_around(self, values: torch.Tensor) -> torch.Tensor:
        """Means over neighbours, of which cutting the map out of its padding makes one frequency."""
        for axis in (0, 1):
            values = values / 2 + (values.roll(1, axis) + values.roll(-1, axis)) / 4
        opposite = (-torch.arange(self._side, device=values.device)) % self._side
        before = torch.cat([values[opposite][:, opposite, 1:2], values[:, :, :-1]], 2)
        after = torch.cat([values[:, :, 1:], values[:, :, -1:]], 2)
        return values / 2 + (before + after) / 4

    def _hermitian(self, sums: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
        """Sums with what lies at x < 0 next to the plane x = 0 added to it."""
        whole = sums.view(self._shape).clone()
        opposite = (-torch.arange(self._side, device=sums.device)) % self._side
        whole[:, :, 0] += sign * whole[opposite][:, opposite, 0]
        return whole


def _voxels_around(place: torch.Tensor, side: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each of the eight voxels of half a volume around places (x, y, z), (3, n), x from 0 up, and its shares, (n,)."""
    lowest = place.floor()
    beyond = place - lowest
    lowest = lowest.long()
    for z, y, x in _CORNERS:
        share = torch.ones_like(beyond[0])
        for axis, step in enumerate((x, y, z)):
            share = share * (beyond[axis] if step else 1 - beyond[axis])
        row = (lowest[2] + z) % side * side + (lowest[1] + y) % side
        yield row * (side // 2 + 1) + lowest[0] + x, share


class MapProjections(Observations):
    """Projections of a map at the poses of particles, without CTFs, in place of their images.

    Parameters
    ----------
    particles : ParticleSet
    density : (n, n, n) float
        The map, of the particles' extent, its rotation centre at voxel ``n // 2``.
    n_rings : int
        Highest ring that will be asked for.
    device
    """

    def __init__(
        self, particles: ParticleSet, density: np.ndarray, n_rings: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(particles, n_rings, device)
        count, side = len(density), _PADDING * len(density)
        near = torch.arange(-(count // 2), count - count // 2, device=self.device)
        values = torch.as_tensor(density, dtype=torch.float32, device=self.device)
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = -1
            # What the interpolation of slices multiplies the map by is taken out before.
            values = values / torch.sinc(near / side).square().view(shape)
            padded = values.new_zeros(*values.shape[:axis], side, *values.shape[axis + 1 :])
            values = padded.index_copy(axis, near % side, values)
        self._volume, self._side = torch.fft.rfftn(values).flatten(), side

    def batch(self, rows: torch.Tensor, rings: RingPixels) -> Batch:
        """See ``Observations``; the transfer function is 1."""
        found = super().batch(rows, rings)
        return replace(found, transfer=torch.ones_like(found.transfer))

    def _transform(self, rows: np.ndarray) -> torch.Tensor:
        rings, poses = self._rings[self._finest], self._poses[torch.as_tensor(rows, device=self.device)]
        x, y = rings.kx.float(), rings.ky.float()
        across, up = poses.rotations[:, :2].unbind(1)
        place = _PADDING * (across.t()[:, :, None] * x + up.t()[:, :, None] * y).flatten(1)
        # What lies at x < 0 is the complex conjugate of what lies opposite.
        sign = torch.where(place[0] < 0, -1.0, 1.0)
        found = sum(share * self._volume[index] for index, share in _voxels_around(place * sign, self._side))
        planes = torch.complex(found.real, found.imag * sign).view(len(rows), -1)
        # The particle's centre lies at box // 2 minus the origin.
        places = self.particles.box // 2 - poses.origins_angstrom / self.pixel_size_angstrom
        turns = -2 * torch.pi / self.particles.box * (places[:, :1] * x + places[:, 1:] * y)
        planes = planes * torch.polar(torch.ones_like(turns), turns)
        return normalise_rings(torch.view_as_real(planes), rings)


def _least_weights(weight: torch.Tensor) -> torch.Tensor:
    """Least weight of each voxel by its shell; beyond the last shell and in empty ones 1, as nothing is there."""
    side = len(weight)
    axis = torch.fft.fftfreq(side, 1 / side, device=weight.device)
    squared = (axis**2)[:, None, None] + (axis**2)[:, None] + (axis[: side // 2 + 1] ** 2)
    shell = squared.sqrt_().round_().clamp_(max=side // 2).to(torch.int32).flatten()
    sums = torch.zeros(side // 2 + 1, device=weight.device).index_add_(0, shell, weight.flatten())
    means = sums / torch.bincount(shell, minlength=len(sums))
    least = torch.where(means > 0, _LEAST_WEIGHT * means, torch.ones_like(means))
    return least[shell.long()].view(weight.shape)


def _level_corners(values: np.ndarray) -> np.ndarray:
    """A map with its mean outside the sphere that all views hold whole in place of what is there; a soft edge."""
    axis = np.arange(len(values), dtype=np.float32) - len(values) // 2
    radius = np.sqrt((axis**2)[:, None, None] + (axis**2)[:, None] + axis**2)
    outside = 0.5 - 0.5 * np.cos(np.pi * np.clip((radius - len(values) // 2) / _EDGE_PIXELS, 0, 1))
    level = (outside * values).sum() / outside.sum()
    return (values + outside * (level - values)).astype(np.float32)


def volume_bytes(box: int) -> int:
    """Memory that the padded Fourier volumes of a box take."""
    return (_PADDING * box) ** 3 // 2 * _BYTES_PER_VOXEL


def _device_with_room(box: int, device: torch.device) -> torch.device:
    """The device, or the processor where a GPU's memory does not hold the padded Fourier volumes of a box.

    Raises
    ------
    InputError
        If the processor's does not hold them either.
    """
    needed = volume_bytes(box)
    if device.type != "cpu" and needed > free_bytes(device):
        device = torch.device("cpu")
    free = free_bytes(device)
    if needed > free:
        raise InputError(
            f"the Fourier volumes of a box of {box} pixels take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free; give particles with fewer and larger pixels, or a machine with more memory"
        )
    return device
