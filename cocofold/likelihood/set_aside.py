"""Comparison of atoms with images beside something that does not move: atoms of other molecules, or density that no
atom explains, so that it pulls no atom in.

At the end ``find_local_fit``: how well each stretch of a model is the density at its place, in all detail that the
particles show. What a whole model explains of the signal hardly changes where a helix is out of register or a loop is
bent: most of the power is at low resolution, and few residues are concerned. Here all shells count alike, and each
stretch is compared with the density around it alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient, correlate_in_chunks
from cocofold.likelihood.image_comparison import Comparison, LocalComparison
from cocofold.likelihood.observed_images import Observations, refuse_incompatible_input
from cocofold.likelihood.reconstruction import MapProjections, reconstruct
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.confidence import runs_of
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

# Points that stand for the density at most; those of least amplitude are left out. One for eight voxels instead of one
# for each, a third of the time, was too coarse: a helix beside a missing domain was drawn 6 Å into it.
MOST_POINTS = 4000
# Factor of the density that is set aside, where the finest resolution compared is not finer than given (Å). At first
# less than all, so that what is elsewhere is still drawn to its place, which is part of that density too; in the end
# more, for what lies below the noise. With 0.7, 0.85 and 1.0 a helix beside a missing domain was still drawn in.
_SHARES = ((17.0, 0.75), (12.0, 1.15), (0.0, 1.4))
# The density is that much finer than what is compared, and never finer than the second number (Å).
_FINER, _FINEST_ANGSTROM = 0.6, 8.0
# Unexplained density counts above so many standard deviations of its noise; width of a voxel's Gaussian
_CLEAR_OF_NOISE, _POINT_WIDTH_IN_PIXELS = 3.0, 0.5
# CA atoms of model and context that are nearer than this are one, and this share of the model's at most may be so.
_SAME_PLACE_ANGSTROM, _MOST_AT_SAME_PLACE = 1.0, 0.2


class _BesideComparison(Comparison):
    """Another comparison, with Gaussians drawn beside the atoms; they get no gradient.

    Parameters
    ----------
    inner : Comparison
        With room for as many more atoms.
    points : (n, 3) float
        Å.
    gaussians : AtomGaussians
        Of the points.
    """

    def __init__(self, inner: Comparison, points: torch.Tensor, gaussians: AtomGaussians) -> None:
        self._inner, self._points, self._gaussians = inner, points, gaussians

    def begin_stage(self, positions: Callable[[], torch.Tensor], finest_angstrom: float) -> None:
        """See ``Comparison``."""
        self._inner.begin_stage(positions, finest_angstrom)

    def drawn(self, positions: torch.Tensor, gaussians: AtomGaussians) -> tuple[torch.Tensor, AtomGaussians]:
        """See ``Comparison``."""
        return self._inner.drawn(*self._beside(positions, gaussians))

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        """See ``Comparison``."""
        together = self._beside(positions.detach(), gaussians.detached())
        found = self._inner.gradient(*together, rows, rings, chunk, meanwhile)
        count = len(positions)
        return CorrelationGradient(found.value, found.positions[:count], found.amplitudes[:count], found.widths[:count])

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """See ``Comparison``."""
        return self._inner.score(*self._beside(positions, gaussians), rows, rings, chunk)

    def pose_equations(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See ``Comparison``."""
        return self._inner.pose_equations(*self._beside(positions, gaussians), rows, rings, chunk, weights)

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """See ``Comparison``."""
        self._inner.move_poses(rows, errors)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """See ``Comparison``."""
        self._inner.prefetch(rows, chunk)

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Comparison``."""
        return self._inner.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """See ``Comparison``."""
        self._inner.restore(state)

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """See ``Comparison``."""
        return self._inner.on_idle_cores()

    def _beside(self, positions: torch.Tensor, gaussians: AtomGaussians) -> tuple[torch.Tensor, AtomGaussians]:
        mine = self._gaussians
        return torch.cat([positions, self._points]), AtomGaussians(
            torch.cat([gaussians.amplitudes, mine.amplitudes]),
            torch.cat([gaussians.widths_angstrom, mine.widths_angstrom]),
        )


class ContextComparison(_BesideComparison):
    """Another comparison, with the atoms of other molecules, at fixed places, in every image.

    Parameters
    ----------
    inner : Comparison
        With room for as many more atoms.
    context : Model
    device
    """

    def __init__(self, inner: Comparison, context: Model, device: torch.device) -> None:
        positions = torch.as_tensor(context.positions, dtype=torch.float32, device=device)
        super().__init__(inner, positions, AtomGaussians.of_model(context, device))


class MapComparison(LocalComparison):
    """Comparison with projections of the map that some images give; single images judge as ever.

    Parameters
    ----------
    observations : Observations
        All images.
    rows : (n,) int
        Those of the map.
    seed : int
        Of the map's halves.
    """

    def __init__(self, observations: Observations, rows: torch.Tensor, seed: int) -> None:
        particles, device = observations.particles, observations.device
        fitted = particles.subset(rows.cpu().numpy())
        if observations.contrast_sign < 0:
            fitted = replace(fitted, contrast=-fitted.contrast)
        density = reconstruct(fitted, seed=seed, device=device).map
        super().__init__(MapProjections(particles, density, observations.finest_rings, device))
        self._images = observations

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """See ``Comparison``: with the images."""
        return correlate_in_chunks(positions, gaussians, self._images, rows, rings, chunk)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """See ``Comparison``: projections are made when they are asked for."""


def read_context(
    path: Path, model: Model, is_mirrored: bool, particles: ParticleSet, tell: Callable[[str], None]
) -> Model:
    """Read the model of what is beside another one.

    Parameters
    ----------
    path : Path
    model : Model
        In its place, with all copies.
    is_mirrored : bool
        Whether that is in the mirror image of the map that was given.
    particles : ParticleSet
    tell : callable
        Takes lines for the user.

    Raises
    ------
    InputError
        If it cannot be read, lies in another frame than the model, or holds the model itself.
    """
    name, context = f"--context {path}", read_model(path)
    refuse_incompatible_input(context, particles, name, "the particles")
    if context.in_mirror_image and not is_mirrored:
        raise InputError(f"{name}: was placed in a map's mirror image, and the model was not; place both in one map")
    if is_mirrored and not context.in_mirror_image:
        tell(f"{name}: is taken to lie in the mirrored map, where the model was placed")
    alpha, others = (one.positions[rows[rows >= 0]] for one in (model, context) for rows in [one.atoms_named("CA")])
    if len(alpha) and len(others):
        near = cKDTree(others).query(alpha)[0] < _SAME_PLACE_ANGSTROM
        if near.mean() > _MOST_AT_SAME_PLACE:
            raise InputError(
                f"{name}: holds what the model is: {near.sum()} of {len(alpha)} CA atoms of the model lie within "
                f"{_SAME_PLACE_ANGSTROM:g} Å of its own; leave these chains out of it"
            )
    tell(f"{len(context)} atoms of {path} are in every image and stay where they are")
    return context


class SetAsideComparison(_BesideComparison):
    """Another comparison, with the density that atoms do not explain drawn beside them.

    Parameters
    ----------
    inner : Comparison
        With room for ``MOST_POINTS`` more atoms.
    signal : ExplainedSignal
        Of the images that are fitted, and no others.
    model : Model
        Atoms that are moved.
    drawn : (n_residues,) bool
        Residues that images are asked about.
    device
    """

    def __init__(
        self, inner: Comparison, signal: ExplainedSignal, model: Model, drawn: np.ndarray, device: torch.device
    ) -> None:
        self._signal, self._model, self._drawn = signal, model, drawn
        amplitudes, widths = torch.zeros(MOST_POINTS, device=device), torch.ones(MOST_POINTS, device=device)
        super().__init__(inner, torch.zeros(MOST_POINTS, 3, device=device), AtomGaussians(amplitudes, widths))

    def begin_stage(self, positions: Callable[[], torch.Tensor], finest_angstrom: float) -> None:
        """See ``Comparison``: what the atoms do not explain is found anew."""
        places = positions().detach()
        now = self._model.moved_to(places.cpu().double().numpy()).only(self._drawn)
        finer = max(_FINEST_ANGSTROM, _FINER * finest_angstrom)
        points, amplitudes, width = unexplained_points(self._signal, now, finer)
        largest = np.sort(np.argsort(-amplitudes, kind="stable")[:MOST_POINTS])
        share = next(share for coarse, share in _SHARES if finest_angstrom >= coarse)
        self._points[:] = places.mean(0)
        self._points[: len(largest)] = torch.as_tensor(points[largest])
        self._gaussians.amplitudes.zero_()
        self._gaussians.amplitudes[: len(largest)] = torch.as_tensor(share * amplitudes[largest])
        self._gaussians.widths_angstrom.fill_(width)

    def state(self) -> dict[str, torch.Tensor]:
        """See ``Comparison``."""
        gaussians = self._gaussians
        return {"points": self._points, "amplitudes": gaussians.amplitudes, "widths": gaussians.widths_angstrom}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """See ``Comparison``."""
        for name, mine in self.state().items():
            mine.copy_(state[name])


def unexplained_points(
    signal: ExplainedSignal, model: Model, finest_angstrom: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Density that a model's atoms do not explain, as points.

    The model's scale is that of its parts that are well seen, so that missing parts and those that are elsewhere do
    not lower it.

    Parameters
    ----------
    signal : ExplainedSignal
    model : Model
    finest_angstrom : float
        Resolution of the density.

    Returns
    -------
    positions : (n, 3) float64
        Å.
    amplitudes : (n,) float64
    width : float
        Å, of the Gaussians that stand for the density, on the scale of the model's atoms.
    """
    drawn, scale = signal.as_seen(model)
    blur = np.exp(-0.5 * (signal.frequencies * finest_angstrom) ** 2) / scale
    rest = signal.in_space(signal.values - drawn, blur)
    noise = signal.in_space((signal.half_values[0] - signal.half_values[1]) / 2, blur).std()
    density = np.where(rest > _CLEAR_OF_NOISE * noise, rest, 0.0)
    z, y, x = np.nonzero(density)
    # A drawn Gaussian of amplitude 1 sums to (2 π width² / pixel²)^1.5.
    amplitudes = density[z, y, x] / (2 * np.pi * _POINT_WIDTH_IN_PIXELS**2) ** 1.5
    pixel = signal.grid_pixel_angstrom
    return np.stack([x, y, z], axis=1) * pixel, amplitudes, _POINT_WIDTH_IN_PIXELS * pixel


# Voxels nearer to an atom than this belong to its residue, Å; residues on either side whose density counts with one's.
_REACH_ANGSTROM, _BESIDE = 3.0, 4
# Share of the density around a stretch that its atoms do not explain, above which it is wrong, by so many standard
# errors; and above which residues beside such a stretch are named with it.
_WRONG_ABOVE, _ERRORS, _DOUBTFUL_ABOVE = 0.25, 2.0, 0.15


@dataclass(frozen=True)
class LocalFit:
    """What of the density around each residue and its neighbours the model does not explain.

    Attributes
    ----------
    unexplained : (n_residues,) float
        One minus the squared correlation of the model with the density without its noise: 0 for the truth, 1 where
        both have nothing in common.
    error : float
        Standard error of ``unexplained``, by the noise of the images, over its square root: of a model that is the
        density, both the model's part in it and the whole change alike with the noise.
    wrong : (n_residues,) bool
        Stretches that clearly are not the density at their place.
    """

    unexplained: np.ndarray
    error: float
    wrong: np.ndarray


def find_local_fit(signal: ExplainedSignal, model: Model) -> LocalFit:
    """Compare each stretch of a model with the density around it.

    Parameters
    ----------
    signal : ExplainedSignal
    model : Model
    """
    drawn, halves = signal.flattened_densities(model)
    owner = _owners(model, drawn.shape[0], signal.grid_pixel_angstrom)
    chains = np.array([key.chain for key in model.residues])

    def around(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(owner[owner >= 0], values.ravel()[owner >= 0], len(chains))
        for chain in dict.fromkeys(chains.tolist()):
            rows = np.flatnonzero(chains == chain)
            count = np.r_[0.0, np.cumsum(sums[rows])]
            at = np.arange(len(rows))
            sums[rows] = count[np.minimum(at + _BESIDE + 1, len(rows))] - count[np.maximum(at - _BESIDE, 0)]
        return sums

    power, common = around(drawn**2), around(halves[0] * halves[1])
    floor = np.finfo(float).tiny

    def unexplained(density: np.ndarray) -> np.ndarray:
        shared = around(density * drawn)
        return 1 - np.sign(shared) * shared**2 / np.maximum(power * common, floor)

    # Where half maps share nothing, or no atom is drawn, there is nothing to compare.
    known = (common > 0) & (power > 0)
    found = np.where(known, np.clip(unexplained((halves[0] + halves[1]) / 2), 0, 1), 0.0)
    spread = (unexplained(halves[0]) - unexplained(halves[1]))[known] / 2
    error = float(np.sqrt((spread**2).mean())) if known.any() else 0.0
    return LocalFit(found, error, _wrong_stretches(found, error, chains))


def _owners(model: Model, side: int, pixel_angstrom: float) -> np.ndarray:
    """Residue whose atom is nearest to each voxel, (side³,) int in the order z, y, x; -1 where none is near."""
    heavy = np.flatnonzero(model.atomic_numbers > 1)
    steps = np.arange(side) * pixel_angstrom
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    near = cKDTree(model.positions[heavy]).query(
        np.stack([x, y, z], axis=-1).reshape(-1, 3), distance_upper_bound=_REACH_ANGSTROM
    )[1]
    return np.append(model.residue_of_atom[heavy], -1)[near]


def _wrong_stretches(unexplained: np.ndarray, error: float, chains: np.ndarray) -> np.ndarray:
    """Stretches in which a residue is wrong, with those beside it that are doubtful, (n_residues,) bool."""
    wrong = np.zeros(len(unexplained), dtype=bool)
    for chain in dict.fromkeys(chains.tolist()):
        rows = np.flatnonzero(chains == chain)
        for first, after in runs_of(unexplained[rows] > _DOUBTFUL_ABOVE):
            stretch = rows[first:after]
            most = unexplained[stretch].max()
            wrong[stretch] = most - _ERRORS * error * np.sqrt(most) > _WRONG_ABOVE
    return wrong
