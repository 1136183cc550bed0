"""How well a model agrees with all images, with everything else fixed; its gradient; what each residue adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d

from cocofold.imaging.fourier import ring_count
from cocofold.likelihood.frc_loss import (
    AtomGaussians,
    correlate_in_chunks,
    image_information,
    images_per_chunk,
    mean_correlation_gradient,
    settle_contrast,
)
from cocofold.likelihood.observed_images import Observations, refuse_incompatible_input
from cocofold.likelihood.particle_optics import leave_out_aberrations
from cocofold.particles import read_particles, without_bad_images
from cocofold.particles.poses import view_directions
from cocofold.structure.confidence import ordered_atoms
from cocofold.structure.geometry import point_group_rotations
from cocofold.structure.model import Model
from cocofold.system.errors import require_within
from cocofold.system.hardware import find_device

# Seed of the particles that are drawn where there are more than are wanted: the same for every model, so that figures
# of several models can be compared.
_SEED = 0
# Groups of images whose spread gives standard errors: fewer make these uncertain, more leave few images in each.
_IMAGE_GROUPS = 10
# Beyond any set of particles.
_MOST_PARTICLES = 10**9
# What images speak against: where the mean of nine residues (a few turns of a helix, so that a single one does not
# count) is below minus half of the average share of a residue and below minus three of its standard errors. Larger
# values name fewer stretches, smaller ones name stretches by chance.
_WINDOW_RESIDUES, _LEAST_SHARE_OF_MEAN, _SIGMAS = 9, 0.5, 3.0
# Residues of a part whose occupancy is asked for: as many as a resolution of 7 Å tells apart in most folds. Shorter
# parts have larger errors, longer ones hide what is wrong within them. Large models have longer ones, for time.
_PART_RESIDUES, _MOST_PARTS = 12, 200

# A share of shifts that is shown below this is round-off; where errors grow by less than the factor, views are even.
_NEXT_TO_NOTHING, _UNEVEN_FACTOR = 1e-6, 1.2
# An ellipsoid is written where its longest axis is more than so many times the shortest: the squared errors that twins
# tell differ by as much by chance. 300 random views stay below 1.1.
LEAST_ANISOTROPY = 1.5
# Axes are no longer than that: no image tells anything then, and files hold finite numbers.
_LARGEST_SCALE = 10.0
# Views of more images give the same axes.
_MOST_WEIGHED_IMAGES = 2000


class Stretch(NamedTuple):
    """Residues of a chain, by number, from the first to the last."""

    chain: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.chain} {self.first}-{self.last}"


@dataclass(frozen=True)
class ViewCoverage:
    """In which directions the views of a set of images tell positions, and in which they tell less.

    An image tells nothing of a shift along its view. Views evenly from all sides tell all directions alike. The
    information on a position is the sum over images of A^T diag(w, w, 0) A with the image's matrix A and its weight w.

    Attributes
    ----------
    factors : (3,) float
        How many times as large errors are along each axis as with as many even views, the largest first; infinite
        along an axis that no image tells of.
    axes : (3, 3) float
        Unit vectors in the map's frame, one a row.
    """

    factors: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, rotations: np.ndarray, weights: np.ndarray | None = None, symmetry: str = "C1") -> ViewCoverage:
        """Of images with some matrices A.

        Parameters
        ----------
        rotations : (n, 3, 3) float
            See ``particles.poses``.
        weights : (n,) float, optional
            How much each image tells (``image_information``); by default all alike.
        symmetry : str
            Point group whose copies share their positions: a view counts from all directions that are alike.
        """
        views, turns = view_directions(rotations), point_group_rotations(symmetry)
        weights = np.ones(len(views)) if weights is None or not weights.any() else weights
        along = np.einsum("n,ni,nj->ij", weights / weights.sum(), views, views)
        # Share of a shift along each axis that images show: on average two thirds with even views.
        shown, axes = np.linalg.eigh(np.eye(3) - (turns @ along @ turns.transpose(0, 2, 1)).mean(0))
        with np.errstate(divide="ignore"):
            return cls(np.sqrt(2 / 3 / np.where(shown < _NEXT_TO_NOTHING, 0, shown)), axes.T)

    @classmethod
    def of_images(cls, observations: Observations, symmetry: str = "C1") -> ViewCoverage:
        """Of images, each with the weight of what it tells; of very many some, drawn at random."""
        count = len(observations)
        rows = np.random.default_rng(_SEED).permutation(count)[:_MOST_WEIGHED_IMAGES]
        weights = image_information(observations, torch.from_numpy(np.sort(rows)))
        return cls.of(observations.particles.rotations[np.sort(rows)], weights, symmetry)

    @property
    def scales(self) -> np.ndarray:
        """How many times the stated error a residue's is along each axis, (3,), from 1 to 10.

        It is never below that of even views: bonds and the start err in all directions, however well these are seen.
        """
        return np.clip(self.factors, 1, _LARGEST_SCALE)

    @property
    def anisotropy(self) -> float:
        """Longest axis of an ellipsoid over its shortest."""
        return float(self.scales[0] / self.scales[-1])

    def covariance(self) -> np.ndarray:
        """Covariance of a position's error, (3, 3), in the map's frame, where its distance is 1 with even views."""
        return (self.axes.T * (self.scales**2 / 3)) @ self.axes

    def as_dict(self) -> dict[str, Any]:
        """For JSON; None stands for what is infinite."""
        factors = [round(value, 3) if np.isfinite(value) else None for value in self.factors.tolist()]
        return {"error_factors": factors, "axes": np.round(self.axes, 4).tolist(), "sentence": self.sentence()}

    def __str__(self) -> str:
        axis = ", ".join(f"{value:.2f}" for value in self.axes[0])
        if not np.isfinite(self.factors[0]):
            return f"no image tells of shifts along ({axis}): positions along it are those of the start"
        text = f"along ({axis}) errors are {self.factors[0]:.2f} times those of even views"
        return text if self.factors[0] >= _UNEVEN_FACTOR else f"views tell all directions about alike: {text}"

    def sentence(self) -> str | None:
        """In which direction positions are uncertain, in words; None where they are about alike in all."""
        if self.anisotropy <= LEAST_ANISOTROPY:
            return None
        axis = ", ".join(f"{value:.2f}" for value in self.axes[0].round(2) + 0.0)
        if not np.isfinite(self.factors[0]):
            return f"No image tells where residues lie along the axis ({axis}): there positions are those of the start."
        times = f"{self.anisotropy:.1f} times as uncertain as across it"
        return f"Along the axis ({axis}) positions are {times}, because of the views."


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
    smoothed, smoothed_errors : (n_residues,) float
        Means over the nine nearest residues of the chain, and their standard errors from the same groups.
    views : ViewCoverage
        Of the images.
    against : tuple of Stretch
        Stretches of chains that the images speak against, as ``opposed_stretches`` finds them.
    """

    correlation: float
    residues: np.ndarray
    standard_errors: np.ndarray
    smoothed: np.ndarray
    smoothed_errors: np.ndarray
    views: ViewCoverage
    against: tuple[Stretch, ...]

    def rows(self, model: Model) -> list[dict[str, Any]]:
        """Each residue of the model with its support, for JSON."""
        names = ("support", "standard_error", "smoothed_support", "smoothed_standard_error")
        columns = (self.residues, self.standard_errors, self.smoothed, self.smoothed_errors)
        rows = zip(*(column.tolist() for column in columns))
        return [{**key._asdict(), **dict(zip(names, row))} for key, row in zip(model.residues, rows)]


@dataclass(frozen=True)
class ParticlesOfModel:
    """Particles whose images are compared with a model.

    Attributes
    ----------
    file : Path
    folder : Path, optional
        Folder from which the stacks' paths start.
    most : int
        Number of particles that are used at most, drawn at random; more take longer.
    ignore_aberrations : bool
        Leave out those that cannot be applied, however large they are.
    skip_bad_images : bool
        Leave out those of the drawn particles whose images are empty or no signal.
    """

    file: Path
    folder: Path | None = None
    most: int = 2000
    ignore_aberrations: bool = False
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        require_within("--max-particles", self.most, 1, _MOST_PARTICLES)


class ImageAgreement:
    """Images of a model, for their agreement with it as it is moved.

    Parameters
    ----------
    observations : Observations
        All of them and all of their rings are compared.
    atomic_numbers : (n_atoms,) int
        Of the atoms whose positions ``gradient`` is given.
    left_out : str, optional
        Which images are left out since they are no signal, in words.
    """

    def __init__(self, observations: Observations, atomic_numbers: np.ndarray, left_out: str | None = None) -> None:
        self.left_out = left_out
        self._observations = observations
        self._numbers = atomic_numbers
        self._rings = observations.rings(observations.finest_rings)
        self._rows = torch.arange(len(observations))

    @classmethod
    def read(cls, model: Model, particles: ParticlesOfModel, device: str) -> ImageAgreement:
        """Read particles of a model; whether protein is white or dark in them is found with it.

        Parameters
        ----------
        model : Model
            In the map's frame, or in its mirror image if it says so; the poses are then mirrored.
        particles : ParticlesOfModel
        device : str

        Raises
        ------
        InputError
            If they cannot be read, or do not belong to the model.
        """
        every = read_particles(particles.file, particles.folder, (), particles.ignore_aberrations)
        every = leave_out_aberrations(every, str(particles.file))
        if model.in_mirror_image:
            every = every.mirrored()
        refuse_incompatible_input(model, every, "--model", str(particles.file))
        every, left_out = every.limited(None, particles.most, _SEED), None
        if particles.skip_bad_images:
            every, _ = without_bad_images(every)
            left_out = every.notes[-1]
        observations = Observations(every, ring_count(every.box, every.pixel_size_angstrom), find_device(device))
        found = cls(observations, model.atomic_numbers, left_out)
        settle_contrast(observations, found._tensor(model.positions), found._gaussians(model.atomic_numbers))
        return found

    def __enter__(self) -> ImageAgreement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._observations.close()

    def gradient(self, positions: np.ndarray) -> np.ndarray:
        """Gradient of the mean correlation over rings and images with respect to positions, (n_atoms, 3) per Å."""
        gaussians = self._gaussians(self._numbers)
        chunk = images_per_chunk(len(positions))
        found = mean_correlation_gradient(
            self._tensor(positions), gaussians, self._observations, self._rows, self._rings, chunk
        )
        return found.positions.double().cpu().numpy()

    def mean(self, positions: np.ndarray, numbers: np.ndarray) -> float:
        """Mean correlation over rings and images of atoms at positions, (n, 3) Å; hydrogens are left out."""
        heavy = numbers > 1
        atoms = self._tensor(positions[heavy]), self._gaussians(numbers[heavy])
        chunk = images_per_chunk(int(heavy.sum()))
        return float(correlate_in_chunks(*atoms, self._observations, self._rows, self._rings, chunk).mean())

    def support(self, model: Model) -> ResidueSupport:
        """Agreement of a model, and what each of its residues adds to it.

        Hydrogens and disordered residues, to which images say nothing, are left out; the latter add 0.
        """
        heavy = (model.atomic_numbers > 1) & ordered_atoms(model)
        positions, gaussians = self._tensor(model.positions[heavy]), self._gaussians(model.atomic_numbers[heavy])
        chunk = images_per_chunk(int(heavy.sum()))
        groups = self._rows.tensor_split(min(_IMAGE_GROUPS, len(self._rows)))
        values, shares = [], np.zeros((len(groups), len(model.residues)))
        for share, rows in zip(shares, groups):
            found = mean_correlation_gradient(positions, gaussians, self._observations, rows, self._rings, chunk)
            values.append(found.value)
            added = (found.amplitudes * gaussians.amplitudes).double().cpu().numpy()
            np.add.at(share, model.residue_of_atom[heavy], added)
        sizes = [len(rows) for rows in groups]
        near = smoothed_along_chains(model, shares)
        errors = np.full((2, shares.shape[1]), np.inf)
        if len(groups) == _IMAGE_GROUPS:
            errors = np.stack([shares, near]).std(1, ddof=1) / np.sqrt(_IMAGE_GROUPS)
        correlation = float(np.average(values, weights=sizes))
        residues, smoothed = (np.average(some, axis=0, weights=sizes) for some in (shares, near))
        views = ViewCoverage.of_images(self._observations, model.placed_as.get("symmetry", "C1"))
        against = opposed_stretches(model, correlation, residues, errors[0])
        return ResidueSupport(correlation, residues, errors[0], smoothed, errors[1], views, against)

    def _gaussians(self, numbers: np.ndarray) -> AtomGaussians:
        return AtomGaussians.from_elements(numbers, self._observations.device)

    def _tensor(self, positions: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(positions, dtype=torch.float32, device=self._observations.device)


def smoothed_along_chains(model: Model, values: np.ndarray) -> np.ndarray:
    """Means of values, (..., n_residues), over the nine nearest residues of each chain, or all of a shorter one."""
    chains = np.array([key.chain for key in model.residues])
    found = np.empty_like(values)
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        size = min(_WINDOW_RESIDUES, len(rows))
        found[..., rows] = uniform_filter1d(values[..., rows], size, axis=-1, mode="nearest")
    return found


def opposed_stretches(
    model: Model, correlation: float, residues: np.ndarray, errors: np.ndarray
) -> tuple[Stretch, ...]:
    """Stretches of chains that the images speak against.

    Around each of their residues the nine nearest of its chain add on average less than minus half of what a residue
    adds if all share the correlation alike, and less than minus three standard errors. The truth has none; a displaced
    domain stands out whole.

    Parameters
    ----------
    model : Model
    correlation : float
        Mean over rings and images.
    residues, errors : (n_residues,) float
        What each residue adds to it, and its standard error.

    Returns
    -------
    tuple of Stretch
        Chain by chain, each from its beginning.
    """
    chains = np.array([key.chain for key in model.residues])
    share = max(correlation, 0.0) / len(residues)
    opposed = np.zeros(len(residues), dtype=bool)
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        if len(rows) < _WINDOW_RESIDUES or not np.isfinite(errors[rows]).all():
            continue
        near, error = (
            uniform_filter1d(values[rows], _WINDOW_RESIDUES, mode="nearest") for values in (residues, errors)
        )
        opposed[rows] = (near < -_LEAST_SHARE_OF_MEAN * share) & (near < -_SIGMAS * error)
    return stretches_of(model, opposed)


def stretches_of(model: Model, chosen: np.ndarray) -> tuple[Stretch, ...]:
    """Stretches of chosen residues, (n_residues,) bool; chain by chain, each from its beginning."""
    chains = np.array([key.chain for key in model.residues])
    found = []
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        # Where a stretch begins, and where it is over: changes between 0 and 1, with 0 beyond both ends of the chain.
        ends = np.flatnonzero(np.diff(np.r_[0, chosen[rows].astype(int), 0])).reshape(-1, 2)
        for first, after in ends.tolist():
            numbers = (model.residues[rows[row]].number for row in (first, after - 1))
            found.append(Stretch(chain, *numbers))
    return tuple(found)


def parts_of(model: Model) -> list[np.ndarray]:
    """Stretches of about twelve residues of each chain, longer in large models; rows of residues."""
    length = max(_PART_RESIDUES, -(-len(model.residues) // _MOST_PARTS))
    chains = np.array([key.chain for key in model.residues])
    found: list[np.ndarray] = []
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        found += np.array_split(rows, max(1, round(len(rows) / length)))
    return found
