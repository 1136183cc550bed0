"""Tilt series: images of a particle's tilts as RELION 5, Warp and others list them, with poses, CTFs and doses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cocofold.finetuning.holdout import split_into_passes
from cocofold.likelihood.particle_optics import dose_weights
from cocofold.likelihood.reconstruction import split_into_halves
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.poses import tilts_of_particles
from cocofold.particles.star_tables import StarBlock
from cocofold.particles.star_write import write_star, write_star_subset
from cocofold.system.errors import InputError

BOX, PIXEL, TILTS = 8, 4.0, 7
SERIES = ("TS_01", "TS_02")
RANDOM = np.random.default_rng(3)


def turn(axis: int, degrees: float) -> np.ndarray:
    """A right-handed rotation about an axis, from its textbook form."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        [
            [[1, 0, 0], [0, c, -s], [0, s, c]],
            [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        ][axis]
    )


def euler(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's matrix of Euler angles, which turns axes and not vectors."""
    return turn(2, -psi) @ turn(1, -tilt) @ turn(2, -rot)


class TiltProject:
    """Two tilt series with two particles each, as RELION 5 leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tilts = {
            name: pd.DataFrame(
                {
                    "rlnTomoXTilt": RANDOM.normal(0, 1, TILTS),
                    "rlnTomoYTilt": np.linspace(-60, 60, TILTS),
                    "rlnTomoZRot": RANDOM.normal(85, 1, TILTS),
                    "rlnTomoXShiftAngst": RANDOM.normal(0, 50, TILTS),
                    "rlnTomoYShiftAngst": RANDOM.normal(0, 50, TILTS),
                    "rlnDefocusU": RANDOM.uniform(20000, 30000, TILTS),
                    "rlnDefocusV": RANDOM.uniform(20000, 30000, TILTS),
                    "rlnDefocusAngle": RANDOM.uniform(0, 180, TILTS),
                    "rlnCtfScalefactor": np.cos(np.radians(np.linspace(-60, 60, TILTS))),
                    "rlnMicrographPreExposure": 3.0 * RANDOM.permutation(TILTS),
                }
            )
            for name in SERIES
        }
        self.tomograms = pd.DataFrame(
            {
                "rlnTomoName": SERIES,
                "rlnVoltage": 300.0,
                "rlnSphericalAberration": 2.7,
                "rlnAmplitudeContrast": 0.1,
                "rlnTomoTiltSeriesPixelSize": PIXEL / 2,
                "rlnTomoHand": [-1.0, 1.0],
                "rlnTomoSizeX": 4000,
                "rlnTomoSizeY": 3800,
                "rlnTomoSizeZ": 1200,
                "rlnTomoTiltSeriesStarFile": [f"tilt_series/{name}.star" for name in SERIES],
            }
        )
        self.optics = pd.DataFrame(
            {
                "rlnOpticsGroup": [1],
                "rlnOpticsGroupName": ["krios"],
                "rlnVoltage": [300.0],
                "rlnSphericalAberration": [2.7],
                "rlnAmplitudeContrast": [0.1],
                "rlnTomoTiltSeriesPixelSize": [PIXEL / 2],
                "rlnTomoSubtomogramBinning": [2.0],
                "rlnImagePixelSize": [PIXEL],
                "rlnImageSize": [BOX],
                "rlnImageDimensionality": [2],
                "rlnCtfDataAreCtfPremultiplied": [1],
            }
        )
        visible = np.ones((4, TILTS), dtype=int)
        visible[1, [0, 5]] = 0
        self.visible = visible
        angles = RANDOM.uniform(-90, 90, (4, 6))
        labels = [f"rln{kind}{angle}" for kind in ("Angle", "TomoSubtomogram") for angle in ("Rot", "Tilt", "Psi")]
        self.particles = pd.DataFrame(
            {
                "rlnTomoName": [SERIES[0], SERIES[1], SERIES[0], SERIES[1]],
                "rlnTomoParticleId": [1, 2, 3, 4],
                **dict(zip(labels, angles.T)),
                **{f"rlnOrigin{axis}Angst": RANDOM.normal(0, 4, 4) for axis in "XYZ"},
                **{f"rlnCenteredCoordinate{axis}Angst": RANDOM.normal(0, 900, 4) for axis in "XYZ"},
                "rlnTomoVisibleFrames": ["[" + ",".join(map(str, marks)) + "]" for marks in visible],
                "rlnImageName": [f"Extract/{number}_stack2d.mrcs" for number in range(1, 5)],
                "rlnOpticsGroup": 1,
                "rlnRandomSubset": [1, 2, 2, 1],
            }
        )

    def write(self, **general: Any) -> Path:
        """Write all files; the optimisation set's path is given back."""
        for name in ("Extract", "tilt_series"):
            (self.folder / name).mkdir(exist_ok=True)
        self.images = {}
        for number, marks in enumerate(self.visible, 1):
            images = RANDOM.normal(size=(int(marks.sum()), BOX, BOX)).astype(np.float32)
            mrcfile.write(self.folder / f"Extract/{number}_stack2d.mrcs", images, overwrite=True)
            self.images[number] = images
        for name, table in self.tilts.items():
            starfile.write({name: table}, self.folder / f"tilt_series/{name}.star")
        starfile.write({"global": self.tomograms}, self.folder / "tomograms.star")
        blocks = {"general": {"rlnTomoSubTomosAre2DStacks": 1, **general}, "optics": self.optics}
        starfile.write({**blocks, "particles": self.particles}, self.folder / "particles.star")
        names = {"rlnTomoParticlesFile": "particles.star", "rlnTomoTomogramsFile": "tomograms.star"}
        starfile.write({"": names}, self.folder / "optimisation_set.star")
        return self.folder / "optimisation_set.star"


@pytest.fixture
def tilted(tmp_path: Path) -> TiltProject:
    return TiltProject(tmp_path)


def expected_images(project: TiltProject) -> list[dict[str, Any]]:
    """Each image by RELION's own steps, one at a time: Tomogram::setProjectionMatrix, getCtf, Experiment::read."""
    found = []
    order = [row for name in SERIES for row in range(4) if project.particles.rlnTomoName[row] == name]
    for row in order:
        one = project.particles.iloc[row]
        tilts = project.tilts[one.rlnTomoName]
        hand = dict(zip(SERIES, project.tomograms.rlnTomoHand))[one.rlnTomoName]
        own = euler(one.rlnAngleRot, one.rlnAngleTilt, one.rlnAnglePsi)
        before = euler(one.rlnTomoSubtomogramRot, one.rlnTomoSubtomogramTilt, one.rlnTomoSubtomogramPsi)
        offset = np.array([one[f"rlnOrigin{axis}Angst"] for axis in "XYZ"])
        place = np.array([one[f"rlnCenteredCoordinate{axis}Angst"] for axis in "XYZ"]) - before @ offset
        for slot, frame in enumerate(np.flatnonzero(project.visible[row])):
            tilt = tilts.iloc[frame]
            projection = turn(2, tilt.rlnTomoZRot) @ turn(1, tilt.rlnTomoYTilt) @ turn(0, tilt.rlnTomoXTilt)
            depth = (projection @ place)[2]
            found.append(
                {
                    "rotation": projection @ before @ own,
                    "origin": (projection @ before @ offset)[:2],
                    "defocus": tilt.rlnDefocusU + hand * depth,
                    "dose": tilt.rlnMicrographPreExposure,
                    "half": one.rlnRandomSubset,
                    "particle": row,
                    "image": project.images[row + 1][slot],
                }
            )
    return found


def test_relions_tilt_series_by_its_own_steps(tilted: TiltProject) -> None:
    read = read_particles(tilted.write())
    expected = expected_images(tilted)
    assert len(read) == len(expected) == 26
    np.testing.assert_allclose(read.rotations, [one["rotation"] for one in expected], atol=1e-6)
    np.testing.assert_allclose(read.origins_angstrom, [one["origin"] for one in expected], atol=1e-4)
    np.testing.assert_allclose(read.defocus_u_angstrom, [one["defocus"] for one in expected], atol=1e-3)
    np.testing.assert_allclose(read.dose_e_a2, [one["dose"] for one in expected])
    np.testing.assert_array_equal(read.half_set, [one["half"] for one in expected])
    np.testing.assert_array_equal(read.images(np.arange(26)), [one["image"] for one in expected])
    particle = np.array([one["particle"] for one in expected])
    assert len(np.unique(read.particle_numbers)) == 4
    np.testing.assert_array_equal(
        read.particle_numbers[:, None] == read.particle_numbers, particle[:, None] == particle
    )
    assert read.optics[0].ctf_premultiplied
    assert read.pixel_size_angstrom == PIXEL


def same(read: ParticleSet, other: ParticleSet) -> None:
    for name in ("rotations", "origins_angstrom", "defocus_u_angstrom", "defocus_v_angstrom", "dose_e_a2", "ctf_scale"):
        np.testing.assert_allclose(getattr(read, name), getattr(other, name), atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(read.particle_numbers, other.particle_numbers)
    np.testing.assert_array_equal(read.images(np.arange(len(read))), other.images(np.arange(len(other))))


def test_other_ways_to_write_the_same(tilted: TiltProject) -> None:
    first = read_particles(tilted.write())
    # The particles alone, with the set or tomograms.star beside them
    same(read_particles(tilted.folder / "particles.star"), first)
    (tilted.folder / "optimisation_set.star").unlink()
    same(read_particles(tilted.folder / "particles.star"), first)
    # Tilt series as blocks of tomograms.star, as RELION 4 has them, with whole matrices
    tables = {}
    for name, table in tilted.tilts.items():
        turns = Rotation.from_euler("xyz", table[["rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot"]], degrees=True)
        rows = [[f"[{','.join(f'{value:.12f}' for value in row)},0]" for row in matrix] for matrix in turns.as_matrix()]
        tables[name] = table.drop(columns=["rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot"]).assign(
            **{f"rlnTomoProj{axis}": [row[number] for row in rows] for number, axis in enumerate("XYZ")}
        )
    whole = tilted.tomograms.drop(columns="rlnTomoTiltSeriesStarFile")
    starfile.write({"global": whole, **tables}, tilted.folder / "tomograms.star")
    same(read_particles(tilted.folder / "particles.star"), first)
    # Without the pixel size of tilt series, which places in Å do not need
    starfile.write(
        {"global": whole.drop(columns="rlnTomoTiltSeriesPixelSize"), **tables}, tilted.folder / "tomograms.star"
    )
    same(read_particles(tilted.folder / "particles.star"), first)
    # Places in pixels, as RELION 4 has them
    size = np.array([4000, 3800, 1200])
    for number, axis in enumerate("XYZ"):
        centred = tilted.particles.pop(f"rlnCenteredCoordinate{axis}Angst")
        tilted.particles[f"rlnCoordinate{axis}"] = centred / (PIXEL / 2) + size[number] / 2
    tilted.write()
    again = read_particles(tilted.folder / "optimisation_set.star")
    np.testing.assert_allclose(again.defocus_u_angstrom, first.defocus_u_angstrom, atol=1e-3)
    # Without the size of pixels in the images
    del tilted.optics["rlnImagePixelSize"]
    assert read_particles(tilted.write()).pixel_size_angstrom == PIXEL


def test_written_and_read_again(tilted: TiltProject, tmp_path: Path) -> None:
    source = tilted.write()
    read = read_particles(source)
    write_star(tmp_path / "flat.star", read)
    same(read_particles(tmp_path / "flat.star"), read)
    rows = np.flatnonzero(read.particle_numbers < 2)
    write_star_subset(tmp_path / "some.star", read.subset(rows), source, rows, {"rlnClassNumber": np.arange(len(rows))})
    same(read_particles(tmp_path / "some.star"), read.subset(rows))
    assert starfile.read(tmp_path / "some.star")["particles"]["rlnClassNumber"].tolist() == list(range(len(rows)))


def test_tilts_of_a_particle_stay_together(tilted: TiltProject) -> None:
    read = read_particles(tilted.write())
    few = read.limited(3, None, 0)
    assert len(np.unique(few.particle_numbers)) == 3
    assert len(np.unique(read.limited(None, 2, 1).particle_numbers)) == 2
    marked = np.zeros(len(read), dtype=bool)
    marked[0] = True
    first = split_into_passes(len(read), 0, marked=marked, images=read.particle_numbers)[0]
    assert set(read.particle_numbers[first.heldout.numpy()]) == {0}
    assert 0 not in read.particle_numbers[first.work.numpy()]
    del tilted.particles["rlnRandomSubset"]
    without = read_particles(tilted.write())
    halves = split_into_halves(without, 0)
    assert not set(without.particle_numbers[halves[0]]) & set(without.particle_numbers[halves[1]])


def flat_star(folder: Path, **columns: Any) -> Path:
    """A STAR of single tilt images of three particles, six of each."""
    n = 18
    mrcfile.write(folder / "all.mrcs", RANDOM.normal(size=(n, BOX, BOX)).astype(np.float32), overwrite=True)
    table = {
        "rlnImageName": [f"{row + 1}@all.mrcs" for row in range(n)],
        "rlnAngleRot": RANDOM.uniform(-90, 90, n),
        "rlnAngleTilt": RANDOM.uniform(0, 90, n),
        "rlnAnglePsi": RANDOM.uniform(-90, 90, n),
        "rlnDefocusU": 20000.0,
        "rlnDefocusV": 20000.0,
        "rlnDefocusAngle": 0.0,
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.07,
        "rlnDetectorPixelSize": PIXEL,
        "rlnMagnification": 10000.0,
        **columns,
    }
    starfile.write({"": pd.DataFrame(table)}, folder / "flat.star")
    return folder / "flat.star"


GROUPS = np.repeat([f"001_{number:06d}" for number in range(3)], 6)
DOSES = np.tile(3.0 * np.arange(6), 3)
# Columns by which single tilt images are known: of Warp and M, of older versions, of others
NAMED = {
    "Warp": {
        "rlnGroupName": GROUPS,
        "rlnCtfBfactor": -4 * DOSES,
        "rlnCtfScalefactor": np.tile(np.linspace(1, 0.5, 6), 3),
    },
    "doses": {"rlnGroupName": GROUPS, "rlnMicrographPreExposure": DOSES},
    "names": {"rlnTomoName": "TS_01", "rlnTomoParticleName": GROUPS, "rlnMicrographPreExposure": DOSES},
    "numbers": {"rlnTomoParticleId": np.repeat([5, 7, 9], 6), "rlnMicrographPreExposure": DOSES},
    "ours": {"cocofoldParticle": np.repeat([1, 2, 3], 6), "rlnMicrographPreExposure": DOSES},
    "mixed order": {
        "rlnGroupName": np.tile(GROUPS[::6], 6),
        "rlnMicrographPreExposure": np.repeat(3.0 * np.arange(6), 3),
    },
}


@pytest.mark.parametrize("kind", NAMED)
def test_single_tilt_images_are_known_by(tmp_path: Path, kind: str) -> None:
    read = read_particles(flat_star(tmp_path, **NAMED[kind]))
    assert len(np.unique(read.particle_numbers)) == 3
    assert np.bincount(read.particle_numbers).tolist() == [6, 6, 6]
    assert read.dose_e_a2 is not None
    np.testing.assert_allclose(np.sort(read.dose_e_a2), np.repeat(3.0 * np.arange(6), 3))
    assert (read.ctf_bfactor_a2 == 0).all()
    weights = dose_weights(read, BOX // 2 - 1)
    assert weights is not None
    np.testing.assert_allclose(weights.mean(0), 1, rtol=1e-5)
    assert (weights[read.dose_e_a2 == 0] > weights[read.dose_e_a2 == 15.0]).all()


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"rlnGroupName": GROUPS},
        {"rlnGroupName": "group_1", "rlnCtfBfactor": -10.0},
        {"rlnGroupName": GROUPS, "rlnMicrographPreExposure": 3.0},
        {"rlnGroupName": [f"mic{row}" for row in range(18)], "rlnMicrographPreExposure": DOSES},
        {"rlnCtfBfactor": -4 * DOSES},
        {"rlnGroupName": np.where(DOSES < 10, "nan", "7"), "rlnCtfBfactor": -4 * DOSES},
    ],
)
def test_single_particles_are_not_taken_for_tilts(tmp_path: Path, columns: dict[str, Any]) -> None:
    read = read_particles(flat_star(tmp_path, **columns))
    assert read.particle_index is None
    assert read.dose_e_a2 is None


@pytest.mark.parametrize(("count", "are_tilts"), [(4, False), (5, True), (200, True), (201, False)])
def test_groups_of_5_to_200_images_are_particles(count: int, are_tilts: bool) -> None:
    groups, doses = pd.Series(np.repeat(["a", "b"], count)), np.tile(3.0 * np.arange(count), 2)
    table = pd.DataFrame({"rlnGroupName": groups, "rlnMicrographPreExposure": doses})
    assert bool(tilts_of_particles(StarBlock(Path("a.star"), "particles", table))) == are_tilts


def spoil(project: TiltProject, kind: str) -> None:
    if kind == "frames":
        project.particles["rlnTomoVisibleFrames"] = "[1,1]"
    elif kind == "name":
        project.particles.loc[1, "rlnTomoName"] = "TS_09"
    elif kind == "places":
        del project.particles["rlnCenteredCoordinateXAngst"]
    elif kind == "poses":
        angles = [label for label in project.particles if "Angle" in label or "Subtomogram" in label]
        project.particles = project.particles.drop(columns=angles)
    else:
        for table in project.tilts.values():
            del table["rlnDefocusU" if kind == "defocus" else "rlnTomoYTilt"]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("frames", ["rlnTomoVisibleFrames is [1,1]", "7 tilts"]),
        ("name", ["TS_09", "tomograms.star does not list"]),
        ("places", ["rlnCenteredCoordinateXAngst"]),
        ("poses", ["missing rlnAngleRot", "have no poses"]),
        ("defocus", ["TS_01.star", "missing rlnDefocusU", "estimate"]),
        ("tilt", ["TS_01.star", "rlnTomoYTilt", "align"]),
    ],
)
def test_defects_are_refused(tilted: TiltProject, kind: str, parts: list[str]) -> None:
    spoil(tilted, kind)
    with pytest.raises(InputError) as caught:
        read_particles(tilted.write())
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_tilt_image_of_no_particle_is_refused(tmp_path: Path) -> None:
    named = np.repeat(["1", "nan", "3"], 6)
    with pytest.raises(InputError, match="row 7 has no rlnTomoParticleName"):
        read_particles(flat_star(tmp_path, rlnTomoParticleName=named, rlnMicrographPreExposure=DOSES))


def test_files_that_are_missing_are_named(tilted: TiltProject) -> None:
    source = tilted.write()
    (tilted.folder / "tilt_series/TS_02.star").unlink()
    with pytest.raises(InputError, match=r"tomograms.star: tilt_series/TS_02.star, which it names, is not found"):
        read_particles(source)
    (tilted.folder / "tomograms.star").unlink()
    (tilted.folder / "optimisation_set.star").unlink()
    with pytest.raises(InputError, match=r"particles.star: .* give --particles that optimisation_set.star"):
        read_particles(tilted.folder / "particles.star")
