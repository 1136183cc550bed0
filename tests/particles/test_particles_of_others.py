"""Files as other programs, scripts and file systems make them: each kind in several forms, and a public case of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import pytest
import starfile
from particle_project import OPTICS, PARTICLES, Project, loop, write_stack

from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_tables import read_star_blocks
from cocofold.particles.star_write import write_star, write_star_subset
from cocofold.system.errors import InputError


def optics() -> str:
    return loop("optics", {label: [value] for label, value in OPTICS.items()})


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_particles(path, **options)
    return str(caught.value)


def assert_same(particles: ParticleSet, other: ParticleSet) -> None:
    """Both have the same poses, optics and images."""
    assert particles.optics == other.optics
    for name in ("rotations", "origins_angstrom", "defocus_u_angstrom", "slice_index"):
        np.testing.assert_array_equal(getattr(particles, name), getattr(other, name))
    everyone = np.arange(len(particles))
    np.testing.assert_array_equal(particles.images(everyone), other.images(everyone))


@pytest.fixture
def case(cases: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of the folder of a public case by the first letters of its name."""

    def copy(name: str) -> Path:
        (folder,) = (cases / "particles").glob(f"{name}_*")
        return Path(shutil.copytree(folder, tmp_path / folder.name))

    return copy


@pytest.mark.parametrize(
    "picture", ["Runs/000157_ProtGctf/extra/mic1_ctf.mrc", "None", "000001@ctfs.mrcs", "mic1.ctf:mrc", '""']
)
def test_scipion_names_the_picture_of_a_ctf(project: Project, picture: str) -> None:
    plain = read_particles(project.star())
    for without in ((), ("rlnImageDimensionality",)):
        assert_same(read_particles(project.star(rlnCtfImage=picture, without=without)), plain)


def test_case_of_scipion(case: Callable[[str], Path]) -> None:
    assert len(read_particles(case("B") / "particles.star")) == 60


@pytest.mark.parametrize("name", ["particles", "", "images"])
@pytest.mark.parametrize("times", [2, 3])
def test_appended_lists_are_refused(project: Project, name: str, times: int) -> None:
    table = PARTICLES if name == "particles" else {**PARTICLES, **{k: [v] * 3 for k, v in OPTICS.items()}}
    one = (optics() if name == "particles" else "") + loop(name, table)
    if name != "particles":
        one = one.replace("_rlnOpticsGroup ", "_rlnGroupNumber ", 1)
    message = refusal(project.write(one * times))
    assert f"data_{name} is there {'twice' if times == 2 else '3 times'}" in message
    assert "relion_star_handler --combine" in message


def test_other_blocks_that_stand_twice(project: Project) -> None:
    plain = read_particles(project.star())
    particles = loop("particles", PARTICLES)
    assert_same(read_particles(project.write(optics() * 2 + particles)), plain)
    assert_same(read_particles(project.write("data_\n\n_rlnA 1\n\n" * 2 + optics() + particles)), plain)
    assert_same(read_particles(project.write(optics() + particles + particles.split("2@stacks")[0])), plain)
    other = optics().replace("300.0", "200.0")
    assert "data_optics is there twice" in refusal(project.write(optics() + other + particles))
    message = refusal(project.write(optics() + particles + loop("images", PARTICLES)))
    assert "several blocks list images (data_particles with 3 rows, data_images with 3 rows)" in message


def test_case_of_appended_files(case: Callable[[str], Path]) -> None:
    assert "data_particles is there twice" in refusal(case("G") / "particles.star")


@pytest.mark.parametrize("label", ["rlnCtfMaxResolution", "rlnCtfFigureOfMerit", "wrpSomething", "rlnComment"])
@pytest.mark.parametrize("value", ["nan", "<NA>", "NaN", "None", '""', "inf", "-nan", "''"])
def test_columns_that_nobody_uses_decide_nothing(project: Project, label: str, value: str) -> None:
    plain = read_particles(project.star())
    assert_same(read_particles(project.star(**{label: ["5.1", value, value]})), plain)
    first = loop("particles", {label: [value, "5.1", value], **PARTICLES})
    assert_same(read_particles(project.write(optics() + first)), plain)


def test_missing_numbers_as_pandas_and_starfile_write_them(project: Project) -> None:
    plain = read_particles(project.star())
    tables = starfile.read(project.star(), always_dict=True)
    tables["particles"]["rlnCtfMaxResolution"] = [4.5, np.nan, np.nan]
    path = project.folder / "starfile.star"
    starfile.write(tables, path)
    assert "<NA>" in path.read_text()
    assert_same(read_particles(path), plain)
    rows = (
        pd.DataFrame(PARTICLES)
        .assign(rlnLast=[np.nan, 1.0, np.nan])
        .to_csv(sep=" ", header=False, index=False, na_rep="nan")
    )
    labels = "".join(f"_{label}\n" for label in [*PARTICLES, "rlnLast"])
    assert_same(read_particles(project.write(optics() + f"data_particles\n\nloop_\n{labels}{rows}")), plain)


def test_rows_that_are_cut_short_are_still_refused(project: Project) -> None:
    whole = project.star(rlnComment="nan").read_text()
    for part, reason in ((" 0 1 nan\n", "row 3 of data_particles"), (" 45 1 nan\n", "row 1 of data_particles")):
        assert part in whole
        message = refusal(project.write(whole.replace(part, part.replace(" nan", ""))))
        assert reason in message
        assert "rlnComment (1 such rows); the row is cut short" in message


def test_case_of_missing_numbers(case: Callable[[str], Path]) -> None:
    assert len(read_particles(case("H") / "particles.star")) == 60


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["0", "0", "0"], None),
        (["0.000000", "0", "0"], None),
        (["-1", "-1", "-1"], None),
        (["nan", "<NA>", "nan"], None),
        (["1", "0", "2"], [1, 0, 2]),
        (["1.0", "2.0", "nan"], [1, 2, 0]),
    ],
)
def test_particles_in_no_half_set(project: Project, given: list[str], expected: list[int] | None) -> None:
    found = read_particles(project.star(rlnRandomSubset=given)).half_set
    assert (found if found is None else found.tolist()) == expected


def test_case_of_half_set_0(case: Callable[[str], Path]) -> None:
    assert read_particles(case("O") / "particles.star").half_set is None


@pytest.mark.parametrize("label", ["rlnOpticsGroup", "rlnImageName", "rlnAngleRot", "rlnDefocusU", "rlnRandomSubset"])
def test_labels_that_stand_twice(project: Project, label: str) -> None:
    text = project.star(rlnComment=PARTICLES[label]).read_text().replace("_rlnComment ", f"_{label} ")
    message = refusal(project.write(text))
    assert f"data_particles has {label} twice" in message
    assert "remove one of them" in message


def test_labels_of_optics_that_stand_twice(project: Project) -> None:
    text = project.star(optics={"rlnComment": "1"}).read_text().replace("_rlnComment ", "_rlnVoltage ")
    assert "data_optics has rlnVoltage twice" in refusal(project.write(text))


def test_an_unused_label_may_stand_twice(project: Project) -> None:
    plain = read_particles(project.star())
    text = project.star(rlnA="1", rlnB="2").read_text().replace("_rlnB ", "_rlnA ")
    assert_same(read_particles(project.write(text)), plain)


def test_case_of_a_label_that_stands_twice(case: Callable[[str], Path]) -> None:
    assert "rlnOpticsGroup twice" in refusal(case("J") / "particles.star")


@pytest.mark.parametrize(
    "folder", ["grid#2", "it's", "Tom's #1", '5" disc', "a#b'c\"d", "my data", "épreuve", "Å_µ", "x;y", "50%"]
)
def test_letters_in_paths(project: Project, folder: str) -> None:
    plain = read_particles(project.star())
    shutil.copytree(project.folder / "stacks", project.folder / folder)
    names = [name.replace("stacks", folder) for name in PARTICLES["rlnImageName"]]
    written = [f'"{name}"' if " " in folder and '"' not in folder else name for name in names]
    if " " in folder and '"' in folder:
        written = [f"'{name}'" for name in names]
    path = project.star(rlnImageName=written, rlnMicrographName=f"{'x'.join(folder.split())}.mrc")
    particles = read_particles(path)
    assert_same(particles, plain)
    write_star(project.folder / "written.star", particles)
    rows = np.array([2, 0])
    write_star_subset(project.folder / "chosen.star", particles.subset(rows), path, rows)
    if '"' not in folder:
        np.testing.assert_array_equal(
            read_particles(project.folder / "written.star").images(np.arange(3)), plain.images(np.arange(3))
        )
        assert_same(read_particles(project.folder / "chosen.star"), plain.subset(rows))


@pytest.mark.parametrize("writer", ["starfile", "gemmi"])
def test_letters_in_names_of_other_writers(project: Project, writer: str) -> None:
    plain = read_particles(project.star())
    comments = ["it's", "grid#2", "two words"]
    path = project.folder / "other.star"
    if writer == "starfile":
        tables = starfile.read(project.star(), always_dict=True)
        tables["particles"].insert(0, "rlnComment", comments)
        starfile.write(tables, path)
    else:
        document = gemmi.cif.Document()
        tables = {"optics": {k: [v] for k, v in OPTICS.items()}, "particles": {"rlnComment": comments, **PARTICLES}}
        for name, columns in tables.items():
            block = document.add_new_block(name)
            table = block.init_loop("_", list(columns))
            for row in zip(*columns.values()):
                table.add_row([gemmi.cif.quote(value) for value in row])
        document.write_file(str(path))
    assert_same(read_particles(path), plain)


def test_values_beside_labels_and_a_loop_in_one_block_are_refused(project: Project) -> None:
    path = project.star()
    both = path.read_text().replace("data_particles\n", "data_particles\n_rlnOriginalSoftware relion\n")
    assert "has values beside labels, and a loop" in refusal(project.write(both))


def test_quoted_values_among_thousands_of_rows(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a file are read apart from each other, quoted or not."""
    monkeypatch.setattr("cocofold.particles.star_tables._BYTES_AT_ONCE", 300)
    rows = 500
    columns = {label: (values * rows)[:rows] for label, values in PARTICLES.items()}
    columns["rlnAngleTilt"] = [f"{row / 7:.6f}" for row in range(rows)]
    columns["rlnMicrographName"] = [f"'grid#{row} \"a\" b.mrc'" if row % 3 else f"grid#{row}" for row in range(rows)]
    text = loop("optics", {label: [value] for label, value in OPTICS.items()}) + loop("particles", columns)
    blocks = read_star_blocks(project.write(text.replace("\n000001@", "\n# a comment\n\n \t\n000001@")))
    table = blocks["particles"].table
    assert table["rlnMicrographName"].tolist() == [
        f'grid#{row} "a" b.mrc' if row % 3 else f"grid#{row}" for row in range(rows)
    ]
    assert table["rlnAngleTilt"].tolist() == [float(f"{row / 7:.6f}") for row in range(rows)]
    columns["rlnRandomSubset"][400] = ""
    text = loop("optics", {label: [value] for label, value in OPTICS.items()}) + loop("particles", columns)
    assert "row 401 of data_particles has no value for its last label" in refusal(project.write(text))


def test_comments_after_rows_and_labels(project: Project) -> None:
    plain = read_particles(project.star())
    text = project.star().read_text().replace(" 0 1\n", " 0 1 # the last\n# and no more\n")
    assert_same(read_particles(project.write(text)), plain)
    pairs = "data_optics\n\n" + "".join(f"_{k}  {v}  # known\n" for k, v in OPTICS.items())
    assert_same(read_particles(project.write(pairs + loop("particles", PARTICLES))), plain)
    assert "data_optics has 2 values for _rlnVoltage" in refusal(
        project.write(pairs.replace("300.0", "300.0 200.0") + loop("particles", PARTICLES))
    )


def test_case_of_a_path_with_a_sign(case: Callable[[str], Path]) -> None:
    assert len(read_particles(case("I1") / "particles.star")) == 60


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("place", ["comment", "unused", "optics", "label", "micrograph"])
def test_letters_of_any_encoding(project: Project, encoding: str, place: str) -> None:
    plain = read_particles(project.star())
    word = "Rückprojektion_à_2Å_µ"
    changes: dict[str, Any] = {
        "comment": {},
        "unused": {"rlnComment": word},
        "optics": {"optics": {"rlnComment": word}},
        "label": {f"rln{word}": "1"},
        "micrograph": {"rlnMicrographName": f"{word}.mrc"},
    }[place]
    path = project.star(**changes)
    text = path.read_text(encoding="utf-8")
    path.write_bytes((f"# {word}\n{text}# {word}\n" if place == "comment" else text).encode(encoding))
    assert_same(read_particles(path), plain)


@pytest.mark.parametrize("star", ["latin-1", "utf-8"])
@pytest.mark.parametrize("disk", ["latin-1", "utf-8"])
def test_folder_names_of_any_encoding(project: Project, star: str, disk: str) -> None:
    plain = read_particles(project.star())
    folder = bytes(project.folder) + b"/" + "Müller".encode(disk)
    shutil.copytree(bytes(project.folder / "stacks"), folder)
    path = project.star(rlnImageName=[name.replace("stacks", "Müller") for name in PARTICLES["rlnImageName"]])
    path.write_bytes(path.read_text(encoding="utf-8").encode(star))
    particles = read_particles(path)
    assert_same(particles, plain)
    write_star(project.folder / "written.star", particles)
    assert len(read_particles(project.folder / "written.star")) == 3


@pytest.mark.parametrize(
    ("sizes", "joined"), [((1.5, 1.507), True), ((1.5, 1.5002), True), ((1.494, 1.5), True), ((1.5, 1.508), False)]
)
@pytest.mark.parametrize("used", [["1", "2", "1"], ["2", "1", "2"]])
def test_sessions_of_nearly_one_pixel_size(
    project: Project, sizes: tuple[float, float], joined: bool, used: list[str]
) -> None:
    table = {label: [value] * 2 for label, value in OPTICS.items()}
    table.update(rlnOpticsGroup=["1", "2"], rlnImagePixelSize=[str(size) for size in sizes])
    path = project.write(loop("optics", table) + loop("particles", {**PARTICLES, "rlnOpticsGroup": used}))
    if not joined:
        assert "differ in pixel size" in refusal(path)
        return
    particles = read_particles(path)
    mean = np.mean([sizes[int(group) - 1] for group in used])
    assert [group.pixel_size_angstrom for group in particles.optics] == pytest.approx([mean, mean])
    (note,) = particles.notes
    assert "read with their mean" in note
    assert read_particles(project.star()).notes == ()


def test_joined_sessions_show_atoms_where_each_has_them(project: Project) -> None:
    """As where each session is read alone: the same pixels, at the same frequencies."""
    sizes = (1.5, 1.507)
    table = {label: [value] * 2 for label, value in OPTICS.items()}
    table.update(rlnOpticsGroup=["1", "2"], rlnImagePixelSize=[str(size) for size in sizes])
    columns = {**PARTICLES, "rlnOpticsGroup": ["1", "2", "1"]}
    joined = read_particles(project.write(loop("optics", table) + loop("particles", columns)))
    atom = np.array([2.0, -1.0, 3.0])
    for row, group in enumerate(joined.optics_index):
        alone = read_particles(project.star({"rlnImagePixelSize": str(sizes[group])}))
        common, own = joined.pixel_size_angstrom, sizes[group]
        matrix = np.array(joined.optics[group].magnification_matrix)
        seen = matrix.T @ (joined.rotations[row] @ atom)[:2] - joined.origins_angstrom[row]
        expected = (alone.rotations[row] @ atom)[:2] - alone.origins_angstrom[row]
        np.testing.assert_allclose(seen / common, expected / own, rtol=1e-9)
        np.testing.assert_allclose(matrix / common, np.eye(2) / own, rtol=1e-9)


@pytest.mark.parametrize("form", ["{}", "1@{}", "000001@{}"])
@pytest.mark.parametrize("end", [".mrc", ".mrcs"])
def test_files_of_one_image(project: Project, form: str, end: str) -> None:
    for number in range(3):
        write_stack(project.folder / f"img{number}{end}", project.a[number : number + 1])
    particles = read_particles(project.star(rlnImageName=[form.format(f"img{number}{end}") for number in range(3)]))
    np.testing.assert_array_equal(particles.images(np.arange(3)), project.a[:3])


def test_case_of_files_of_one_image(case: Callable[[str], Path]) -> None:
    assert len(read_particles(case("P") / "particles.star")) == 60
