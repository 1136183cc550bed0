"""Stages from coarse to fine, and the shares of nodes in the motion of a residue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.commands.demo import closed_state
from cocofold.sources.base import Adam, ParameterGroup, Stage
from cocofold.sources.deformation import DeformationSource
from cocofold.sources.motion_field import FieldNodes, FieldOnTopSource, spread_nodes
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone


@pytest.fixture(scope="module")
def closed() -> Model:
    return read_model(closed_state())


@pytest.fixture(scope="module")
def two_chains(closed: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The closed state and a copy of it beside it, as another chain."""
    structure = closed.structure.clone()
    copy = structure[0][0].clone()
    copy.name = "Z"
    for residue in copy:
        for atom in residue:
            atom.pos.x += 70
    structure[0].add_chain(copy)
    path: Path = tmp_path_factory.mktemp("two") / "two.pdb"
    path.write_text(structure.make_pdb_string())
    return read_model(path)


def _shares(nodes: FieldNodes) -> torch.Tensor:
    """The share of every node in every residue, (n_residues, n_nodes)."""
    shares = torch.zeros(len(nodes.weights), len(nodes.centres))
    return shares.scatter_add(1, nodes.neighbours, nodes.weights)


def test_no_residue_feels_a_node_come_or_go() -> None:
    """Shares change little over a small step, also where another node becomes one of the nearest."""
    grid = 6.0 * np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    step = 0.01
    path = np.array([9.1, 8.7, 10.3]) + step * np.arange(1500)[:, None] * [0.67, 0.57, 0.48]
    nodes = spread_nodes(np.concatenate([grid, path]), 8.0, len(grid))
    assert len(nodes.centres) == len(grid)
    shares = _shares(nodes)[len(grid) :]
    coming_and_going = ((shares[1:] > 0) != (shares[:-1] > 0)).any(1)
    assert coming_and_going.sum() > 20
    # A Gaussian of 8 Å, cut at the last neighbour, would change by more than 0.02 at once.
    assert float((shares[1:] - shares[:-1]).abs().max()) < 0.2 * step


def test_few_nodes_have_the_shares_of_a_gaussian() -> None:
    positions = np.array([[0.0, 0, 0], [10.0, 0, 0], [0.0, 12.0, 0], [3.0, 2.0, 0]])
    nodes = spread_nodes(positions, 8.0, 3)
    distance = np.linalg.norm(positions[3] - positions[:3], axis=1)
    expected = np.exp(-0.5 * (distance / 8.0) ** 2)
    np.testing.assert_allclose(_shares(nodes)[3].numpy(), expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_the_optimiser_is_torchs(betas: tuple[float, float]) -> None:
    """Bit by bit, where a parameter has no gradient in some steps too, and behind a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    ours, theirs = ([values.clone().requires_grad_() for values in drawn] for _ in range(2))

    def groups(values: list[torch.Tensor]) -> list[ParameterGroup]:
        return [{"params": [values[0]], "lr": 0.1}, {"params": [values[1]], "lr": 0.02}]

    optimiser, known = Adam(groups(ours), betas), torch.optim.Adam(groups(theirs), betas=betas)
    for step in range(12):
        for values, one in ((ours, optimiser), (theirs, known)):
            one.zero_grad()
            loss = (values[0] ** 3).sum()
            (loss + (values[1] ** 2).sum() if step % 3 else loss).backward()
            one.step()
        if step == 6:
            kept, optimiser = optimiser.state(), Adam(groups(ours), betas)
            optimiser.restore(kept)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs))
    assert not torch.equal(ours[1], drawn[1])


def test_stages_of_a_model_go_from_coarse_to_fine(two_chains: Model) -> None:
    stages = DeformationSource(two_chains).stages()
    names = [stage.name for stage in stages]
    n_bodies = len([name for name in names if name in ("whole", "chains")])
    assert names[:n_bodies] == ["whole", *["chains"] * (n_bodies - 1)]
    fields = stages[n_bodies:]
    radii = [float(stage.name.split()[0]) for stage in fields]
    assert radii == sorted(set(radii), reverse=True)
    assert radii[0] == 20
    assert radii[-1] < 1
    for radius, stage in zip(radii, fields):
        limit = stage.resolution_angstrom
        if radius < 2:
            assert limit == 0, f"{radius} Å: all rings are compared in the end"
        elif radius < 10:
            assert 2 * radius < limit < 3 * radius, f"{radius} Å: the limit is what a residue could lock into"
        else:
            assert limit >= 17, radius
    limits = [stage.resolution_angstrom for stage in fields]
    assert limits == sorted(limits, reverse=True)
    assert [stage.name for stage in stages if stage.revert_unless_better] == ["whole"]
    trained = [radius for radius, stage in zip(radii, fields) if stage.trains_gaussians]
    assert trained == [radius for radius in radii if radius < 4]
    assert not any(stage.trains_gaussians for stage in stages[:n_bodies])
    # Chains may have to pass through each other; what is finer may not.
    assert [stage.allows_overlaps for stage in stages] == [name == "chains" for name in names]
    # First at a coarse resolution and then at one that shows how chains are turned, each in rounds.
    rounds = stages[1:n_bodies]
    limits = [stage.resolution_angstrom for stage in rounds if not stage.until_settled]
    assert limits == [17.0, 10.0, 0.0]
    assert limits == sorted({stage.resolution_angstrom for stage in rounds}, reverse=True)
    assert not any(stage.until_settled for stage in [stages[0], *fields])


def test_nodes_become_more_from_stage_to_stage(two_chains: Model) -> None:
    source = DeformationSource(two_chains)
    groups = [source.begin_stage(number) for number in range(len(source.stages()))]
    counts = [len(stage_groups[0]["params"][0]) for stage_groups in groups]
    assert counts == sorted(counts)
    assert counts[0] == 1
    fields = [number for number, stage in enumerate(source.stages()) if stage.name not in ("whole", "chains")]
    assert {counts[number] for number in range(1, fields[0])} == {2}
    one, two, three, four = (counts[number] for number in fields[:4])
    assert 4 < one < two < three < four < counts[-1] == len(Backbone.of(two_chains))
    rates = [groups[number][0]["lr"] for number in fields]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("effort", [0.5, 2.0])
def test_effort_is_a_factor_on_the_steps(closed: Model, effort: float) -> None:
    for scaled, plain in zip(DeformationSource(closed, effort=effort).stages(), DeformationSource(closed).stages()):
        assert scaled.steps == effort * plain.steps
    assert min(stage.steps for stage in DeformationSource(closed, effort=0.001).stages()) == 1


class _Still(DeformationSource):
    """A source that has stages of these resolutions, and in which nothing moves."""

    resolutions = (20.0, 17.0, 12.5, 8.3, 6.0, 0.0)

    def stages(self) -> list[Stage]:
        images = [Stage(f"{limit} Å", 10, limit) for limit in self.resolutions]
        return [*images, Stage("prior", 10, 0.0, batches=0)]

    def begin_stage(self, stage: int) -> list[dict]:
        return []


def test_the_field_on_top_is_as_fine_as_the_images_show(closed: Model) -> None:
    source = FieldOnTopSource(_Still(closed), closed)
    origins = closed.positions[Backbone.of(closed).atoms[:, 1]]
    counts, rates = [], []
    for number, limit in enumerate(_Still.resolutions):
        shifts = source.begin_stage(number)[0]
        counts.append(len(shifts["params"][0]))
        rates.append(shifts["lr"])
        if limit:
            assert counts[-1] >= len(spread_nodes(origins, limit, len(origins)).centres)
    assert counts[0] < counts[1] < counts[2] < counts[3] <= counts[-1] == len(origins)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5 * rates[0]
    assert source.begin_stage(len(_Still.resolutions)) == []
