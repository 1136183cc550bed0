"""Models placed in maps: from anywhere, in either hand, by bodies; and what is said of it."""

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from drawn_maps import PIXEL_SIZE, drawn
from scipy.spatial.transform import Rotation

from cocofold.assessment.comparison import assess
from cocofold.commands.fit import fit as fit_command
from cocofold.mapfit.bodies import apply_placement, molecule_of, place_bodies, select_residues
from cocofold.mapfit.density_map import DensityMap, read_map
from cocofold.mapfit.fit_model import fit_in_map
from cocofold.mapfit.map_files import Placement
from cocofold.mapfit.rigid_refinement import RigidMolecule, RigidPoses
from cocofold.mapfit.search_pipeline import assess_significance, uncovered_share
from cocofold.mapfit.target_map import TargetMap, resolution_from_half_maps, resolution_from_noise, soft_molecule_mask
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

_CPU = torch.device("cpu")
_ANYWHERE = Rotation.from_rotvec([1.0, -2, 0.5]).as_matrix()


def _options(**given: object) -> dict:
    names = ("bodies", "mask", "half1", "half2", "resolution", "pixel_size", "symmetry")
    return {**dict.fromkeys(names), "hand": "auto", "b_factors": "auto", "device": "cpu", **given}


def run(model: Path, density: Path, out: Path, **options: object) -> None:
    fit_command(model, None, density, out, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_moved_model_and_a_mirrored_map(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = read_model(shared_data / "adk" / "truth_open.cif")
    write_model(tmp_path / "moved.cif", truth.moved_to(truth.positions @ _ANYWHERE.T + [50.0, -20, 300]))
    density = read_map(shared_data / "adk" / "uniform" / "reconstruction.mrc")
    density.mirrored().write(tmp_path / "map.mrc")
    out = tmp_path / "out"
    run(tmp_path / "moved.cif", tmp_path / "map.mrc", out, **_options(resolution=14.0))
    placed = read_model(out / "placed.cif")
    # In the frame of the mirrored map, which is that of the map before it was mirrored.
    assert assess(placed, truth).ca_rmsd_in_place < 1.0
    assert np.array_equal(read_map(out / "mirrored.mrc").values, density.values)
    placement = Placement.read(out / "placement.json")
    assert placement.hand == "mirrored"
    assert placement.hand_scores["mirrored"] > placement.hand_scores["as-is"] + 0.1
    assert placement.bodies[0].selection == "A"
    again = apply_placement(read_model(tmp_path / "moved.cif"), placement)
    assert np.abs(again.positions - placed.positions).max() < 0.01
    assert placement.facts["whole"]["trusted"]
    assert placement.facts["uncovered_share"] < 0.1
    assert placement.facts["warnings"] == []
    assert (out / "placement.png").stat().st_size > 10_000
    assert "placed in the map's mirror image" in (out / "placed.cif").read_text()
    assert "mirrored (mirrored; correlation as-is" in capsys.readouterr().out
    with pytest.raises(InputError, match="the folder holds"):
        run(tmp_path / "moved.cif", tmp_path / "map.mrc", out, **_options())


def test_too_little_detail_claims_nothing(kinase: Model) -> None:
    """At 30 Å the mirror image of a blob fits nearly as well."""
    found = fit_in_map(kinase, drawn(kinase, 0.2), 30.0)
    assert found.placement.hand == "as-is"
    assert found.placement.hand_scores["verdict"] == "undecided"
    assert "undecided: at 30.0 Å the model correlates by" in found.warnings[0]


@pytest.mark.slow
def test_displaced_chains_are_placed_as_bodies(shared_data: Path) -> None:
    start = read_model(shared_data / "tcr" / "start_tcr_displaced.cif")
    truth = read_model(shared_data / "tcr" / "truth.cif")
    target = TargetMap(read_map(shared_data / "tcr" / "reconstruction.mrc"), 9.0, _CPU)
    whole = molecule_of(start)
    chosen = [select_residues(start, text) for text in ("A,B,C", "D,E")]
    bodies = [molecule_of(start, rows) for rows in chosen]
    as_it_is = RigidPoses(np.eye(3)[None], whole.centroid[None], np.ones(1))
    found = place_bodies(bodies, target, as_it_is, whole.centroid, lambda what, done: None)
    for rows, body, one in zip(chosen, bodies, found):
        moved = body.moved(one.poses.rotations[0], one.poses.centres[0])
        assert np.sqrt(((moved.ca_positions - molecule_of(truth, rows).ca_positions) ** 2).sum(1).mean()) < 1.0
        assert one.significance.trusted


def _two_copies(kinase: Model) -> DensityMap:
    """The model's density twice, 24 voxels apart along each axis."""
    values, one = np.zeros((72, 72, 72), dtype=np.float32), drawn(kinase).values
    values[:48, :48, :48] = one
    values[24:, 24:, 24:] += one
    return DensityMap(values, PIXEL_SIZE)


def test_rivals_are_really_different(kinase: Model) -> None:
    atoms = molecule_of(kinase)
    density = _two_copies(kinase)
    rng = np.random.default_rng(0)
    noisy = replace(density, values=density.values + 0.3 * rng.standard_normal(density.values.shape).astype(np.float32))
    target = TargetMap(noisy, 8.0, _CPU)
    turns = np.stack([np.eye(3), Rotation.from_rotvec([0, 0, 0.02]).as_matrix(), np.eye(3), _ANYWHERE])
    centres = atoms.centroid + np.array([[0.0, 0, 0], [0.1, 0, 0], [72, 72, 72], [0, 0, 0]])
    found = assess_significance(atoms, target, RigidPoses(turns, centres, np.array([0.8, 0.79, 0.78, 0.3])))
    assert found.runner_up == 3
    assert found.n_equivalent == 1
    assert found.trusted
    assert not assess_significance(
        atoms, target, RigidPoses(turns[[0, 3]], centres[[0, 3]], np.array([0.31, 0.3]))
    ).trusted
    # A dimer turned upon itself is where it was.
    axis = np.diag([-1.0, -1, 1])
    ca_positions = np.concatenate(
        [atoms.ca_positions - atoms.centroid + 30, (atoms.ca_positions - atoms.centroid + 30) @ axis]
    )
    dimer = RigidMolecule(ca_positions, np.full(len(ca_positions), 6), ca_positions)
    same = RigidPoses(np.stack([np.eye(3), axis]), np.zeros((2, 3)) + atoms.centroid, np.array([0.8, 0.8]))
    assert assess_significance(dimer, target, same).runner_up is None


def test_uncovered_density(kinase: Model, kinase_map: DensityMap) -> None:
    target = TargetMap(kinase_map, 8.0, _CPU)
    assert uncovered_share(target, molecule_of(kinase)) < 0.03
    half = molecule_of(kinase, np.arange(len(kinase.residues)) < 107)
    assert 0.25 < uncovered_share(target, half) < 0.6


def test_resolution_from_noise_and_from_half_maps(kinase: Model) -> None:
    clean = drawn(kinase)
    low_passed = TargetMap(clean, 12.0, _CPU).grid(12.0, voxels=4.0).values.numpy()
    assert low_passed.shape == clean.values.shape
    rng = np.random.default_rng(3)
    halves = [
        replace(
            clean,
            values=low_passed + 2 * low_passed.std() * rng.standard_normal(low_passed.shape).astype(np.float32),
        )
        for _ in range(2)
    ]
    mean = replace(clean, values=(halves[0].values + halves[1].values) / 2)
    assert resolution_from_half_maps(halves[0], halves[1], soft_molecule_mask(mean)) == pytest.approx(12, rel=0.15)
    assert resolution_from_noise(mean) == pytest.approx(12, rel=0.15)
    assert resolution_from_noise(replace(clean, values=clean.values * (soft_molecule_mask(clean) > 0.5))) is None


@pytest.mark.independent
def test_resolution_of_relions_maps(shared_data: Path) -> None:
    folder = shared_data / "adk" / "small300"
    whole, half1, half2 = (read_map(folder / f"{name}.mrc") for name in ("reconstruction", "half1", "half2"))
    published = json.loads((folder.parent / "uniform" / "info.json").read_text())["half_fsc0143_masked"]
    assert resolution_from_half_maps(half1, half2, soft_molecule_mask(whole)) == pytest.approx(published, abs=0.2)
    assert resolution_from_noise(whole) == pytest.approx(published, abs=0.2)


def test_input_that_cannot_be_used(kinase: Model, kinase_map: DensityMap, tmp_path: Path) -> None:
    write_model(tmp_path / "model.cif", kinase)
    kinase_map.write(tmp_path / "map.mrc")
    with mrcfile.new(tmp_path / "other.mrc") as file:
        file.set_data(np.ones((8, 8, 8), dtype=np.float32) + np.eye(8, dtype=np.float32))
        file.voxel_size = 3
    (tmp_path / "file").write_text("")
    files = (tmp_path / "model.cif", tmp_path / "map.mrc", tmp_path / "out")
    cases = {
        "larger than the map": _options(pixel_size=0.3, resolution=5.0),
        "hold nothing finer than 6 Å": _options(resolution=4.0),
        "no chain Z": _options(bodies="A;Z", resolution=9.0),
        "one half map alone": _options(half1=files[1]),
        "--hand left": _options(hand="left"),
        "--b-factors isotropic": _options(b_factors="isotropic"),
        "must have the map's grid": _options(mask=tmp_path / "other.mrc", resolution=9.0),
        "a mask goes from 0 to 1": _options(mask=files[1], resolution=9.0),
        "--half2 .*: no such file": _options(half1=files[1], half2=tmp_path / "none.mrc"),
        "--device tpu": _options(device="tpu"),
        "--resolution 0.1": _options(resolution=0.1),
    }
    for said, options in cases.items():
        with pytest.raises(InputError, match=said):
            run(*files, **options)
    with pytest.raises(InputError, match="is a file"):
        run(*files[:2], tmp_path / "file", **_options())
    assert not files[2].exists()
