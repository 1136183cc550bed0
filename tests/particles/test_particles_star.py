"""STAR files: values by hand, the forms in use, and a refusal for each defect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from particle_project import OPTICS, PARTICLES, Project, loop, write_stack
from scipy.spatial.transform import Rotation

from cocofold.likelihood.particle_optics import unsupported_aberrations
from cocofold.particles import read_particles
from cocofold.particles.poses import matrices_from_relion
from cocofold.particles.stack_files import parse_image_names
from cocofold.particles.star_read import _parse_cryosparc_aberrations
from cocofold.particles.star_tables import StarBlock, read_star_blocks
from cocofold.system.errors import InputError


def refusal(project: Project, path: os.PathLike[str], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_particles(path, **options)
    return str(caught.value)


def test_values(project: Project) -> None:
    particles = read_particles(project.star(rlnPhaseShift="90", rlnCtfBfactor="12.5", rlnCtfScalefactor="0.9"))
    assert len(particles) == 3
    np.testing.assert_allclose(particles.rotations[2], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(particles.origins_angstrom, [[1.5, 0.5], [-3, 4], [0, 0]])
    np.testing.assert_array_equal(particles.defocus_u_angstrom, [15000, 12000, 9000])
    np.testing.assert_array_equal(particles.defocus_v_angstrom, [14000, 11500, 9000])
    np.testing.assert_array_equal(particles.defocus_angle_deg, [45, -30, 0])
    np.testing.assert_array_equal(particles.phase_shift_deg, [90] * 3)
    np.testing.assert_array_equal(particles.ctf_bfactor_a2, [12.5] * 3)
    np.testing.assert_array_equal(particles.ctf_scale, [0.9] * 3)
    np.testing.assert_array_equal(particles.half_set, [1, 2, 1])
    np.testing.assert_array_equal(particles.slice_index, [1, 0, 2])
    np.testing.assert_array_equal(particles.contrast, [1, 1, 1])
    expected = np.stack([project.a[1], project.b[0], project.a[2]])
    np.testing.assert_array_equal(particles.images(np.arange(3)), expected)
    np.testing.assert_array_equal(particles.images(np.array([2, 1, 2])), expected[[2, 1, 2]])
    np.testing.assert_array_equal(particles.images(np.array([False, True, False])), expected[1:2])
    assert particles.images(np.array([])).shape == (0, 8, 8)


def test_relion_30_takes_origins_in_pixels_and_pixel_size_from_magnification(project: Project) -> None:
    table = {k: v for k, v in PARTICLES.items() if k not in ("rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst")}
    table.update(
        rlnOriginX=["2", "-1", "0"],
        rlnOriginY=["0.5", "0", "0"],
        rlnDetectorPixelSize=["5"] * 3,
        rlnMagnification=["40000"] * 3,
        rlnVoltage=["300", "200", "300"],
        rlnSphericalAberration=["2.7"] * 3,
        rlnAmplitudeContrast=["0.1"] * 3,
    )
    for name in ("", "images", "particles"):
        particles = read_particles(project.write(loop(name, table)))
        assert particles.pixel_size_angstrom == 1.25
        np.testing.assert_array_equal(particles.origins_angstrom, [[2.5, 0.625], [-1.25, 0], [0, 0]])
        assert [group.voltage_kv for group in particles.optics] == [300, 200]
        np.testing.assert_array_equal(particles.optics_index, [0, 1, 0])
        assert particles.box == 8


def test_angstrom_origins_win(project: Project) -> None:
    particles = read_particles(project.star(rlnOriginX="7", rlnOriginY="7"))
    np.testing.assert_array_equal(particles.origins_angstrom[0], [1.5, 0.5])


def test_defaults(project: Project) -> None:
    without = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset")
    particles = read_particles(project.star(without=without))
    assert particles.half_set is None
    assert not particles.origins_angstrom.any()
    assert not particles.phase_shift_deg.any()
    assert not particles.ctf_bfactor_a2.any()
    assert (particles.ctf_scale == 1).all()
    round_defocus = project.star(without=("rlnDefocusAngle",), rlnDefocusU="9000", rlnDefocusV="9000")
    assert not read_particles(round_defocus).defocus_angle_deg.any()


def test_other_spellings_of_the_same_file(project: Project) -> None:
    optics = loop("optics", {k: [v] for k, v in OPTICS.items()})
    particles = loop("particles", PARTICLES)
    plain = read_particles(project.write(optics + particles))
    no_numbers = "\n".join(line.split(" #")[0] for line in (optics + particles).splitlines()) + "\n"
    simple_block = "data_optics\n\n" + "".join(f"_{k} {v}\n" for k, v in OPTICS.items()) + "\n"
    for text in (
        particles + optics,
        no_numbers,
        (optics + particles).replace("data_particles\n", "data_particles\n\n# version 50001\n\n"),
        (optics + particles).replace("\n", "\r\n"),
        simple_block + particles,
        optics + particles + "#\n",
        (optics + particles).replace("a.mrcs", "a.mrcs:mrcs"),
        "data_general\n\n_rlnJobType 3\n\n" + optics + particles,
    ):
        other = read_particles(project.write(text))
        np.testing.assert_array_equal(other.rotations, plain.rotations)
        np.testing.assert_array_equal(other.images(np.arange(3)), plain.images(np.arange(3)))
        assert other.optics == plain.optics


def test_single_particle(project: Project) -> None:
    text = loop("optics", {k: [v] for k, v in OPTICS.items()}) + loop(
        "particles", {k: v[1:2] for k, v in PARTICLES.items()}
    )
    particles = read_particles(project.write(text))
    np.testing.assert_array_equal(particles.images(np.array([0])), project.b[:1])


def test_groups_in_any_order_and_unused_ones(project: Project) -> None:
    optics = {k: [v] * 5 for k, v in OPTICS.items()}
    optics["rlnOpticsGroup"] = ["7", "2", "9", "4", "3"]
    optics["rlnOpticsGroupName"] = ["g7", "g2", "g9", "g4", "g3"]
    optics["rlnVoltage"] = ["300", "200", "120", "80", "nan"]  # the last group is not used, nor is its defect
    optics["rlnImagePixelSize"] = ["1.5", "1.5", "1.5", "1.5", "99"]
    for used in (["2", "7", "2"], ["9", "4", "7"], ["4", "2", "9"]):
        text = loop("particles", {**PARTICLES, "rlnOpticsGroup": used}) + loop("optics", optics)
        particles = read_particles(project.write(text))
        assert [particles.optics[index].name for index in particles.optics_index] == [f"g{number}" for number in used]
        voltages = {"7": 300, "2": 200, "9": 120, "4": 80}
        assert [particles.optics[i].voltage_kv for i in particles.optics_index] == [voltages[n] for n in used]


def test_flags_and_aberrations_are_carried(project: Project) -> None:
    optics = {
        "rlnCtfDataArePhaseFlipped": "1",
        "rlnCtfDataAreCtfPremultiplied": "1",
        "rlnBeamTiltX": "0.25",
        "rlnBeamTiltY": "-0.5",
        "rlnOddZernike": "[0.5,0,-1e-1]",
        "rlnEvenZernike": "[0,0]",
        "rlnMagMat00": "1.01",
        "rlnMagMat01": "0.002",
        "rlnMagMat10": "0.003",
        "rlnMagMat11": "0.99",
    }
    particles = read_particles(project.star(optics=optics))
    (group,) = particles.optics
    assert group.phase_flipped is True
    assert group.ctf_premultiplied is True
    assert group.beam_tilt_mrad == (0.25, -0.5)
    assert group.odd_zernike == (0.5, 0, -0.1)
    assert group.magnification_matrix == ((1.01, 0.002), (0.003, 0.99))
    assert unsupported_aberrations(particles) == []
    overridden = {**optics, "rlnOddZernike": "[0.5,0,-1e-1,0,0.3,0]"}
    (message,) = unsupported_aberrations(read_particles(project.star(optics=overridden)))
    assert "krios has beam tilt (mrad) (0.25, -0.5) as well as odd Zernike terms 4 and 5" in message
    (message,) = unsupported_aberrations(read_particles(project.star(optics={**optics, "rlnMagMat11": "0.1"})))
    assert "far from 1" in message


def test_flag_in_the_particles_rows(project: Project) -> None:
    particles = read_particles(project.star(rlnCtfDataArePhaseFlipped=["0", "1", "0"]))
    assert [group.phase_flipped for group in particles.optics] == [False, True]
    np.testing.assert_array_equal(particles.optics_index, [0, 1, 0])


def test_stacks_are_searched_in_folder_then_parents_and_particles_dir_first(project: Project) -> None:
    job = project.folder / "Refine3D" / "job001"
    job.mkdir(parents=True)
    star = project.star().rename(job / "run_data.star")
    np.testing.assert_array_equal(read_particles(star).images(np.array([0])), project.a[1:2])
    elsewhere = project.folder / "copy"
    write_stack(elsewhere / "stacks" / "a.mrcs", project.a + 1)
    chosen = read_particles(star, particles_dir=elsewhere)
    np.testing.assert_array_equal(chosen.images(np.arange(2)), np.stack([project.a[1] + 1, project.b[0]]))
    absolute = PARTICLES["rlnImageName"][0].replace("stacks", str(project.folder / "stacks"))
    read_particles(project.star(rlnImageName=[absolute, *PARTICLES["rlnImageName"][1:]]))


def test_all_missing_labels_are_named_at_once(project: Project) -> None:
    without = ("rlnAngleTilt", "rlnDefocusV", "rlnVoltage", "rlnAmplitudeContrast", "rlnImagePixelSize")
    message = refusal(project, project.star(without=without))
    for part in (*without, "no poses", "no CTF", "0.1"):
        assert part in message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"without": ("rlnImageName",)}, ["rlnImageName"]),
        ({"without": ("rlnSphericalAberration",)}, ["missing rlnSphericalAberration"]),
        ({"without": ("rlnAmplitudeContrast",)}, ["missing rlnAmplitudeContrast", "CTF estimation"]),
        ({"without": ("rlnDefocusAngle",)}, ["missing rlnDefocusAngle"]),
        ({"without": ("rlnOriginYAngst",)}, ["missing rlnOriginYAngst"]),
        ({"without": ("rlnOpticsGroup",)}, ["missing rlnOpticsGroup in data_optics, rlnOpticsGroup in data_particles"]),
        ({"optics": {"rlnMagMat00": "1"}}, ["missing rlnMagMat01, rlnMagMat10, rlnMagMat11"]),
        ({"rlnAngleRot": ["1", "nan", "3"]}, ["row 2", "rlnAngleRot = nan", "finite"]),
        ({"rlnDefocusU": ["1", "2", "inf"]}, ["row 3", "rlnDefocusU = inf"]),
        ({"rlnOriginXAngst": ["x", "2", "3"]}, ["row 1", "rlnOriginXAngst = x"]),
        ({"rlnOpticsGroup": ["1", "2", "1"]}, ["row 2", "optics group 2", "data_optics has 1"]),
        ({"rlnRandomSubset": ["1", "2", "3"]}, ["row 3", "half sets are 1 and 2"]),
        ({"rlnImageName": "stacks/a.mrcs"}, ["row 1", "a file of 4 images", "index@stack"]),
        ({"rlnImageName": "0@stacks/a.mrcs"}, ["row 1", "index from 1"]),
        ({"rlnImageName": "1.5@stacks/a.mrcs"}, ["row 1", "index@stack"]),
        ({"rlnImageName": "5@stacks/a.mrcs"}, ["image 5", "the stack has 4"]),
        ({"rlnImageName": "1@stacks/c.mrcs"}, ["1 of 1 stacks not found", "stacks/c.mrcs", "--particles-dir"]),
        ({"rlnIsFlip": ["0", "1", "0"]}, ["row 2", "mirrored"]),
        ({"rlnTomoSubtomogramRot": "1"}, ["rlnTomoSubtomogramRot", "2D stacks", "optimisation_set.star"]),
        (
            {"rlnCtfImage": "ctf.mrc", "rlnImageName": "volume.mrc", "without": ("rlnImageDimensionality",)},
            ["rlnCtfImage", "2D stacks"],
        ),
        ({"rlnAngleRot": "0", "rlnAngleTilt": "0.0", "rlnAnglePsi": ["1", "2", "3"]}, ["no poses", "2D"]),
        ({"optics": {"rlnImageDimensionality": "3"}}, ["rlnImageDimensionality 3"]),
        ({"optics": {"rlnImageSize": "9"}}, ["krios", "9 pixels", "odd", "8 or 10"]),
        ({"optics": {"rlnImageSize": "16"}}, ["a.mrcs", "8 pixels", "metadata say 16"]),
        ({"optics": {"rlnVoltage": "300000"}}, ["krios", "voltage (kV) 300000", "10 to 2000"]),
        ({"optics": {"rlnVoltage": "nan"}}, ["rlnVoltage = nan"]),
        ({"optics": {"rlnAmplitudeContrast": "10"}}, ["amplitude contrast", "0 to 1"]),
        ({"optics": {"rlnImagePixelSize": "0"}}, ["pixel size"]),
        ({"optics": {"rlnOddZernike": "[0.1,x]"}}, ["rlnOddZernike is [0.1,x]"]),
        ({"cocofoldContrast": "0.5"}, ["cocofoldContrast"]),
    ],
)
def test_defects_are_refused(project: Project, change: dict[str, Any], parts: list[str]) -> None:
    message = refusal(project, project.star(**change))
    assert "particles.star" in message or "a.mrcs" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("label", ["rlnImagePixelSize", "rlnImageSize"])
def test_groups_of_different_box_or_pixel_size_are_named(project: Project, label: str) -> None:
    optics = {k: [v] * 2 for k, v in OPTICS.items()}
    optics.update(rlnOpticsGroup=["1", "2"], rlnOpticsGroupName=["early", "late"], **{label: ["8", "10"]})
    text = loop("optics", optics) + loop("particles", {**PARTICLES, "rlnOpticsGroup": ["1", "2", "1"]})
    message = refusal(project, project.write(text))
    assert "early 8" in message
    assert "late 10" in message


def test_forms_that_are_refused(project: Project) -> None:
    optics, particles = loop("optics", {k: [v] for k, v in OPTICS.items()}), loop("particles", PARTICLES)
    labels = particles.split("2@stacks")[0]
    doubled = loop("optics", {k: [v] * 2 for k, v in OPTICS.items()})
    cases = {
        "": "no line starts with data_",
        "hello\nworld\n": "no line starts with data_",
        optics: "no block has rlnImageName (blocks found: data_optics)",
        "data_particles\n": "not readable as STAR",
        "data_optics\nloop_\n1 a\n2 b\n" + particles: "row 1 of data_optics has 2 values for 0 labels, 2 such rows",
        optics + labels: "has no particles",
        doubled + particles: "same rlnOpticsGroup twice",
        particles: "no data_optics block",
        optics + particles.replace(" 0 1\n", " 0\n"): "row 3 of data_particles has no value for its last label",
        optics + particles.replace(" 45 1\n", " 45 1 9\n"): "not readable as STAR",
        optics + particles.replace("2@stacks", "9" * 400 + "@stacks"): "the form index@stack is needed",
        optics + particles.replace(" 45 1\n", f" {'9' * 400} 1\n"): "not readable as STAR (int too large",
        optics + particles.replace("2@stacks", "data_2@stacks"): "a row starts with data_",
    }
    for text, part in cases.items():
        assert part in refusal(project, project.write(text)), text
    path = project.folder / "binary.star"
    path.write_bytes(b"data_\xff\xfe")
    assert "no block has labels" in refusal(project, path)
    path.write_bytes(b"data_\x00")
    assert "binary zeros" in refusal(project, path)


def test_a_repaired_file_is_read_again(project: Project) -> None:
    good = project.star().read_text()
    assert "not readable" in refusal(project, project.write(good.replace(" 45 1\n", " 45 1 9\n")))
    assert len(read_particles(project.write(good))) == 3


def test_odd_box_of_relion_30_is_found_in_the_stack(project: Project) -> None:
    write_stack(project.folder / "stacks" / "odd.mrcs", np.zeros((1, 9, 9), dtype=np.float32))
    path = project.star(without=("rlnImageSize",), rlnImageName="1@stacks/odd.mrcs")
    assert "odd boxes are not accepted" in refusal(project, path)


def test_paths_that_are_refused(project: Project) -> None:
    star = project.star()
    assert "no such file" in refusal(project, project.folder / "none.star")
    assert "no such file" in refusal(project, project.folder)
    assert ".star and .cs" in refusal(project, project.folder / "stacks" / "a.mrcs")
    assert "no such folder" in refusal(project, star, particles_dir=project.folder / "none")
    assert "--passthrough" in refusal(project, star, passthrough=[star])


def test_damaged_files_never_end_in_another_exception(project: Project) -> None:
    generator = np.random.default_rng(3)
    content = project.star().read_bytes()
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(content)
        at = int(generator.integers(len(content)))
        if generator.random() < 0.5:
            del damaged[at : at + int(generator.integers(1, 20))]
        else:
            damaged[at : at + 1] = generator.choice(list(b" \n#_\"'@.-9nloopdata_"), size=3).tolist()
        path = project.folder / "damaged.star"
        path.write_bytes(damaged)
        try:
            read_particles(path)
            outcomes.add("read")
        except InputError as error:
            outcomes.add("refused" if "damaged.star" in str(error) or ".mrcs" in str(error) else "unnamed")
    assert outcomes == {"read", "refused"}


def test_only_columns_that_are_used_are_kept(project: Project) -> None:
    path = project.star(rlnCoordinateX=["1", "x", "3"], rlnMicrographName="mic1.mrc", rlnNrOfSignificantSamples="12")
    table = read_star_blocks(path)["particles"].table
    assert "rlnCoordinateX" not in table
    assert "rlnAngleRot" in table
    assert "rlnCoordinateX" in read_star_blocks(path, as_text=True)["particles"].table
    # The last one tells whether rows are whole.
    assert table.columns[-1] == "rlnNrOfSignificantSamples"


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("more", ["7", "7 8 9"])
def test_rows_with_too_many_values_are_refused(project: Project, row: int, more: str) -> None:
    path = project.star()
    lines = path.read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if "@stacks" in line]
    lines[rows[row]] += " " + more
    path.write_text("\n".join(lines))
    assert f"row {row + 1} of data_particles has" in refusal(project, path)


@pytest.mark.parametrize(
    ("names", "stacks", "images"),
    [
        (["1@a.mrcs", "2@b.mrcs", "000003@a.mrcs"], ["a.mrcs", "b.mrcs"], [0, 1, 2]),
        (["1@b.mrcs", "1@a.mrcs", "2@a.mrcs"], ["b.mrcs", "a.mrcs"], [0, 0, 1]),
        (["1@1", "2@2", "3@1"], ["1", "2"], [0, 1, 2]),
        (["a.mrc", "b.mrc", "2@c.mrcs"], ["a.mrc", "b.mrc", "c.mrcs"], [0, 0, 1]),
        (["1@a@b.mrcs", "2@a@b.mrcs"], ["a@b.mrcs"], [0, 1]),
        (['1@"a".mrcs', "2@nan"], ['"a".mrcs', "nan"], [0, 1]),
        (["1@a b.mrcs", "1@ä.mrcs"], ["a b.mrcs", "ä.mrcs"], [0, 0]),
    ],
)
def test_names_of_images_are_split(names: list[str], stacks: list[str], images: list[int]) -> None:
    found, index, numbers = parse_image_names(names, Path("particles.star"))
    assert found == stacks
    assert numbers.tolist() == images
    assert [found[number] for number in index] == [name.partition("@")[2] or name for name in names]


@pytest.mark.parametrize("name", ["x@a.mrcs", "@a.mrcs", "1@", "-1@a.mrcs", "nan@a.mrcs", "1e20@a.mrcs", ""])
@pytest.mark.parametrize("place", [0, 1])
def test_names_of_no_image_are_refused(name: str, place: int) -> None:
    names = ["1@a.mrcs", "2@a.mrcs"]
    names[place] = name
    with pytest.raises(InputError, match=rf"row {place + 1} has rlnImageName = "):
        parse_image_names(names, Path("particles.star"))


def test_matrices_are_those_of_scipy() -> None:
    angles = np.random.default_rng(0).uniform(-360, 360, (50, 3))
    expected = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(matrices_from_relion(*angles.T), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_particles\nloop_\n_rlnImageName\n" + "1 " * 3000 + "\n", "more than 2000 labels, or values in a row"),
        ("data_particles\n" + "".join(f"_a{row} 1\n" for row in range(3000)), "more than 2000 labels"),
        ("".join(f"data_a{row}\n_b 1\n" for row in range(6000)), "more than 5000 do"),
    ],
)
def test_a_table_that_would_fill_the_memory_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(text)
    with pytest.raises(InputError, match=said):
        read_particles(tmp_path / "p.star")


@pytest.mark.parametrize("text", ["none2", "[1]", "((1,(1" + "0" * 400 + ",)),)", "(" * 5000 + ")" * 5000])
def test_aberrations_that_this_program_did_not_write_are_refused(text: str) -> None:
    label = "cocofoldCryosparcAberrations"
    with pytest.raises(InputError, match="not as written by this program"):
        _parse_cryosparc_aberrations(StarBlock(Path("a.star"), "optics", pd.DataFrame({label: [text]})), label, text)
