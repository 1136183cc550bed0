"""Particle images as they are compared with atoms: Fourier rings of unit power, with poses and CTF.

They are read when first used or ahead of that by a thread, and kept in memory as far as a budget goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, normalise_rings
from cocofold.imaging.projection import Poses
from cocofold.likelihood.particle_optics import (
    ParticleOptics,
    dose_weights,
    magnified_poses,
    poses_of,
    unsupported_aberrations,
    with_pose_errors,
)
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.model import Model
from cocofold.system.errors import InputError
from cocofold.system.hardware import free_bytes

# Share of the available memory that transforms may take, and the most: a run leaves room to others, and reading ahead
# is fast enough for larger sets.
_SHARE_OF_MEMORY, MOST_CACHE_BYTES = 0.25, 4 * 2**30
# Memory of images that are read ahead of their use: enough to hide the wait for a disk behind a batch.
BYTES_AHEAD = 128 * 2**20
_BYTES_PER_COMPLEX = 8  # two float32


@dataclass(frozen=True)
class Batch:
    """Some observed images.

    Attributes
    ----------
    poses : Poses
    transfer : (n, n_pixels, 1) float
        CTF at the pixels of the rings.
    transforms : (n, n_pixels, 2) float
        Real and imaginary parts, protein white, each ring of unit power, without antisymmetric aberrations.
    """

    poses: Poses
    transfer: torch.Tensor
    transforms: torch.Tensor


class Observations:
    """Transforms of particle images up to a ring, kept in memory as far as a budget goes.

    Images are read and transformed when they are first used, or ahead of that by a thread (``prefetch``), and those
    beyond the budget each time; all ways give the same transforms, bit by bit.

    Parameters
    ----------
    particles : ParticleSet
    n_rings : int
        Highest ring that will be asked for.
    device
        Where tensors go.
    cache_bytes : int, optional
        Memory for transforms; by default a quarter of what is available, 4 GiB at most.
    contrast_sign : float
        -1 if protein is dark in the images as they are read.
    on_warning : callable, optional
        Told in words when a GPU's memory is too small for as many images at once as were asked for.
    """

    def __init__(
        self,
        particles: ParticleSet,
        n_rings: int,
        device: torch.device | str = "cpu",
        cache_bytes: int | None = None,
        contrast_sign: float = 1.0,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.particles = particles
        self.pixel_size_angstrom = particles.pixel_size_angstrom
        self.device = torch.device(device)
        self.contrast_sign = contrast_sign
        self.image_limit = len(particles)
        self._on_warning = on_warning
        self._rings = {n_rings: RingPixels.up_to(particles.box, n_rings, self.device)}
        self._finest = n_rings
        self.rotations = poses_of(particles).rotations.to(self.device)
        self._poses = magnified_poses(poses_of(particles), particles).to(self.device)
        self.optics = ParticleOptics(particles, self._rings[n_rings])
        weights = dose_weights(particles, n_rings)
        self._dose_weights = None if weights is None else weights.to(self.device)
        each = bytes_per_transform(self._rings[n_rings])
        kept = min(len(particles), (cache_budget(self.device) if cache_bytes is None else cache_bytes) // each)
        self._ahead = ReadAhead(self._read)
        self._bytes_each = each
        self._cache = torch.empty(kept, each // _BYTES_PER_COMPLEX, 2, device=self.device)
        self._filled = torch.zeros(len(particles), dtype=torch.bool)
        self._is_fitted_ring = torch.tensor(
            [ring not in particles.scored_rings for ring in range(1, n_rings + 1)], device=self.device
        )

    def __len__(self) -> int:
        return len(self.particles)

    def __enter__(self) -> Observations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def finest_rings(self) -> int:
        """Highest ring that can be asked for."""
        return self._finest

    def flip_contrast(self) -> None:
        """Take protein for dark in the images where it was taken for white, or the other way round."""
        self.contrast_sign = -self.contrast_sign

    def without_scored_rings(self, correlations: torch.Tensor) -> torch.Tensor:
        """Correlations, (n, n_rings), without the rings by which particles were chosen, which are not fitted."""
        if not self.particles.scored_rings:
            return correlations
        return correlations[:, self._is_fitted_ring[: correlations.shape[1]]]

    def weighted_by_dose(self, correlations: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Correlations of images, (n, n_rings), by what radiation has left of each; as they are if no dose is known."""
        if self._dose_weights is None:
            return correlations
        return correlations * self._dose_weights[self._on_device(rows), : correlations.shape[1]]

    def rings(self, n_rings: int) -> RingPixels:
        """Pixels of rings 1 ... ``n_rings``."""
        if n_rings not in self._rings:
            self._rings[n_rings] = RingPixels.up_to(self.particles.box, n_rings, self.device)
        return self._rings[n_rings]

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """Take poses for those of the file with ``errors``, (n, 5) float32, whatever they were taken for before.

        Errors are turns about x, y and z of the image (rotation vectors, rad) and shifts of the origin (Å).
        """
        moved = with_pose_errors(self.particles.subset(rows.numpy()), errors.numpy())
        on_device, poses = rows.to(self.device), poses_of(moved)
        self.rotations[on_device] = poses.rotations.to(self.device)
        poses = magnified_poses(poses, moved).to(self.device)
        self._poses.rotations[on_device] = poses.rotations
        self._poses.origins_angstrom[on_device] = poses.origins_angstrom

    def prefetch(self, chunks: Sequence[torch.Tensor]) -> None:
        """Begin to read images that will be asked for in these chunks of rows, in this order; returns at once."""
        pieces = [rows for rows in chunks if not self._filled[rows].all()]
        if pieces:
            self._ahead.announce(pieces, BYTES_AHEAD // (self._bytes_each * len(pieces[0])))

    def close(self) -> None:
        """End the thread that reads ahead, if there is one."""
        self._ahead.close()

    def lower_images_at_once(self, count: int) -> None:
        """Halve the number of images compared at once, as a GPU's memory was too small for ``count`` of them.

        Raises
        ------
        InputError
            If it was one image.
        """
        if count == 1:
            raise InputError(
                f"the memory of {self.device} does not hold one image and its atoms; give a coarser --resolution or "
                "--device cpu, or end other programs on the GPU"
            )
        self.image_limit = count // 2
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()
        if self._on_warning is not None:
            self._on_warning(f"{self.device} is out of memory with {count} images at once: going on with {count // 2}")

    def _on_device(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows where the tensors are; a GPU takes them when it comes to them, and is not waited for."""
        return rows.to(self.device, non_blocking=True)

    def batch(self, rows: torch.Tensor, rings: RingPixels) -> Batch:
        """Images of these rows, (n,) int, at the pixels of ``rings``."""
        on_device = self._on_device(rows)
        read = self._ahead.take(rows)
        if read is None and not self._filled[rows].all():
            read = self._read(rows)
        if read is None:
            transforms = self._cache[on_device, : len(rings)]
        else:
            transforms = self._with_cached(rows, *read)[:, : len(rings)]
        if self.contrast_sign < 0:
            transforms = -transforms
        return Batch(self._poses[on_device], self.optics.transfer(on_device, rings)[..., None], transforms)

    def _read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of these rows are not in memory, (n,) bool, and the transforms of those."""
        missing = ~self._filled[rows]
        return missing, self._transform(rows[missing].numpy()) if missing.any() else self._cache[:0]

    def _with_cached(self, rows: torch.Tensor, missing: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Transforms of all rows from those read and those in memory; what was read is kept as far as the budget."""
        # Rows by their numbers: a GPU would be waited for to count those of a mask.
        new, known = missing.nonzero()[:, 0], (~missing).nonzero()[:, 0]
        kept = (rows[new] < len(self._cache)).nonzero()[:, 0]
        self._cache[self._on_device(rows[new[kept]])] = read[self._on_device(kept)]
        self._filled[rows[new[kept]]] = True
        if missing.all():
            return read
        transforms = read.new_empty(len(rows), *read.shape[1:])
        transforms[self._on_device(new)] = read
        transforms[self._on_device(known)] = self._cache[self._on_device(rows[known])]
        return transforms

    def _transform(self, rows: np.ndarray) -> torch.Tensor:
        # Pixels are sorted by ring, so fewer rings are the first pixels of more.
        rings = self._rings[self._finest]
        planes = ring_transforms(self.particles, rows, rings, self.optics)
        return normalise_rings(torch.view_as_real(planes), rings)


def ring_transforms(
    particles: ParticleSet, rows: np.ndarray, rings: RingPixels, optics: ParticleOptics
) -> torch.Tensor:
    """Read images, transform them and take out their antisymmetric aberrations (beam tilt, odd Zernike terms).

    Parameters
    ----------
    particles : ParticleSet
    rows : (n,) int
        Images.
    rings : RingPixels
        On the device where the transforms are wanted.
    optics : ParticleOptics
        Of these particles and just these rings.

    Returns
    -------
    (n, n_pixels) complex64
        Transforms at the pixels of the rings; protein as in the images, white or dark.
    """
    device = rings.kx.device
    images = torch.as_tensor(particles.images(rows), device=device)
    planes = _transforms(images).reshape(len(rows), -1)[:, rings.flat_indices_in(particles.box)]
    return optics.without_antisymmetric_phase(planes, torch.as_tensor(rows, device=device))


def _transforms(images: torch.Tensor) -> torch.Tensor:
    """Fourier transforms of images, (n, box, box), each the same bits whichever images are transformed with it.

    A CPU's library rounds differently in batches of different lengths, and at places in memory of other alignment; with
    which others an image is read depends on the memory that is free.
    """
    if images.device.type != "cpu" or len(images) == 0:
        return torch.fft.rfft2(images)
    return torch.stack([torch.fft.rfft2(image.clone()) for image in images])


def bytes_per_transform(rings: RingPixels) -> int:
    """Memory of an image's transform at the pixels of the rings."""
    return len(rings) * _BYTES_PER_COMPLEX


def cache_budget(device: torch.device) -> int:
    """Memory that transforms may take: a quarter of what is available, 4 GiB at most."""
    return min(int(_SHARE_OF_MEMORY * free_bytes(device)), MOST_CACHE_BYTES)


T = TypeVar("T")
# Announcements that are remembered if they are never taken: a batch, the next, and what scores a cycle in between.
_PLANS_KEPT = 4
# Share of atoms outside the box from which a model is refused: it lies in another frame. Flexible ends may stick out.
_MOST_OUTSIDE_BOX = 0.1


class _Plan(Generic[T]):
    """Pieces in the order of their use; the first ones have been handed to the thread."""

    def __init__(self, pieces: Sequence[torch.Tensor], most_ahead: int) -> None:
        self.pieces = deque(pieces)
        self.most_ahead = most_ahead
        self.begun: deque[Future[T]] = deque()


class ReadAhead(Generic[T]):
    """Loads pieces of rows in a thread, in the order announced, a bounded number ahead of their use.

    An error in the thread is raised where its piece is taken. Of what was announced but never taken, the last four
    announcements are remembered.

    Parameters
    ----------
    load : callable
        From rows, (n,) int, to their data; called by the thread.
    """

    def __init__(self, load: Callable[[torch.Tensor], T]) -> None:
        self._load = load
        self._plans: deque[_Plan[T]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def announce(self, pieces: Sequence[torch.Tensor], most_ahead: int) -> None:
        """Say which pieces will be taken, in which order; so many are loaded before their use, and one at least."""
        self._plans.append(_Plan(pieces, max(1, most_ahead)))
        while len(self._plans) > _PLANS_KEPT:
            _cancel(self._plans.popleft())
        self._begin(self._plans[-1])

    def take(self, rows: torch.Tensor) -> T | None:
        """Data of a piece, None if it was not announced."""
        for plan in self._plans:
            if plan.begun and torch.equal(plan.pieces[0], rows):
                plan.pieces.popleft()
                future = plan.begun.popleft()
                self._begin(plan)
                if not plan.pieces:
                    self._plans.remove(plan)
                return future.result()
        return None

    def _begin(self, plan: _Plan[T]) -> None:
        while len(plan.begun) < min(plan.most_ahead, len(plan.pieces)):
            if self._thread is None:
                self._thread = _one_thread()
            plan.begun.append(self._thread.submit(self._load, plan.pieces[len(plan.begun)]))

    def close(self) -> None:
        """Forget what was announced, and wait for the thread to end."""
        while self._plans:
            _cancel(self._plans.popleft())
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None


def _one_thread() -> ThreadPoolExecutor:
    """A thread whose tensors are worked on by itself alone.

    With helpers of its own there would be more threads than cores, and OpenMP would let all of them sleep, those of the
    main thread too, between any two operations: the steps then take a quarter longer.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    pool.submit(_work_alone).result()
    # Threads that begin later take the number that was set last, by whichever thread.
    torch.set_num_threads(threads)
    return pool


def _work_alone() -> None:
    torch.set_num_threads(1)
    # A thread settles on its number when it is first asked for it.
    torch.get_num_threads()


def _cancel(plan: _Plan) -> None:
    for future in plan.begun:
        future.cancel()


def refuse_incompatible_input(model: Model, particles: ParticleSet, model_name: str, particles_name: str) -> None:
    """Refuse aberrations that are not modelled and a model outside the box: the answer would be wrong in silence.

    Parameters
    ----------
    model : Model
    particles : ParticleSet
    model_name, particles_name : str
        What to call them in messages.

    Raises
    ------
    InputError
    """
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError(f"{particles_name}: " + "; ".join(aberrations))
    extent = particles.box * particles.pixel_size_angstrom
    outside = ((model.positions < 0) | (model.positions > extent)).any(1).mean()
    if outside > _MOST_OUTSIDE_BOX:
        low, high = model.positions.min(0).round(1).tolist(), model.positions.max(0).round(1).tolist()
        raise InputError(
            f"{model_name}: {outside:.0%} of the atoms lie outside the particles' box "
            f"(x, y, z from {low} to {high} Å; the box is 0 to {extent:g} Å on each axis); place the model in the "
            "map's frame, with voxel (0, 0, 0) at 0 Å"
        )
