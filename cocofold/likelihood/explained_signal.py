"""What the particles' own reconstruction says of a model: how much of the signal it explains, and with which parts.

At given poses the likelihood of images depends on a model through two sums over them alone: of the transforms times
CTF, and of the squared CTFs, at each Fourier voxel. A reconstruction holds both, so that questions about a model take
as long as one transform of it instead of a comparison with all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.likelihood.reconstruction import Reconstruction
from cocofold.likelihood.residue_support import parts_of
from cocofold.structure.geometry import radius_of_gyration
from cocofold.structure.model import Model

# Correlation of half maps below which a shell is taken for noise. At 0.1 a reconstruction of all images correlates to
# 0.43 with the molecule: enough to weigh, and the shells are weighed by their signal.
_LEAST_HALF_MAP_CORRELATION = 0.1
# Shells of the finest grid used beyond the last shell: atoms are drawn at 1.25 times the Nyquist rate, as in images.
_OVERSAMPLING = 1.25
# Shells coarser than this many radii of gyration show the outline of the molecule, which any other of its size has
# too, and the contrast of the solvent, which atoms do not.
_OUTLINE_RADII = 2.0
# Random rotations that a placement is compared with, whose spread is then known to 10 %.
_TURNS = 50
# How far the model may be turned (degrees) and shifted (Å) to fit better: starts are up to 12° and 3.5 Å off.
_NEARBY_TURN_DEGREES, _REACH_ANGSTROM = 10.0, 6.0
# Distance of a model's score from that of random rotations, in standard deviations, below which it fits no better than
# by chance. Other proteins had -9 to 3, also where a map had placed them; right ones, 12° and 3.5 Å off and in another
# state, 8 and more.
_BY_CHANCE_BELOW = 5.0
# By how much the finest shell with signal is finer than the outline where a model can be judged: 50 images of a small
# protein, at 2.0, do not tell a right model from another one, 200 images, at 3.6, do.
_FINER_THAN_OUTLINE = 3.0


@dataclass(frozen=True)
class ExplainedShare:
    """How much of the signal a model explains.

    Attributes
    ----------
    share : float
        Signal power that atoms explain, each shell at its own scale, over all signal power: 1 for the truth, less by
        what is missing or elsewhere. It may exceed 1 by its error.
    error : float
        Standard error by the noise of the images.
    correlations : (n_shells,) float
        Correlation of the model with the signal without its noise, by shell, coarse to fine.
    """

    share: float
    error: float
    correlations: np.ndarray


@dataclass(frozen=True)
class PartOccupancy:
    """How much of the signal that a part would give is there.

    Attributes
    ----------
    residues : (n,) int
        Rows of the model's residues.
    occupancy, error : float
        1 where the part is as well seen as most of the model, 0 where nothing is at its place.
    """

    residues: np.ndarray
    occupancy: float
    error: float


@dataclass(frozen=True)
class PlacementScore:
    """How much better a model fits where it is than turned at random and shifted to the best place.

    Attributes
    ----------
    correlation : float
        With the signal, all shells alike but for their noise.
    rivals_mean, rivals_spread, best_rival : float
        Of the random rotations.
    """

    correlation: float
    rivals_mean: float
    rivals_spread: float
    best_rival: float

    @property
    def z_score(self) -> float:
        """Distance from the mean of the random rotations in their standard deviations."""
        return (self.correlation - self.rivals_mean) / self.rivals_spread if self.rivals_spread > 0 else 0.0

    @property
    def is_by_chance(self) -> bool:
        """Whether the model fits no better than by chance: it is another molecule, or elsewhere."""
        return self.z_score < _BY_CHANCE_BELOW


class ExplainedSignal:
    """Signal in a reconstruction, up to the shell where its half maps cease to agree.

    Parameters
    ----------
    reconstruction : Reconstruction
    context : Model, optional
        Atoms beside every model that is asked about, which explain signal too.

    Attributes
    ----------
    last_shell : int
        The finest with signal; 0 if there is none.
    values : (n_voxels,) complex
        Transform of the reconstruction to that shell.
    half_values : list of two such
        Of the half maps.
    frequencies : (last_shell + 1,) float
        Of the shells, 1/Å.
    grid_pixel_angstrom : float
        Of the grid on which atoms are drawn.
    """

    def __init__(self, reconstruction: Reconstruction, context: Model | None = None) -> None:
        box = len(reconstruction.map)
        self._context = np.zeros((0, 3)), np.zeros(0)
        if context is not None:
            self._context = _heavy(context)
        self._extent = box * reconstruction.pixel_size_angstrom
        transforms = [np.fft.rfftn(volume) for volume in (reconstruction.map, *reconstruction.half_maps)]
        shell, count = _shells(box)
        inside = (shell >= 1) & (shell < box // 2)
        weights = reconstruction.weights.astype(float)

        def sums(values: np.ndarray) -> np.ndarray:
            return np.bincount(shell[inside], (values * count)[inside], box // 2)

        whole, one, other = transforms
        # Voxels that a half has not seen are none of its signal: with few images there are many.
        seen = np.prod(reconstruction.half_shares, axis=0)
        shared = sums(weights * (one * other.conj()).real)
        powers = [sums(weights * abs(half) ** 2) for half in (one, other)]
        agreement = shared / np.sqrt(np.maximum(powers[0] * powers[1], np.finfo(float).tiny))
        share = reconstruction.trusted_share
        shared *= sums(weights * share**2) / np.maximum(sums(seen * weights), np.finfo(float).tiny)
        noisy = np.flatnonzero(agreement[1:] < _LEAST_HALF_MAP_CORRELATION)
        self.last_shell = int(noisy[0]) if len(noisy) else box // 2 - 1
        # A quarter of the squared difference is the noise of the mean of two halves.
        self._voxels = np.maximum(sums(np.ones_like(weights)), 1)[: self.last_shell + 1]
        noise = sums(weights * abs(one - other) ** 2) / 4 / np.maximum(sums(seen), 1)
        self._noise = noise[: self.last_shell + 1]
        self._power = np.maximum(shared, 0)[: self.last_shell + 1]
        self.frequencies = np.arange(self.last_shell + 1) / self._extent
        self._side = min(box, 2 * int(np.ceil(_OVERSAMPLING * (self.last_shell + 1))))
        self.grid_pixel_angstrom = self._extent / self._side
        kept = (shell >= 1) & (shell <= self.last_shell)
        self._shell, self._count = shell[kept], count[kept]
        self.values, self._weight = whole[kept], weights[kept]
        self.half_values, self._share = [half[kept] for half in (one, other)], share[kept]
        coarse_shell, _ = _shells(self._side)
        self._coarse = (coarse_shell >= 1) & (coarse_shell <= self.last_shell)

    @property
    def resolution_angstrom(self) -> float:
        """Spacing of the last shell with signal, Å."""
        return self._extent / max(self.last_shell, 1)

    def first_shell(self, model: Model) -> int:
        """The coarsest shell that shows more than the outline of a model."""
        return max(1, int(np.ceil(self._extent / (_OUTLINE_RADII * radius_of_gyration(model.positions)))))

    def can_judge(self, model: Model) -> bool:
        """Whether the signal reaches far enough beyond the outline of a model to judge by."""
        return self.last_shell >= _FINER_THAN_OUTLINE * self.first_shell(model)

    def explained(self, model: Model, occupancies: np.ndarray | None = None) -> ExplainedShare:
        """Share of the signal that the model's atoms explain; ``occupancies``, (n_residues,), by default are 1."""
        transform = self._transform(*self._with_context(model, occupancies))
        cross, power = self._cross(transform), self._sums(self._weight * abs(transform) ** 2)
        used = np.arange(self.last_shell + 1) >= self.first_shell(model)
        total = max(self._power[used].sum(), np.finfo(float).tiny)
        tiny = np.finfo(float).tiny

        def explained(cross: np.ndarray, noise: np.ndarray) -> float:
            # Noise adds its own power to the square of a projection onto one direction.
            each = np.where(power > 0, np.sign(cross) * cross**2 / np.maximum(power, tiny) - noise, 0.0)
            return float(each[used].sum() / total)

        share = explained(cross, self._noise)
        correlations = np.where(power * self._power > 0, cross / np.sqrt(np.maximum(power * self._power, tiny)), 0.0)
        # Noise of the product of half maps, and of what the model leaves of the signal; views, by the halves.
        variance = 4 * self._voxels * self._noise**2 + 4 * self._noise * self._power * max(0.0, 1 - share)
        halves = [explained(self._cross(transform, half), 2 * self._noise) for half in self.half_values]
        error = np.hypot(np.sqrt(variance[used].sum()) / total, (halves[0] - halves[1]) / 2)
        return ExplainedShare(share, float(error), correlations[1:])

    def occupancies(self, model: Model, parts: Sequence[np.ndarray]) -> list[PartOccupancy]:
        """Occupancies of parts of a model, all at once, by weighted least squares.

        Parameters
        ----------
        model : Model
        parts : sequence of (n,) int
            Rows of residues; together the whole model.
        """
        level, values, errors = self._solve_parts(model, parts, None)
        return [
            PartOccupancy(rows, float(value / level), float(error / level))
            for rows, value, error in zip(parts, values, errors)
        ]

    def _solve_parts(
        self, model: Model, parts: Sequence[np.ndarray], scale: np.ndarray | None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Level of parts that are well seen, and the factor of each part with its error.

        ``scale`` is that of each shell, by default of the whole model.
        """
        transforms = []
        for rows in parts:
            mine = np.zeros(len(model.residues))
            mine[rows] = 1
            transforms.append(self._transform(*_heavy(model, mine)).astype(np.complex64))
        if len(self._context[1]):
            transforms.append(self._transform(*self._context).astype(np.complex64))
        if scale is None:
            whole = np.sum(transforms, axis=0)
            power = self._sums(self._weight * abs(whole) ** 2)
            scale = np.where(power > 0, self._cross(whole) / np.maximum(power, np.finfo(float).tiny), 0.0)
        noise = np.maximum(self._noise, np.finfo(float).tiny)
        root = np.sqrt(self._count * self._weight / noise[self._shell])
        root *= self._shell >= self.first_shell(model)
        columns = np.stack([_as_reals(each * (scale[self._shell] * root)) for each in transforms], axis=1)
        # Parts that the images cannot tell apart, or without any atom that is drawn, get no weight of their own.
        inverse = np.linalg.pinv(columns.T @ columns, rcond=1e-6, hermitian=True)
        values = inverse @ (columns.T @ _as_reals(self.values * root))
        errors = np.sqrt(np.maximum(np.diag(inverse), 0))
        values, errors = values[: len(parts)], errors[: len(parts)]
        return _usual_level(values, np.array([len(rows) for rows in parts])), values, errors

    def as_seen(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """A model's transform on the scale of its parts that are well seen, which missing ones do not lower.

        Returns
        -------
        transform : (n_voxels,) complex
            As ``values``.
        scale : (last_shell + 1,) float
            By which it was multiplied.
        """
        whole = self._transform(*self._with_context(model))
        power = self._sums(self._weight * abs(whole) ** 2)
        # The signal's own spectrum: where much is misplaced, that of what both share falls with the resolution.
        spectrum = np.sqrt(self._power / np.maximum(power, np.finfo(float).tiny))
        level, _, _ = self._solve_parts(model, parts_of(model), spectrum)
        scale = np.maximum(spectrum * level, np.finfo(float).tiny)
        return scale[self._shell] * whole, scale

    def in_space(self, values: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Density of a transform, (n_voxels,) complex as ``values``, times factors of shells, (last_shell + 1,).

        Indexed z, y, x; voxels are of ``grid_pixel_angstrom``, and (0, 0, 0) is at 0 Å.
        """
        spread = np.zeros(self._coarse.shape, complex)
        spread[self._coarse] = values * factors[self._shell]
        return np.fft.irfftn(spread, s=(self._side,) * 3, axes=(0, 1, 2))

    def flattened_densities(self, model: Model) -> tuple[np.ndarray, list[np.ndarray]]:
        """Densities of a model and of both half maps in which all shells are alike, less by their noise.

        The model has the scale by which it explains most of each shell; the outline is left out.
        """
        transform, tiny = self._transform(*self._with_context(model)), np.finfo(float).tiny
        power = self._sums(self._weight * abs(transform) ** 2)
        scale = self._cross(transform) / np.maximum(power, tiny)
        amplitudes = np.sqrt(self._power / np.maximum(self._sums(self._weight), tiny))
        used = (np.arange(self.last_shell + 1) >= self.first_shell(model)) & (amplitudes > 0)
        factors = np.where(used, self._trust() / self._voxels / np.maximum(amplitudes, tiny), 0.0)
        drawn = self.in_space(scale[self._shell] * transform, factors)
        return drawn, [self.in_space(half, factors) for half in self.half_values]

    def placement(self, model: Model, seed: int = 0) -> PlacementScore:
        """Compare a model where it is with random rotations of it, each at its best place; residues are one mass."""
        positions, amplitudes = _residue_masses(model)
        centre = np.average(positions, axis=0, weights=amplitudes)
        middle = np.full(3, self._side // 2 * self.grid_pixel_angstrom)
        signal = self._flattened()
        place = (centre - middle) / self.grid_pixel_angstrom
        steps = np.arange(self._side)
        away = [(steps - at + self._side / 2) % self._side - self._side / 2 for at in place]
        distance = np.sqrt(away[2][:, None, None] ** 2 + away[1][:, None] ** 2 + away[0] ** 2)
        near = distance <= max(_REACH_ANGSTROM / self.grid_pixel_angstrom, 1.5)
        own = max(
            self._correlations_at_shifts(signal, (positions - centre) @ turn.T + middle, amplitudes)[near].max()
            for turn in _nearby_turns()
        )
        rivals = [
            self._correlations_at_shifts(signal, (positions - centre) @ turn.T + middle, amplitudes).max()
            for turn in Rotation.random(_TURNS, random_state=seed).as_matrix()
        ]
        return PlacementScore(float(own), float(np.mean(rivals)), float(np.std(rivals)), float(np.max(rivals)))

    def _flattened(self) -> np.ndarray:
        """Signal times its weight, all voxels alike but for their noise, (n,) complex."""
        strength = self._trust() / np.maximum(self._power, np.finfo(float).tiny)
        return strength[self._shell] * self._weight * self.values

    def _trust(self) -> np.ndarray:
        """Weight of each shell, (last_shell + 1,): its number of voxels, less by the noise in them."""
        ratio = self._power / np.maximum(self._voxels * self._noise, np.finfo(float).tiny)
        return self._voxels * ratio / (1 + ratio)

    def _correlations_at_shifts(self, signal: np.ndarray, positions: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
        """Correlation of atoms with the flattened signal at every shift by whole voxels, (side, side, side)."""
        transform = self._transform(positions, amplitudes)
        power = self._sums(self._weight * abs(transform) ** 2)
        scale = np.sqrt(self._power / np.maximum(power, np.finfo(float).tiny))
        shifted = self.in_space(signal * transform.conj(), scale) * self._side**3
        return shifted / max(self._trust()[1:].sum(), np.finfo(float).tiny)

    def _with_context(self, model: Model, occupancies: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Positions and amplitudes of a model's atoms that are drawn, and of what is beside it."""
        both = zip(_heavy(model, occupancies), self._context)
        positions, amplitudes = (np.concatenate(one) for one in both)
        return positions, amplitudes

    def _transform(self, positions: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
        """Transform of atoms, as much of it as is there, at the voxels that are kept, (n,) complex.

        Widths drop out with the scale of a shell.
        """
        widths = np.full(len(positions), REFERENCE_WIDTH_ANGSTROM)
        volume = render_density(positions, amplitudes, widths, self._side, self.grid_pixel_angstrom)
        return self._share * np.fft.rfftn(volume)[self._coarse]

    def _cross(self, transform: np.ndarray, signal: np.ndarray | None = None) -> np.ndarray:
        return self._sums(self._weight * (transform.conj() * (self.values if signal is None else signal)).real)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._shell, values * self._count, self.last_shell + 1)


def _usual_level(values: np.ndarray, sizes: np.ndarray) -> float:
    """Level of the parts that are well seen: the median of those of at least half of the highest tenth's level."""
    order = np.argsort(values)
    high = values[order][np.searchsorted(np.cumsum(sizes[order]), 0.9 * sizes.sum())]
    if high <= 0:
        return 1.0
    seen = values >= high / 2
    order = np.argsort(values[seen])
    half = np.searchsorted(np.cumsum(sizes[seen][order]), 0.5 * sizes[seen].sum())
    return float(values[seen][order][half])


def _heavy(model: Model, occupancies: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions and amplitudes of atoms that are drawn."""
    amplitudes = model.atomic_numbers.astype(float)
    if occupancies is not None:
        amplitudes = amplitudes * occupancies[model.residue_of_atom]
    atoms = np.flatnonzero((model.atomic_numbers > 1) & (amplitudes != 0))
    return model.positions[atoms], amplitudes[atoms]


def _residue_masses(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Each residue as one mass at its centre."""
    masses = np.bincount(model.residue_of_atom, model.atomic_numbers)
    centres = [np.bincount(model.residue_of_atom, model.atomic_numbers * axis) / masses for axis in model.positions.T]
    return np.stack(centres, axis=1), masses


def _nearby_turns() -> np.ndarray:
    """No rotation, and rotations about the axes and diagonals of a cube, either way; (15, 3, 3)."""
    grid = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)], dtype=float)
    axes = grid[np.isin(abs(grid).sum(1), (1, 3))]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = np.concatenate([np.zeros((1, 3)), np.deg2rad(_NEARBY_TURN_DEGREES) * axes])
    return Rotation.from_rotvec(turns).as_matrix()


def _shells(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Shell of each voxel of a half transform, and how many voxels of the whole one it stands for."""
    axis = np.fft.fftfreq(side, 1 / side)
    half = np.arange(side // 2 + 1)
    shell = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2)).astype(int)
    count = np.broadcast_to(np.where(half == 0, 1.0, 2.0), shell.shape)
    return shell, count


def _as_reals(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values.real, values.imag])
