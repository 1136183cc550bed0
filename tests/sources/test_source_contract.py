"""What fine-tuning relies on, of every source of atoms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cocofold.alphafold.pair_representation import normalise_pair
from cocofold.alphafold.sequences import ATOM14_NAMES, RESIDUE_NAMES
from cocofold.alphafold.weight_layout import random_weights
from cocofold.alphafold.weights import load_structure_module
from cocofold.commands.demo import closed_state
from cocofold.sources.base import AtomSource, ParameterGroup, SymmetricCopies
from cocofold.sources.deformation import DeformationSource
from cocofold.sources.motion_field import FieldOnTopSource
from cocofold.sources.structure_module import (
    AtomPlacement,
    DistillationTarget,
    Schedule,
    StructureModuleSource,
    TrainingRates,
    TrunkOutput,
)
from cocofold.structure.geometry import copy_positions, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone

CENTRE = np.array([80.0, 80.0, 80.0])


def _model() -> Model:
    model = read_model(closed_state())
    return model.only(np.arange(len(model.residues)) < 16)


def _deformation() -> tuple[AtomSource, np.ndarray]:
    model = _model()
    return DeformationSource(model, effort=0.01), model.positions


def _network(taught: bool = True) -> tuple[AtomSource, np.ndarray]:
    """A network of random weights for the residues of the model; the atoms that it gives are the input."""
    model, draw = _model(), torch.Generator().manual_seed(0)
    n = len(model.residues)
    aatype = torch.tensor([RESIDUE_NAMES.index(key.name) for key in model.residues])
    residue = torch.as_tensor(model.residue_of_atom)
    slots = [ATOM14_NAMES[int(aatype[row])].index(name) for row, name in zip(residue.tolist(), model.atom_names)]
    trunk = TrunkOutput(
        torch.randn(n, 384, generator=draw),
        normalise_pair(torch.randn(n, n, 128, generator=draw), torch.float32, torch.float32),
        aatype,
        torch.ones(n, dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
    )
    module = load_structure_module(random_weights(0))
    with torch.no_grad():
        given = module(trunk.single, trunk.pair, aatype, trunk.mask).atom14[residue, slots]
    placement = AtomPlacement(
        residue, torch.tensor(slots), torch.arange(n), torch.eye(3).repeat(len(model), 1, 1), torch.zeros(len(model), 3)
    )
    target = DistillationTarget(
        torch.as_tensor(Backbone.of(model).atoms), torch.as_tensor(model.positions, dtype=torch.float32)
    )
    source = StructureModuleSource(
        module, trunk, placement, TrainingRates(), target if taught else None, Schedule(effort=0.01)
    )
    return source, given.numpy()


def _field_on_network() -> tuple[AtomSource, np.ndarray]:
    source, given = _network()
    return FieldOnTopSource(source, _model()), given


def _copies(inner: Callable[[], tuple[AtomSource, np.ndarray]]) -> tuple[AtomSource, np.ndarray]:
    rotations = point_group_rotations("C3")
    source, given = inner()
    return SymmetricCopies(source, rotations, CENTRE), copy_positions(given.astype(float), rotations, CENTRE)


SOURCES: dict[str, Callable[[], tuple[AtomSource, np.ndarray]]] = {
    "deformation": _deformation,
    "network, taught": _network,
    "network": lambda: _network(taught=False),
    "field on the network": _field_on_network,
    "copies of the deformation": lambda: _copies(_deformation),
    "copies of the field on the network": lambda: _copies(_field_on_network),
}


@pytest.fixture(params=list(SOURCES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _now(source: AtomSource) -> torch.Tensor:
    with torch.no_grad():
        return source.positions().clone()


def _step(source: AtomSource, groups: list[ParameterGroup], seed: int = 0) -> None:
    """A step that takes every parameter away from where it is; the network's by little, as its atoms run far."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in groups:
            for values in group["params"]:
                values += group["lr"] * torch.randn(values.shape, generator=draw)


def test_before_the_first_step_positions_are_those_of_the_input_model(name: str) -> None:
    source, given = SOURCES[name]()
    assert np.abs(_now(source).numpy() - given).max() < 1e-3
    source.begin_stage(0)
    assert np.abs(_now(source).numpy() - given).max() < 1e-3


def test_every_stage_begins_where_the_last_one_ended(name: str) -> None:
    source, _ = SOURCES[name]()
    last = _now(source)
    for stage in range(len(source.stages())):
        groups = source.begin_stage(stage)
        torch.testing.assert_close(_now(source), last, rtol=0, atol=2e-3)
        _step(source, groups, stage)
        assert not torch.allclose(_now(source), last, rtol=0, atol=1e-4), source.stages()[stage].name
        last = _now(source)


def test_gradients_reach_the_parameters_of_every_stage(name: str) -> None:
    source, given = SOURCES[name]()
    pull = torch.randn(given.shape, generator=torch.Generator().manual_seed(1))
    for stage in range(len(source.stages())):
        groups = source.begin_stage(stage)
        assert groups
        assert all(group["lr"] > 0 for group in groups)
        positions = source.positions()
        (source.prior(positions) + (positions * pull).sum()).backward()
        for group in groups:
            found = [values.grad for values in group["params"] if values.grad is not None]
            assert any(bool(values.any()) for values in found), source.stages()[stage].name
        _step(source, groups, stage)


def test_a_stage_is_reverted_to_where_it_began(name: str) -> None:
    source, _ = SOURCES[name]()
    for stage in range(len(source.stages())):
        groups = source.begin_stage(stage)
        before = _now(source)
        _step(source, groups, stage)
        source.revert_stage()
        assert torch.equal(_now(source), before), source.stages()[stage].name
        _step(source, source.restore(stage, source.state()), stage)


def test_a_state_is_kept_through_steps_and_restored_anywhere(name: str) -> None:
    """Here after more steps and a reverted stage, as the loop does it, and in a source made anew, as a resumed run."""
    source, _ = SOURCES[name]()
    for stage in range(len(source.stages())):
        groups = source.begin_stage(stage)
        _step(source, groups, stage)
        state, reached = source.state(), _now(source)
        _step(source, groups, 100 + stage)
        source.revert_stage()
        source.restore(stage, state)
        assert torch.equal(_now(source), reached), source.stages()[stage].name
    other, _ = SOURCES[name]()
    groups = other.restore(stage, state)
    assert torch.equal(_now(other), reached)
    assert set(other.state()) == set(state)
    pull = torch.randn(reached.shape, generator=torch.Generator().manual_seed(1))
    (other.positions() * pull).sum().backward()
    assert all(any(values.grad is not None for values in group["params"]) for group in groups)


def test_a_restored_stage_that_may_be_reverted_goes_back_to_where_it_began(name: str) -> None:
    source, _ = SOURCES[name]()
    for stage, asked in enumerate(source.stages()):
        groups = source.begin_stage(stage)
        before = _now(source)
        _step(source, groups, stage)
        if asked.revert_unless_better:
            other, _ = SOURCES[name]()
            other.restore(stage, source.state())
            other.revert_stage()
            assert torch.equal(_now(other), before)


def test_what_else_a_source_tells(name: str) -> None:
    source, given = SOURCES[name]()
    source.begin_stage(0)
    positions = source.positions()
    assert source.prior(positions).shape == ()
    assert source.step_memory_bytes() > 0
    confidence = source.confidence()
    assert (confidence is None) == ("network" not in name)
    assert source.uses_all_cores() == ("network" in name)
    if confidence is not None:
        assert len(confidence) == len(_model().residues) * len(given) // len(_model())
    said = source.describe()
    assert said.endswith(".")
    assert "\n" not in said
    assert ("copies" in said) == ("copies" in name)
    assert ("AlphaFold" in said) == ("network" in name)
    assert ("field" in said) == ("field" in name or "deformation" in name)


def test_a_source_that_lacks_a_part_is_no_source() -> None:
    class Incomplete(DeformationSource):
        state = AtomSource.state

    with pytest.raises(TypeError, match="abstract"):
        Incomplete(_model())
