"""How well a model agrees with all images, with everything else fixed, and the gradient of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cocofold.devices import find_device
from cocofold.finetuning.contrast import find_contrast
from cocofold.finetuning.inputs import check_together
from cocofold.finetuning.objective import Gaussians, mean_correlation_gradient, score
from cocofold.finetuning.observations import Observations
from cocofold.imaging import ring_count
from cocofold.particles import read_particles
from cocofold.placement import MIRRORED
from cocofold.structure import Model

_ATOMS_AT_ONCE = 24_000
_SEED = 0


class Images:
    """Particles of a model, for their gradient and their agreement.

    Parameters
    ----------
    model : Model
        In the map's frame.
    particles : Path
    particles_dir : Path, optional
        Folder from which stacks are resolved.
    placed_as : dict of str
        What the model's file says of its place: poses are mirrored where the map's hand was wrong.
    most : int
        Use so many particles at most, drawn at random.
    device : str

    Raises
    ------
    InputError
        For particles that cannot be used, or do not go with the model.
    """

    def __init__(
        self,
        model: Model,
        particles: Path,
        particles_dir: Path | None,
        placed_as: dict[str, str],
        most: int,
        device: str,
    ) -> None:
        every = read_particles(particles, particles_dir)
        if placed_as.get("hand") == MIRRORED:
            every = every.mirrored()
        check_together(model, every, "--model", str(particles))
        if len(every) > most:
            every = every.subset(np.sort(np.random.default_rng(_SEED).choice(len(every), most, replace=False)))
        self._device = find_device(device)
        self._rings = ring_count(every.box, every.pixel_size_angstrom)
        self._observations = Observations(every, self._rings, self._device)
        self._rows = torch.arange(len(every))
        self._numbers = model.atomic_numbers
        positions = self._tensor(model.positions)
        if find_contrast(positions, self._gaussians(self._numbers), self._observations).found == "dark":
            self._observations.flip_contrast()

    def gradient(self, positions: np.ndarray) -> np.ndarray:
        """Of the mean correlation over rings and images with respect to positions, (n_atoms, 3) per Å."""
        found = mean_correlation_gradient(
            self._tensor(positions),
            self._gaussians(self._numbers),
            self._observations,
            self._rows,
            self._observations.rings(self._rings),
            self._chunk(len(positions)),
        )
        return found[1].double().cpu().numpy()

    def mean(self, positions: np.ndarray, numbers: np.ndarray) -> float:
        """Mean correlation over rings and images of atoms at positions, (n, 3) Å; hydrogens are left out."""
        heavy = numbers > 1
        rings = self._observations.rings(self._rings)
        chunk = self._chunk(int(heavy.sum()))
        gaussians = self._gaussians(numbers[heavy])
        return float(
            score(self._tensor(positions[heavy]), gaussians, self._observations, self._rows, rings, chunk).mean()
        )

    def _gaussians(self, numbers: np.ndarray) -> Gaussians:
        return Gaussians.at_start(numbers, self._device)

    def _tensor(self, positions: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(positions, dtype=torch.float32, device=self._device)

    @staticmethod
    def _chunk(atoms: int) -> int:
        return max(1, _ATOMS_AT_ONCE // atoms)
