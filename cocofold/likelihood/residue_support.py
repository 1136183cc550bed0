"""How well a model agrees with all images, with everything else fixed, and the gradient of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d

from cocofold.imaging.rings import ring_count
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks, find_contrast, mean_correlation_gradient
from cocofold.likelihood.observed_images import Observations, refuse_incompatible_input
from cocofold.mapfit.placement_file import MIRRORED
from cocofold.particles import read_particles
from cocofold.structure.model import Model
from cocofold.system.hardware import find_device

_ATOMS_AT_ONCE = 24_000
_SEED = 0
_IMAGE_GROUPS = 10
# A stretch that images speak against: mean of so many residues, below this share of the average, and so many errors
_WINDOW_RESIDUES, _LEAST_SHARE_OF_MEAN, _SIGMAS = 9, 0.5, 3.0


@dataclass(frozen=True)
class ResidueSupport:
    """How well images agree with a model, and what each residue adds to that.

    Attributes
    ----------
    correlation : float
        Mean Fourier ring correlation over rings and images.
    residues : (n_residues,) float
        What the correlation would lose without the residue, to first order: its gradient with respect to the
        residue's amplitudes, times these. They add up to zero, for a correlation does not know scale: residues below
        zero are those that the images ask for less than for the rest.
    standard_errors : (n_residues,) float
        From ten groups of images; infinite if there are fewer images.
    against : tuple of str
        Stretches of chains, "A 32-61", that the images speak against: around each residue the nine nearest of its chain
        have on average less than minus half of what a residue has if all share the correlation alike, and less than
        minus three standard errors. The truth has none; a displaced domain stands out whole.
    """

    correlation: float
    residues: np.ndarray
    standard_errors: np.ndarray
    against: tuple[str, ...]

    def rows(self, model: Model) -> list[dict[str, Any]]:
        """Each residue of the model with its support, for JSON."""
        return [
            {**key._asdict(), "support": value, "standard_error": error}
            for key, value, error in zip(model.residues, self.residues.tolist(), self.standard_errors.tolist())
        ]


class ImageAgreement:
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
        refuse_incompatible_input(model, every, "--model", str(particles))
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
            correlate_in_chunks(
                self._tensor(positions[heavy]), gaussians, self._observations, self._rows, rings, chunk
            ).mean()
        )

    def support(self, model: Model) -> ResidueSupport:
        """Agreement of a model, and what each of its residues adds to it; hydrogens are left out."""
        heavy = model.atomic_numbers > 1
        positions, gaussians = self._tensor(model.positions[heavy]), self._gaussians(model.atomic_numbers[heavy])
        rings, chunk = self._observations.rings(self._rings), self._chunk(int(heavy.sum()))
        groups = self._rows.tensor_split(min(_IMAGE_GROUPS, len(self._rows)))
        values, shares = [], np.zeros((len(groups), len(model.residues)))
        for share, rows in zip(shares, groups):
            found = mean_correlation_gradient(positions, gaussians, self._observations, rows, rings, chunk)
            values.append(found[0])
            added = (found[2] * gaussians.amplitudes).double().cpu().numpy()
            np.add.at(share, model.residue_of_atom[heavy], added)
        sizes = [len(rows) for rows in groups]
        errors = np.full(shares.shape[1], np.inf)
        if len(groups) == _IMAGE_GROUPS:
            errors = shares.std(0, ddof=1) / np.sqrt(_IMAGE_GROUPS)
        correlation, residues = float(np.average(values, weights=sizes)), np.average(shares, axis=0, weights=sizes)
        return ResidueSupport(correlation, residues, errors, _stretches(model, correlation, residues, errors))

    def _gaussians(self, numbers: np.ndarray) -> AtomGaussians:
        return AtomGaussians.from_elements(numbers, self._device)

    def _tensor(self, positions: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(positions, dtype=torch.float32, device=self._device)

    @staticmethod
    def _chunk(atoms: int) -> int:
        return max(1, _ATOMS_AT_ONCE // atoms)


def _stretches(model: Model, correlation: float, residues: np.ndarray, errors: np.ndarray) -> tuple[str, ...]:
    """Stretches of chains that the images speak against."""
    chains = np.array([key.chain for key in model.residues])
    share = max(correlation, 0.0) / len(residues)
    against = np.zeros(len(residues), dtype=bool)
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        if len(rows) >= _WINDOW_RESIDUES and np.isfinite(errors[rows]).all():
            near, error = (
                uniform_filter1d(values[rows], _WINDOW_RESIDUES, mode="nearest") for values in (residues, errors)
            )
            against[rows] = (near < -_LEAST_SHARE_OF_MEAN * share) & (near < -_SIGMAS * error)
    found = []
    # Where a stretch begins, and where the next one does not go on
    starts = np.flatnonzero(against & ~(np.roll(against, 1) & (np.roll(chains, 1) == chains)))
    for first in starts.tolist():
        last = first
        while last + 1 < len(chains) and against[last + 1] and chains[last + 1] == chains[first]:
            last += 1
        found.append(f"{chains[first]} {model.residues[first].number}-{model.residues[last].number}")
    return tuple(found)
