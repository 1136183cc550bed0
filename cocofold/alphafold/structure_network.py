"""AlphaFold-Multimer's structure module: atoms from the single and pair representations, and their confidence.

Attributes of the modules are keys of checkpoints; ``weight_layout`` says which of AlphaFold's arrays each one is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cocofold.alphafold.invariant_attention import (
    ImageAdapter,
    InvariantPointAttention,
    Rigid,
    TorsionHead,
    build_atoms,
)
from cocofold.alphafold.pair_representation import PairRepresentation, SharedBias, normalise_pair
from cocofold.alphafold.sequences import UNKNOWN_RESIDUE
from cocofold.alphafold.weight_layout import (
    ERROR_BINS,
    HIDDEN_WIDTH,
    LDDT_BINS,
    PAIR_WIDTH,
    SINGLE_WIDTH,
    TRANSITION_LAYERS,
)
from cocofold.system.errors import InputError

ITERATIONS = 8
"""Iterations with the same weights (``num_layer`` of the structure module in AlphaFold's config.py)."""

LENGTH_UNIT_ANGSTROM = 20.0
"""Unit of the network's own lengths (``position_scale`` of AlphaFold-Multimer; the monomer models have 10)."""


@dataclass(frozen=True)
class FoldingOptions:
    """Options of the structure module in training.

    Attributes
    ----------
    rotation_gradient : bool
        Whether the gradient passes through rotations from one iteration to the one before. AlphaFold stops it.
    dropout : float
        Share of activations that each iteration sets to zero in training mode; AlphaFold trained with 0.1.
    """

    rotation_gradient: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class StructureModuleOutput:
    """Output of the structure module for n residues.

    Attributes
    ----------
    atom14 : (n, 14, 3) float
        Å; zero where there is no atom.
    atom14_mask : (n, 14) bool
        Atoms that the amino acid has, none where the residue is masked. ``ATOM14_NAMES`` has their names.
    frames : (n, 3, 4) float
        Rotation and translation (Å) of each backbone.
    trajectory : (8, n, 3, 4) float
        The frames after each iteration.
    group_frames : (n, 8, 3, 4) float
        Frames of all rigid groups, Å.
    torsions : (n, 7, 2) float
        Sine and cosine of ω, φ, ψ, χ1 to χ4.
    act : (n, 384) float
        Activations after the last iteration.
    plddt : (n,) float
        Predicted lDDT-Cα, from 0 to 100.
    """

    atom14: torch.Tensor
    atom14_mask: torch.Tensor
    frames: torch.Tensor
    trajectory: torch.Tensor
    group_frames: torch.Tensor
    torsions: torch.Tensor
    act: torch.Tensor
    plddt: torch.Tensor


class Transition(nn.Module):
    """Three layers with a residual connection, and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SINGLE_WIDTH, SINGLE_WIDTH) for _ in range(TRANSITION_LAYERS))
        self.norm = ReproducibleLayerNorm(SINGLE_WIDTH)

    def forward(self, act: torch.Tensor, dropout: float) -> torch.Tensor:
        """New activations, (n, 384)."""
        first, second, third = self.layers
        update = third(second(first(act).relu()).relu())
        # The caller passes 0 outside training, so that a positive rate alone switches dropout on.
        return self.norm(nn.functional.dropout(act + update, dropout, training=dropout > 0))


class StructureModule(nn.Module):
    """Eight iterations with the same weights, from single and pair representations to atoms and their confidence.

    Jumper et al., Nature 596, 583 (2021), alg. 20, as in AlphaFold-Multimer v2.3. Weights are initialised by torch;
    ``load_structure_module`` gives a module with AlphaFold's.

    Parameters
    ----------
    options : FoldingOptions
    """

    def __init__(self, options: FoldingOptions = FoldingOptions()) -> None:
        super().__init__()
        self.options = options
        self.single_norm = ReproducibleLayerNorm(SINGLE_WIDTH)
        self.initial = nn.Linear(SINGLE_WIDTH, SINGLE_WIDTH)
        self.attention = InvariantPointAttention()
        self.attention_norm = ReproducibleLayerNorm(SINGLE_WIDTH)
        self.transition = Transition()
        self.update = nn.Linear(SINGLE_WIDTH, 6)
        self.torsions = TorsionHead()
        self.confidence = ConfidenceHead()
        self.aligned_error = AlignedErrorHead()
        self.adapter: ImageAdapter | None = None

    def with_adapter(self, seed: int = 0, gated: bool = True) -> StructureModule:
        """Attach a new image adapter, and return this module.

        Parameters
        ----------
        seed : int
        gated : bool
            Whether a gate that starts at zero multiplies the adapter's part, so that the module still gives AlphaFold's
            answer. The paper has no gate.
        """
        self.adapter = ImageAdapter(seed, gated).to(self.initial.weight)
        return self

    def forward(
        self,
        single: torch.Tensor,
        pair: torch.Tensor | PairRepresentation,
        aatype: torch.Tensor,
        mask: torch.Tensor,
    ) -> StructureModuleOutput:
        """Atoms, frames and confidence.

        Parameters
        ----------
        single : (n, 384) float
        pair : (n, n, 128) float, or PairRepresentation
            The trunk's pair representation, or the result of ``normalise_pair``, made once for many calls, with a
            learned addition if wanted. A tensor gets a gradient only if it requires one.
        aatype : (n,) int
            AlphaFold's numbers of amino acids, 20 for unknown.
        mask : (n,) float or bool
            Residues that are modelled. The others are not attended to, and their results have no meaning.

        Raises
        ------
        InputError
            If shapes do not fit together, or ``aatype`` has other numbers.
        """
        _check_inputs(single, pair, aatype, mask)
        weight = self.initial.weight
        mask, aatype = mask.to(weight.dtype), aatype.long()
        if isinstance(pair, torch.Tensor):
            pair = normalise_pair(pair, weight.dtype)
        initial = self.single_norm(single.to(weight.dtype))
        act, trajectory = self._iterate(self.initial(initial), mask, pair)
        frames = trajectory[-1].scaled(LENGTH_UNIT_ANGSTROM)
        torsions = self.torsions(act, initial)
        atoms = build_atoms(aatype, frames, torsions)
        return StructureModuleOutput(
            atom14=atoms.positions,
            atom14_mask=atoms.exist & (mask > 0)[:, None],
            frames=frames.matrix(),
            trajectory=torch.stack([step.scaled(LENGTH_UNIT_ANGSTROM).matrix() for step in trajectory]),
            group_frames=atoms.group_frames,
            torsions=torsions,
            act=act,
            plddt=self.confidence(act),
        )

    def _iterate(
        self, act: torch.Tensor, mask: torch.Tensor, pair: PairRepresentation
    ) -> tuple[torch.Tensor, list[Rigid]]:
        """Activations after the last iteration, and frames after each, in units of 20 Å."""
        pair_logits = self.attention.pair_logits(pair)
        frames, trajectory = Rigid.identity(act), []
        for _ in range(ITERATIONS):
            act, frames = self._iteration(act, frames, mask, pair, pair_logits)
            trajectory.append(frames)
            if not self.options.rotation_gradient:
                frames = frames.with_detached_rotation()
        return act, trajectory

    def _iteration(
        self, act: torch.Tensor, frames: Rigid, mask: torch.Tensor, pair: PairRepresentation, pair_logits: SharedBias
    ) -> tuple[torch.Tensor, Rigid]:
        dropout = self.options.dropout if self.training else 0.0
        attended = self.attention(act, frames, mask, pair, pair_logits, self.adapter)
        act = self.attention_norm(nn.functional.dropout(act + attended, dropout, training=dropout > 0))
        act = self.transition(act, dropout)
        return act, frames.compose(Rigid.from_update(self.update(act)))


def _check_inputs(
    single: torch.Tensor, pair: torch.Tensor | PairRepresentation, aatype: torch.Tensor, mask: torch.Tensor
) -> None:
    """Refuse inputs that do not fit together.

    Raises
    ------
    InputError
    """
    n = len(single)
    needed = {"single": (single, (n, SINGLE_WIDTH)), "aatype": (aatype, (n,)), "mask": (mask, (n,))}
    if isinstance(pair, torch.Tensor):
        needed["pair"] = (pair, (n, n, PAIR_WIDTH))
    for name, (tensor, shape) in needed.items():
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name}: its shape is {tuple(tensor.shape)}; for {n} residues it must be {shape}")
    if n == 0 or bool(((aatype < 0) | (aatype > UNKNOWN_RESIDUE)).any()):
        raise InputError(f"aatype: must be one or more numbers from 0 to {UNKNOWN_RESIDUE}, AlphaFold's of amino acids")


LARGEST_ERROR_ANGSTROM = 31.0
"""Last of the 63 breaks between bins of the predicted aligned error (AlphaFold's ``max_error_bin``)."""

# Pairs of residues that the aligned error is computed for at a time: their logits take 16 MB.
_PAIRS_AT_ONCE = 1 << 16


class ConfidenceHead(nn.Module):
    """Predicted lDDT-Cα (Jumper et al., alg. 29).

    No gradient is taken through it, so that torch's own layer normalisation serves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SINGLE_WIDTH)
        self.first = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.second = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)
        self.logits = nn.Linear(HIDDEN_WIDTH, LDDT_BINS)

    def forward(self, act: torch.Tensor) -> torch.Tensor:
        """pLDDT of each residue, (n,), from 0 to 100; ``act`` is (n, 384)."""
        logits = self.logits(self.second(self.first(self.norm(act)).relu()).relu())
        centres = (torch.arange(LDDT_BINS, dtype=act.dtype, device=act.device) + 0.5) * (100 / LDDT_BINS)
        return torch.matmul(logits.softmax(dim=1), centres)


class AlignedErrorHead(nn.Module):
    """Error of a residue's position after superposition of another's frame (Jumper et al., suppl. 1.9.7)."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(PAIR_WIDTH, ERROR_BINS)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Expected error, (n, n) Å, from the trunk's pair representation, (n, n, 128); rows are the frames."""
        weight = self.logits.weight
        width = LARGEST_ERROR_ANGSTROM / (ERROR_BINS - 2)
        centres = (torch.arange(ERROR_BINS, dtype=weight.dtype, device=weight.device) + 0.5) * width
        rows = pair.split(max(1, _PAIRS_AT_ONCE // len(pair)))
        return torch.cat([torch.matmul(self.logits(block.to(weight.dtype)).softmax(dim=2), centres) for block in rows])


class ReproducibleLayerNorm(nn.LayerNorm):
    """A layer normalisation whose gradients do not depend on the number of threads.

    Torch's own adds the gradients of its scale and offset thread by thread.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values, of the same shape."""
        return nn.functional.layer_norm(values, self.normalized_shape, eps=self.eps) * self.weight + self.bias
