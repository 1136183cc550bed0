"""Comparison of atoms with images in which density that no atom explains is set aside, so that it pulls no atom in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.distributed import Comparison
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient
from cocofold.structure.model import Model

# Points that stand for the density at most; those of least amplitude are left out. One for eight voxels instead of one
# for each, a third of the time, was too coarse: a helix beside a missing domain was drawn 6 Å into it.
MOST_POINTS = 4000
# Factor of the density that is set aside, where the finest resolution compared is not finer than given (Å). At first
# less than all, so that what is elsewhere is still drawn to its place, which is part of that density too; in the end
# more, for what lies below the noise. With 0.7, 0.85 and 1.0 a helix beside a missing domain was still drawn in.
_SHARES = ((17.0, 0.75), (12.0, 1.15), (0.0, 1.4))
# The density is that much finer than what is compared, and never finer than the second number (Å).
_FINER, _FINEST_ANGSTROM = 0.6, 8.0


class SetAsideComparison(Comparison):
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
        self._inner, self._signal, self._model, self._drawn = inner, signal, model, drawn
        self._points = torch.zeros(MOST_POINTS, 3, device=device)
        self._gaussians = AtomGaussians(torch.zeros(MOST_POINTS, device=device), torch.ones(MOST_POINTS, device=device))

    def begin_stage(self, positions: Callable[[], torch.Tensor], finest_angstrom: float) -> None:
        """See ``Comparison``: what the atoms do not explain is found anew."""
        places = positions().detach()
        now = self._model.moved_to(places.cpu().double().numpy()).only(self._drawn)
        points, amplitudes, width = self._signal.unexplained_points(
            now, max(_FINEST_ANGSTROM, _FINER * finest_angstrom)
        )
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

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """See ``Comparison``."""
        self._inner.prefetch(rows, chunk)

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """See ``Comparison``."""
        return self._inner.on_idle_cores()

    def _beside(self, positions: torch.Tensor, gaussians: AtomGaussians) -> tuple[torch.Tensor, AtomGaussians]:
        mine = self._gaussians
        return torch.cat([positions, self._points]), AtomGaussians(
            torch.cat([gaussians.amplitudes, mine.amplitudes]),
            torch.cat([gaussians.widths_angstrom, mine.widths_angstrom]),
        )
