"""Rigid motions of residues: rotation and translation, composed and applied."""

from __future__ import annotations

from dataclasses import dataclass

import roma
import torch


@dataclass(frozen=True)
class Rigid:
    """x ↦ R x + t, one or many.

    Attributes
    ----------
    rotation : (..., 3, 3) float
    translation : (..., 3) float
    """

    rotation: torch.Tensor
    translation: torch.Tensor

    @classmethod
    def identity(cls, like: torch.Tensor) -> Rigid:
        """One for each row of ``like``, of its type and device."""
        n = len(like)
        eye = torch.eye(3, dtype=like.dtype, device=like.device)
        return cls(eye.expand(n, 3, 3), torch.zeros(n, 3, dtype=like.dtype, device=like.device))

    @classmethod
    def from_update(cls, update: torch.Tensor) -> Rigid:
        """From b, c, d of the quaternion (1, b, c, d), not normalised, and the translation (Jumper et al., alg. 23).

        Parameters
        ----------
        update : (..., 6) float
        """
        vector, translation = update.split(3, dim=-1)
        # roma has the scalar last.
        quaternion = torch.cat([vector, torch.ones_like(vector[..., :1])], dim=-1)
        return cls(roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1)), translation)

    def compose(self, inner: Rigid) -> Rigid:
        """First ``inner``, then this one."""
        return Rigid(torch.matmul(self.rotation, inner.rotation), self.apply(inner.translation))

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Move points, (..., 3)."""
        return torch.matmul(self.rotation, points[..., None])[..., 0] + self.translation

    def matrix(self) -> torch.Tensor:
        """Rotation and translation side by side, (..., 3, 4)."""
        return torch.cat([self.rotation, self.translation[..., None]], dim=-1)

    def scaled(self, factor: float) -> Rigid:
        """The same motion with lengths in another unit."""
        return Rigid(self.rotation, self.translation * factor)

    def with_fixed_rotation(self) -> Rigid:
        """The same motion, whose rotation takes no gradient back."""
        return Rigid(self.rotation.detach(), self.translation)
