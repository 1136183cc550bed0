"""Candidate placements of a model, and which of them are the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cocofold.placement.rotations import angles_between

# Of no symmetry: copies that lie equally far along it are rare.
_ALONG = np.array([0.73, 0.53, 0.43])


@dataclass(frozen=True)
class Motions:
    """Rigid motions ``x ↦ R x + c`` of a model whose centroid is at zero, with their scores.

    Attributes
    ----------
    rotations : (n, 3, 3) float64
    centres : (n, 3) float64
        Å, where the centroid goes.
    scores : (n,) float64
    """

    rotations: np.ndarray
    centres: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray | slice) -> Motions:
        return Motions(self.rotations[rows], self.centres[rows], self.scores[rows])

    @classmethod
    def in_turn(cls, parts: list[Motions]) -> Motions:
        """All of them in the order given."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    @classmethod
    def joined(cls, parts: list[Motions]) -> Motions:
        """All of them, best first."""
        whole = cls.in_turn(parts)
        return whole[np.argsort(-whole.scores, kind="stable")]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points under each of the motions, (n, n_points, 3)."""
        return np.einsum("mij,pj->mpi", self.rotations, points) + self.centres[:, None]

    def folded(self, group: np.ndarray, centre: np.ndarray) -> Motions:
        """Each replaced by that of its symmetric copies which lies farthest along one direction, so that copies meet.

        Parameters
        ----------
        group : (c, 3, 3) float
            Rotations of a point group.
        centre : (3,) float
            Å, about which they turn.
        """
        arms = np.einsum("gij,mj->mgi", group, self.centres - centre)
        chosen = group[(arms @ _ALONG).argmax(1)]
        centres = np.einsum("mij,mj->mi", chosen, self.centres - centre) + centre
        return Motions(chosen @ self.rotations, centres, self.scores)

    def distinct(self, most: int, angle_deg: float, distance_angstrom: float) -> Motions:
        """The best, each more than an angle or a distance from all better ones; at most so many."""
        order = np.argsort(-self.scores, kind="stable")
        kept: list[int] = []
        for row in order:
            if kept:
                near = np.linalg.norm(self.centres[kept] - self.centres[row], axis=1) < distance_angstrom
                alike = angles_between(self.rotations[kept], self.rotations[row : row + 1])[:, 0] < angle_deg
                if (near & alike).any():
                    continue
            kept.append(row)
            if len(kept) == most:
                break
        return self[np.array(kept, dtype=int)]
