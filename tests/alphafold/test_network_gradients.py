"""Gradients of the structure module against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from network_inputs import random_inputs, rough_module

from cocofold.alphafold import pair_representation
from cocofold.alphafold import pair_representation as pairs_module
from cocofold.alphafold.invariant_attention import Rigid
from cocofold.alphafold.pair_representation import choose_pair_dtypes, normalise_pair
from cocofold.alphafold.structure_network import FoldingOptions, StructureModule

N = 7
WEIGHTS = (
    "single_norm.bias",
    "initial.weight",
    "attention.pair_norm.weight",
    "attention.pair_norm.bias",
    "attention.pair_bias.weight",
    "attention.key_points.weight",
    "attention.query_points.bias",
    "attention.value_points.weight",
    "attention.point_weights",
    "attention.output.weight",
    "transition.layers.1.weight",
    "update.weight",
    "torsions.blocks.1.first.weight",
    "adapter.weight",
    "adapter.gate",
)


def _loss(module: StructureModule, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A smooth number that all atoms and the confidence enter."""
    folded = module(*inputs)
    pattern = torch.linspace(-1, 1, folded.atom14.numel(), dtype=torch.float64).view_as(folded.atom14).sin()
    return (folded.atom14 * pattern).sum() / 10 + folded.plddt.mean()


def _module(options: FoldingOptions) -> StructureModule:
    module = rough_module(options).with_adapter(seed=1)
    torch.nn.init.normal_(module.adapter.gate, std=0.3, generator=torch.Generator().manual_seed(3))
    return module


def _numeric(loss: Callable[[], torch.Tensor], tensor: torch.Tensor, direction: torch.Tensor) -> float:
    step = 1e-5
    with torch.no_grad():
        tensor += step * direction
        above = float(loss())
        tensor -= 2 * step * direction
        below = float(loss())
        tensor += step * direction
    return (above - below) / (2 * step)


def _direction(tensor: torch.Tensor) -> torch.Tensor:
    direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return direction / direction.norm()


@pytest.fixture
def hold_rotations(monkeypatch: pytest.MonkeyPatch) -> Callable[[StructureModule, tuple[torch.Tensor, ...]], None]:
    """Make rotations between iterations constants, those of a first run, whatever changes later."""

    def hold(module: StructureModule, inputs: tuple[torch.Tensor, ...]) -> None:
        with torch.no_grad():
            held = [step[:, :, :3] for step in module(*inputs).trajectory]
        runs = iter([])

        def constant(self: Rigid) -> Rigid:
            nonlocal runs
            rotation = next(runs, None)
            if rotation is None:
                runs = iter(held)
                rotation = next(runs)
            return Rigid(rotation, self.translation)

        monkeypatch.setattr(Rigid, "with_detached_rotation", constant)

    return hold


@pytest.mark.parametrize("rotation_gradient", [True, False])
def test_gradients_are_those_of_finite_differences(rotation_gradient: bool, hold_rotations: Callable) -> None:
    module = _module(FoldingOptions(rotation_gradient=rotation_gradient))
    single, *others = random_inputs(N)
    single.requires_grad_(True)
    inputs = (single, *others)
    loss = _loss(module, inputs)
    loss.backward()
    if not rotation_gradient:
        hold_rotations(module, inputs)
    named = {**dict(module.named_parameters()), "single": single}
    for name in ("single", *WEIGHTS):
        tensor = named[name]
        direction = _direction(tensor)
        expected = _numeric(lambda: _loss(module, inputs), tensor, direction)
        assert float((tensor.grad * direction).sum()) == pytest.approx(expected, rel=2e-5, abs=1e-8), name


def test_stopping_the_rotation_changes_the_gradient() -> None:
    gradients = []
    for option in (True, False):
        single, *others = random_inputs(N)
        single.requires_grad_(True)
        _loss(_module(FoldingOptions(rotation_gradient=option)), (single, *others)).backward()
        gradients.append(single.grad)
    assert float((gradients[0] - gradients[1]).norm()) > 1e-3 * float(gradients[0].norm())


def test_every_weight_of_the_structure_module_gets_a_gradient() -> None:
    module = _module(FoldingOptions())
    _loss(module, random_inputs(N)).backward()
    missing = {name for name, weight in module.named_parameters() if weight.grad is None}
    assert missing == {"aligned_error.logits.weight", "aligned_error.logits.bias"}


def test_pair_gets_a_gradient_if_it_asks_for_one() -> None:
    module = _module(FoldingOptions(rotation_gradient=True))
    single, pair, *others = random_inputs(N)
    pair.requires_grad_(True)
    _loss(module, (single, pair, *others)).backward()
    direction = _direction(pair)
    expected = _numeric(lambda: _loss(module, (single, pair, *others)), pair, direction)
    assert float((pair.grad * direction).sum()) == pytest.approx(expected, rel=2e-5)


def test_weights_get_the_same_gradient_whether_the_pair_asks_or_not() -> None:
    gradients = []
    for asks in (False, True):
        module = _module(FoldingOptions())
        single, pair, *others = random_inputs(N)
        _loss(module, (single, pair.requires_grad_(asks), *others)).backward()
        gradients.append([module.attention.pair_bias.weight.grad, module.attention.pair_norm.weight.grad])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_projection_of_a_frozen_pair_in_blocks_is_exact(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its gradient, for blocks of two rows, against sums written out."""
    monkeypatch.setattr(pairs_module, "_PAIR_ELEMENTS_AT_ONCE", 2 * N * 128)
    pair = normalise_pair(random_inputs(N)[1], dtype)
    weight = torch.randn(12, 128, dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("ijc,hc->hij", pair.values.double(), weight)
    torch.testing.assert_close(pair.project(weight), expected)
    assert torch.autograd.gradcheck(pair.project, weight[:2].detach().requires_grad_(True))


def test_attention_in_blocks_is_the_sums_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all gradients, for blocks of two rows and a last one of one."""
    monkeypatch.setattr(pair_representation, "_LOGITS_AT_ONCE", {"cpu": 2 * 3 * N})
    shapes = (3, N, 4), (3, N, 4), (3, N, N), (3, N, 5), (N, N, 6)
    generator = torch.Generator().manual_seed(8)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, bias, values, pair = inputs
    shares = (torch.einsum("hic,hjc->hij", query, key) + bias).softmax(2)
    columns = torch.randn(N, 7, generator=generator, dtype=torch.float64)
    added = SimpleNamespace(segment_one_hot=columns)

    def attended(
        query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, values: torch.Tensor, pair: torch.Tensor
    ) -> pair_representation.AttentionSums:
        prepared = pair_representation.PairRepresentation(pair, added)
        return pair_representation.attend_with_pair(query, key, pair_representation.SharedBias(bias), values, prepared)

    sums = attended(*inputs)
    torch.testing.assert_close(sums.values, torch.einsum("hij,hjd->hid", shares, values))
    torch.testing.assert_close(sums.pairs, torch.einsum("hij,ijp->ihp", shares, pair))
    torch.testing.assert_close(sums.segment_weights, torch.einsum("hij,js->his", shares, columns))
    assert torch.autograd.gradcheck(attended, inputs)


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_a_pair_of_half_the_memory_gives_nearly_the_same_gradient(dtype: torch.dtype, within: float) -> None:
    gradients = []
    for kept_in in (torch.float32, dtype):
        module = _module(FoldingOptions()).float()
        single, pair, *others = random_inputs(40)
        single = single.float().requires_grad_(True)
        _loss(module, (single, normalise_pair(pair.float(), kept_in), *others)).backward()
        gradients.append(single.grad)
    assert 0 < float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < within


def test_a_shorter_copy_for_the_backward_pass_leaves_the_atoms_and_nearly_the_gradient() -> None:
    atoms, gradients = [], []
    for backward in (None, torch.bfloat16):
        module = _module(FoldingOptions()).float()
        single, pair, *others = random_inputs(40)
        single = single.float().requires_grad_(True)
        prepared = normalise_pair(pair.float(), torch.float32, backward)
        atoms.append(module(single, prepared, *others).atom14.detach())
        _loss(module, (single, prepared, *others)).backward()
        gradients.append(single.grad)
    assert torch.equal(*atoms)
    assert 0 < float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-2


def test_auto_shortens_only_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert choose_pair_dtypes("auto", 999) == (torch.float32, torch.float32)
    assert choose_pair_dtypes("auto", 1000) == (torch.float32, torch.bfloat16)
    assert choose_pair_dtypes("float16", 5000) == (torch.float16, torch.float16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_pair_dtypes("auto", 5000) == (torch.float32, torch.float32)


def test_gradients_of_a_shared_bias_do_not_pile_up_from_one_backward_pass_to_the_next() -> None:
    """What backpropagates through one attention only, and then through both, gets what each pass asks for."""
    generator = torch.Generator().manual_seed(9)
    query, key, values = (torch.randn(2, 6, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    pair = pair_representation.PairRepresentation(torch.randn(6, 6, 4, generator=generator, dtype=torch.float64))
    given = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    shared = pair_representation.SharedBias(given)
    first, second = (
        pair_representation.attend_with_pair(scale * query, key, shared, values, pair).values for scale in (1, 2)
    )
    alone = torch.autograd.grad(first.square().sum(), given, retain_graph=True)[0]
    both = torch.autograd.grad(first.square().sum() + second.square().sum(), given, retain_graph=True)[0]
    again = torch.autograd.grad(first.square().sum(), given)[0]
    assert torch.equal(alone, again)
    scores = torch.einsum("hic,hjc->hij", query, key)
    written_out = sum(torch.bmm((scale * scores + given).softmax(2), values).square().sum() for scale in (1, 2))
    torch.testing.assert_close(both, torch.autograd.grad(written_out, given)[0])
