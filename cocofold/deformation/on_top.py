"""A field of rigid motions that moves the atoms of another source further."""

from __future__ import annotations

import roma
import torch

from cocofold.atoms import AtomSource, Stage
from cocofold.deformation.field import BYTES_PER_ATOM, Nodes, move, spread_nodes
from cocofold.structure import Backbone, Model

# Radius of the field (Å) and rate of its shifts (Å a step), by the finest resolution that is compared (Å).
_FIELDS = (
    (20.0, 20.0, 0.30),
    (17.0, 12.0, 0.30),
    (12.5, 8.0, 0.25),
    (8.3, 5.0, 0.20),
    (6.0, 3.5, 0.12),
    (0.0, 2.0, 0.08),
)
_TURN_PER_SHIFT = 0.1
_INNER = "inner."


class FieldOnTop:
    """Atoms of a source under a field of rigid motions, both learned together (``cocofold.atoms.AtomSource``).

    A residue turns about its CA atom and shifts. What the field reached in earlier stages is kept as one motion of each
    residue; the radius of a stage follows its resolution. In a stage that does not ask the images the field rests.

    Parameters
    ----------
    inner : AtomSource
    model : Model
        Of the atoms; all of its residues have a backbone.
    device
    """

    def __init__(self, inner: AtomSource, model: Model, device: torch.device | str = "cpu") -> None:
        self._inner = inner
        self._device = torch.device(device)
        backbone = Backbone.of(model)
        self._alpha = torch.as_tensor(backbone.atoms[:, 1], device=self._device)
        self._carrier = torch.as_tensor(backbone.carrier, device=self._device)
        self._stages = inner.stages()
        count = len(backbone)
        self._reached = {
            "rotations": torch.eye(3, device=self._device).repeat(count, 1, 1),
            "shifts": torch.zeros(count, 3, device=self._device),
            "origins": torch.zeros(count, 3, device=self._device),
        }
        self._nodes: Nodes | None = None
        self._turns = torch.zeros(0, 3)
        self._shifts = torch.zeros(0, 3)

    def stages(self) -> list[Stage]:
        """Stages of the inner source."""
        return self._stages

    def begin(self, stage: int) -> list[dict]:
        """Go on with what the last stage reached, and spread the nodes of this one."""
        with torch.no_grad():
            base = self._inner.positions()[self._alpha]
            rotations, origins = self._frames(base)
            self._reached = {
                "rotations": roma.special_procrustes(rotations),
                "shifts": origins - base,
                "origins": origins,
            }
        return [*self._inner.begin(stage), *self._lay(stage)]

    def _lay(self, stage: int) -> list[dict]:
        """Nodes of a stage, at rest."""
        self._nodes, groups = None, []
        if self._stages[stage].batches:
            _, radius, rate = next(row for row in _FIELDS if row[0] <= self._stages[stage].resolution_angstrom)
            origins = self._reached["origins"].cpu().double().numpy()
            self._nodes = spread_nodes(origins, radius, len(origins)).to(self._device)
            count = len(self._nodes.centres)
            self._turns = torch.zeros(count, 3, device=self._device, requires_grad=True)
            self._shifts = torch.zeros(count, 3, device=self._device, requires_grad=True)
            groups = [
                {"params": [self._shifts], "lr": rate},
                {"params": [self._turns], "lr": rate * _TURN_PER_SHIFT},
            ]
        return groups

    def _frames(self, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotation of each residue, and where its CA atom goes from ``base``, (n_residues, 3)."""
        rotations, origins = self._reached["rotations"], base + self._reached["shifts"]
        if self._nodes is None:
            return rotations, origins
        return move(self._nodes, self._turns, self._shifts, rotations, origins)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        inner = self._inner.positions()
        base = inner[self._alpha]
        rotations, origins = self._frames(base)
        base, rotations, origins = (part.index_select(0, self._carrier) for part in (base, rotations, origins))
        return torch.matmul(rotations, (inner - base)[..., None])[..., 0] + origins

    def bytes_of_pass(self) -> int:
        """The inner source's and the field's."""
        return self._inner.bytes_of_pass() + BYTES_PER_ATOM * len(self._carrier)

    def is_large(self) -> bool:
        """If the inner source is."""
        return self._inner.is_large()

    def confidence(self) -> torch.Tensor | None:
        """The inner source's."""
        return self._inner.confidence()

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """The inner source's, of the positions that are shown."""
        return self._inner.prior(positions)

    def take_back(self) -> None:
        """Go back to where the stage began."""
        self._inner.take_back()
        with torch.no_grad():
            self._turns.zero_()
            self._shifts.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        inner = {_INNER + name: values for name, values in self._inner.state().items()}
        moving = {"field.turns": self._turns.detach(), "field.shifts": self._shifts.detach()}
        return {**inner, **self._reached, **moving}

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        inner = {name[len(_INNER) :]: values for name, values in state.items() if name.startswith(_INNER)}
        self._reached = {name: state[name].to(self._device) for name in self._reached}
        groups = [*self._inner.restore(stage, inner), *self._lay(stage)]
        if self._nodes is not None:
            with torch.no_grad():
                self._turns.copy_(state["field.turns"])
                self._shifts.copy_(state["field.shifts"])
        return groups
