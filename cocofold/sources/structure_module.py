"""Atoms of AlphaFold's structure module, fine-tuned (implements ``cocofold.sources.base.AtomSource``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cocofold.alphafold.attention import ImageAdapter
from cocofold.alphafold.pair_representation import PairRepresentation, SegmentPairAddition, split_into_segments
from cocofold.alphafold.structure_network import StructureModule, StructureModuleOutput
from cocofold.sources.base import Stage

_DISTILLATION_STAGE = "distil"
_RATE_FACTOR_AFTER_DISTILLATION = 0.1
_WARM_UP_STEPS = 10
_MAX_GRADIENT_NORM = 1.0
_DROPOUT_DRAWS_KEY = "dropout.draws"
_BYTES, _BYTES_PER_RESIDUE, _BYTES_PER_RESIDUE_AND_SEGMENT, _BYTES_PER_PAIR = 150_000_000, 371_000, 1000, 125


@dataclass(frozen=True)
class TrainingRates:
    """What of the network is learned, and how fast; a rate of zero leaves it as it is.

    Attributes
    ----------
    weights_rate : float
        Of the structure module's own weights.
    adapter_rate : float
        Of the image adapter and its gate.
    single_rate, pair_rate : float
        Of additions to the single and pair representations, which start at zero.
    distil_rate : float
        Of the additions while they learn a teacher's model; the images then go on at a tenth of the other rates.
    pair_segments : int
        The addition to the pair is the same for all residues of two segments of the chains, of which there are so many
        at most.
    gated : bool
        Whether the adapter starts behind a gate that is closed, so that it changes nothing at first.
    dropout : float
        Share of activations that are dropped in the steps of training.
    seed : int
        Of the adapter and of what is dropped.
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


@dataclass(frozen=True)
class Schedule:
    """How the training goes.

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
    """What the trunk gave for n residues.

    Attributes
    ----------
    single : (n, 384) float
    pair : PairRepresentation
        From ``normalise_pair``, where it is to be.
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


class StructureModuleSource:
    """The structure module on frozen representations, put into the map by a fixed affine.

    What is learned are additions to the representations, an image adapter, and, slowly, the weights. Before the first
    step the module gives AlphaFold's own answer. With a target, the network first learns to give that; then images
    lead, from low to high resolution.

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
        self._learned = learned
        module.options = replace(module.options, rotation_gradient=True, dropout=learned.dropout)
        self._module = module.to(device).eval()
        self._adapter = ImageAdapter(learned.seed, learned.gated).to(device) if learned.adapter_rate else None
        self._pair = frozen.pair
        self._single, self._aatype, self._mask = (
            values.to(device) for values in (frozen.single.float(), frozen.aatype, frozen.mask)
        )
        self._placed = AtomPlacement(*(part.to(device) for part in vars(placed).values()))
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

    def begin(self, stage: int) -> list[dict]:
        """Go on with what the last stage learned."""
        self._stage = stage
        self._module.adapter = self._adapter
        parameters = self._parameters()
        self._module.requires_grad_(False)
        groups = []
        for kind, rate in self._rates().items():
            of_kind = [values for name, values in parameters.items() if name.startswith(kind + ".")]
            for values in of_kind:
                values.requires_grad_(rate > 0)
            if rate > 0 and of_kind:
                groups.append({"params": of_kind, "lr": rate})
        self._stage_start_state = {name: values.detach().clone() for name, values in self.state().items()}
        return groups

    def _rates(self) -> dict[str, float]:
        """Rates of this stage; while distilling, only the additions learn."""
        learned = self._learned
        rates = {kind: getattr(learned, kind + "_rate") for kind in ("single", "pair", "adapter", "weights")}
        if self._stages[self._stage].name == _DISTILLATION_STAGE:
            distilling = {"single": learned.distil_rate, "pair": learned.distil_rate}
            return {kind: distilling.get(kind, 0.0) if rate else 0.0 for kind, rate in rates.items()}
        return {
            kind: rate * (1.0 if self._target is None else _RATE_FACTOR_AFTER_DISTILLATION)
            for kind, rate in rates.items()
        }

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
        pair = replace(self._pair, added=self._added_pair) if self._learned.pair_rate else self._pair
        return self._module(single, pair, self._aatype, self._mask)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable; activations are dropped where gradients are taken."""
        with self._dropout_active() if torch.is_grad_enabled() and self._learned.dropout else contextlib.nullcontext():
            atoms = self._fold().atom14[self._placed.residue, self._placed.slot]
        return torch.matmul(self._placed.rotations, atoms[..., None])[..., 0] + self._placed.translations

    @contextlib.contextmanager
    def _dropout_active(self) -> Iterator[None]:
        """Drop activations, others at each call, the same ones in a run that is resumed."""
        devices = [self._single.device] if self._single.is_cuda else []
        self._module.train()
        try:
            with torch.random.fork_rng(devices):
                torch.manual_seed(self._learned.seed * 1_000_003 + self._draws)
                yield
        finally:
            self._module.eval()
        self._draws += 1

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``; measured for 100 to 1,200 residues, within 10 %; 100 MB more for larger blocks."""
        n = len(self._single)
        segments = len(self._added_pair.values) if self._learned.pair_rate else 0
        # Gradient and two moments of each value.
        learned = 3 * sum(values.nbytes for name, values in self._parameters().items() if self._is_trained(name))
        passed = _BYTES + n * (_BYTES_PER_RESIDUE + segments * _BYTES_PER_RESIDUE_AND_SEGMENT) + n * n * _BYTES_PER_PAIR
        return learned + passed

    def uses_all_cores(self) -> bool:
        """A network is."""
        return True

    def confidence(self) -> torch.Tensor:
        """pLDDT of each residue of the model, by AlphaFold's own head."""
        with torch.no_grad():
            return self._fold().plddt[self._placed.residues]

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Distance from the target while distilling."""
        if self._target is None or self._stages[self._stage].name != _DISTILLATION_STAGE:
            return positions.new_zeros(())
        return self._target.loss(positions)

    def revert_stage(self) -> None:
        """Go back to where the stage began."""
        self._take(self._stage_start_state)

    def _take(self, state: dict[str, torch.Tensor]) -> None:
        parameters = self._parameters()
        with torch.no_grad():
            for name, values in state.items():
                if name == _DROPOUT_DRAWS_KEY:
                    self._draws = int(values)
                else:
                    parameters[name].copy_(values)

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        learned = {name: values.detach() for name, values in self._parameters().items() if self._is_trained(name)}
        return {**learned, _DROPOUT_DRAWS_KEY: torch.tensor(self._draws)}

    def _is_trained(self, name: str) -> bool:
        rates = vars(self._learned)
        return rates[name.partition(".")[0] + "_rate"] > 0

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        self._take(state)
        return self.begin(stage)


def _stages(taught: bool, course: Schedule) -> list[Stage]:
    """From low to high resolution, longer if there is no teacher; or all that the images say, for some epochs."""
    if course.epochs is not None:
        return [Stage("images", 0, 0.0, trains_gaussians=True, epochs=course.epochs)]
    table = [("6.7 Å", 6.7, 40), ("all", 0.0, 60)]
    if not taught:
        table = [("20 Å", 20.0, 50), ("17 Å", 17.0, 40), ("12.5 Å", 12.5, 60), ("9 Å", 9.0, 60), *table]
    stages = [
        Stage(name, steps, resolution, batches=4, trains_gaussians=resolution < 8) for name, resolution, steps in table
    ]
    if taught:
        stages.insert(0, Stage(_DISTILLATION_STAGE, 110, 0.0, batches=0))
    return [
        replace(
            stage,
            steps=max(1, round(course.effort * stage.steps)),
            warm_up_steps=_WARM_UP_STEPS,
            max_gradient_norm=_MAX_GRADIENT_NORM,
        )
        for stage in stages
    ]


_CLAMP_ANGSTROM = 10.0
_LEAST_SQUARED_LENGTH = 1e-6


class DistillationTarget:
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
        self._local = _local_ca_positions(positions[backbone])
        self._distances = _alpha_distances(positions[backbone])

    def loss(self, positions: torch.Tensor) -> torch.Tensor:
        """Of all atoms at ``positions``, (n_atoms, 3) Å; differentiable."""
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
