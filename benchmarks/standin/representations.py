"""Single and pair representations of the official shapes, which tell of a structure roughly as a trunk's would."""

from __future__ import annotations

import torch

from cocofold.alphafold.invariant_attention import Rigid
from cocofold.alphafold.weight_layout import PAIR_WIDTH, SINGLE_WIDTH

_FARTHEST_NEIGHBOUR = 32
_DISTANCE_CENTRES = torch.linspace(2, 44, 36)
_DISTANCE_WIDTH = 1.2
_DISTANCE_NOISE, _DIRECTION_NOISE, _OWN_NOISE = 0.3, 0.05, 0.1
_POSITION_WAVES = 16
_AMINO_ACIDS = 21


class Representations:
    """Fixed random projections of what is known of residues and of pairs of them.

    The single representation has the amino acid, the place in the chain and numbers of the residue's own; the pair the
    separation in the chain, the distance and the direction in which one residue sees another, both with noise.

    Parameters
    ----------
    aatype : (n,) int
        AlphaFold's numbers of the amino acids of one chain.
    seed : int
    """

    def __init__(self, aatype: torch.Tensor, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        n = len(aatype)
        waves = torch.arange(n)[:, None] / 1.5 ** torch.arange(_POSITION_WAVES)
        known = torch.cat([torch.eye(_AMINO_ACIDS)[aatype], waves.sin(), waves.cos()], dim=1)
        self.single = self._projection(known.shape[1], SINGLE_WIDTH, known) + self._draw(n, SINGLE_WIDTH)
        separation = (torch.arange(n)[None] - torch.arange(n)[:, None]).clamp(-_FARTHEST_NEIGHBOUR, _FARTHEST_NEIGHBOUR)
        of_separation = self._draw(2 * _FARTHEST_NEIGHBOUR + 1, PAIR_WIDTH)
        self._separations = of_separation[separation + _FARTHEST_NEIGHBOUR]
        self._of_distance = self._draw(len(_DISTANCE_CENTRES), PAIR_WIDTH)
        self._of_direction = self._draw(3, PAIR_WIDTH)

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def _projection(self, inputs: int, outputs: int, values: torch.Tensor) -> torch.Tensor:
        return values @ self._draw(inputs, outputs) / inputs**0.5 * 3

    def pair(self, frames: Rigid) -> torch.Tensor:
        """The pair representation of backbone frames (Å), (n, n, 128), with noise of its own at each call."""
        difference = frames.translation[None] - frames.translation[:, None]
        distance = difference.norm(dim=2, keepdim=True)
        direction = torch.matmul(difference, frames.rotation) / distance.clamp(min=1)
        n = len(difference)
        distance = distance + _DISTANCE_NOISE * self._draw(n, n, 1)
        direction = direction + _DIRECTION_NOISE * self._draw(n, n, 3)
        near = torch.exp(-0.5 * ((distance - _DISTANCE_CENTRES) / _DISTANCE_WIDTH) ** 2)
        seen = near @ self._of_distance + direction @ self._of_direction
        return self._separations + seen + _OWN_NOISE * self._draw(n, n, PAIR_WIDTH)
