"""The structure module on more threads of a processor: the same bits."""

from __future__ import annotations

import pytest
import torch
from network_inputs import random_inputs, rough_module

from cocofold.alphafold.structure_network import FoldingOptions, ReproducibleLayerNorm

RESIDUES = 150


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_atoms_and_gradients_do_not_depend_on_threads(threads) -> None:
    module = rough_module(FoldingOptions(rotation_gradient=True)).with_adapter(seed=1).float()
    torch.nn.init.normal_(module.adapter.gate, std=0.3, generator=torch.Generator().manual_seed(3))
    single, pair, aatype, mask = (values.float() for values in random_inputs(RESIDUES))
    found = []
    for count in (1, 2, 3, 8):
        threads(count)
        module.zero_grad()
        at = single.clone().requires_grad_()
        atoms = module(at, pair, aatype, mask).atom14
        pattern = torch.linspace(-1, 1, atoms.numel()).view_as(atoms).sin()
        atoms.backward(pattern)
        gradients = {name: values.grad.clone() for name, values in module.named_parameters() if values.grad is not None}
        found.append({"atoms": atoms.detach(), "single": at.grad, **gradients})
    assert len(found[0]) > 40
    assert all(values.any() for values in found[0].values())
    for other in found[1:]:
        assert [name for name, values in other.items() if not torch.equal(values, found[0][name])] == []


def test_the_normalisation_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 384, generator=generator, dtype=torch.float64)
    ours, theirs = ReproducibleLayerNorm(384).double(), torch.nn.LayerNorm(384).double()
    for name, parameter in ours.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        theirs.get_parameter(name).data = parameter.data.clone()
    results = [layer(values) for layer in (ours, theirs)]
    torch.testing.assert_close(*results)
    for result in results:
        (result**3).sum().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad)
