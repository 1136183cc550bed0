"""The structure module's attention, pairs, masks and inputs, without any reference files."""

from __future__ import annotations

import math

import pytest
import torch
from network_inputs import random_inputs, rough_module

from cocofold.alphafold.invariant_attention import InvariantPointAttention, Rigid
from cocofold.alphafold.pair_representation import (
    PairRepresentation,
    SegmentPairAddition,
    normalise_pair,
    split_into_segments,
)
from cocofold.alphafold.structure_network import FoldingOptions, StructureModule
from cocofold.system.errors import InputError

N = 9


@pytest.fixture(scope="module")
def module() -> StructureModule:
    return rough_module().requires_grad_(False)


def _frames(n: int, seed: int = 2) -> Rigid:
    generator = torch.Generator().manual_seed(seed)
    return Rigid.from_update(2 * torch.randn(n, 6, generator=generator, dtype=torch.float64))


def _by_the_book(
    attention: InvariantPointAttention, act: torch.Tensor, frames: Rigid, mask: torch.Tensor, pair: torch.Tensor
) -> torch.Tensor:
    """Algorithm 22 of Jumper et al. written out, with every distance computed."""
    n = len(act)
    norm = attention.pair_norm
    z = torch.nn.functional.layer_norm(pair, (128,), norm.weight, norm.bias)

    def points(layer: torch.nn.Linear) -> torch.Tensor:
        x, y, z = layer(act).view(n, 12, -1).chunk(3, dim=2)
        local = torch.stack([x, y, z], dim=-1)
        return torch.einsum("nij,nhpj->nhpi", frames.rotation, local) + frames.translation[:, None, None]

    q, k, v = (layer(act).view(n, 12, 16) for layer in (attention.query, attention.key, attention.value))
    q_points, k_points, v_points = (
        points(layer) for layer in (attention.query_points, attention.key_points, attention.value_points)
    )
    distances = ((q_points[:, None] - k_points[None]) ** 2).sum((-1, -2))
    weights = torch.log1p(attention.point_weights.exp()) * math.sqrt(2 / 36)
    logits = torch.einsum("ihc,jhc->ijh", q, k) / 4 + attention.pair_bias(z) - 0.5 * weights * distances
    logits = logits - 1e5 * (1 - mask[:, None] * mask[None])[..., None]
    shares = (logits * math.sqrt(1 / 3)).softmax(dim=1)
    scalars = torch.einsum("ijh,jhc->ihc", shares, v)
    met = torch.einsum("ijh,jhpx->ihpx", shares, v_points) - frames.translation[:, None, None]
    local = torch.einsum("nji,nhpj->nhpi", frames.rotation, met)
    pairs = torch.einsum("ijh,ijc->ihc", shares, z)
    parts = [scalars, local[..., 0], local[..., 1], local[..., 2], local.norm(dim=-1), pairs]
    return attention.output(torch.cat([part.reshape(n, -1) for part in parts], dim=1))


def test_attention_is_that_of_the_paper(module: StructureModule) -> None:
    act, pair, _, mask = random_inputs(N)
    mask = mask.double()
    mask[-2:] = 0
    frames = _frames(N)
    normalised = normalise_pair(pair, torch.float64)
    ours = module.attention(act, frames, mask, normalised, module.attention.pair_logits(normalised))
    theirs = _by_the_book(module.attention, act, frames, mask, pair)
    torch.testing.assert_close(ours[:-2], theirs[:-2], rtol=1e-9, atol=1e-9)


def test_attention_does_not_depend_on_the_global_frame(module: StructureModule) -> None:
    act, pair, _, mask = random_inputs(N)
    frames = _frames(N)
    normalised = normalise_pair(pair, torch.float64)
    logits = module.attention.pair_logits(normalised)
    motion = Rigid.from_update(torch.tensor([0.5, -1, 2, 30, -20, 10], dtype=torch.float64))
    here, there = (
        module.attention(act, place, mask.double(), normalised, logits) for place in (frames, motion.compose(frames))
    )
    torch.testing.assert_close(here, there, rtol=1e-8, atol=1e-8)


def test_masked_residues_do_not_matter_to_others(module: StructureModule) -> None:
    single, pair, aatype, mask = random_inputs(N)
    mask[-3:] = 0
    first = module(single, pair, aatype, mask)
    single[-3:] += 3
    pair[-3:] -= 2
    pair[:, -3:] *= 2
    second = module(single, pair, aatype, mask.bool())
    torch.testing.assert_close(first.atom14[:-3], second.atom14[:-3], rtol=0, atol=1e-10)
    torch.testing.assert_close(first.plddt[:-3], second.plddt[:-3], rtol=0, atol=1e-10)
    assert not second.atom14_mask[-3:].any()
    assert second.atom14_mask[:-3, :4].all()


def test_a_prepared_pair_gives_what_the_tensor_gives(module: StructureModule) -> None:
    single, pair, aatype, mask = random_inputs(N)
    prepared = normalise_pair(pair, torch.float64)
    assert torch.equal(module(single, prepared, aatype, mask).atom14, module(single, pair, aatype, mask).atom14)
    assert float(prepared.values.mean(-1).abs().max()) < 1e-12
    assert float((prepared.values.var(-1, correction=0) - 1).abs().max()) < 1e-3


def test_segments_are_the_shortest_of_equal_length_that_are_few_enough() -> None:
    chain = torch.tensor([0] * 7 + [1] * 4)
    assert split_into_segments(chain, 11).tolist() == list(range(11))
    assert split_into_segments(chain, 10).tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5]
    assert split_into_segments(chain, 5).tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4]
    assert split_into_segments(chain, 1).tolist() == [0] * 7 + [1] * 4


@pytest.mark.parametrize("most", [N, 5])
def test_an_addition_in_segments_is_the_addition_written_out(module: StructureModule, most: int) -> None:
    """With its gradient."""
    single, pair, aatype, mask = random_inputs(N)
    base = normalise_pair(pair, torch.float64).values
    segment = split_into_segments(torch.arange(N) // 5, most)
    addition = SegmentPairAddition(segment).double()
    before = module(single, PairRepresentation(base), aatype, mask).atom14
    torch.testing.assert_close(
        module(single, PairRepresentation(base, addition), aatype, mask).atom14, before, rtol=0, atol=1e-9
    )
    torch.nn.init.normal_(addition.values, std=0.3, generator=torch.Generator().manual_seed(0))
    written_out = addition.values.detach()[segment][:, segment].requires_grad_()
    pattern = torch.linspace(-1, 1, before.numel(), dtype=torch.float64).view_as(before)
    expected = module(single, PairRepresentation(base + written_out), aatype, mask).atom14
    reached = module(single, PairRepresentation(base, addition), aatype, mask).atom14
    assert float((expected - before).detach().abs().max()) > 0.1
    torch.testing.assert_close(reached, expected, rtol=1e-9, atol=1e-9)
    (expected * pattern).sum().backward()
    (reached * pattern).sum().backward()
    count = int(segment.max()) + 1
    summed = torch.zeros(count, N, 128, dtype=torch.float64).index_add(0, segment, written_out.grad)
    summed = torch.zeros(count, count, 128, dtype=torch.float64).index_add(1, segment, summed)
    torch.testing.assert_close(addition.values.grad, summed, rtol=1e-7, atol=1e-9)


def test_plddt_is_that_of_the_bins(module: StructureModule) -> None:
    """Logits that leave one bin give its centre."""
    head = rough_module().confidence
    with torch.no_grad():
        head.logits.weight.zero_()
        head.logits.bias.copy_(torch.eye(50)[49] * 1000)
        assert head(torch.randn(3, 384).double()).tolist() == pytest.approx([99.0] * 3)


def test_dropout_acts_in_training_only() -> None:
    inputs = random_inputs(N)
    module = rough_module(FoldingOptions(dropout=0.1)).requires_grad_(False)
    plain = rough_module().requires_grad_(False)
    torch.manual_seed(0)
    assert float((module.train()(*inputs).atom14 - plain(*inputs).atom14).abs().max()) > 0.01
    assert torch.equal(module.eval()(*inputs).atom14, plain(*inputs).atom14)


@pytest.mark.parametrize(
    ("position", "change", "words"),
    [
        (0, lambda single: single[:, :256], r"single: its shape is \(9, 256\); for 9 residues it must be \(9, 384\)"),
        (1, lambda pair: pair[:-1], r"pair: its shape is \(8, 9, 128\)"),
        (2, lambda aatype: aatype[:-1], "aatype: its shape"),
        (2, lambda aatype: aatype + 13, "aatype: must be one or more numbers from 0 to 20"),
        (2, lambda aatype: aatype - 1, "aatype: must be one or more numbers from 0 to 20"),
        (3, lambda mask: mask[:, None], "mask: its shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(module: StructureModule, position: int, change: object, words: str) -> None:
    inputs = list(random_inputs(N))

    inputs[position] = change(inputs[position])
    with pytest.raises(InputError, match=words):
        module(*inputs)
