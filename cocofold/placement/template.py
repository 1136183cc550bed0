"""What a model should look like in a map: its density at sample points that move with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cocofold.placement.grids import VOXELS_PER_RESOLUTION, even_fast_length, transfer

# Of a Gaussian whose transform has fallen to 1/e at the resolution: 1 / (sqrt(2) pi).
BLUR_PER_RESOLUTION = 0.225
_INSIDE = 0.02
_MARGIN_IN_RESOLUTIONS = 1.5


@dataclass(frozen=True)
class Template:
    """Samples of a model's density, about its centroid.

    Attributes
    ----------
    points : (n, 3) float32
        Å from the centroid, where the density is at least a fiftieth of its maximum.
    values : (n,) float32
        Density there, of mean 0 and mean square 1.
    density : (n,) float32
        The same unscaled: atomic numbers per Å^3.
    radius_angstrom : float
        Root mean square distance of the points from the centroid.
    resolution_angstrom : float
    """

    points: torch.Tensor
    values: torch.Tensor
    density: torch.Tensor
    radius_angstrom: float
    resolution_angstrom: float

    def thinned(self, most: int) -> Template:
        """At most so many of the points, spread over all of them."""
        if len(self.points) <= most:
            return self
        chosen = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(0))[:most]
        kept = chosen.sort().values.to(self.points.device)
        density = self.density[kept]
        return Template(
            self.points[kept], _standardised(density), density, self.radius_angstrom, self.resolution_angstrom
        )


def make_template(
    positions: np.ndarray, atomic_numbers: np.ndarray, resolution_angstrom: float, device: torch.device
) -> Template:
    """Atoms as Gaussians at a resolution, low-passed as maps are.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å, about their centroid.
    atomic_numbers : (n_atoms,) float
    resolution_angstrom : float
    device
    """
    margin = _MARGIN_IN_RESOLUTIONS * resolution_angstrom
    low, high = positions.min(0) - margin, positions.max(0) + margin
    spacing = resolution_angstrom / VOXELS_PER_RESOLUTION
    counts = [even_fast_length(int(np.ceil(length / spacing))) for length in (high - low)[::-1]]
    places = torch.as_tensor((positions - low) / spacing, dtype=torch.float32, device=device)
    mass = torch.as_tensor(atomic_numbers, dtype=torch.float32, device=device)
    volume = splat(places[None], mass[None, None], counts)[0, 0] / spacing**3
    blur = BLUR_PER_RESOLUTION * resolution_angstrom
    filtered = torch.fft.rfftn(volume) * transfer(
        counts, [n * spacing for n in counts], resolution_angstrom, blur, device
    )
    volume = torch.fft.irfftn(filtered, s=counts)
    inside = torch.nonzero(volume > _INSIDE * volume.max())
    density = volume[inside.unbind(1)]
    points = inside.flip(1) * spacing + torch.as_tensor(low, dtype=torch.float32, device=device)
    radius = float((points**2).sum(1).mean().sqrt())
    return Template(points, _standardised(density), density, radius, resolution_angstrom)


def splat(places: torch.Tensor, masses: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Point masses shared between the eight voxels around each, on a periodic grid.

    Parameters
    ----------
    places : (batch, n, 3) float
        x, y, z in voxels.
    masses : (batch or 1, channels, n) float
    counts : (3,) int
        Voxels along z, y, x.

    Returns
    -------
    (batch, channels, *counts) float
    """
    batch, channels = len(places), masses.shape[1]
    size = counts[0] * counts[1] * counts[2]
    out = places.new_zeros(batch, channels, size)
    below = places.floor()
    fraction = (places - below).unbind(-1)
    corner = below.long().unbind(-1)
    sides = [
        ((corner[axis].remainder(n), 1 - fraction[axis]), ((corner[axis] + 1).remainder(n), fraction[axis]))
        for axis, n in enumerate(reversed(counts))
    ]
    for x, share_x in sides[0]:
        for y, share_y in sides[1]:
            share_xy = share_x * share_y
            for z, share_z in sides[2]:
                index = ((z * counts[1] + y) * counts[2] + x)[:, None].expand(-1, channels, -1)
                out.scatter_add_(2, index, masses * (share_xy * share_z)[:, None])
    return out.view(batch, channels, *counts)


def _standardised(density: torch.Tensor) -> torch.Tensor:
    centred = density - density.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)
