"""The field of rigid motions and the source that carries atoms under it."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import roma
import torch

from cocofold.commands.demo import closed_state
from cocofold.sources.deformation import DeformationSource, rigid_bodies
from cocofold.sources.motion_field import FieldOnTopSource, body_nodes, move_frames, spread_nodes
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone, covalent_bonds


@pytest.fixture(scope="module")
def closed() -> Model:
    return read_model(closed_state())


def _stir(groups: list[dict], scale: float, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in groups:
            for values in group["params"]:
                values += scale * group["lr"] * torch.randn(values.shape, generator=generator)


def test_step_zero_is_the_input_for_a_complex(shared_data: Path) -> None:
    model = read_model(shared_data / "tcr/truth.cif")
    source = DeformationSource(model)
    source.begin_stage(1)
    assert np.abs(source.positions().detach().numpy() - model.positions).max() < 1e-3


def test_equal_motions_of_all_nodes_are_a_rigid_motion(closed: Model) -> None:
    backbone = Backbone.of(closed)
    origins = torch.as_tensor(closed.positions[backbone.atoms[:, 1]], dtype=torch.float32)
    nodes = spread_nodes(origins.double().numpy(), 8.0, len(origins))
    turn = torch.tensor([0.2, -0.4, 0.3])
    matrix, pivot = roma.rotvec_to_rotmat(turn), torch.tensor([70.0, 75.0, 90.0])
    shifts = (nodes.centres - pivot) @ matrix.T + pivot - nodes.centres
    rotations = torch.eye(3).repeat(len(origins), 1, 1)
    turned, moved = move_frames(nodes, turn.repeat(len(shifts), 1), shifts, rotations, origins)
    assert (moved - ((origins - pivot) @ matrix.T + pivot)).abs().max() < 1e-3
    assert (turned - matrix).abs().max() < 1e-5


def _long_chain(count: int) -> np.ndarray:
    """A loose coil with the density of a protein: a random walk in a box that grows with its length."""
    generator = np.random.default_rng(0)
    side = 5.5 * count ** (1 / 3)
    return generator.uniform(0, side, (count, 3))


@pytest.mark.parametrize("radius", [20.0, 8.0, 2.5])
def test_cost_is_linear_in_residues(radius: float) -> None:
    shares = []
    for count in (1000, 10000):
        nodes = spread_nodes(_long_chain(count), radius, count)
        assert len(nodes.centres) <= count
        torch.testing.assert_close(nodes.weights.sum(1), torch.ones(count))
        assert (nodes.weights >= 0).all()
        shares.append(nodes.weights.numel())
    assert shares[1] <= 11 * shares[0]


def test_coarse_fields_have_few_nodes_and_fine_ones_one_a_residue(closed: Model) -> None:
    origins = closed.positions[Backbone.of(closed).atoms[:, 1]]
    counts = [len(spread_nodes(origins, radius, len(origins)).centres) for radius in (20.0, 12.0, 8.0, 2.5)]
    assert counts == sorted(counts)
    assert counts[0] < 25
    assert counts[-1] == len(origins)


def test_smoothing_crosses_chains_by_distance() -> None:
    positions = np.array([[0.0, 0, 0], [4, 0, 0], [200, 0, 0]])
    nodes = spread_nodes(positions, 20.0, 3)
    first, second = (dict(zip(nodes.neighbours[row].tolist(), nodes.weights[row].tolist())) for row in (0, 1))
    assert first[0] > 0.9
    assert second[0] > 0.9
    alone = dict(zip(nodes.neighbours[2].tolist(), nodes.weights[2].tolist()))
    assert max(alone, key=lambda node: alone[node]) == len(nodes.centres) - 1


def test_passengers_far_from_all_nodes_follow_the_nearest() -> None:
    positions = np.concatenate([np.arange(30)[:, None] * [3.8, 0, 0], [[0, 500.0, 0]]])
    nodes = spread_nodes(positions, 0.8, 30)
    assert torch.isfinite(nodes.weights).all()
    assert int(nodes.neighbours.max()) < 30


def test_bodies_move_apart() -> None:
    positions = np.random.default_rng(0).normal(size=(20, 3))
    body = np.repeat([0, 1], 10)
    nodes = body_nodes(positions, body)
    origins, rotations = torch.as_tensor(positions, dtype=torch.float32), torch.eye(3).repeat(20, 1, 1)
    shifts = torch.tensor([[0.0, 0, 0], [5.0, 0, 0]])
    _, moved = move_frames(nodes, torch.zeros(2, 3), shifts, rotations, origins)
    torch.testing.assert_close(moved[:10], origins[:10])
    torch.testing.assert_close(moved[10:], origins[10:] + shifts[1])


def test_chains_are_a_stage_of_a_complex_only(closed: Model, shared_data: Path) -> None:
    assert "chains" not in [stage.name for stage in DeformationSource(closed).stages()]
    tcr = DeformationSource(read_model(shared_data / "tcr/truth.cif"))
    assert [stage.name for stage in tcr.stages()][:2] == ["whole", "chains"]


def test_what_is_inside_a_residue_keeps_its_bonds_and_hand(closed: Model) -> None:
    source, backbone = DeformationSource(closed), Backbone.of(closed)
    bonds = covalent_bonds(closed)
    bonds = bonds[backbone.frame_of_atom[bonds[:, 0]] == backbone.frame_of_atom[bonds[:, 1]]]
    for stage in range(len(source.stages())):
        _stir(source.begin_stage(stage), 3.0, stage)
    moved = source.positions().detach().double().numpy()
    assert np.abs(moved - closed.positions).max() > 1

    def lengths(positions: np.ndarray) -> np.ndarray:
        return np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)

    assert np.abs(lengths(moved) - lengths(closed.positions)).max() < 1e-3
    beta = closed.atoms_named("CB")[backbone.residues]
    with_beta = beta >= 0
    rows = np.column_stack([backbone.atoms, beta])[with_beta]

    def volumes(positions: np.ndarray) -> np.ndarray:
        n, ca, c, cb = positions[rows].transpose(1, 0, 2)
        return np.einsum("ni,ni->n", n - ca, np.cross(c - ca, cb - ca))

    np.testing.assert_allclose(volumes(moved), volumes(closed.positions), atol=0.01)


def test_torsions_turn_side_chains_at_the_last_stage_only(closed: Model) -> None:
    source = DeformationSource(closed)
    groups = [len(source.begin_stage(stage)) for stage in range(len(source.stages()))]
    assert groups[-1] == 3
    assert set(groups[:-1]) == {2}
    assert float(source.prior(source.positions()).detach()) == pytest.approx(0, abs=1e-6)
    torsions = source.begin_stage(len(groups) - 1)[-1]["params"][0]
    with torch.no_grad():
        torsions += 1.0
    assert float(source.prior(source.positions()).detach()) > 0.1
    shift = np.linalg.norm(source.positions().detach().numpy() - closed.positions, axis=1)
    backbone_atoms = np.isin(closed.atom_names, ["N", "CA", "C", "O", "CB"])
    assert shift[backbone_atoms].max() < 1e-3
    assert shift[~backbone_atoms].max() > 1


def test_gradients_on_top_of_a_source_do_not_depend_on_threads(shared_data: Path) -> None:
    """A complex large enough that torch divides its work."""
    model = read_model(shared_data / "tcr/truth.cif")
    toward = torch.randn(len(model), 3, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        source = FieldOnTopSource(DeformationSource(model), model)
        groups = source.begin_stage(len(source.stages()) - 1)
        _stir(groups, 1.0)
        source.positions().backward(toward)
        found.append([values.grad for group in groups for values in group["params"]])
    torch.set_num_threads(before)
    assert all(values.any() for values in found[0])
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other))


def _row_of_frames(counts: list[int], starts: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Chains along x, 3.8 Å from frame to frame, each from its own start."""
    chain = np.repeat(np.arange(len(counts)), counts)
    along = np.concatenate([start + 3.8 * np.arange(count) for start, count in zip(starts, counts)])
    return chain, np.stack([along, 5.0 * chain, np.zeros(len(chain))], axis=1)


def test_small_chains_move_with_what_they_touch_most() -> None:
    """A peptide between two domains, one that touches nothing, and two strands that are large enough together."""
    chain, origins = _row_of_frames([60, 9, 50], [0.0, 190.0, 215.0])
    sizes = np.full(len(chain), 8)
    assert rigid_bodies(chain, origins, sizes).tolist() == [0] * 69 + [1] * 50
    origins[60:69, 0] += 30.0
    assert rigid_bodies(chain, origins, sizes).tolist() == [0] * 60 + [1] * 59
    origins[60:69, 2] += 50.0
    assert rigid_bodies(chain, origins, sizes).tolist() == chain.tolist()
    chain, origins = _row_of_frames([30, 6, 6], [0.0, 200.0, 200.0])
    assert rigid_bodies(chain, origins, np.full(len(chain), 20)).tolist() == [0] * 30 + [1] * 12


def test_a_model_whose_second_chain_is_a_peptide_has_no_chains_to_move(closed: Model) -> None:
    structure = closed.structure.clone()
    peptide = gemmi.Chain("B")
    for residue in list(structure[0]["A"])[-9:]:
        peptide.add_residue(residue)
    del structure[0]["A"][-9:]
    structure[0].add_chain(peptide)
    cut = Model.of(structure)
    assert {key.chain for key in cut.residues} == {"A", "B"}
    names = [stage.name for stage in DeformationSource(cut).stages()]
    assert names == [stage.name for stage in DeformationSource(closed).stages()]
    assert "chains" not in names
