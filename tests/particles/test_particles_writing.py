"""STAR files written here are what RELION expects, and give the same particles back."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from particle_project import Project, write_stack

from cocofold.particles import read_particles, star_write
from cocofold.particles.star_write import write_star
from cocofold.system.errors import InputError

OPTICS = {
    "rlnOpticsGroupName": "name with spaces".replace(" ", "_"),
    "rlnCtfDataArePhaseFlipped": "1",
    "rlnCtfDataAreCtfPremultiplied": "1",
    "rlnBeamTiltX": "0.25",
    "rlnBeamTiltY": "-0.5",
    "rlnOddZernike": "[0.5,0,-0.123456789]",
    "rlnMagMat00": "1.01",
    "rlnMagMat01": "0.0000012345",
    "rlnMagMat10": "0",
    "rlnMagMat11": "1",
    "rlnImagePixelSize": "1.0731234",
}


def test_round_trip(project: Project) -> None:
    particles = read_particles(
        project.star(
            optics=OPTICS,
            rlnPhaseShift=["0", "90.5", "-3"],
            rlnCtfBfactor="12.5",
            rlnCtfScalefactor="0.9",
            rlnAngleTilt=["-20", "95.25", "0"],
        )
    )
    path = project.folder / "written.star"
    write_star(path, particles)
    again = read_particles(path)
    assert again.optics == particles.optics
    assert again.stacks == particles.stacks
    for name in ("optics_index", "half_set", "stack_index", "slice_index", "contrast"):
        np.testing.assert_array_equal(getattr(again, name), getattr(particles, name))
    for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg"):
        np.testing.assert_allclose(getattr(again, name), getattr(particles, name), atol=1e-6)
    for name in ("origins_angstrom", "ctf_bfactor_a2", "ctf_scale"):
        np.testing.assert_allclose(getattr(again, name), getattr(particles, name), atol=1e-6)
    np.testing.assert_allclose(again.rotations, particles.rotations, atol=1e-7)
    np.testing.assert_array_equal(again.images(np.arange(3)), particles.images(np.arange(3)))


def test_written_table(project: Project) -> None:
    particles = read_particles(project.star(rlnAngleTilt=["-20", "95.25", "0"], without=("rlnRandomSubset",)))
    path = project.folder / "written.star"
    write_star(path, particles)
    blocks = starfile.read(path, always_dict=True)
    assert list(blocks) == ["optics", "particles"]
    optics, table = blocks["optics"], blocks["particles"]
    assert optics["rlnImageSize"].tolist() == [8]
    assert optics["rlnImageDimensionality"].tolist() == [2]
    assert table["rlnImageName"].tolist() == ["000002@stacks/a.mrcs", "000001@stacks/b.mrcs", "000003@stacks/a.mrcs"]
    np.testing.assert_allclose(table["rlnAngleTilt"], [20, 95.25, 0])
    np.testing.assert_allclose(table["rlnAngleRot"][:2], [10 - 180, -170.5])
    np.testing.assert_allclose(table["rlnAnglePsi"][:2], [30 - 180, -60])
    unwritten = ("rlnRandomSubset", "cocofoldContrast", "rlnBeamTiltX", "rlnOddZernike", "rlnMagMat00")
    assert not set(unwritten) & (set(optics.columns) | set(table.columns))


def test_two_groups_with_different_aberrations(project: Project) -> None:
    particles = read_particles(project.star())
    plain = particles.optics[0]
    other = replace(
        plain, name="late one", odd_zernike=(0.5, 0.25), cryosparc_aberrations=(("ctf/tilt_A", (0.5, -2.0)),)
    )
    both = replace(particles, optics=(plain, other), optics_index=np.array([0, 1, 0]))
    path = project.folder / "written.star"
    write_star(path, both)
    again = read_particles(path)
    assert again.optics[0].odd_zernike == (0, 0)
    assert again.optics[1] == replace(other, name="late_one")
    np.testing.assert_array_equal(again.optics_index, [0, 1, 0])


def test_dark_images_stay_marked(project: Project) -> None:
    particles = read_particles(project.star())
    dark = replace(particles, contrast=np.array([1.0, -1.0, 1.0]))
    path = project.folder / "written.star"
    write_star(path, dark)
    again = read_particles(path)
    np.testing.assert_array_equal(again.images(np.arange(2)), np.stack([project.a[1], -project.b[0]]))


def test_stacks_elsewhere_get_absolute_paths(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    particles = read_particles(project.star())
    path = tmp_path_factory.mktemp("elsewhere") / "written.star"
    write_star(path, particles)
    assert f"000002@{project.folder}/stacks/a.mrcs" in path.read_text()
    np.testing.assert_array_equal(read_particles(path).images(np.array([0])), project.a[1:2])
    spaced = project.folder / "with space"
    write_stack(spaced / "a b.mrcs", project.a)
    moved = replace(particles, stacks=(spaced / "a b.mrcs",) * 2)
    write_star(spaced / "written.star", moved)
    np.testing.assert_array_equal(read_particles(spaced / "written.star").images(np.array([0])), project.a[1:2])


def test_writing_relative_to_the_working_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    project.star()
    write_star("written.star", read_particles("particles.star"))
    assert "000002@stacks/a.mrcs" in Path("written.star").read_text()


def test_the_file_appears_whole_or_not_at_all(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    particles = read_particles(project.star())
    path = project.folder / "written.star"
    path.write_text("before")

    def fails(blocks: object, target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(star_write.starfile, "write", fails)
    with pytest.raises(OSError, match=r"disk full.*written\.star"):
        write_star(path, particles)
    assert path.read_text() == "before"
    assert sorted(os.listdir(project.folder)) == ["particles.star", "stacks", "written.star"]


def test_writing_that_is_refused(project: Project) -> None:
    particles = read_particles(project.star())
    with pytest.raises(InputError, match="does not exist; make it first"):
        write_star(project.folder / "none" / "written.star", particles)
    with pytest.raises(InputError, match="no particles to write"):
        write_star(project.folder / "written.star", particles.subset(np.array([])))


@pytest.mark.parametrize("letter", ["\t", "\x85", "\u2028"])
def test_names_that_a_star_file_cannot_hold_are_refused(project: Project, letter: str) -> None:
    particles = read_particles(project.star())
    strange = replace(particles, stacks=tuple(path.with_name(f"a{letter}{path.name}") for path in particles.stacks))
    with pytest.raises(InputError, match="rename the file or folder"):
        write_star(project.folder / "written.star", strange)
    assert not (project.folder / "written.star").exists()
