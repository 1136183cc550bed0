"""Density that is set aside: drawn beside the atoms, found anew at each stage, kept by checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from maps_of_models import imaged, is_lid, whole_model

from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.distributed import Comparison
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.frc_loss import AtomGaussians, CorrelationGradient
from cocofold.likelihood.set_aside import MOST_POINTS, SetAsideComparison
from cocofold.structure.model import Model

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
