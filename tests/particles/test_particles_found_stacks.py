"""Stacks that are not where the particles' file says, and how they are found."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from particle_project import PARTICLES, Project, write_stack
from test_particles_cryosparc import BLOB, CTF, POSES, write

from cocofold.particles import read_particles
from cocofold.particles.stack_files import find_stacks
from cocofold.system.errors import InputError


def star_with(project: Project, folder: str, end: str = ".mrcs") -> Path:
    """The project's STAR with another folder of the stacks."""
    names = [name.replace("stacks/", folder).replace(".mrcs", end) for name in PARTICLES["rlnImageName"]]
    return project.star(rlnImageName=names)


def cs_with(project: Project, folder: str, end: str = ".mrcs") -> Path:
    """A .cs file of the same images."""
    paths = [f">{folder}a{end}", f">{folder}b{end}", f">{folder}a{end}"]
    columns = {**BLOB, "blob/path": np.array(paths, dtype="S")}
    return write(project, {**columns, **CTF, **POSES})


KINDS = {"star": star_with, "cs": cs_with}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_particles(path, **options)
    return str(caught.value)


def moved(project: Project, folder: str) -> Path:
    """The stacks in a folder that no name in the file leads to."""
    place = project.folder / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(project.folder / "stacks", place))


def check(project: Project, path: Path, **options: Any) -> None:
    particles = read_particles(path, **options)
    signs = particles.contrast[:, None, None].astype(np.float32)
    expected = np.stack([project.a[1], project.b[0], project.a[2]]) * signs
    np.testing.assert_array_equal(particles.images(np.arange(3)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("named", "lies", "given"),
    [
        ("Extract/job012/", "elsewhere", "elsewhere"),
        ("/gpfs/lab/project/Extract/job012/", "here/Extract/job012", "here"),
        ("/gpfs/lab/project/Extract/job012/", "here/Extract/job012", "here/Extract"),
        ("/gpfs/lab/project/Extract/job012/", "here/Extract/job012", "here/Extract/job012"),
        ("/gpfs/lab/project/Extract/job012/", "here/job012", "here"),
        ("C:\\data\\job012\\", "here/job012", "here"),
        ("../other/Extract/", "copy/Extract", "copy"),
    ],
)
def test_names_are_matched_by_their_last_parts(project: Project, kind: str, named: str, lies: str, given: str) -> None:
    moved(project, lies)
    path = KINDS[kind](project, named)
    check(project, path, particles_dir=project.folder / given)
    assert "not found" in refusal(path)


def test_the_longest_match_is_taken(project: Project) -> None:
    moved(project, "here/job012")
    for name in "ab":
        write_stack(project.folder / "here" / f"{name}.mrcs", np.zeros_like(project.a))
    check(project, star_with(project, "/gpfs/Extract/job012/"), particles_dir=project.folder / "here")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("named", "lies"), [(".mrcs", ".mrc"), (".mrc", ".mrcs")])
@pytest.mark.parametrize("given", [False, True])
def test_mrc_for_mrcs(project: Project, kind: str, named: str, lies: str, given: bool) -> None:
    for path in (project.folder / "stacks").iterdir():
        path.rename(path.with_suffix(lies))
    path = KINDS[kind](project, "/other/stacks/" if given else "stacks/", named)
    check(project, path, particles_dir=project.folder / "stacks" if given else None)


def test_the_name_itself_goes_before_the_other_ending(project: Project) -> None:
    for path in list((project.folder / "stacks").iterdir()):
        write_stack(path.with_suffix(".mrc"), np.zeros_like(project.a))
    check(project, project.star())


def test_one_file_for_two_names_is_refused(project: Project) -> None:
    stacks = project.folder / "stacks"
    names = ["1@/gpfs/job1/a.mrcs", "1@/gpfs/job2/a.mrcs", "2@/gpfs/job1/a.mrcs"]
    message = refusal(project.star(rlnImageName=names), particles_dir=stacks)
    assert "for the stacks /gpfs/job1/a.mrcs and /gpfs/job2/a.mrcs only" in message
    assert "--particles-dir" in message
    names = ["1@stacks/a.mrcs", "1@stacks/a.mrc", "2@stacks/a.mrcs"]
    assert "stacks/a.mrc only" in refusal(project.star(rlnImageName=names))
    assert len(read_particles(project.star(rlnImageName=["1@stacks/a.mrcs", "1@./stacks/a.mrcs", "2@stacks/a.mrcs"])))


def test_what_was_tried_is_said(project: Project) -> None:
    path = star_with(project, "/gpfs/Extract/job012/")
    message = refusal(path, particles_dir=project.folder / "stacks" / "..")
    for part in ("2 of 2 stacks", "/gpfs/Extract/job012/a.mrcs", str(project.folder), ".mrc for .mrcs", "last parts"):
        assert part in message
    assert "last parts" not in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("end", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), ("", gzip.compress)]
)
@pytest.mark.parametrize("named", [False, True])
def test_packed_stacks_are_refused_with_the_command_that_unpacks_them(
    project: Project, kind: str, end: str, pack: Any, named: bool
) -> None:
    folder = project.folder / "my stacks"
    shutil.move(project.folder / "stacks", folder)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.with_name(path.name + end).write_bytes(pack(content))
    path = KINDS[kind](project, "stacks/", ".mrcs" + (end if named else ""))
    for _ in range(2):
        message = refusal(path, particles_dir=folder)
        assert "compressed" in message
        command = message.split("unpack it first: ")[1]
        subprocess.run(command, shell=True, check=True)
    check(project, path, particles_dir=folder)


def test_a_stack_that_zstd_packed_is_refused_with_the_command(project: Project) -> None:
    for path in (project.folder / "stacks").iterdir():
        path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(3000))
    message = refusal(project.star())
    assert "compressed with zstd" in message
    assert "unpack it first: zstd -dc" in message


@pytest.mark.parametrize(("name", "given"), [("E1", "elsewhere"), ("E2", "here"), ("F", None)])
def test_cases(cases: Path, name: str, given: str | None) -> None:
    (folder,) = (cases / "particles").glob(f"{name}_*")
    particles_dir = None if given is None else folder / given
    assert len(read_particles(folder / "particles.star", particles_dir)) == 60


def test_paths_of_windows_that_lead_upwards(project: Project) -> None:
    (project.folder / "job").mkdir()
    path = star_with(project, "..\\stacks\\")
    check(project, Path(shutil.move(path, project.folder / "job")))


def test_folders_that_are_not_there_are_looked_for_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has thousands of stacks, and a network disk takes its time for each question."""
    asked: list[str] = []
    is_file = os.path.isfile
    monkeypatch.setattr("os.path.isfile", lambda path: asked.append(str(path)) or is_file(path))
    names = [f"gone/{number}.mrcs" for number in range(20)]
    assert "20 of 20 stacks not found" in refusal_of(names, project.folder / "x.star")
    assert not [path for path in asked if "gone" in path]


def refusal_of(names: list[str], source: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_stacks(names, source, None)
    return str(caught.value)
