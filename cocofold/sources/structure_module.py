"""Atoms of AlphaFold's structure module while it is fine-tuned, and a model that it first learns to give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from cocofold.alphafold.invariant_attention import ImageAdapter
from cocofold.alphafold.pair_representation import PairRepresentation, SegmentPairAddition, split_into_segments
from cocofold.alphafold.structure_network import StructureModule, StructureModuleOutput
from cocofold.sources.base import AtomSource, ParameterGroup, Stage

# Name of the stage in which the network learns a target's positions; it stands in the log.
_DISTILLATION_STAGE = "distil"
# Number of its steps: fewer leave the network short of the target, more cost time before the images lead.
_DISTILLATION_STEPS = 110
# After distillation the images go on at this share of the rates: at the full rates the network would leave at once what
# it has just learned.
_RATE_FACTOR_AFTER_DISTILLATION = 0.1
# Steps in which rates rise from zero, since Adam's first steps are as long as its rates whatever the gradient.
_WARM_UP_STEPS = 10
# Norm to which gradients are cut: a single batch of noisy images then cannot throw the fold apart.
_MAX_GRADIENT_NORM = 1.0
# Seeds of different runs stay apart by more than any number of steps.
_DRAWS_PER_SEED = 1_000_003
_DROPOUT_DRAWS_KEY = "dropout.draws"
# Memory of a forward and backward pass, fitted to measurements with 100 to 1,200 residues (within 10 %).
_BYTES, _BYTES_PER_RESIDUE, _BYTES_PER_RESIDUE_AND_SEGMENT, _BYTES_PER_PAIR = 150_000_000, 371_000, 1000, 125


@dataclass(frozen=True)
class TrainingRates:
    """What of the network is learned, and how fast; a rate of zero leaves it as it is.

    Attributes
    ----------
    weights_rate : float
        Rate of the structure module's own weights.
    adapter_rate : float
        Rate of the image adapter and its gate.
    single_rate, pair_rate : float
        Rates of additions to the single and pair representations, which start at zero.
    distil_rate : float
        Rate of the additions while they learn a teacher's model; the images then go on at a tenth of the other rates.
    pair_segments : int
        Largest number of segments of the chains; the addition to the pair is the same for all residues of two segments.
    gated : bool
        Whether the adapter starts behind a gate that is closed, so that it changes nothing at first.
    dropout : float
        Share of activations that are dropped in the steps of training.
    seed : int
        Seed of the adapter and of what is dropped.
    """

    weights_rate: float = 3e-5
    adapter_rate: float = 3e-4
    single_rate: float = 3e-3
    pair_rate: float = 3e-3
    distil_rate: float = 1e-2
    pair_segments: int = 256
    gated: bool = True
    dropout: float = 0.0
    seed: int = 0

    def by_kind(self) -> dict[str, float]:
        """Rate of each kind of parameter; kinds are the first parts of the names in a source's state."""
        return {
            "single": self.single_rate,
            "pair": self.pair_rate,
            "adapter": self.adapter_rate,
            "weights": self.weights_rate,
        }


@dataclass(frozen=True)
class Schedule:
    """Length of the training, and whether it goes from low to high resolution.

    Attributes
    ----------
    effort : float
        Factor on the number of steps.
    epochs : int, optional
        Passes over the particles, with all rings and amplitudes and widths from the first step on, as in the paper;
        None: from low to high resolution.
    """

    effort: float = 1.0
    epochs: int | None = None


@dataclass(frozen=True)
class TrunkOutput:
    """Output of AlphaFold's trunk for n residues.

    Attributes
    ----------
    single : (n, 384) float
    pair : PairRepresentation
        From ``normalise_pair``, on the device of the source.
    aatype : (n,) int
    mask : (n,) bool
    chain : (n,) int
        Number of each residue's chain.
    """

    single: torch.Tensor
    pair: PairRepresentation
    aatype: torch.Tensor
    mask: torch.Tensor
    chain: torch.Tensor


@dataclass(frozen=True)
class AtomPlacement:
    """Which atoms of the network make up the model, and the rigid motions that put them into the map.

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

    def to(self, device: torch.device | str) -> AtomPlacement:
        """The same placement on another device."""
        return AtomPlacement(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class StructureModuleSource(AtomSource):
    """Atoms of AlphaFold's structure module, which is trained while the trunk's representations stay as they are.

    Additions to the representations, an image adapter and, slowly, the module's weights are learned. Before the first
    step the module gives AlphaFold's own answer, put into the map by fixed rigid motions. With a target, the network
    first learns to give that; then the images lead, from low to high resolution.

    Parameters
    ----------
    module : StructureModule
        Without adapter.
    frozen : TrunkOutput
    placed : AtomPlacement
    learned : TrainingRates
    target : DistillationTarget, optional
    course : Schedule
    device
    """

    def __init__(
        self,
        module: StructureModule,
        frozen: TrunkOutput,
        placed: AtomPlacement,
        learned: TrainingRates,
        target: DistillationTarget | None = None,
        course: Schedule = Schedule(),
        device: torch.device | str = "cpu",
    ) -> None:
        self._training = learned
        module.options = replace(module.options, rotation_gradient=True, dropout=learned.dropout)
        self._module = module.to(device).eval()
        self._adapter = ImageAdapter(learned.seed, learned.gated).to(device) if learned.adapter_rate else None
        self._pair = frozen.pair
        self._single, self._aatype, self._mask = (
            values.to(device) for values in (frozen.single.float(), frozen.aatype, frozen.mask)
        )
        self._placement = placed.to(device)
        self._target = target
        self._added_single = torch.zeros_like(self._single)
        self._added_pair = SegmentPairAddition(split_into_segments(frozen.chain, learned.pair_segments)).to(device)
        self._stages = _stages(target is not None, course)
        self._stage = 0
        self._draws = 0
        self._stage_start_state: dict[str, torch.Tensor] = {}

    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""
        return self._stages

    def begin_stage(self, stage: int) -> list[ParameterGroup]:
        """Go on with what the last stage learned."""
        self._stage = stage
        self._module.adapter = self._adapter
        parameters = self._parameters()
        self._module.requires_grad_(False)
        groups: list[ParameterGroup] = []
        for kind, rate in self._rates().items():
            of_kind = [values for name, values in parameters.items() if name.startswith(kind + ".")]
            for values in of_kind:
                values.requires_grad_(rate > 0)
            if rate > 0 and of_kind:
                groups.append({"params": of_kind, "lr": rate})
        self._stage_start_state = self.state()
        return groups

    def _rates(self) -> dict[str, float]:
        """Rates of this stage; while distilling, only the additions learn."""
        learned = self._training
        rates = learned.by_kind()
        if self._is_distilling():
            distilling = {"single": learned.distil_rate, "pair": learned.distil_rate}
            return {kind: distilling.get(kind, 0.0) if rate else 0.0 for kind, rate in rates.items()}
        return {
            kind: rate * (1.0 if self._target is None else _RATE_FACTOR_AFTER_DISTILLATION)
            for kind, rate in rates.items()
        }

    def _is_distilling(self) -> bool:
        return self._target is not None and self._stages[self._stage].name == _DISTILLATION_STAGE

    def _parameters(self) -> dict[str, torch.Tensor]:
        """All that can be learned, by kind and name."""
        parameters = {"single.added": self._added_single}
        parameters.update({f"pair.{name}": values for name, values in self._added_pair.named_parameters()})
        if self._adapter is not None:
            parameters.update({f"adapter.{name}": values for name, values in self._adapter.named_parameters()})
        for name, values in self._module.named_parameters():
            if not name.startswith(("adapter.", "confidence.", "aligned_error.")):
                parameters[f"weights.{name}"] = values
        return parameters

    def _fold(self) -> StructureModuleOutput:
        single = self._single + self._added_single
        pair = replace(self._pair, added=self._added_pair) if self._training.pair_rate else self._pair
        return self._module(single, pair, self._aatype, self._mask)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable; activations are dropped where gradients are taken."""
        with self._dropout_active() if torch.is_grad_enabled() and self._training.dropout else contextlib.nullcontext():
            atoms = self._fold().atom14[self._placement.residue, self._placement.slot]
        return torch.matmul(self._placement.rotations, atoms[..., None])[..., 0] + self._placement.translations

    @contextlib.contextmanager
    def _dropout_active(self) -> Iterator[None]:
        """Drop activations, others at each call, the same ones in a run that is resumed."""
        device = self._single.device
        gpu: dict = {"devices": []} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
        self._module.train()
        try:
            with torch.random.fork_rng(**gpu):
                torch.manual_seed(self._training.seed * _DRAWS_PER_SEED + self._draws)
                yield
        finally:
            self._module.eval()
        self._draws += 1

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``; measured for 100 to 1,200 residues, within 10 %; 100 MB more for larger blocks."""
        n = len(self._single)
        segments = len(self._added_pair.values) if self._training.pair_rate else 0
        # Gradient and two moments of each value.
        learned = 3 * sum(values.nbytes for name, values in self._parameters().items() if self._is_trained(name))
        passed = _BYTES + n * (_BYTES_PER_RESIDUE + segments * _BYTES_PER_RESIDUE_AND_SEGMENT) + n * n * _BYTES_PER_PAIR
        return learned + passed

    def uses_all_cores(self) -> bool:
        """A pass through the network takes long."""
        return True

    def confidence(self) -> torch.Tensor:
        """pLDDT of each residue of the model, by AlphaFold's own head."""
        with torch.no_grad():
            return self._fold().plddt[self._placement.residues]

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Loss of the target while the network learns it; else 0."""
        if self._target is None or not self._is_distilling():
            return super().prior(positions)
        return self._target.loss(positions)

    def revert_stage(self) -> None:
        """Go back to where the stage began, or to what was restored last."""
        self._load_state(self._stage_start_state)

    def _load_state(self, state: dict[str, torch.Tensor]) -> None:
        parameters = self._parameters()
        with torch.no_grad():
            for name, values in state.items():
                if name == _DROPOUT_DRAWS_KEY:
                    self._draws = int(values)
                else:
                    parameters[name].copy_(values)

    def state(self) -> dict[str, torch.Tensor]:
        """See ``AtomSource``."""
        learned = {
            name: values.detach().clone() for name, values in self._parameters().items() if self._is_trained(name)
        }
        return {**learned, _DROPOUT_DRAWS_KEY: torch.tensor(self._draws)}

    def _is_trained(self, name: str) -> bool:
        return self._training.by_kind()[name.partition(".")[0]] > 0

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[ParameterGroup]:
        """See ``AtomSource``."""
        self._load_state(state)
        return self.begin_stage(stage)

    def describe(self) -> str:
        """See ``AtomSource``."""
        names = {
            "weights": "its weights",
            "adapter": "an image adapter",
            "single": "an addition to the single representation",
            "pair": "an addition to the pair representation",
        }
        rates = self._training.by_kind()
        trained = [name for kind, name in names.items() if rates[kind] > 0]
        first = " The network first learned the positions of a given model." if self._target is not None else ""
        return f"Of AlphaFold-Multimer's structure module these were trained: {', '.join(trained) or 'nothing'}.{first}"


def _stages(taught: bool, course: Schedule) -> list[Stage]:
    """Stages from low to high resolution, more of them without a teacher; or one of all rings for some epochs."""
    if course.epochs is not None:
        return [Stage("images", 0, 0.0, trains_gaussians=True, epochs=course.epochs)]
    # Name, finest resolution (Å; 0: all rings) and steps. A step compares four batches, since a pass through the
    # network costs more than one batch. Amplitudes and widths follow the images only at the two finest stages: freed
    # earlier they fade out what is misplaced. A taught network starts near the answer and needs no coarse stages.
    table = [("6.7 Å", 6.7, 40), ("all", 0.0, 60)]
    if not taught:
        table = [("20 Å", 20.0, 50), ("17 Å", 17.0, 40), ("12.5 Å", 12.5, 60), ("9 Å", 9.0, 60), *table]
    stages = [
        Stage(name, steps, resolution, batches=4, trains_gaussians=resolution < 8) for name, resolution, steps in table
    ]
    if taught:
        stages.insert(0, Stage(_DISTILLATION_STAGE, _DISTILLATION_STEPS, 0.0, batches=0))
    careful: dict[str, Any] = {"warm_up_steps": _WARM_UP_STEPS, "max_gradient_norm": _MAX_GRADIENT_NORM}
    return [replace(stage, steps=max(1, round(course.effort * stage.steps)), **careful) for stage in stages]


# Largest frame-aligned error that counts, Å; Jumper et al., alg. 28.
_CLAMP_ANGSTROM = 10.0
# Added to squared lengths, Å²: the gradient of a length is not defined at zero. It is a length of 0.001 Å.
_LEAST_SQUARED_LENGTH = 1e-6


class DistillationTarget:
    """A model that the network is to learn.

    The loss is the sum of half the frame-aligned point error of CA atoms (Jumper et al., alg. 28, clamped at 10 Å and
    divided by that), half the mean deviation of CA distances and half the mean distance of all atoms from the target's
    (both in Å).

    Parameters
    ----------
    backbone : (n, 3) int
        Rows of N, CA and C of each residue.
    positions : (n_atoms, 3) float
        The model's, Å, in the map.
    """

    def __init__(self, backbone: torch.Tensor, positions: torch.Tensor) -> None:
        self._backbone = backbone
        self._positions = positions
        self._local = _local_ca_positions(positions[backbone])
        self._distances = _alpha_distances(positions[backbone])

    def loss(self, positions: torch.Tensor) -> torch.Tensor:
        """Loss of all atoms at ``positions``, (n_atoms, 3) Å; differentiable."""
        backbone = positions[self._backbone]
        error = _length(_local_ca_positions(backbone) - self._local).clamp_max(_CLAMP_ANGSTROM) / _CLAMP_ANGSTROM
        distances = (_alpha_distances(backbone) - self._distances).abs()
        in_place = _length(positions - self._positions)
        return 0.5 * (error.mean() + distances.mean() + in_place.mean())


def _length(difference: torch.Tensor) -> torch.Tensor:
    return torch.sqrt((difference**2).sum(-1) + _LEAST_SQUARED_LENGTH)


def _local_ca_positions(backbone: torch.Tensor) -> torch.Tensor:
    """CA atoms in the frames of all residues, (n, n, 3); ``backbone`` is (n, 3, 3): N, CA, C."""
    nitrogen, alpha, carbon = backbone.unbind(1)
    # The axes of structure.geometry.axes_from_directions, differentiable, with lengths kept off zero
    x = torch.nn.functional.normalize(carbon - alpha, dim=1)
    y = nitrogen - alpha
    y = torch.nn.functional.normalize(y - (y * x).sum(1, keepdim=True) * x, dim=1)
    axes = torch.stack([x, y, torch.linalg.cross(x, y)], dim=2)
    return torch.matmul(alpha[None] - alpha[:, None], axes)


def _alpha_distances(backbone: torch.Tensor) -> torch.Tensor:
    alpha = backbone[:, 1]
    return _length(alpha[None] - alpha[:, None])
