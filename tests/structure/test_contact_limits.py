"""How near atoms may come: limits by their kind, and what was nearer in the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cocofold.commands.demo import closed_state
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone


@pytest.fixture(scope="module")
def closed() -> Model:
    return read_model(closed_state())


def _side_chain_ends(model: Model) -> tuple[int, int]:
    """Ends of two lysines that are far from each other."""
    first, *others = np.flatnonzero(model.atom_names == "NZ")
    distances = np.linalg.norm(model.positions[others] - model.positions[first], axis=1)
    return int(first), int(others[distances.argmax()])


def _energy(model: Model, positions: np.ndarray) -> float:
    """Energy of positions where ``model`` is the start."""
    restraints = Restraints(model, Backbone.of(model), 0.0)
    there = torch.as_tensor(positions, dtype=torch.float64)
    restraints.refresh(there)
    return float(restraints.energy(there))


def test_a_contact_of_the_start_costs_nothing_and_a_closer_one_does(closed: Model) -> None:
    """As models come: two side chains nearer than they should be."""
    first, second = _side_chain_ends(closed)
    direction = np.array([0.6, 0.0, 0.8])

    def with_contact(distance: float) -> np.ndarray:
        positions = closed.positions.copy()
        positions[first] = positions[second] + distance * direction
        return positions

    start = closed.moved_to(with_contact(2.2))
    assert _energy(start, start.positions) == pytest.approx(_energy(closed, closed.positions), abs=1e-7)
    assert _energy(start, with_contact(2.0)) > _energy(start, start.positions) + 1e-5
    # In another start, where they are far apart, the same contact overlaps.
    assert _energy(closed, with_contact(2.2)) > _energy(closed, closed.positions) + 1e-4


def test_atoms_keep_the_distance_of_their_kind(closed: Model) -> None:
    """Found in the closed state, where the start is one in which no residue is near another."""
    number = closed.residue_of_atom[:, None]
    apart = closed.moved_to(closed.positions + 30.0 * number * [1.0, 0.0, 0.0])
    restraints = Restraints(apart, Backbone.of(apart), 0.0)
    positions = torch.as_tensor(closed.positions)
    restraints.refresh(positions)
    found = restraints.state()
    pairs, least = found["pairs"].numpy(), found["least"].numpy()
    alpha = (closed.atom_names[pairs] == "CA").all(0)
    polar = np.isin(closed.atomic_numbers[pairs], (7, 8, 16)).all(0)
    assert alpha.any()
    np.testing.assert_allclose(least[alpha], 3.8, rtol=1e-6)
    np.testing.assert_allclose(least[polar], 2.6, rtol=1e-6)
    np.testing.assert_allclose(least[~alpha & ~polar], 3.2, rtol=1e-6)
    # Atoms that are a little too far apart to overlap are watched too, since positions change before the next search.
    distances = np.linalg.norm(np.subtract(*closed.positions[pairs]), axis=1)
    assert distances.max() > 3.8 + 0.5
