"""What a reconstruction says of a model: share of the signal, parts that are there, and whether it belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from maps_of_models import BOX, PIXEL, imaged, is_lid, whole_model
from scipy.spatial.transform import Rotation

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.residue_support import parts_of
from cocofold.likelihood.set_aside import unexplained_points
from cocofold.structure.model import Model


@pytest.fixture(scope="module")
def whole() -> Model:
    return whole_model()


@pytest.fixture(scope="module")
def signal(whole: Model) -> ExplainedSignal:
    return ExplainedSignal(imaged(whole))


def turned(model: Model, degrees: float, shift: float = 0.0) -> Model:
    """About a general axis through its centre, and along another."""
    centre = model.positions.mean(0)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([2.0, -1.0, 2.0]) / 3).as_matrix()
    return model.moved_to((model.positions - centre) @ turn.T + centre + shift * np.array([0.6, 0.0, -0.8]))


def with_moved(model: Model, residues: np.ndarray, shift: float) -> Model:
    moved = model.positions.copy()
    moved[residues[model.residue_of_atom]] += [0.0, shift, 0.0]
    return model.moved_to(moved)


def test_the_truth_explains_all(whole: Model, signal: ExplainedSignal) -> None:
    found = signal.explained(whole)
    assert abs(found.share - 1) < max(0.02, 3 * found.error)
    assert found.error < 0.02
    assert found.correlations[signal.first_shell(whole) - 1 :].min() > 0.9
    parts = signal.occupancies(whole, parts_of(whole))
    assert np.concatenate([part.residues for part in parts]).tolist() == list(range(len(whole.residues)))
    assert all(abs(part.occupancy - 1) < max(0.1, 4 * part.error) for part in parts)


def test_what_is_missing_is_unexplained(whole: Model, signal: ExplainedSignal) -> None:
    lid = is_lid(whole)
    share = whole.atomic_numbers[lid[whole.residue_of_atom]].sum() / whole.atomic_numbers.sum()
    # A domain's atoms scatter together at low resolution: its share of the signal is larger than that of the mass.
    assert share < 1 - signal.explained(whole.only(~lid)).share < 2 * share
    # The same, as atoms without occupancy
    assert signal.explained(whole, (~lid).astype(float)).share == pytest.approx(
        signal.explained(whole.only(~lid)).share, abs=0.02
    )


def test_unexplained_points_are_the_missing_domain(whole: Model, signal: ExplainedSignal) -> None:
    lid = is_lid(whole)
    points, amplitudes, width = unexplained_points(signal, whole.only(~lid), 8.0)
    atoms = lid[whole.residue_of_atom]
    centre = np.average(points, axis=0, weights=amplitudes)
    assert np.linalg.norm(centre - whole.positions[atoms].mean(0)) < 6
    near = np.linalg.norm(points[:, None] - whole.positions[atoms], axis=2).min(1) < 6
    assert amplitudes[near].sum() > 0.7 * amplitudes.sum()
    assert width > PIXEL / 2
    assert unexplained_points(signal, whole, 8.0)[1].sum() < 0.2 * amplitudes.sum()


def test_parts_that_are_elsewhere_or_nowhere_have_no_occupancy(whole: Model, signal: ExplainedSignal) -> None:
    lid = is_lid(whole)
    for part in signal.occupancies(with_moved(whole, lid, 30.0), parts_of(whole)):
        inside = lid[part.residues].mean()
        if inside in (0, 1):
            assert part.occupancy == pytest.approx(1 - inside, abs=0.3), part.residues


def test_a_part_that_half_of_the_particles_have_is_half_there(whole: Model) -> None:
    lid = is_lid(whole)
    half = ExplainedSignal(imaged(whole, whole.only(~lid)))
    rest, domain = half.occupancies(whole, [np.flatnonzero(~lid), np.flatnonzero(lid)])
    assert rest.occupancy == pytest.approx(1, abs=0.05)
    assert domain.occupancy == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("degrees", "shift", "by_chance"), [(0, 0, False), (12, 3.5, False), (70, 0, True), (0, 25, True)]
)
def test_a_model_fits_by_chance_where_it_is_not(
    whole: Model, signal: ExplainedSignal, degrees: float, shift: float, by_chance: bool
) -> None:
    found = signal.placement(turned(whole, degrees, shift))
    assert found.is_by_chance == by_chance
    assert (found.correlation > found.best_rival) == (not by_chance)
    assert found == signal.placement(turned(whole, degrees, shift))


def test_noise_and_an_outline_judge_nothing(whole: Model) -> None:
    noise = ExplainedSignal(imaged(whole, noise=30.0))
    assert noise.last_shell < 3
    assert not noise.can_judge(whole)
    faint = ExplainedSignal(imaged(whole, noise=0.4))
    assert 3 <= faint.last_shell < 12
    assert not faint.can_judge(whole)
    assert ExplainedSignal(imaged(whole, noise=0.002)).can_judge(whole)


def test_views_that_a_half_lacks_lower_no_share(whole: Model) -> None:
    """Voxels that one half has not seen are nothing in its map, and its weights say so."""
    seen = imaged(whole)
    lost = np.zeros(seen.weights.shape, bool)
    lost[::3] = True
    first = np.fft.irfftn(np.where(lost, 0, np.fft.rfftn(seen.half_maps[0])), seen.map.shape)
    shares = (np.where(lost, 0, seen.half_shares[0]), seen.half_shares[1])
    without = replace(seen, half_maps=(first, seen.half_maps[1]), half_shares=shares)
    assert ExplainedSignal(without).explained(whole).share == pytest.approx(1, abs=0.06)
    blind = replace(without, half_shares=seen.half_shares)
    assert ExplainedSignal(blind).explained(whole).share > 1.2


def test_voxels_of_which_a_map_has_little_are_compared_with_as_little(whole: Model) -> None:
    """Of few images the reconstruction holds some frequencies faintly."""
    seen = imaged(whole)
    share = np.ones(seen.trusted_share.shape, np.float32)
    share[::3], share[:, 1::3] = 0.3, 0.5
    faint = [np.fft.irfftn(share * np.fft.rfftn(one), one.shape) for one in (seen.map, *seen.half_maps)]
    maps = {"map": faint[0], "half_maps": (faint[1], faint[2])}
    known = ExplainedSignal(replace(seen, **maps, trusted_share=share, half_shares=(share, share)))
    assert known.explained(whole).share == pytest.approx(1, abs=0.03)
    assert known.explained(whole).correlations[:6].min() > 0.98


def test_unexplained_points_have_the_mass_of_what_is_missing(whole: Model, signal: ExplainedSignal) -> None:
    """On the scale of the parts that are seen, which the missing mass does not change."""
    kept = np.arange(len(whole.residues)) < 100
    masses = whole.atomic_numbers * REFERENCE_WIDTH_ANGSTROM**3
    _, amplitudes, width = unexplained_points(signal, whole.only(kept), 8.0)
    missing = masses[~kept[whole.residue_of_atom]].sum()
    assert amplitudes.sum() * width**3 == pytest.approx(missing, rel=0.2)


def test_parts_of_large_models_are_longer(whole: Model) -> None:
    assert {len(part) for part in parts_of(whole)} <= {11, 12, 13}
    assert BOX * PIXEL == 128
