"""What memory a run will take, before it starts: how many images it compares at once and keeps, and what to lower."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cocofold.imaging.fourier import RingPixels, ring_count
from cocofold.imaging.projection import bytes_per_image
from cocofold.likelihood.frc_loss import MOST_VARIANCE_A2
from cocofold.likelihood.observed_images import BYTES_AHEAD, bytes_per_transform, cache_budget
from cocofold.likelihood.reconstruction import volume_bytes
from cocofold.system.hardware import available_bytes, free_bytes, resident_bytes

# Atoms times images compared at once on a GPU: enough to keep it busy. More take memory and no less time.
_ATOMS_AT_ONCE_ON_GPU = 1 << 20
# Pixels of images compared at once, which bound the number of images where atoms are few.
_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_ON_GPU = 1 << 21, 1 << 24
# Share of a GPU's available memory that images compared at once may take; the rest is for the source and transforms.
_MOST_SHARE_AT_ONCE = 0.25
# Parts of a batch on a CPU, so that two processes have one each.
_LEAST_PARTS = 2
# Share of the available memory that is left to other programs and to what is not counted here.
_SPARE_SHARE = 0.05
_BYTES_PER_PIXEL = 4  # float32
# What the end of a run takes besides the volumes of the particles' own map: copies of maps and parts of libraries that
# are read when the answer is examined (measured with 80 and 200 images of 64 pixels). Less tells small runs too little.
_EXAMINATION_BYTES = 60_000_000
# Finer shells of a reconstruction hold noise, or tell positions where the evidence is about parts.
EXAMINED_RESOLUTION_ANGSTROM = 5.0


@dataclass(frozen=True)
class RunWorkload:
    """What a run compares, and how much of it at once at most.

    Attributes
    ----------
    atoms : int
    images : int
    rings : RingPixels
        All rings that will be asked for.
    pixel_size_angstrom : float
    source_bytes : int
        Memory of a pass through the atoms' source, with its gradient and a step.
    atoms_at_once : int
        Atoms times images compared at once on a CPU.
    batch_size : int
        Number of images of a step.
    processes : int
        Number of processes that share them.
    """

    atoms: int
    images: int
    rings: RingPixels
    pixel_size_angstrom: float
    source_bytes: int
    atoms_at_once: int
    batch_size: int
    processes: int = 1

    @property
    def bytes_of_examination(self) -> int:
        """Memory that looking at the answer takes, when no images are compared any more."""
        shells = ring_count(self.rings.box, self.pixel_size_angstrom, EXAMINED_RESOLUTION_ANGSTROM)
        return _EXAMINATION_BYTES + volume_bytes(2 * (min(self.rings.n_rings, shells) + 1))

    @property
    def bytes_of_image_ahead(self) -> int:
        """Memory of an image that was read before its turn, as it lies in its stack and as a transform."""
        return _BYTES_PER_PIXEL * self.rings.box**2 + bytes_per_transform(self.rings)

    def most_images_at_once(self, device: torch.device) -> int:
        """Number of images that may be compared at once if there is memory for them.

        On a CPU a batch comes in two parts at least, however many processes there are: their number must not change the
        result. On GPUs, which do not add up in a fixed order anyway, it comes in one part for each process.
        """
        on_cpu = device.type == "cpu"
        atoms = self.atoms_at_once if on_cpu else _ATOMS_AT_ONCE_ON_GPU
        pixels = _PIXELS_AT_ONCE if on_cpu else _PIXELS_AT_ONCE_ON_GPU
        parts = _LEAST_PARTS if on_cpu else self.processes
        most = min(atoms // self.atoms, pixels // self.rings.box**2)
        return max(1, min(most, math.ceil(self.batch_size / parts)))


@dataclass(frozen=True)
class MemoryPlan:
    """Memory that each part of a run takes, in bytes.

    Attributes
    ----------
    held : int
        Held before the run: the program, and a prediction's pair.
    source, at_once, kept : int
        Taken by the atoms and their gradient, by images while they are compared, by transforms that are kept.
    available : int
        Available besides what is held.
    images_at_once, images_kept, images : int
        Number of images compared at once, of those whose transforms are kept, and of all.
    examination : int
        What looking at the answer takes, when no images are compared any more.
    """

    held: int
    source: int
    at_once: int
    kept: int
    available: int
    images_at_once: int
    images_kept: int
    images: int
    examination: int = 0

    @classmethod
    def of(cls, work: RunWorkload, device: torch.device) -> MemoryPlan:
        """Fit a run's work into the memory that there is: images that are kept give way, on a GPU those at once too."""
        held, available = _held_and_available(device)
        each = bytes_per_image(work.atoms, work.rings, work.pixel_size_angstrom, math.sqrt(MOST_VARIANCE_A2))
        count = work.most_images_at_once(device)
        # On a CPU, where a result is the same bit by bit, it must not depend on the memory that happens to be free.
        if device.type != "cpu":
            count = max(1, min(count, int(_MOST_SHARE_AT_ONCE * available) // each))
        # No more is read ahead than there is: of small sets most of the plan was memory that they never took.
        ahead = min(BYTES_AHEAD, work.images * work.bytes_of_image_ahead)
        at_once = count * each + ahead
        left = (1 - _SPARE_SHARE) * available - work.source_bytes - at_once
        kept = min(work.images, max(0, min(cache_budget(device), int(left))) // bytes_per_transform(work.rings))
        bytes_of_kept = kept * bytes_per_transform(work.rings)
        parts = (held, work.source_bytes, at_once, bytes_of_kept, available)
        return cls(*parts, count, kept, work.images, work.bytes_of_examination)

    @property
    def expected(self) -> int:
        """Largest amount of memory that the run will hold."""
        return self.held + self.kept + max(self.source + self.at_once, self.examination)

    @property
    def is_short(self) -> bool:
        """Whether the fit will hold more memory than there is; an end that finds too little looks at less."""
        return self.source + self.at_once + self.kept > self.available

    def __str__(self) -> str:
        held, source, at_once, kept, available = (
            f"{part / 1e9:.1f}" for part in (self.held, self.source, self.at_once, self.kept, self.available)
        )
        count = "1 image" if self.images_at_once == 1 else f"{self.images_at_once} images"
        return (
            f"memory: {self.expected / 1e9:.1f} GB at most are expected ({held} held already, {source} for atoms and "
            f"gradient, {at_once} for {count} at once, {kept} to keep {self.images_kept} of {self.images} transforms); "
            f"{available} GB are available"
        )


def memory_advice(is_prediction: bool, device: torch.device, processes: int) -> str:
    """Options that lower the memory of a run, for a message to the user."""
    ways = ["--pair-precision float16"] if is_prediction else []
    ways += ["a coarser --resolution"]
    ways += ["--device cpu"] if device.type != "cpu" else []
    ways += ["fewer --processes"] if processes > 1 else []
    return ", ".join([*ways, "ending other programs"])


def _held_and_available(device: torch.device) -> tuple[int, int]:
    if device.type == "cpu":
        return resident_bytes(), available_bytes()
    gpu = torch.get_device_module(device)
    held = gpu.memory_allocated(device)
    return held, free_bytes(device) + gpu.memory_reserved(device) - held
