"""Models of which the map does not show all: tails, and placements that are not trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from disordered_models import with_tail
from drawn_maps import drawn
from scipy.spatial.transform import Rotation

from cocofold.mapfit.bodies import molecule_of
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.fft_search import compact_part
from cocofold.mapfit.fit_model import FitResult, fit_in_map
from cocofold.mapfit.map_files import PlacedBody, Placement
from cocofold.mapfit.target_map import TargetMap, correlate_shells
from cocofold.structure.confidence import read_order
from cocofold.structure.model import Model

_CPU = torch.device("cpu")
_TURN = Rotation.from_rotvec([0.7, -1.1, 1.9]).as_matrix()


def _deviation(found: FitResult, kinase: Model, n_tail: int) -> float:
    """Root mean square deviation of the CA atoms of the core, Å, in place."""
    placed = found.placed.positions[found.placed.atoms_named("CA")][n_tail:]
    return float(np.sqrt(((placed - kinase.positions[kinase.atoms_named("CA")]) ** 2).sum(1).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False])
def test_a_tail_does_not_misplace(kinase: Model, kinase_map: DensityMap, is_known: bool) -> None:
    """Known to be disordered it takes no part; unknown it must not lead the search astray."""
    model = with_tail(kinase, 50, "N", seed=1)
    moved = model.moved_to(model.positions @ _TURN.T + [30.0, -60, 10])
    marked, order = read_order(moved, "auto" if is_known else "experimental")
    assert bool(order.stretches) == is_known
    found = fit_in_map(marked, kinase_map, 10.0)
    assert _deviation(found, kinase, 50) < 2
    assert found.placement.doubt is None
    assert found.placement.bodies[0].selection == "A"
    assert len(found.placed) == len(model)


def test_placement_asks_the_ordered_residues(kinase: Model) -> None:
    model = with_tail(kinase, 30, "C")
    marked, order = read_order(model)
    n_ordered = int((~order.disordered)[model.residue_of_atom].sum())
    assert len(molecule_of(marked).positions) == n_ordered < len(model)
    assert len(molecule_of(model).positions) == len(model)
    # A body that is all tail is placed by its atoms.
    assert len(molecule_of(marked, order.disordered).positions) == len(model) - n_ordered


def test_the_compact_part_is_without_tails(kinase: Model) -> None:
    whole = molecule_of(with_tail(kinase, 50, "N"))
    part = compact_part(whole)
    core = molecule_of(kinase)
    assert len(core.positions) * 0.95 < len(part.positions) < len(core.positions) + 60
    assert len(compact_part(core).positions) > 0.95 * len(core.positions)
    assert abs(part.radius_of_gyration - core.radius_of_gyration) < 1.5 < whole.radius_of_gyration / 10


def test_shells_tell_the_right_place(kinase: Model, kinase_map: DensityMap) -> None:
    target = TargetMap(kinase_map, 10.0, _CPU)
    right = molecule_of(kinase)
    wrong = right.moved(_TURN, right.centroid)
    one, other = (correlate_shells(molecule, target) for molecule in (right, wrong))
    assert one is not None
    assert other is not None
    assert one.mean > 0.6 > 0.3 > other.mean
    assert one.excess_over(other) > 2
    assert other.excess_over(one) == -one.excess_over(other)
    # A map without shells finer than 20 Å says nothing.
    assert correlate_shells(right, TargetMap(kinase_map, 25.0, _CPU)) is None


def test_shells_of_noise_stay_within_their_error(kinase: Model) -> None:
    shape = drawn(kinase).values.shape
    excess = []
    for seed in range(12):
        noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        found = correlate_shells(molecule_of(kinase), TargetMap(replace(drawn(kinase), values=noise), 8.0, _CPU))
        assert found is not None
        excess.append(found.mean / found.standard_error)
    assert 0 < np.abs(excess).max() < 1


@pytest.mark.slow
def test_a_wrong_hand_is_not_trusted(kinase: Model) -> None:
    """In the mirror image no place stands out, and both are named."""
    found = fit_in_map(kinase, drawn(kinase, 0.5).mirrored(), 14.0, hand="as-is")
    doubt = found.placement.doubt
    assert doubt is not None
    assert doubt.startswith("A fits with its centre at (")
    assert any("fits nearly as well elsewhere" in line for line in found.warnings)
    (place,) = found.placement.facts["places"]
    rival = place["rival"]
    assert place["trusted"] is False
    turned = np.array(rival["rotation"]) @ found.placement.bodies[0].rotation.T
    angle = np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1)))
    assert angle == pytest.approx(rival["turned_by_degrees"], abs=0.1)
    centroid = molecule_of(kinase).centroid
    at = np.array(rival["rotation"]) @ centroid + rival["translation_angstrom"]
    assert np.abs(at - rival["centre_angstrom"]).max() < 0.01


def test_files_without_places_leave_no_doubt() -> None:
    """As older versions wrote them, or a user by hand."""
    body = PlacedBody("A", np.eye(3), np.zeros(3), 0.5)
    assert Placement("as-is", {}, (body,), {"whole": {"trusted": False}}).doubt is None
