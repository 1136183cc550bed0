"""How far atoms are from those of a teacher's model: what a network is to learn first."""

from __future__ import annotations

import torch

_CLAMP_ANGSTROM = 10.0
_TINY = 1e-6


class Target:
    """A model to be learned.

    The loss is half the frame-aligned point error of CA atoms (Jumper et al., alg. 28, clamped at 10 Å and divided by
    that), half the mean deviation of CA distances, and half that of all atoms in place, both in Å.

    Parameters
    ----------
    backbone : (n, 3) int
        Rows of N, CA and C of each residue.
    positions : (n_atoms, 3) float
        The teacher's, Å, in the map.
    """

    def __init__(self, backbone: torch.Tensor, positions: torch.Tensor) -> None:
        self._backbone = backbone
        self._positions = positions
        self._local = _seen_from(positions[backbone])
        self._distances = _alpha_distances(positions[backbone])

    def loss(self, positions: torch.Tensor) -> torch.Tensor:
        """Of all atoms at ``positions``, (n_atoms, 3) Å; differentiable."""
        backbone = positions[self._backbone]
        error = _length(_seen_from(backbone) - self._local).clamp_max(_CLAMP_ANGSTROM) / _CLAMP_ANGSTROM
        distances = (_alpha_distances(backbone) - self._distances).abs()
        in_place = _length(positions - self._positions)
        return 0.5 * (error.mean() + distances.mean() + in_place.mean())


def _length(difference: torch.Tensor) -> torch.Tensor:
    return torch.sqrt((difference**2).sum(-1) + _TINY)


def _seen_from(backbone: torch.Tensor) -> torch.Tensor:
    """CA atoms in the frames of all residues, (n, n, 3); ``backbone`` is (n, 3, 3): N, CA, C."""
    nitrogen, alpha, carbon = backbone.unbind(1)
    x = torch.nn.functional.normalize(carbon - alpha, dim=1)
    y = nitrogen - alpha
    y = torch.nn.functional.normalize(y - (y * x).sum(1, keepdim=True) * x, dim=1)
    axes = torch.stack([x, y, torch.linalg.cross(x, y)], dim=2)
    return torch.matmul(alpha[None] - alpha[:, None], axes)


def _alpha_distances(backbone: torch.Tensor) -> torch.Tensor:
    alpha = backbone[:, 1]
    return _length(alpha[None] - alpha[:, None])
