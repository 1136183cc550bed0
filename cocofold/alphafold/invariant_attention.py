"""Rigid motions of residues, the attention between them, and the atoms that frames and torsions give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import roma
import torch
from torch import nn

from cocofold.alphafold.pair_representation import PairRepresentation, SharedBias, attend_with_pair
from cocofold.alphafold.sequences import (
    CHI1_GROUP,
    GROUPS_PER_RESIDUE,
    RESIDUE_TABLES,
    TORSIONS_PER_RESIDUE,
)
from cocofold.alphafold.weight_layout import (
    ATTENTION_HEADS,
    ATTENTION_OUTPUTS,
    HEAD_CHANNELS,
    HIDDEN_WIDTH,
    PAIR_WIDTH,
    QUERY_POINTS,
    RESIDUAL_BLOCKS,
    SINGLE_WIDTH,
    VALUE_POINTS,
)


@dataclass(frozen=True)
class Rigid:
    """Rigid motions x ↦ R x + t, one or many.

    Attributes
    ----------
    rotation : (..., 3, 3) float
    translation : (..., 3) float
    """

    rotation: torch.Tensor
    translation: torch.Tensor

    @classmethod
    def identity(cls, like: torch.Tensor) -> Rigid:
        """An identity for each row of ``like``, with its type and device."""
        n = len(like)
        eye = torch.eye(3, dtype=like.dtype, device=like.device)
        return cls(eye.expand(n, 3, 3), torch.zeros(n, 3, dtype=like.dtype, device=like.device))

    @classmethod
    def from_update(cls, update: torch.Tensor) -> Rigid:
        """Motion of a quaternion (1, b, c, d), which is normalised here, and a translation (Jumper et al., alg. 23).

        Parameters
        ----------
        update : (..., 6) float
            b, c, d and the translation.
        """
        vector, translation = update.split(3, dim=-1)
        # roma has the scalar last.
        quaternion = torch.cat([vector, torch.ones_like(vector[..., :1])], dim=-1)
        return cls(roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1)), translation)

    def compose(self, inner: Rigid) -> Rigid:
        """The motion that applies ``inner`` first and then this one."""
        return Rigid(torch.matmul(self.rotation, inner.rotation), self.apply(inner.translation))

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Moved points, (..., 3)."""
        return torch.matmul(self.rotation, points[..., None])[..., 0] + self.translation

    def matrix(self) -> torch.Tensor:
        """Rotation and translation side by side, (..., 3, 4)."""
        return torch.cat([self.rotation, self.translation[..., None]], dim=-1)

    def scaled(self, factor: float) -> Rigid:
        """The same motion with lengths in another unit."""
        return Rigid(self.rotation, self.translation * factor)

    def with_detached_rotation(self) -> Rigid:
        """The same motion, with no gradient through its rotation."""
        return Rigid(self.rotation.detach(), self.translation)


# Of a sine and cosine before they are normalised, as ``l2_normalize`` in AlphaFold's folding.py: no division by zero.
_LEAST_SQUARED_NORM = 1e-12


class _ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)
        self.second = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.second(self.first(hidden.relu()).relu())


class TorsionHead(nn.Module):
    """Torsion angles from the activations (Jumper et al., alg. 20, lines 11 to 14)."""

    def __init__(self) -> None:
        super().__init__()
        self.from_act = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.from_single = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.blocks = nn.ModuleList(_ResidualBlock() for _ in range(RESIDUAL_BLOCKS))
        self.angles = nn.Linear(HIDDEN_WIDTH, TORSIONS_PER_RESIDUE * 2)

    def forward(self, act: torch.Tensor, single: torch.Tensor) -> torch.Tensor:
        """Sine and cosine of ω, φ, ψ, χ1 to χ4.

        Parameters
        ----------
        act, single : (n, 384) float
            Activations, and the normalised single representation from which they were computed.

        Returns
        -------
        (n, 7, 2) float
        """
        hidden = self.from_act(act.relu()) + self.from_single(single.relu())
        for block in self.blocks:
            hidden = block(hidden)
        angles = self.angles(hidden.relu()).unflatten(1, (TORSIONS_PER_RESIDUE, 2))
        return angles / (angles**2).sum(2, keepdim=True).clamp(min=_LEAST_SQUARED_NORM).sqrt()


class HeavyAtoms(NamedTuple):
    """Atoms of residues.

    Attributes
    ----------
    positions : (n, 14, 3) float
        Å; zero where a residue has no such atom.
    exist : (n, 14) bool
    group_frames : (n, 8, 3, 4) float
        Frame of each rigid group, Å.
    """

    positions: torch.Tensor
    exist: torch.Tensor
    group_frames: torch.Tensor


def build_atoms(aatype: torch.Tensor, backbone: Rigid, torsions: torch.Tensor) -> HeavyAtoms:
    """Atoms of ideal rigid groups, placed by backbone frames and torsions (Jumper et al., alg. 24).

    Parameters
    ----------
    aatype : (n,) int
        AlphaFold's numbers of amino acids.
    backbone : Rigid
        Frames of the n backbones, Å.
    torsions : (n, 7, 2) float
        Sine and cosine of ω, φ, ψ, χ1 to χ4.
    """
    groups = _rigid_groups(aatype, backbone, torsions)
    of_atom = _look_up(RESIDUE_TABLES.group, aatype)[..., None].expand(-1, -1, 3)
    rotation = groups.rotation.gather(1, of_atom[..., None].expand(-1, -1, 3, 3))
    translation = groups.translation.gather(1, of_atom)
    local = _look_up(RESIDUE_TABLES.position, aatype).to(torsions.dtype)
    exist = _look_up(RESIDUE_TABLES.exists, aatype)
    return HeavyAtoms(Rigid(rotation, translation).apply(local) * exist[..., None], exist, groups.matrix())


def _look_up(table: np.ndarray, aatype: torch.Tensor) -> torch.Tensor:
    # A GPU takes the table when it comes to it, and is not waited for.
    return torch.as_tensor(table).to(aatype.device, non_blocking=True)[aatype]


def _rigid_groups(aatype: torch.Tensor, backbone: Rigid, torsions: torch.Tensor) -> Rigid:
    """Global frames of the rigid groups, n x 8."""
    frame = _look_up(RESIDUE_TABLES.frame, aatype).to(torsions.dtype)
    # The backbone group has no torsion.
    no_turn = torsions.new_zeros(len(torsions), 1), torsions.new_ones(len(torsions), 1)
    sine, cosine = torch.cat([torch.stack(no_turn, dim=2), torsions], dim=1)[:, :, None].unbind(3)
    x, y, z, origin = frame.unbind(3)
    turned = torch.stack([x, cosine * y + sine * z, cosine * z - sine * y], dim=3)
    groups = [Rigid(*parts) for parts in zip(turned.unbind(1), origin.unbind(1))]
    for group in range(CHI1_GROUP + 1, GROUPS_PER_RESIDUE):
        groups[group] = groups[group - 1].compose(groups[group])
    local = Rigid(
        torch.stack([group.rotation for group in groups], dim=1),
        torch.stack([group.translation for group in groups], dim=1),
    )
    return Rigid(backbone.rotation[:, None], backbone.translation[:, None]).compose(local)


# Factor of the logits, which are sums of three terms of variance one (w_L of alg. 22).
_LOGIT_SHARE = math.sqrt(1 / 3)
# Factor of the squared distances (w_C of alg. 22 without w_L): a query point and a key point of standard normal
# coordinates give a logit of variance 9/2.
_POINT_SCALE = math.sqrt(2 / (9 * QUERY_POINTS))
# Added to the logits of residues that do not count, before the factor of the logits.
_MASKED_LOGIT = -1e5
# Square of AlphaFold's smallest norm of a point (``dist_epsilon``, 1e-8): a norm of zero has no gradient.
_LEAST_SQUARED_NORM = 1e-16


class InvariantPointAttention(nn.Module):
    """Attention over residues by features, by points in space and by pairs; the global frame does not matter.

    Features and points go into one matrix product a head. With points q, k and their weight w,
    -w/2 |q - k|² = w q·k - w/2 |k|² - w/2 |q|²; the last term is common to all keys and cancels in the softmax.
    """

    def __init__(self) -> None:
        super().__init__()
        scalars, query_points, value_points = (
            ATTENTION_HEADS * HEAD_CHANNELS,
            ATTENTION_HEADS * QUERY_POINTS * 3,
            ATTENTION_HEADS * VALUE_POINTS * 3,
        )
        self.pair_norm = nn.LayerNorm(PAIR_WIDTH)
        self.query = nn.Linear(SINGLE_WIDTH, scalars, bias=False)
        self.key = nn.Linear(SINGLE_WIDTH, scalars, bias=False)
        self.value = nn.Linear(SINGLE_WIDTH, scalars, bias=False)
        self.query_points = nn.Linear(SINGLE_WIDTH, query_points)
        self.key_points = nn.Linear(SINGLE_WIDTH, query_points)
        self.value_points = nn.Linear(SINGLE_WIDTH, value_points)
        self.pair_bias = nn.Linear(PAIR_WIDTH, ATTENTION_HEADS)
        self.point_weights = nn.Parameter(torch.zeros(ATTENTION_HEADS))
        self.output = nn.Linear(ATTENTION_OUTPUTS, SINGLE_WIDTH)

    def pair_logits(self, pair: PairRepresentation) -> SharedBias:
        """The pair's part of the logits without what is the same for all keys, (12, n, n).

        It is the same in all iterations. The projection includes the scale of the pair's normalisation, and
        ``_key_offset`` its offset.
        """
        return SharedBias(pair.project(_LOGIT_SHARE * self.pair_bias.weight * self.pair_norm.weight))

    def forward(
        self,
        act: torch.Tensor,
        frames: Rigid,
        mask: torch.Tensor,
        pair: PairRepresentation,
        pair_logits: SharedBias,
        adapter: ImageAdapter | None = None,
    ) -> torch.Tensor:
        """Update of the activations.

        Parameters
        ----------
        act : (n, 384) float
        frames : Rigid
            n of them, lengths in units of 20 Å.
        mask : (n,) float
            1 for residues that count, else 0.
        pair : PairRepresentation
            Normalised, without scale and offset.
        pair_logits : SharedBias
            Of this pair, from ``pair_logits``.
        adapter : ImageAdapter, optional
            Adds to the scalar part.

        Returns
        -------
        (n, 384) float
        """
        # Points are taken about the centre, since |k|² loses digits far from the origin.
        centre = (mask[:, None] * frames.translation).sum(0) / mask.sum().clamp(min=1)
        centred = Rigid(frames.rotation, frames.translation - centre)
        query, key = self._query_and_key(act, centred, mask)
        values = self._values(act, centred)
        sums = attend_with_pair(query, key, pair_logits, values, pair)
        pairs = sums.pairs if pair.added is None else sums.pairs + pair.added.weighted_sum(sums.segment_weights)
        scalars, points = self._split_result(sums.values, centred)
        if adapter is not None:
            scalars = adapter(act, mask, scalars)
        norms = (points**2).sum(2).clamp(min=_LEAST_SQUARED_NORM).sqrt()
        # Attention adds up to one, so the offset of the pair's normalisation passes through it.
        pairs = pairs * self.pair_norm.weight + self.pair_norm.bias
        x, y, z = points.unbind(2)
        return self.output(torch.cat([part.flatten(1) for part in (scalars, x, y, z, norms, pairs)], dim=1))

    def _query_and_key(self, act: torch.Tensor, frames: Rigid, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and key whose products are the logits of features and points, (12, n, 29) each."""
        weight = _POINT_SCALE * nn.functional.softplus(self.point_weights)[:, None]
        query_points = _global_points(self.query_points(act), frames).flatten(2)
        key_points = _global_points(self.key_points(act), frames).flatten(2)
        offset = self._key_offset() + _MASKED_LOGIT * (1 - mask)[:, None] - weight[:, 0] / 2 * (key_points**2).sum(2)
        one = torch.ones_like(offset)
        query = torch.cat(
            [_split_heads(self.query(act)) / math.sqrt(HEAD_CHANNELS), weight * query_points, one[..., None]], dim=2
        )
        key = torch.cat([_split_heads(self.key(act)), key_points, offset[..., None]], dim=2)
        return _LOGIT_SHARE * query.transpose(0, 1), key.transpose(0, 1)

    def _key_offset(self) -> torch.Tensor:
        """Number that the pair's offset and bias add to all keys alike, (12,); it cancels in the softmax."""
        return nn.functional.linear(self.pair_norm.bias, self.pair_bias.weight, self.pair_bias.bias)

    def _values(self, act: torch.Tensor, frames: Rigid) -> torch.Tensor:
        """Scalars and points of each residue, (12, n, 40)."""
        points = _global_points(self.value_points(act), frames)
        return torch.cat([_split_heads(self.value(act)), points.flatten(2)], dim=2).transpose(0, 1)

    def _split_result(self, summed: torch.Tensor, frames: Rigid) -> tuple[torch.Tensor, torch.Tensor]:
        """Scalars (n, 12, 16), and points (n, 12, 3, 8) in the frame of each residue."""
        scalars, points = summed.transpose(0, 1).split([HEAD_CHANNELS, 3 * VALUE_POINTS], dim=2)
        arm = points.unflatten(2, (3, VALUE_POINTS)) - frames.translation[:, None, :, None]
        return scalars, torch.einsum("nba,nhbp->nhap", frames.rotation, arm)


def _split_heads(features: torch.Tensor) -> torch.Tensor:
    return features.unflatten(1, (ATTENTION_HEADS, HEAD_CHANNELS))


def _global_points(features: torch.Tensor, frames: Rigid) -> torch.Tensor:
    """Points of each residue and head in the global frame, (n, 12, 3, points).

    In the multimer model's layout the last axis of a head is x of all its points, then y, then z.
    """
    local = features.unflatten(1, (ATTENTION_HEADS, 3, -1))
    return torch.einsum("nab,nhbp->nhap", frames.rotation, local) + frames.translation[:, None, :, None]


# Standard deviation of the adapter's weights at the start: the paper draws them from N(0, 0.1²).
_WEIGHT_DEVIATION = 0.1
# Added to variances before the division, as torch and AlphaFold do in a layer normalisation.
_LEAST_VARIANCE = 1e-5


class ImageAdapter(nn.Module):
    """Adds an attention over single activations, without pairs or points, to the scalar part o of the point attention.

    With the attention's input s: Q = s W₀ / √16, K = s W₁, V = s W₂, u = softmax((Q Kᵀ + mask) √(1/3)) V. Each residue
    and head's u is normalised over its 16 channels and takes on o's standard deviation and mean; o ← o + gate · u.

    Parameters
    ----------
    seed : int
        Seed of the weights, which are drawn from N(0, 0.1²).
    gated : bool
        Whether u is multiplied by a gate, one number a channel, which starts at zero, so that the adapter changes
        nothing at first. The paper has no gate.
    """

    def __init__(self, seed: int = 0, gated: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (SINGLE_WIDTH, ATTENTION_HEADS * HEAD_CHANNELS, 3)
        self.weight = nn.Parameter(_WEIGHT_DEVIATION * torch.randn(shape, generator=generator))
        self.gate = nn.Parameter(torch.zeros(ATTENTION_HEADS, HEAD_CHANNELS)) if gated else None

    def forward(self, act: torch.Tensor, mask: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        """Scalars with the adapter's part.

        Parameters
        ----------
        act : (n, 384) float
            Input of the point attention.
        mask : (n,) float
            1 for residues that count, else 0.
        scalars : (n, 12, 16) float
            Scalar part of the point attention's result.

        Returns
        -------
        (n, 12, 16) float
        """
        query, key, value = (
            torch.matmul(act, self.weight.permute(2, 0, 1))
            .unflatten(2, (ATTENTION_HEADS, HEAD_CHANNELS))
            .transpose(1, 2)
        )
        attended = nn.functional.scaled_dot_product_attention(
            query[None],
            key[None],
            value[None],
            attn_mask=(_LOGIT_SHARE * _MASKED_LOGIT * (1 - mask)).expand(1, 1, len(mask), len(mask)),
            scale=_LOGIT_SHARE / math.sqrt(HEAD_CHANNELS),
        )
        added = _with_moments_of(scalars, attended[0].transpose(0, 1))
        return scalars + (added if self.gate is None else self.gate * added)


def _with_moments_of(model: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values shifted and scaled to the mean and standard deviation of a model's, over the last axis."""
    variance, mean = torch.var_mean(model, dim=-1, correction=0, keepdim=True)
    standard = nn.functional.layer_norm(values, values.shape[-1:], eps=_LEAST_VARIANCE)
    return standard * (variance + _LEAST_VARIANCE).sqrt() + mean
