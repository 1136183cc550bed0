"""Atoms of AlphaFold's structure module, fine-tuned (implements ``cocofold.atoms.AtomSource``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from cocofold.atoms import Stage
from cocofold.network.distillation import Target
from cocofold.network.module import Folded, StructureModule
from cocofold.network.pairs import LowRankPair, Pair, normalise_pair

_TAUGHT = "distil"
_AFTER_TEACHER = 0.1


@dataclass(frozen=True)
class Learned:
    """What of the network is learned, and how fast; a rate of zero leaves it as it is.

    Attributes
    ----------
    weights_rate : float
        Of the structure module's own weights.
    adapter_rate : float
        Of the image adapter and its gate.
    single_rate, pair_rate : float
        Of additions to the single representation and, factorised, to the pair; both start at zero.
    pair_rank : int
    seed : int
        Of the adapter and the factors.
    """

    weights_rate: float = 3e-5
    adapter_rate: float = 3e-4
    single_rate: float = 1e-2
    pair_rate: float = 1e-2
    pair_rank: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Frozen:
    """What the trunk gave for n residues: single (n, 384), pair (n, n, 128), amino acids and mask, (n,)."""

    single: torch.Tensor
    pair: torch.Tensor
    aatype: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Placed:
    """Which atoms make up the model, and where they are put.

    Attributes
    ----------
    residue, slot : (n_atoms,) int
        Row in the network's residues, and column of atom14.
    residues : (n_residues,) int
        Row in the network's residues of each residue of the model.
    rotations : (n_atoms, 3, 3) float
    translations : (n_atoms, 3) float
        ``x_map = rotation @ x + translation``, Å.
    """

    residue: torch.Tensor
    slot: torch.Tensor
    residues: torch.Tensor
    rotations: torch.Tensor
    translations: torch.Tensor


class NetworkSource:
    """The structure module on frozen representations, put into the map by a fixed affine.

    What is learned are additions to the representations, an image adapter behind a gate, and, slowly, the weights. All
    of them start where the module gives AlphaFold's own answer. With a target, the network first learns to give that;
    then images lead, from low to high resolution.

    Parameters
    ----------
    module : StructureModule
        Without adapter.
    frozen : Frozen
    placed : Placed
    learned : Learned
    target : Target, optional
    effort : float
        Factor on the number of steps.
    device
    """

    def __init__(
        self,
        module: StructureModule,
        frozen: Frozen,
        placed: Placed,
        learned: Learned,
        target: Target | None = None,
        effort: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._learned = learned
        if learned.adapter_rate:
            module = module.with_adapter(learned.seed)
        module.options = replace(module.options, rotation_gradient=True)
        self._module = module.to(device)
        self._frozen = Frozen(*(part.to(device) for part in vars(frozen).values()))
        self._pair = normalise_pair(self._frozen.pair)
        self._placed = Placed(*(part.to(device) for part in vars(placed).values()))
        self._target = target
        self._single = torch.zeros_like(self._frozen.single, dtype=torch.float32)
        self._added = LowRankPair(len(frozen.single), learned.pair_rank, learned.seed).to(device)
        self._stages = _stages(target is not None, effort)
        self._stage = 0
        self._at_begin: dict[str, torch.Tensor] = {}

    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""
        return self._stages

    def begin(self, stage: int) -> list[dict]:
        """Go on with what the last stage learned."""
        self._stage = stage
        parameters = self._parameters()
        self._module.requires_grad_(False)
        groups = []
        for kind, rate in self._rates().items():
            of_kind = [values for name, values in parameters.items() if name.startswith(kind + ".")]
            for values in of_kind:
                values.requires_grad_(rate > 0)
            if rate > 0 and of_kind:
                groups.append({"params": of_kind, "lr": rate})
        self._at_begin = {name: values.detach().clone() for name, values in self.state().items()}
        return groups

    def _rates(self) -> dict[str, float]:
        """Rates of this stage; while distilling, only the additions learn."""
        taught = self._stages[self._stage].name == _TAUGHT
        return {
            "single": self._learned.single_rate if taught else self._learned.single_rate * _AFTER_TEACHER,
            "pair": self._learned.pair_rate if taught else self._learned.pair_rate * _AFTER_TEACHER,
            "adapter": 0.0 if taught else self._learned.adapter_rate,
            "weights": 0.0 if taught else self._learned.weights_rate,
        }

    def _parameters(self) -> dict[str, torch.Tensor]:
        """All that can be learned, by kind and name."""
        parameters = {"single.added": self._single}
        parameters.update({f"pair.{name}": values for name, values in self._added.named_parameters()})
        for name, values in self._module.named_parameters():
            head = name.startswith(("confidence.", "aligned_error."))
            if name.startswith("adapter."):
                parameters[name] = values
            elif not head:
                parameters[f"weights.{name}"] = values
        return parameters

    def _fold(self) -> Folded:
        single = self._frozen.single + self._single
        pair = Pair(self._pair.values, self._added) if self._learned.pair_rate else self._pair
        return self._module(single, pair, self._frozen.aatype, self._frozen.mask)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        atoms = self._fold().atom14[self._placed.residue, self._placed.slot]
        return torch.matmul(self._placed.rotations, atoms[..., None])[..., 0] + self._placed.translations

    def confidence(self) -> torch.Tensor:
        """pLDDT of each residue of the model, by AlphaFold's own head."""
        with torch.no_grad():
            return self._fold().plddt[self._placed.residues]

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Distance from the target while distilling."""
        if self._target is None or self._stages[self._stage].name != _TAUGHT:
            return positions.new_zeros(())
        return self._target.loss(positions)

    def take_back(self) -> None:
        """Go back to where the stage began."""
        self._take(self._at_begin)

    def _take(self, state: dict[str, torch.Tensor]) -> None:
        parameters = self._parameters()
        with torch.no_grad():
            for name, values in state.items():
                parameters[name].copy_(values)

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        return {name: values.detach() for name, values in self._parameters().items() if self._is_learned(name)}

    def _is_learned(self, name: str) -> bool:
        rates = vars(self._learned)
        return rates[name.partition(".")[0] + "_rate"] > 0

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        self._take(state)
        return self.begin(stage)


def _stages(taught: bool, effort: float) -> list[Stage]:
    """From low to high resolution; coarse steps first only if there is a way to go without a teacher."""
    table = [(_TAUGHT, 0.0, 110, 0)] if taught else []
    table += [
        ("20 Å", 20.0, 20 if taught else 60, 4),
        ("17 Å", 17.0, 20 if taught else 60, 4),
        ("12.5 Å", 12.5, 30 if taught else 60, 4),
        ("9 Å", 9.0, 30 if taught else 60, 4),
        ("6.7 Å", 6.7, 40 if taught else 60, 4),
        ("all", 0.0, 40 if taught else 60, 4),
    ]
    return [
        Stage(name, max(1, round(effort * steps)), resolution, batches, gaussians_free=name in ("6.7 Å", "all"))
        for name, resolution, steps, batches in table
    ]
