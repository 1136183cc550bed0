"""The map that models are fitted to: its grids, where its density is, and what is left when some of it is explained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cocofold.placement.grids import VOXELS_PER_RESOLUTION, Grid, Spectrum, transfer
from cocofold.placement.maps import DensityMap
from cocofold.placement.template import BLUR_PER_RESOLUTION, splat
from cocofold.structure import Model

_INSIDE = 0.02
_DENSE = 0.25
# Of atoms other than hydrogen in a protein of 1.35 g/cm^3.
VOLUME_PER_ATOM_A3 = 16.9


@dataclass(frozen=True)
class Atoms:
    """All that placement knows of a molecule: its atoms other than hydrogen.

    Attributes
    ----------
    positions : (n, 3) float64
        Å.
    atomic_numbers : (n,) int
    alphas : (m, 3) float64
        Positions of the CA atoms.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    alphas: np.ndarray

    @classmethod
    def of(cls, model: Model, residues: np.ndarray | None = None) -> Atoms:
        """Of a model, or of some of its residues, (n_residues,) bool."""
        wanted = np.ones(len(model.residues), dtype=bool) if residues is None else residues
        heavy = wanted[model.residue_of_atom] & (model.atomic_numbers > 1)
        with_backbone, rows = model.backbone()
        alphas = model.positions[rows[wanted[with_backbone], 1]]
        return cls(model.positions[heavy], model.atomic_numbers[heavy], alphas)

    @classmethod
    def joined(cls, parts: list[Atoms]) -> Atoms | None:
        """All of them; None of none."""
        if not parts:
            return None
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def moved(self, rotation: np.ndarray, centre: np.ndarray) -> Atoms:
        """Turned about the centroid, which goes to a position."""
        positions = (self.positions - self.centroid) @ rotation.T + centre
        return Atoms(positions, self.atomic_numbers, (self.alphas - self.centroid) @ rotation.T + centre)

    @property
    def centroid(self) -> np.ndarray:
        """Mean position, (3,) Å."""
        return self.positions.mean(0)

    @property
    def radius_of_gyration(self) -> float:
        """Å."""
        return float(np.sqrt(((self.positions - self.centroid) ** 2).sum(1).mean()))

    @property
    def volume_a3(self) -> float:
        """Of the molecule, by the number of its atoms."""
        return VOLUME_PER_ATOM_A3 * len(self.positions)


class Target:
    """A map at a resolution.

    Parameters
    ----------
    density : DensityMap
    resolution_angstrom : float
    device
    """

    def __init__(self, density: DensityMap, resolution_angstrom: float, device: torch.device) -> None:
        self.density = density
        self.resolution_angstrom = resolution_angstrom
        self.device = device
        # The solvent, which is most of the box, is taken as zero.
        flat = density.values - np.median(density.values)
        self._spectrum = Spectrum(flat, density.pixel_size_angstrom, device)

    def grid(
        self, resolution_angstrom: float, explained: Atoms | None = None, voxels: float = VOXELS_PER_RESOLUTION
    ) -> Grid:
        """The map at its own or a coarser resolution, less what placed atoms explain.

        Coarser than its own the map is blurred as templates are, so that no wave stands out at the edge.
        """
        coarser = resolution_angstrom > 1.001 * self.resolution_angstrom
        blur = BLUR_PER_RESOLUTION * resolution_angstrom
        grid = self._spectrum.grid(resolution_angstrom, blur if coarser else 0.0, voxels)
        if explained is None:
            return grid
        drawn = draw(explained, grid)
        inside = drawn > _INSIDE * drawn.max()
        model, seen = drawn[inside], grid.values[inside]
        centred = model - model.mean()
        scale = (centred * seen).sum() / centred.square().sum()
        return grid.less(scale.clamp(min=0) * drawn)

    def where_dense(self, grid: Grid, volume_a3: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners (x, y, z in Å) of the box around density of at least a quarter of the molecule's.

        The molecule's density is the mean over the densest voxels that make up half a volume.
        """
        n = max(1, int(0.5 * volume_a3 / float(grid.voxel_angstrom.prod())))
        level = grid.values.flatten().topk(min(n, grid.values.numel())).values.mean()
        dense = grid.values > _DENSE * level
        corners = []
        for axes in ((0, 1), (0, 2), (1, 2)):  # leaves x, y, z
            rows = torch.nonzero(dense.any(axes[1]).any(axes[0])).flatten()
            corners.append((rows[0], rows[-1]))
        low, high = (torch.stack(side) * grid.voxel_angstrom for side in zip(*corners))
        return low, high


def draw(atoms: Atoms, grid: Grid) -> torch.Tensor:
    """Density of atoms as a template has it, on a whole grid; (nz, ny, nx)."""
    counts = list(grid.values.shape)
    places = torch.as_tensor(atoms.positions, dtype=torch.float32, device=grid.values.device) / grid.voxel_angstrom
    mass = torch.as_tensor(atoms.atomic_numbers, dtype=torch.float32, device=grid.values.device)
    extent = [n * float(side) for n, side in zip(counts, grid.voxel_angstrom.flip(0))]
    resolution = grid.resolution_angstrom
    passed = transfer(counts, extent, resolution, BLUR_PER_RESOLUTION * resolution, grid.values.device, sharpened=2)
    spread = splat(places[None], mass[None, None], counts)[0, 0]
    return torch.fft.irfftn(torch.fft.rfftn(spread) * passed, s=counts) / grid.voxel_angstrom.prod()
