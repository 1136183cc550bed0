"""Subunits placed in symmetric maps, and the symmetry of maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_maps import BOX, PIXEL_SIZE, drawn
from scipy.spatial.transform import Rotation

from cocofold.mapfit.bodies import bodies_from_pae
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.fit_model import fit_in_map
from cocofold.mapfit.map_files import Placement
from cocofold.mapfit.target_map import TargetMap, detect_symmetry
from cocofold.mapfit.workflow import MapFiles, place_and_write
from cocofold.structure.geometry import build_assembly, copy_positions, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

CENTRE = np.full(3, BOX // 2 * PIXEL_SIZE)


@pytest.fixture(scope="module")
def subunit(kinase: Model) -> Model:
    """The part of the kinase that moves least, beside the z axis."""
    part = kinase.only(np.arange(len(kinase.residues)) < 110)
    return part.moved_to(part.positions - part.positions.mean(0) + CENTRE + [26.0, 0, 4])


@pytest.fixture(scope="module")
def trimer_map(subunit: Model) -> DensityMap:
    return drawn(build_assembly(subunit, point_group_rotations("C3"), CENTRE), 0.3)


@pytest.mark.slow
def test_a_subunit_is_placed_and_copied(subunit: Model, trimer_map: DensityMap, tmp_path: Path) -> None:
    turn = Rotation.from_rotvec([1.0, -2, 0.5]).as_matrix()
    moved = subunit.moved_to(subunit.positions @ turn.T + [50.0, -20, 300])
    trimer_map.write(tmp_path / "map.mrc")
    files = MapFiles(tmp_path / "map.mrc", resolution_angstrom=12.0)
    found, lines = place_and_write(moved, files, tmp_path / "out", hand="as-is", symmetry="auto")
    assert found.placement.symmetry == "C3"
    (said,) = [line for line in lines if line.startswith("symmetry")]
    assert said.startswith("symmetry    C3 (found: least correlation "), said
    copies = copy_positions(subunit.positions, point_group_rotations("C3"), CENTRE).reshape(3, -1, 3)
    off = np.sqrt(((copies - found.subunit.positions) ** 2).sum(2).mean(1)).min()
    assert off < 1.5
    assert np.array_equal(found.placed.positions[: len(subunit)], found.subunit.positions)
    assert len(read_model(tmp_path / "out" / "placed.cif")) == 3 * len(subunit)
    assert len(read_model(tmp_path / "out" / "subunit.cif")) == len(subunit)
    assert read_model(tmp_path / "out" / "placed.cif").placed_as == {"hand": "as-is", "symmetry": "C3"}
    assert read_model(tmp_path / "out" / "subunit.cif").placed_as == {"hand": "as-is"}
    assert json.loads((tmp_path / "out" / "placement.json").read_text())["symmetry"] == "C3"
    assert Placement.read(tmp_path / "out" / "placement.json").symmetry == "C3"
    assert found.placement.facts["uncovered_share"] < 0.1


def test_the_symmetry_of_maps(kinase_map: DensityMap, trimer_map: DensityMap, subunit: Model) -> None:
    cpu = torch.device("cpu")
    assert detect_symmetry(TargetMap(kinase_map, 10.0, cpu))[0] == "C1"
    group, scores = detect_symmetry(TargetMap(trimer_map, 10.0, cpu))
    assert group == "C3"
    assert scores["C3"] > 0.9 > 0.8 > scores["C6"]
    four = drawn(build_assembly(subunit, point_group_rotations("D2"), CENTRE), 0.3)
    assert detect_symmetry(TargetMap(four, 10.0, cpu))[0] == "D2"


def test_what_does_not_go_together_is_refused(subunit: Model, trimer_map: DensityMap) -> None:
    with pytest.raises(InputError, match="a subunit is placed as a whole"):
        fit_in_map(subunit, trimer_map, 12.0, bodies="A:1-50;A:51-110", symmetry="C3")
    with pytest.raises(InputError, match="no point group"):
        fit_in_map(subunit, trimer_map, 12.0, symmetry="C3v")


def test_bodies_of_a_prediction_are_what_it_is_sure_of(kinase: Model) -> None:
    count = len(kinase.residues)
    error = np.full((count, count), 25.0)
    lid = np.zeros(count, dtype=bool)
    lid[110:170] = True
    error[np.ix_(lid, lid)] = error[np.ix_(~lid, ~lid)] = 3.0
    # Too few to stand alone, and nearer to the lid.
    error[200:205] = error[:, 200:205] = 22.0
    error[200:205, 110:170] = error[110:170, 200:205] = 15.0
    assert bodies_from_pae(kinase, error) == "A:1-110,A:171-200,A:206-214;A:111-170,A:201-205"
    assert bodies_from_pae(kinase, np.full((count, count), 4.0)) == "A"
