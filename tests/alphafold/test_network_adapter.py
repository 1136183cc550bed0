"""The paper's image adapter."""

from __future__ import annotations

import math

import pytest
import torch
from network_inputs import random_inputs, rough_module

from cocofold.alphafold.invariant_attention import ImageAdapter

N = 11


@pytest.fixture
def act() -> torch.Tensor:
    return torch.randn(N, 384, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def scalars() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 + 2 * torch.randn(N, 12, 16, generator=generator, dtype=torch.float64)


def test_behind_its_gate_nothing_changes_at_first() -> None:
    inputs = random_inputs(N)
    module = rough_module()
    before = module(*inputs)
    assert module.with_adapter(seed=3) is module
    after = module(*inputs)
    for name in ("atom14", "act", "plddt", "torsions"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_the_gate_learns_first_and_the_weights_after_it() -> None:
    inputs = random_inputs(N)
    module = rough_module().with_adapter(seed=3)
    before = module(*inputs).atom14
    (before**2).mean().backward()
    adapter = module.adapter
    assert float(adapter.gate.grad.abs().max()) > 0
    assert not adapter.weight.grad.any()
    with torch.no_grad():
        adapter.gate += 0.1
    changed = module(*inputs).atom14
    assert float((changed - before).detach().abs().max()) > 0.01
    (changed**2).mean().backward()
    assert float(adapter.weight.grad.abs().max()) > 0


def test_without_a_gate_the_prediction_changes() -> None:
    inputs = random_inputs(N)
    module = rough_module()
    before = module(*inputs).atom14
    after = module.with_adapter(seed=3, gated=False)(*inputs).atom14
    assert module.adapter.gate is None
    assert float((after - before).detach().abs().max()) > 1


def test_what_is_added_is_the_papers(act: torch.Tensor, scalars: torch.Tensor) -> None:
    """Attention and normalisation written out, one head and residue at a time."""
    adapter = ImageAdapter(seed=2, gated=False).double()
    mask = torch.ones(N, dtype=torch.float64)
    mask[-2:] = 0
    added = adapter(act, mask, scalars) - scalars
    query, key, value = ((act @ adapter.weight[..., which]).view(N, 12, 16) for which in range(3))
    for head in (0, 5, 11):
        for residue in (0, 4, N - 3):
            logits = key[:, head] @ query[residue, head] / math.sqrt(16) - 1e5 * (1 - mask)
            u = (logits * math.sqrt(1 / 3)).softmax(0) @ value[:, head]
            o = scalars[residue, head]
            expected = (u - u.mean()) / u.std() * o.std() + o.mean()
            torch.testing.assert_close(added[residue, head], expected, rtol=1e-3, atol=1e-3)


def test_what_is_added_has_the_moments_of_the_scalars(act: torch.Tensor, scalars: torch.Tensor) -> None:
    added = ImageAdapter(gated=False).double()(act, torch.ones(N), scalars) - scalars
    torch.testing.assert_close(added.mean(-1), scalars.mean(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(added.std(-1), scalars.std(-1), rtol=1e-2, atol=1e-3)


def test_residues_that_do_not_count_are_not_attended_to(act: torch.Tensor, scalars: torch.Tensor) -> None:
    adapter = ImageAdapter(gated=False).double()
    mask = torch.ones(N, dtype=torch.float64)
    mask[-1] = 0
    before = adapter(act, mask, scalars)
    act[-1] += 5
    torch.testing.assert_close(adapter(act, mask, scalars)[:-1], before[:-1])


def test_weights_are_drawn_as_in_the_paper() -> None:
    adapter, same, other = ImageAdapter(seed=1), ImageAdapter(seed=1), ImageAdapter(seed=2)
    assert tuple(adapter.weight.shape) == (384, 192, 3)
    assert float(adapter.weight.detach().std()) == pytest.approx(0.1, rel=0.01)
    assert abs(float(adapter.weight.detach().mean())) < 1e-3
    assert torch.equal(adapter.weight, same.weight)
    assert not torch.equal(adapter.weight, other.weight)


def test_the_state_of_a_module_has_its_adapter() -> None:
    module = rough_module().with_adapter(seed=3)
    with torch.no_grad():
        module.adapter.gate += 0.2
    other = rough_module().with_adapter(seed=4)
    other.load_state_dict(module.state_dict())
    inputs = random_inputs(N)
    assert torch.equal(module(*inputs).atom14, other(*inputs).atom14)
