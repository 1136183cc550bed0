"""The density of a reconstruction that no atom of a model explains: a map of it, its mass, and its pieces.

A reconstruction is taken apart into the model's density, run by run of its atoms, and a density that is nowhere
negative and nowhere near the model, such that both together give its Fourier transform to 10 Å.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import fft, ndimage
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, added_width_angstrom, render_density
from cocofold.likelihood.reconstruction import Reconstruction
from cocofold.mapfit.density_map import VOXELS_PER_RESOLUTION, even_fast_length, half_of_frequencies
from cocofold.system.errors import InputError

# Resolution of the fit, Å. Finer detail says more of where atoms are, and errors of 2 Å would count as density;
# coarser, domains are not told apart from what lies beside them.
_RESOLUTION_ANGSTROM = 10.0
# Relative error of the model's transform that is taken for granted, as no two programs draw atoms alike: smaller values
# make density of that difference, larger ones lose small pieces.
_RELATIVE_ERROR = 0.1
# Density nearer to an atom than this is the model's, Å: the reach of side chains and of 10 Å blur.
_NEAR_ANGSTROM = 4.0
# A run of atoms has a height of its own: ten residues, or more where a model would have more than so many runs.
_ATOMS_OF_RUN, _MOST_RUNS = 80, 64
# Density is allowed where it lowers the misfit by more than errors do in so many standard deviations: among a hundred
# thousand voxels errors alone reach 4.3.
_ERROR_DEVIATIONS = 4.0
# Passes of the fit with its blur found anew in between, steps of each, of the last two, and of those of a refit, which
# begins at what was found.
_PASSES, _STEPS, _LAST_STEPS, _REFIT_STEPS = 4, 100, 150, 50
# A fit has settled once a step changes this share of the density or less; a tenth of it alters figures by 0.0001.
_SETTLED = 1e-3
# Runs of atoms within this share of the model's height give it.
_SAME_HEIGHT, _FIRST_HEIGHT_PERCENTILE = 0.3, 80
# Refits with errors like those that the first fit left, whose spread is the error.
_REFITS = 6
# Share of displaced mass by which missing mass is unsure: a run that lies half in density and half outside leaves
# a lack that no density here can have, but an excess that it can. Seen: 0.05 to 0.65, mostly 0.3.
_UNSURE_OF_DISPLACED = 0.3
# Blur B (Å²) at the first pass, and the largest.
_FIRST_BLUR_A2, _MOST_BLUR_A2 = 100.0, 1000.0
# Least share of a shell's mean weight at which a Fourier voxel's noise is reckoned with.
_LEAST_SHARE = 1e-3
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)
# Pieces below this share of the mass are not listed: about two residues of a small protein.
_LEAST_PIECE = 0.01


@dataclass(frozen=True)
class DensityPiece:
    """A connected piece of density that no atom explains.

    Attributes
    ----------
    centre_angstrom : (x, y, z)
        Centre of its mass in the map's frame.
    mass_share : float
        Its mass as a share of the particle's.
    extent_angstrom : float
        Twice the root mean square distance from its centre.
    """

    centre_angstrom: tuple[float, float, float]
    mass_share: float
    extent_angstrom: float


@dataclass(frozen=True)
class UnexplainedDensity:
    """What of a reconstruction a model does not explain.

    Shares are of the particle's mass, in electrons of its atoms as its density shows them.

    Attributes
    ----------
    map : (box, box, box) float32
        The reconstruction less the model's density at one height; negative where the model has too much.
    missing_mass : float
        Mass that the model lacks: that of the particle less that of the model. A domain in the wrong place is not
        missing. Negative if the model has more than the particle.
    error : float
        Standard error of ``missing_mass``.
    away_from_atoms : float
        Mass of density away from all atoms, of missing parts as of displaced ones.
    without_density : float
        Mass of the model's atoms where the particle has none.
    pieces : tuple of DensityPiece
        Largest first, of those with 1 % of the mass or more.
    """

    map: np.ndarray
    missing_mass: float
    error: float
    away_from_atoms: float
    without_density: float
    pieces: tuple[DensityPiece, ...]

    def as_dict(self) -> dict[str, Any]:
        """All but the map, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "map"}


def find_unexplained_density(
    reconstruction: Reconstruction, positions: np.ndarray, atomic_numbers: np.ndarray, seed: int = 0
) -> UnexplainedDensity:
    """Take a model's density out of a reconstruction, and weigh what is left.

    The transform of the map to 10 Å is fitted, weighted by the noise of the half maps, by ``exp(-B k^2 / 4)`` times
    runs of ten residues, each at a height of its own, and a density that is nowhere negative and lies 4 Å from all
    atoms. The most common height is the model's; at it all its atoms are weighed against all that was found.

    Parameters
    ----------
    reconstruction : Reconstruction
    positions : (n_atoms, 3) float
        Å, in the map's frame; atoms that follow each other are near each other, as in a chain.
    atomic_numbers : (n_atoms,) int
    seed : int
        Of the noise that gives the error.

    Raises
    ------
    InputError
        If the reconstruction has no density where the model is.
    """
    heavy = atomic_numbers > 1
    fit = _MassFit(reconstruction, positions[heavy], atomic_numbers[heavy].astype(float))
    fit.find_blur()
    best = fit.solve(fit.observed)
    if best.height <= 0:
        raise InputError(
            "the model has no density in the reconstruction: it lies elsewhere, or protein is dark in the images; see "
            "cocofold check"
        )
    again = fit.refits(best, np.random.default_rng(seed))
    # The mean of so many runs tells the height no better than this.
    of_height = best.height_error / best.height * (1 - best.missing_mass)
    of_displaced = _UNSURE_OF_DISPLACED * best.without_density
    return UnexplainedDensity(
        fit.difference_map(best.height),
        best.missing_mass,
        float(np.sqrt(np.var(again, ddof=1) + of_height**2 + of_displaced**2)),
        float(best.density.sum() / best.total),
        best.without_density,
        fit.pieces(best),
    )


@dataclass(frozen=True)
class _Parts:
    """A reconstruction taken apart.

    Attributes
    ----------
    density : (n, n, n) float
        Mass at the voxels of the coarse grid, in the map's units.
    heights : (n_runs,) float
        The map's units of mass an electron.
    masses : (n_runs,) float
        Electrons.
    height, height_error : float
        The model's, and its standard error.
    """

    density: np.ndarray
    heights: np.ndarray
    masses: np.ndarray
    height: float
    height_error: float

    @classmethod
    def of(cls, density: np.ndarray, heights: np.ndarray, masses: np.ndarray) -> _Parts:
        """Find the model's height: the mean of those runs that agree on one, from the upper ones on."""
        height = float(np.percentile(heights, _FIRST_HEIGHT_PERCENTILE))
        same = np.zeros(len(heights), dtype=bool)
        for _ in range(len(heights)):
            near = np.abs(heights - height) < _SAME_HEIGHT * abs(height)
            if not near.any() or (near == same).all():
                break
            same = near
            height = float(np.average(heights[same], weights=masses[same]))
        error = heights[same].std(ddof=1) / np.sqrt(same.sum()) if same.sum() > 1 else abs(height)
        return cls(density, heights, masses, height, float(error))

    @property
    def total(self) -> float:
        """Mass of the particle, in the map's units."""
        return float(self.heights @ self.masses + self.density.sum())

    @property
    def missing_mass(self) -> float:
        """Share of the particle's mass that the model lacks."""
        return 1 - self.height * float(self.masses.sum()) / self.total

    @property
    def without_density(self) -> float:
        """Share of the particle's mass that the model has where the particle has none."""
        return float(np.clip(self.height - self.heights, 0, None) @ self.masses) / self.total


class _MassFit:
    """The fit of runs of atoms and of free density to a reconstruction's Fourier coefficients.

    Attributes
    ----------
    observed : (n_k,) complex
        The reconstruction's transform at half of the frequencies to 10 Å, which stands for the other half.
    """

    def __init__(self, reconstruction: Reconstruction, positions: np.ndarray, masses: np.ndarray) -> None:
        self._source = reconstruction
        box, pixel_size = reconstruction.map.shape[0], reconstruction.pixel_size_angstrom
        self._extent = box * pixel_size
        finest = max(_RESOLUTION_ANGSTROM, VOXELS_PER_RESOLUTION * pixel_size)
        self._side = even_fast_length(int(np.ceil(self._extent * VOXELS_PER_RESOLUTION / finest)))
        self._voxel = self._extent / self._side
        self._indices, self._at, self._shell = half_of_frequencies(self._side, self._extent / finest)
        self._k = (np.linalg.norm(self._indices, axis=0) / self._extent).astype(np.float32)
        self._atoms = (positions, masses)
        self.observed, self._noise, self._power = self._read()
        self._weight = 1 / (self._noise**2 + _RELATIVE_ERROR**2 * self._power)
        self._root_weight = np.sqrt(self._weight)
        self._masses, self._of_runs = self._draw_runs()
        self._allowed = self._away_from_atoms()
        self._set_blur(_FIRST_BLUR_A2)

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Transform of the map, the standard deviation of its noise, and its mean power by shell; all (n_k,)."""
        z, y, x = self._indices
        maps = (self._source.map, *self._source.half_maps)
        whole, first, second = (fft.rfftn(values.astype(np.float32))[z, y, x] for values in maps)
        _, *sizes = self._source.images
        # Of a mean of two halves the noise is that of their difference, if they are of one size
        noise = sizes[0] * sizes[1] / sum(sizes) ** 2 * self._mean(np.abs(first - second) ** 2)[self._shell]
        weights = self._source.weights[z, y, x]
        relative = weights / self._mean(weights)[self._shell]
        deviation = np.sqrt(noise / np.maximum(relative, _LEAST_SHARE))
        power = self._mean(np.abs(whole) ** 2)[self._shell]
        return whole, deviation.astype(np.float32), power.astype(np.float32)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """Means over shells."""
        return np.bincount(self._shell, values) / np.bincount(self._shell)

    def _draw_runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Electrons of each run of atoms, (n_runs,), and its transform as points, (n_k, n_runs)."""
        positions, masses = self._atoms
        count = int(np.clip(len(masses) // _ATOMS_OF_RUN, 1, _MOST_RUNS))
        runs = np.array_split(np.arange(len(masses)), count)
        width = np.hypot(REFERENCE_WIDTH_ANGSTROM, added_width_angstrom(self._voxel))
        undrawn = np.exp(2 * (np.pi * width * self._k) ** 2)
        found = []
        for run in runs:
            widths = np.full(len(run), REFERENCE_WIDTH_ANGSTROM)
            drawn = render_density(positions[run], masses[run], widths, self._side, self._voxel)
            found.append(fft.rfftn(drawn).ravel()[self._at] * undrawn)
        points = np.stack(found, axis=1)
        of_runs = np.array([masses[run].sum() for run in runs])
        # Gaussians are drawn at their peak; a point has the mass of its atom.
        return of_runs, points * np.float32(of_runs.sum() / points[0].real.sum())

    def _away_from_atoms(self) -> np.ndarray:
        """Voxels, (n, n, n) bool, where free density may be: away from atoms, and in the sphere that all views hold."""
        axis = np.arange(self._side) * self._voxel
        places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
        distance, _ = cKDTree(self._atoms[0]).query(places, distance_upper_bound=_NEAR_ANGSTROM)
        centre = len(self._source.map) // 2 * self._source.pixel_size_angstrom
        inside = np.linalg.norm(places - centre, axis=1) < self._extent / 2
        return (np.isinf(distance) & inside).reshape((self._side,) * 3)

    def _set_blur(self, blur_a2: float) -> None:
        """Take another blur, and what of the fit follows from it."""
        self._blur_a2 = blur_a2
        z, y, x = self._indices
        self._passed = (np.exp(-blur_a2 * self._k**2 / 4) * self._source.trusted_share[z, y, x]).astype(np.float32)
        self._runs = self._of_runs * self._passed[:, None]
        basis, self._triangle = np.linalg.qr(_stacked(self._runs * self._root_weight[:, None]).astype(float))
        self._basis = basis.T.astype(np.float32)
        # Largest curvature of the misfit along a voxel's mass, and what noise and the relative error do to its slope.
        self._step = float(1 / ((self._weight * self._passed**2).max() * self._side**3))
        self._slope_error = float(np.sqrt((self._weight * self._passed**2).sum()))

    def find_blur(self) -> None:
        """Find the blur that model and reconstruction have relative to points, with free density beside the model."""
        density = None
        for _ in range(_PASSES):
            density, heights = self._descend(self.observed, self._allowed, _ERROR_DEVIATIONS, _STEPS, density)
            drawn = self._drawn(density, heights)
            cross, power = self._mean((self.observed * drawn.conj()).real), self._mean(np.abs(drawn) ** 2)
            known = (cross > 0) & (np.arange(len(cross)) > 0)
            if known.sum() < 2:
                return
            squared = self._mean(self._k**2)[known]
            trust = 1 / (self._mean(self._noise**2) / self._mean(self._power) + _RELATIVE_ERROR**2)[known]
            slope, _ = np.polyfit(squared, np.log(cross[known] / power[known]), 1, w=np.sqrt(trust))
            self._set_blur(float(np.clip(self._blur_a2 - 4 * slope, 0, _MOST_BLUR_A2)))

    def solve(self, observed: np.ndarray, steps: int = _LAST_STEPS, start: np.ndarray | None = None) -> _Parts:
        """Take a transform apart: first where free density is, and then how much, without the threshold."""
        density, heights = self._descend(observed, self._allowed, _ERROR_DEVIATIONS, steps, start)
        if density.any():
            near = ndimage.binary_dilation(density > 0, _NEIGHBOURS) & self._allowed
            density, heights = self._descend(observed, near, 0.0, steps, density)
        return _Parts.of(density, heights, self._masses)

    def refits(self, best: _Parts, random: np.random.Generator) -> list[float]:
        """Missing mass in fits of what was found, with other errors as large as those that were left."""
        drawn = self._drawn(best.density, best.heights)
        left = np.sqrt(self._mean(np.abs(self.observed - drawn) ** 2)[self._shell] / 2)
        errors = (random.normal(size=(2, len(drawn))) for _ in range(_REFITS))
        others = ((drawn + left * (real + 1j * imaginary)).astype(np.complex64) for real, imaginary in errors)
        return [self.solve(other, _REFIT_STEPS, best.density).missing_mass for other in others]

    def difference_map(self, height: float) -> np.ndarray:
        """The reconstruction less the model at a height, (box, box, box) float32.

        The model's transform fades where the reconstruction's does, for want of views.
        """
        positions, masses = self._atoms
        box, pixel_size = len(self._source.map), self._source.pixel_size_angstrom
        widths = np.full(len(masses), REFERENCE_WIDTH_ANGSTROM)
        spectrum = fft.rfftn(render_density(positions, masses, widths, box, pixel_size))
        spectrum *= masses.sum() / spectrum[0, 0, 0].real
        axes = np.meshgrid(fft.fftfreq(box), fft.fftfreq(box), fft.rfftfreq(box), indexing="ij")
        squared = sum(axis**2 for axis in axes) / pixel_size**2
        drawn_b = 8 * np.pi**2 * (REFERENCE_WIDTH_ANGSTROM**2 + added_width_angstrom(pixel_size) ** 2)
        spectrum *= height * np.exp((drawn_b - self._blur_a2) * squared / 4) * self._source.trusted_share
        return (self._source.map - fft.irfftn(spectrum, s=(box,) * 3)).astype(np.float32)

    def pieces(self, parts: _Parts) -> tuple[DensityPiece, ...]:
        """Connected pieces of free density, the largest first."""
        labels, count = ndimage.label(parts.density > 0, _NEIGHBOURS)
        found = []
        for label in range(1, count + 1):
            places = np.argwhere(labels == label)
            mass = parts.density[tuple(places.T)]
            at = places[:, ::-1] * self._voxel
            centre = np.average(at, axis=0, weights=mass)
            spread = np.average(((at - centre) ** 2).sum(1), weights=mass)
            x, y, z = centre.tolist()
            found.append(DensityPiece((x, y, z), float(mass.sum() / parts.total), 2 * float(np.sqrt(spread))))
        listed = (piece for piece in found if piece.mass_share >= _LEAST_PIECE)
        return tuple(sorted(listed, key=lambda piece: -piece.mass_share))

    def _descend(
        self, observed: np.ndarray, allowed: np.ndarray, deviations: float, steps: int, start: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Density and heights of least misfit, by accelerated projected gradients (Beck & Teboulle, 2009).

        At each density the heights are those of least squares. A voxel's mass must lower the misfit by more than errors
        do in so many deviations.
        """
        density = np.zeros((self._side,) * 3, dtype=np.float32) if start is None else start
        ahead, momentum = density, 1.0
        for _ in range(steps):
            left = observed - self._transform(ahead)
            left -= self._runs @ self._heights(left)
            slope = self._back(self._weight * left) - deviations * self._slope_error
            following = np.maximum(ahead + self._step * slope, 0) * allowed
            next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            change = following - density
            ahead = following + (momentum - 1) / next_momentum * change
            density, momentum = following, next_momentum
            if np.linalg.norm(change) <= _SETTLED * np.linalg.norm(density):
                break
        return density, self._heights(observed - self._transform(density))

    def _heights(self, left: np.ndarray) -> np.ndarray:
        """Heights of runs that explain coefficients best."""
        return solve_triangular(self._triangle, self._basis @ _stacked(left * self._root_weight)).astype(np.float32)

    def _drawn(self, density: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Coefficients of free density and of runs at their heights, (n_k,)."""
        return self._transform(density) + self._runs @ heights

    def _transform(self, density: np.ndarray) -> np.ndarray:
        """Coefficients of free density, (n_k,)."""
        return fft.rfftn(density).ravel()[self._at] * self._passed

    def _back(self, coefficients: np.ndarray) -> np.ndarray:
        """Gradient by density of its coefficients' product with others: the adjoint of ``_transform``."""
        half = np.zeros((self._side, self._side, self._side // 2 + 1), dtype=np.complex64)
        half.ravel()[self._at] = coefficients * self._passed / 2
        # The inverse transform counts what lies at x > 0 twice; at x = 0 the opposite half is put in.
        opposite = -np.arange(self._side) % self._side
        half[:, :, 0] += half[:, :, 0][opposite][:, opposite].conj()
        return fft.irfftn(half, s=(self._side,) * 3, norm="forward")


def _stacked(values: np.ndarray) -> np.ndarray:
    """Real parts, and below them imaginary ones."""
    return np.concatenate([values.real, values.imag])
