"""A model as fine-tuning has it at one moment: for checkpoints, and for files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cocofold.finetuning.objective import Gaussians
from cocofold.structure import Model

_PREFIX = "best."


@dataclass(frozen=True)
class Answer:
    """Atoms, and how sure a network is of residues.

    Attributes
    ----------
    positions : (n_atoms, 3) float
        Å.
    gaussians : Gaussians
    plddt : (n_residues,) float, optional
    """

    positions: torch.Tensor
    gaussians: Gaussians
    plddt: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        known = {
            "positions": self.positions,
            "amplitudes": self.gaussians.amplitudes,
            "widths": self.gaussians.widths_angstrom,
            "plddt": self.plddt,
        }
        return {
            _PREFIX + name: values.detach().cpu().contiguous() for name, values in known.items() if values is not None
        }

    @classmethod
    def taken_from(cls, tensors: dict[str, torch.Tensor], device: torch.device) -> Answer:
        """From a checkpoint's tensors, out of which it is taken."""
        known = {
            name[len(_PREFIX) :]: tensors.pop(name).to(device) for name in list(tensors) if name.startswith(_PREFIX)
        }
        return cls(known["positions"], Gaussians(known["amplitudes"], known["widths"]), known.get("plddt"))

    def in_files(self, model: Model) -> Written:
        """With the model's names, as files have it."""
        return Written(
            model.moved_to(self.positions.cpu().double().numpy()),
            self.gaussians.amplitudes.detach().cpu().numpy(),
            self.gaussians.widths_angstrom.detach().cpu().numpy(),
            None if self.plddt is None else self.plddt.cpu().double().numpy(),
        )


@dataclass(frozen=True)
class Written:
    """A model, the amplitude and width (Å) of each atom, (n_atoms,), and perhaps pLDDT, (n_residues,)."""

    model: Model
    amplitudes: np.ndarray
    widths_angstrom: np.ndarray
    plddt: np.ndarray | None

    def first_copy(self, subunit: Model) -> Written:
        """Of an assembly the first of its copies, whose names are a subunit's."""
        n_atoms, n_residues = len(subunit), len(subunit.residues)
        return Written(
            subunit.moved_to(self.model.positions[:n_atoms]),
            self.amplitudes[:n_atoms],
            self.widths_angstrom[:n_atoms],
            None if self.plddt is None else self.plddt[:n_residues],
        )

    def without_unsure(self, least_plddt: float | None) -> tuple[Written, int]:
        """Without residues of a pLDDT below a limit, and how many these were."""
        if self.plddt is None or least_plddt is None:
            return self, 0
        kept = self.plddt >= least_plddt
        if kept.all() or not kept.any():
            return self, 0
        atoms = kept[self.model.residue_of_atom]
        model = self.model.only(kept)
        return Written(model, self.amplitudes[atoms], self.widths_angstrom[atoms], self.plddt[kept]), int((~kept).sum())
