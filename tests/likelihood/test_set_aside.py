"""Density that is set aside: drawn beside the atoms, found anew at each stage, kept by checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from maps_of_models import imaged, is_lid, whole_model

from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient
from cocofold.likelihood.image_comparison import Comparison
from cocofold.likelihood.set_aside import (
    MOST_POINTS,
    ContextComparison,
    SetAsideComparison,
    read_context,
    unexplained_points,
)
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.system.errors import InputError

RINGS = RingPixels.up_to(32, 5)


class Recording(Comparison):
    """Keeps what it is given, and gives each atom's number back as its gradient."""

    def __init__(self) -> None:
        self.given: list[tuple[torch.Tensor, AtomGaussians]] = []

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        meanwhile()
        self.given.append((positions, gaussians))
        number = torch.arange(len(positions), dtype=torch.float32)
        return CorrelationGradient(0.5, number[:, None].expand(-1, 3), number, number)

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        self.given.append((positions, gaussians))
        return torch.zeros(len(rows), rings.n_rings)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        pass

    def pose_equations(self, *_: object) -> torch.Tensor:
        raise AssertionError("no poses are refined")

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        raise AssertionError("no poses are refined")

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@pytest.fixture(scope="module")
def whole() -> Model:
    return whole_model()


@pytest.fixture(scope="module")
def partial(whole: Model) -> Model:
    return whole.only(~is_lid(whole))


@pytest.fixture(scope="module")
def signal(whole: Model) -> ExplainedSignal:
    return ExplainedSignal(imaged(whole))


def comparison_of(model: Model, signal: ExplainedSignal) -> tuple[SetAsideComparison, Recording]:
    inner = Recording()
    drawn = np.ones(len(model.residues), dtype=bool)
    return SetAsideComparison(inner, signal, model, drawn, torch.device("cpu")), inner


def atoms_of(model: Model) -> tuple[torch.Tensor, AtomGaussians]:
    return torch.as_tensor(model.positions, dtype=torch.float32), AtomGaussians.from_elements(model.atomic_numbers)


def test_points_stand_beside_the_atoms_and_get_no_gradient(partial: Model, signal: ExplainedSignal) -> None:
    comparison, inner = comparison_of(partial, signal)
    positions, gaussians = atoms_of(partial)
    comparison.begin_stage(lambda: positions, 8.0)
    called: list[int] = []
    found = comparison.gradient(positions, gaussians, torch.arange(3), RINGS, 8, lambda: called.append(1))
    assert called == [1]
    assert found.value == 0.5
    assert found.amplitudes.tolist() == list(range(len(partial)))
    assert found.positions.shape == positions.shape
    comparison.score(positions, gaussians, torch.arange(3), RINGS, 8)
    for given, drawn in inner.given:
        assert len(given) == len(drawn.amplitudes) == len(drawn.widths_angstrom) == len(partial) + MOST_POINTS
        assert torch.equal(given[: len(partial)], positions)
        assert torch.equal(drawn.amplitudes[: len(partial)], gaussians.amplitudes)


def test_the_missing_domain_is_drawn_less_at_coarse_stages(
    whole: Model, partial: Model, signal: ExplainedSignal
) -> None:
    comparison, inner = comparison_of(partial, signal)
    positions, gaussians = atoms_of(partial)
    masses = []
    for finest in (20.0, 12.5, 8.0):
        comparison.begin_stage(lambda: positions, finest)
        comparison.score(positions, gaussians, torch.arange(3), RINGS, 8)
        points, drawn = (values[len(partial) :] for values in (inner.given[-1][0], inner.given[-1][1].amplitudes))
        used = drawn > 0
        lid = torch.as_tensor(whole.positions[is_lid(whole)[whole.residue_of_atom]], dtype=torch.float32)
        centre = (points[used] * drawn[used, None]).sum(0) / drawn.sum()
        assert torch.linalg.norm(centre - lid.mean(0)) < 7
        masses.append(float(drawn.sum()))
    assert masses[0] < masses[1] < masses[2]


def test_a_whole_model_has_next_to_nothing_beside_it(whole: Model, partial: Model, signal: ExplainedSignal) -> None:
    masses = []
    for model in (whole, partial):
        comparison, inner = comparison_of(model, signal)
        positions, gaussians = atoms_of(model)
        comparison.begin_stage(lambda positions=positions: positions, 8.0)
        comparison.score(positions, gaussians, torch.arange(3), RINGS, 8)
        masses.append(float(inner.given[-1][1].amplitudes[len(model) :].sum()))
    assert masses[0] < 0.2 * masses[1]


def test_a_checkpoint_keeps_the_points(partial: Model, signal: ExplainedSignal) -> None:
    first, one = comparison_of(partial, signal)
    second, other = comparison_of(partial, signal)
    positions, gaussians = atoms_of(partial)
    first.begin_stage(lambda: positions, 8.0)
    second.restore({name: values.clone() for name, values in first.state().items()})
    for comparison in (first, second):
        comparison.score(positions, gaussians, torch.arange(3), RINGS, 8)
    assert torch.equal(one.given[0][0], other.given[0][0])
    assert torch.equal(one.given[0][1].amplitudes, other.given[0][1].amplitudes)
    assert torch.equal(one.given[0][1].widths_angstrom, other.given[0][1].widths_angstrom)


def test_a_context_stands_beside_the_atoms_and_gets_no_gradient(whole: Model, partial: Model) -> None:
    inner, lid = Recording(), whole.only(is_lid(whole))
    comparison = ContextComparison(inner, lid, torch.device("cpu"))
    positions, gaussians = atoms_of(partial)
    comparison.begin_stage(lambda: positions, 8.0)
    found = comparison.gradient(positions, gaussians, torch.arange(3), RINGS, 8, lambda: None)
    comparison.score(positions, gaussians, torch.arange(3), RINGS, 8)
    assert found.amplitudes.tolist() == list(range(len(partial)))
    for given, drawn in inner.given:
        assert torch.equal(given, torch.cat([positions, torch.as_tensor(lid.positions, dtype=torch.float32)]))
        assert drawn.amplitudes[len(partial) :].tolist() == lid.atomic_numbers.tolist()
    assert comparison.state() == {}


def test_a_context_explains_what_the_model_lacks(whole: Model, partial: Model, signal: ExplainedSignal) -> None:
    lid = whole.only(is_lid(whole))
    beside = ExplainedSignal(imaged(whole), lid)
    assert signal.explained(partial).share < 0.9
    assert beside.explained(partial).share == pytest.approx(signal.explained(whole).share, abs=0.005)
    rest = np.arange(len(partial.residues))
    (part,) = beside.occupancies(partial, [rest])
    assert part.occupancy == pytest.approx(1, abs=0.05)
    masses = [unexplained_points(one, partial, 8.0)[1].sum() for one in (signal, beside)]
    assert masses[1] < 0.2 * masses[0]


def test_a_context_that_cannot_be_is_refused(whole: Model, partial: Model, tmp_path: Path) -> None:
    particles = cast(ParticleSet, SimpleNamespace(box=32, pixel_size_angstrom=4.0, optics=(), optics_index=[]))
    said: list[str] = []

    def read(context: Model, mirrored: bool = False, **placed: str) -> Model:
        write_model(tmp_path / "context.cif", context, placed_as=placed)
        return read_context(tmp_path / "context.cif", partial, mirrored, particles, said.append)

    lid = whole.only(is_lid(whole))
    assert len(read(lid)) == len(lid)
    assert f"{len(lid)} atoms" in said[-1]
    read(lid, mirrored=True)
    assert "mirrored map" in said[-2]
    with pytest.raises(InputError, match="holds what the model is: 171 of 171"):
        read(whole)
    with pytest.raises(InputError, match="outside the particles' box"):
        read(lid.moved_to(lid.positions - 200))
    with pytest.raises(InputError, match="place both in one map"):
        read(lid, hand="mirrored")
