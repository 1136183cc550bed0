"""Scipion's particles as STAR files: what other plugins read in comes out as it was, and nothing is lost in silence."""

from __future__ import annotations

import numpy as np
import pytest
import starfile

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.constants import ALIGN_2D, ALIGN_PROJ
from pwem.objects import Acquisition, SetOfParticles, Transform
from scipion_cocofold.convert import (
    ConversionError,
    appendRefinedParticles,
    appendSelectedParticles,
    writeParticles,
)
from scipion_project import empty_set, import_particles, make_particles, make_project

from cocofold.likelihood.particle_optics import with_pose_errors
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star


def angles_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees; by the matrices' difference, which stays exact for small angles."""
    chord = np.linalg.norm(first - second, axis=(1, 2)) / np.sqrt(2)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def assert_same(found, known):
    assert len(found) == len(known)
    assert angles_between(found.rotations, known.rotations).max() < 1e-4
    assert np.abs(found.origins_angstrom - known.origins_angstrom).max() < 1e-3
    assert np.allclose(found.defocus_u_angstrom, known.defocus_u_angstrom, atol=1e-2)
    assert np.allclose(found.defocus_v_angstrom, known.defocus_v_angstrom, atol=1e-2)
    assert np.allclose(found.defocus_angle_deg, known.defocus_angle_deg, atol=1e-3)
    assert np.allclose(found.phase_shift_deg, known.phase_shift_deg, atol=1e-3)
    some = np.array([0, len(known) // 2, len(known) - 1])
    assert np.array_equal(found.images(some), known.images(some))


@pytest.fixture(scope="module")
def project(shared_data):
    return make_project("convert")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["particles.star", "star_variants/relion30.star"])
@pytest.mark.independent
def test_particles_of_relion(name, project, shared_data, tmp_path):
    star = shared_data / "adk" / "small300" / name
    particles = import_particles(project, star)
    assert writeParticles(particles, str(tmp_path / "out.star")) == 300
    found = read_particles(tmp_path / "out.star", project.path)
    known = read_particles(star, star.parents[0] if name == "particles.star" else star.parents[1])
    assert_same(found, known)
    if name == "particles.star":
        assert np.array_equal(found.half_set, known.half_set)


@pytest.mark.independent
def test_particles_of_cryosparc(project, shared_data, tmp_path, monkeypatch):
    cryosparc2 = pytest.importorskip("cryosparc2.convert", reason="scipion-em-cryosparc2 is not installed")
    folder = shared_data / "adk" / "small300"
    monkeypatch.chdir(folder)
    particles = empty_set(tmp_path)
    acquisition = Acquisition(voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1, magnification=50000)
    particles.setAcquisition(acquisition)
    cryosparc2.readSetOfParticles(
        "particles@" + str(folder / "cs" / "from_pyem.star"), particles, alignType=ALIGN_PROJ, samplingRate=2.5
    )
    writeParticles(particles, str(tmp_path / "out.star"))
    # The .cs file itself, read without Scipion, pyem or that plugin
    known = read_particles(
        folder / "cs" / "particles.cs", folder, passthrough=[folder / "cs" / "particles_passthrough.cs"]
    )
    assert_same(read_particles(tmp_path / "out.star", folder), known)


@pytest.mark.slow
def test_phase_plate_and_its_particles(project, shared_data, tmp_path):
    star = shared_data / "adk" / "two_optics" / "particles.star"
    particles = import_particles(project, star)
    writeParticles(particles, str(tmp_path / "out.star"))
    found, known = read_particles(tmp_path / "out.star", project.path), read_particles(star)
    assert known.phase_shift_deg.max() > 80
    assert_same(found, known)


def changed(particles: SetOfParticles, index: int, change) -> SetOfParticles:
    particle = particles[index + 1].clone()
    change(particle)
    particles.update(particle)
    particles.write()
    return particles


def test_names_with_blanks_and_identity_poses(tmp_path):
    particles = make_particles(tmp_path)
    writeParticles(particles, str(tmp_path / "out.star"))
    found = read_particles(tmp_path / "out.star", tmp_path)
    (stack,) = found.stacks
    assert stack.resolve() == tmp_path / "it's a stack.mrcs"
    assert found.images(np.array([3])).std() > 0.5
    assert np.allclose(found.rotations, np.eye(3))
    assert found.slice_index.tolist() == [0, 1, 2, 3]


def test_refined_poses_come_back(tmp_path):
    """Of some of the particles, by their images."""
    particles = make_particles(tmp_path)
    writeParticles(particles, str(tmp_path / "out.star"))
    given = read_particles(tmp_path / "out.star", tmp_path).subset(np.array([1, 3]))
    moved = with_pose_errors(given, np.array([[0.1, -0.2, 0.3, 1.5, -2.5], [0.0, 0.1, 0.0, 0.0, 1.0]]))
    write_star(tmp_path / "refined.star", moved)
    for name in ("refined", "other"):
        (tmp_path / name).mkdir()
    refined = empty_set(tmp_path / "refined")
    appendRefinedParticles(particles, str(tmp_path / "refined.star"), refined)
    assert refined.getSize() == 2
    writeParticles(refined, str(tmp_path / "again.star"))
    assert_same_poses(read_particles(tmp_path / "again.star", tmp_path), moved)
    with pytest.raises(ConversionError, match="another order"):
        appendRefinedParticles(refined, str(tmp_path / "out.star"), empty_set(tmp_path / "other"))


def assert_same_poses(found, known):
    assert angles_between(found.rotations, known.rotations).max() < 1e-4
    assert np.abs(found.origins_angstrom - known.origins_angstrom).max() < 1e-3
    assert found.slice_index.tolist() == known.slice_index.tolist()


def test_phase_flipped_images_are_said_to_be(tmp_path):
    writeParticles(make_particles(tmp_path, flipped=True), str(tmp_path / "out.star"))
    assert read_particles(tmp_path / "out.star", tmp_path).optics[0].phase_flipped


def test_each_acquisition_is_an_optics_group(tmp_path):
    particles = changed(make_particles(tmp_path), 2, lambda particle: particle.getAcquisition().setVoltage(200.0))
    writeParticles(particles, str(tmp_path / "out.star"))
    found = read_particles(tmp_path / "out.star", tmp_path)
    assert [found.optics[group].voltage_kv for group in found.optics_index] == [300, 300, 200, 300]


def optics_text(*tilts: float) -> str:
    head = "\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnBeamTiltX\n_rlnEvenZernike\n"
    return head + "".join(f"{n} group{n} {tilt} [0,0.5,0]\n" for n, tilt in enumerate(tilts, start=1)) + "\n"


def test_aberrations_are_carried_over(tmp_path):
    writeParticles(make_particles(tmp_path, aberrations=optics_text(0.25)), str(tmp_path / "out.star"))
    optics = starfile.read(tmp_path / "out.star")["optics"]
    assert float(optics["rlnBeamTiltX"].iloc[0]) == 0.25
    assert str(optics["rlnEvenZernike"].iloc[0]) == "[0,0.5,0]"


def test_aberrations_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="different aberrations"):
        writeParticles(make_particles(tmp_path, aberrations=optics_text(0.25, -0.1)), str(tmp_path / "out.star"))
    assert not list(tmp_path.glob("out.star*"))


def test_aberrations_of_groups_that_particles_name(tmp_path):
    from pyworkflow.object import Integer

    particles = make_particles(tmp_path, aberrations=optics_text(0.25, -0.1))
    named = SetOfParticles(filename=str(tmp_path / "named.sqlite"))
    named.copyInfo(particles)
    for index, particle in enumerate(particles.iterItems()):
        copy = particle.clone()
        copy._rlnOpticsGroup = Integer(1 + index // 2)
        named.append(copy)
    named.write()
    writeParticles(named, str(tmp_path / "out.star"))
    found = read_particles(tmp_path / "out.star", tmp_path)
    assert [found.optics[group].beam_tilt_mrad[0] for group in found.optics_index] == [0.25, 0.25, -0.1, -0.1]


def test_an_optics_group_that_the_set_does_not_describe_is_named(tmp_path):
    from pyworkflow.object import Integer

    particles = make_particles(tmp_path, aberrations=optics_text(0.25))
    named = SetOfParticles(filename=str(tmp_path / "named.sqlite"))
    named.copyInfo(particles)
    for particle in particles.iterItems():
        copy = particle.clone()
        copy._rlnOpticsGroup = Integer(7)
        named.append(copy)
    named.write()
    with pytest.raises(ConversionError, match=r"optics group 7.*it knows 1"):
        writeParticles(named, str(tmp_path / "out.star"))
    assert not list(tmp_path.glob("out.star*"))


def test_mirrored_poses_are_refused(tmp_path):
    flip = Transform(matrix=np.diag([-1.0, 1.0, 1.0, 1.0]))
    particles = changed(make_particles(tmp_path), 1, lambda particle: particle.setTransform(flip))
    with pytest.raises(ConversionError, match="mirror"):
        writeParticles(particles, str(tmp_path / "out.star"))
    assert not list(tmp_path.glob("out.star*"))


def test_sets_without_poses_or_ctfs_are_refused(tmp_path):
    particles = make_particles(tmp_path)
    particles.setAlignment(ALIGN_2D)
    with pytest.raises(ConversionError, match="no 3D poses"):
        writeParticles(particles, str(tmp_path / "out.star"))
    particles.setAlignment(ALIGN_PROJ)
    particles.setHasCTF(False)
    with pytest.raises(ConversionError, match="no CTF"):
        writeParticles(particles, str(tmp_path / "out.star"))


def test_particles_whose_first_stack_is_gone_are_refused_with_its_name(tmp_path):
    from scipion_cocofold.protocols.inputs import validateParticles

    particles = make_particles(tmp_path)
    assert validateParticles(particles) == []
    (tmp_path / "it's a stack.mrcs").unlink()
    (message,) = validateParticles(particles)
    assert "cannot be read" in message
    assert "it's a stack.mrcs" in message
    with pytest.raises(ConversionError, match="cannot be read"):
        writeParticles(particles, str(tmp_path / "out.star"))


def test_selected_particles(tmp_path):
    particles = make_particles(tmp_path)
    selected = SetOfParticles(filename=str(tmp_path / "selected.sqlite"))
    appendSelectedParticles(particles, [3, 1], [0], [4, 8], selected)
    selected.write()
    assert [particle.getIndex() for particle in selected.iterItems()] == [1, 2, 4]
    writeParticles(selected, str(tmp_path / "out.star"))
    found = read_particles(tmp_path / "out.star", tmp_path)
    assert found.held_out.tolist() == [True, False, False]
    assert found.scored_rings == (4, 8)
