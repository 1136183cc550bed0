"""Files of RELION, CryoSPARC, pyem and others: read, or refused for the right reason."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.likelihood.particle_optics import unsupported_aberrations
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.system.errors import InputError

pytestmark = pytest.mark.independent

READ = {
    "adk/small300/particles.star": (300, 64, 2.5, 1),
    "adk/small300/cs/from_pyem.star": (300, 64, 2.5, 1),
    "adk/small300/star_variants/perturbed_poses.star": (300, 64, 2.5, 1),
    "adk/small300/star_variants/perturbed_poses_negative_tilt.star": (300, 64, 2.5, 1),
    "adk/small300/star_variants/relion30.star": (300, 64, 2.5, 1),
    "adk/small300/star_variants/relion30_to_31_by_relion.star": (300, 64, 2.5, 1),
    "adk/small300/star_variants/relion_refined_local_it004_data.star": (300, 64, 2.5, 1),
    "adk/two_optics/particles.star": (300, 64, 2.5, 2),
    "adk/uniform/particles.star": (2000, 64, 2.5, 1),
    "adk/uniform/particles_200.star": (200, 64, 2.5, 1),
    "tcr/particles.star": (300, 64, 2.75, 1),
    "real_io/relion31.star": (5, 256, 2.806, 1),
    "real_io/relion31.v2.star": (5, 256, 2.806, 1),
}
REFUSED = {
    "real_io/empiar_10076_7.star": ["rlnAngleRot, rlnAngleTilt, rlnAnglePsi", "no poses"],
    "real_io/relion31.6opticsgroups.star": [
        "differ in pixel size",
        *(f"opticsGroup{number} {1.24 if number in (3, 4) else 1.25} Å" for number in range(1, 7)),
    ],
    "real_io/relion5.star": ["2 of 2 stacks not found", "toy_images_a.mrcs", "--particles-dir"],
    "real_io/empiar_10076_7.cs": ["alignments3D/pose", "no poses", "--passthrough"],
    "real_io/cryosparc_J2_particles_exported.cs": ["no poses (only 2D alignments)", "--passthrough"],
    "real_io/relion31.mrcs": [".star and .cs"],
    "real_io/empiar_10076_7.mrc": [".star and .cs"],
    "real_io/50S-vol.mrc": [".star and .cs"],
    "adk/small300/cs/particles.cs": ["ctf/accel_kv", "ctf/df_angle_rad", "--passthrough", "particles_passthrough.cs"],
    "adk/small300/cs/particles_csdat.cs": ["ctf/accel_kv", "--passthrough", "particles_passthrough.cs"],
    "adk/small300/cs/particles_passthrough.cs": ["blob/path", "alignments3D/pose"],
}


@pytest.mark.parametrize("name", READ)
def test_file_is_read(shared_data: Path, name: str) -> None:
    particles = read_particles(shared_data / name)
    found = (len(particles), particles.box, particles.pixel_size_angstrom, len(particles.optics))
    assert found == READ[name]
    assert unsupported_aberrations(particles) == []
    images = particles.images(np.arange(2))
    assert images.dtype == np.float32
    assert images.shape == (2, particles.box, particles.box)
    assert images.std() > 0


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused_with_the_reason(shared_data: Path, name: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_particles(shared_data / name)
    for part in REFUSED[name]:
        assert part in str(refusal.value)


def test_every_file_of_public_repositories_has_an_expected_outcome(shared_data: Path) -> None:
    present = {f"real_io/{path.name}" for path in (shared_data / "real_io").iterdir()}
    assert present <= READ.keys() | REFUSED.keys()


def same_particles(one: ParticleSet, two: ParticleSet, degrees: float, angstrom: float) -> None:
    turn = one.rotations @ two.rotations.transpose(0, 2, 1)
    angle = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(turn - np.eye(3), axis=(1, 2)) / np.sqrt(8), 0, 1)))
    assert angle.max() < degrees
    np.testing.assert_allclose(one.origins_angstrom, two.origins_angstrom, atol=angstrom)
    np.testing.assert_allclose(one.defocus_u_angstrom, two.defocus_u_angstrom, atol=0.01)
    np.testing.assert_allclose(one.defocus_v_angstrom, two.defocus_v_angstrom, atol=0.01)
    np.testing.assert_allclose(one.defocus_angle_deg, two.defocus_angle_deg, atol=1e-4)
    np.testing.assert_array_equal(one.half_set, two.half_set)
    np.testing.assert_array_equal(one.images(np.arange(len(one))), two.images(np.arange(len(two))))


def test_relion_30_equals_relions_own_conversion(shared_data: Path) -> None:
    folder = shared_data / "adk/small300/star_variants"
    old, new = (read_particles(folder / f"{name}.star") for name in ("relion30", "relion30_to_31_by_relion"))
    same_particles(old, new, 1e-4, 1e-5)
    assert (old.optics[0].voltage_kv, old.optics[0].cs_mm, old.optics[0].amplitude_contrast) == (300, 2.7, 0.1)
    same_particles(old, read_particles(folder.parent / "particles.star"), 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["particles.cs", "particles_csdat.cs"])
def test_cryosparc_equals_relion(shared_data: Path, name: str) -> None:
    folder = shared_data / "adk/small300"
    particles = read_particles(folder / "cs" / name, passthrough=[folder / "cs/particles_passthrough.cs"])
    same_particles(particles, read_particles(folder / "particles.star"), 1e-4, 1e-3)
    same_particles(particles, read_particles(folder / "cs/from_pyem.star"), 1e-4, 1e-3)
    assert (particles.optics[0].voltage_kv, particles.optics[0].cs_mm) == (300, 2.7)
    assert particles.optics[0].amplitude_contrast == pytest.approx(0.1, abs=1e-7)


def test_negative_tilt_is_the_same_orientation(shared_data: Path) -> None:
    folder = shared_data / "adk/small300/star_variants"
    positive, negative = (read_particles(folder / f"perturbed_poses{suffix}.star") for suffix in ("", "_negative_tilt"))
    same_particles(positive, negative, 1e-4, 1e-5)


def test_two_optics_groups_and_phase_plate(shared_data: Path) -> None:
    particles = read_particles(shared_data / "adk/two_optics/particles.star")
    krios, arctica = particles.optics
    assert (krios.name, krios.voltage_kv, krios.cs_mm, krios.amplitude_contrast) == ("krios", 300, 2.7, 0.1)
    assert (arctica.name, arctica.voltage_kv, arctica.cs_mm, arctica.amplitude_contrast) == (
        "arctica_vpp",
        200,
        1.4,
        0.07,
    )
    np.testing.assert_array_equal(particles.optics_index[:4], [0, 1, 0, 1])
    np.testing.assert_allclose(particles.phase_shift_deg[:4], [0, 88.25318, 0, 97.80277])
    second = particles.subset(np.array([3, 1]))
    assert [group.name for group in second.optics] == ["arctica_vpp"]
    np.testing.assert_array_equal(second.optics_index, [0, 0])
    np.testing.assert_array_equal(second.images(np.arange(2)), particles.images(np.array([3, 1])))


def test_images_are_those_of_mrcfile(shared_data: Path) -> None:
    particles = read_particles(shared_data / "real_io/relion31.star")
    with pytest.warns(RuntimeWarning), mrcfile.mmap(shared_data / "real_io/relion31.mrcs", permissive=True) as file:
        np.testing.assert_array_equal(particles.images(np.array([4, 0])), file.data[[4, 0]])
    np.testing.assert_allclose(particles.defocus_u_angstrom[0], 13108.082418)
    assert particles.optics[0].cs_mm == 0.01


def test_relion5_with_its_stacks_present(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "real_io/relion5.star").read_text()
    (tmp_path / "relion5.star").write_text(text)
    header = np.zeros(256, dtype="<i4")
    header[:4] = (448, 448, 11, 0)
    for name in ("toy_images_a.mrcs", "toy_images_b.mrcs"):
        with open(tmp_path / name, "wb") as file:
            file.write(header.tobytes())
            file.truncate(1024 + 11 * 448 * 448)
    particles = read_particles(tmp_path / "relion5.star")
    assert (particles.box, particles.pixel_size_angstrom, particles.optics[0].voltage_kv) == (448, 0.89, 100)
    assert particles.optics[0].beam_tilt_mrad == (0.043489, 0.014097)
    assert particles.optics[0].odd_zernike[2] == -1.79877045848
    assert len(particles.optics[0].even_zernike) == 9
    assert particles.optics[0].magnification_matrix[0][0] == 1.001833
    assert unsupported_aberrations(particles) == []
    np.testing.assert_array_equal(particles.slice_index[:3], [0, 1, 2])


def test_one_of_six_scrambled_optics_groups(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "real_io/relion31.6opticsgroups.star").read_text().splitlines()
    first = lines.index("data_particles")
    rows = [i for i in range(first, len(lines)) if "_shiny.mrcs" in lines[i]]
    fourth = [i for i in rows if lines[i].split()[10] == "4"]
    (tmp_path / "group4.star").write_text(
        "\n".join([line for i, line in enumerate(lines) if i not in rows or i in fourth]) + "\n"
    )
    header = np.zeros(256, dtype="<i4")
    header[:4] = (196, 196, 1000, 0)
    for i in fourth:
        path = tmp_path / lines[i].split()[9].partition("@")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(header.tobytes())
            file.truncate(1024 + 1000 * 196 * 196)
    particles = read_particles(tmp_path / "group4.star")
    assert len(particles) == len(fourth) > 1
    (group,) = particles.optics
    assert (group.name, group.cs_mm, group.pixel_size_angstrom) == ("opticsGroup1", 2.6, 1.25)
