"""Stacks: pixel types, byte orders, headers of other programs, and damaged files."""

from __future__ import annotations

import bz2
import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from particle_project import Project, write_stack

from cocofold.particles import read_particles
from cocofold.particles.mrc import StackReader, open_map, read_stack_header, write_map
from cocofold.system.errors import InputError


def small_images(dtype: str) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 100, size=(3, 4, 4)).astype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("stamp", ["right", "wrong", "none"])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("extended", [0, 160])
def test_pixel_types_byte_orders_and_extended_headers(
    tmp_path: Path, dtype: str, stamp: str, big_endian: bool, extended: int
) -> None:
    images = small_images(dtype)
    path = tmp_path / "stack.mrc"
    write_stack(path, images)
    with mrcfile.open(path, mode="r+") as file:
        header = file.header.copy()
        header.nsymbt = extended
        if big_endian:
            header = header.byteswap()
        right = [0x11, 0x11, 0, 0] if big_endian else [0x44, 0x44, 0, 0]
        wrong = [0x44, 0x44, 0, 0] if big_endian else [0x11, 0x11, 0, 0]
        header.machst = {"right": right, "wrong": wrong, "none": [0, 0, 0, 0]}[stamp]
        if stamp == "none":
            header.map = b"\0\0\0\0"
    pixels = images.astype(images.dtype.newbyteorder(">")) if big_endian else images
    path.write_bytes(header.tobytes() + b"x" * extended + pixels.tobytes())
    read = StackReader().read(path, np.array([2, 0]))
    assert read.dtype == np.float32
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, images[[2, 0]].astype(np.float32))


def test_negative_bytes_and_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, np.full((1, 4, 4), -56, dtype=np.int8))
    assert (StackReader().read(path, np.array([0])) == -56).all()
    content = bytearray(path.read_bytes())
    content[152:160] = (1146047817).to_bytes(4, "little") + (0).to_bytes(4, "little")
    path.write_bytes(content)
    assert (StackReader().read(path, np.array([0])) == 200).all()
    content[156] = 1
    path.write_bytes(content)
    assert (StackReader().read(path, np.array([0])) == -56).all()


def test_a_single_image_and_trailing_bytes(tmp_path: Path) -> None:
    path = tmp_path / "one.mrc"
    images = small_images("float32")[:1]
    write_stack(path, images)
    with open(path, "ab") as file:
        file.write(b"trailing")
    np.testing.assert_array_equal(StackReader().read(path, np.array([0])), images)


def test_few_stacks_stay_open(tmp_path: Path) -> None:
    reader = StackReader(max_open_files=2)
    images = small_images("int16")
    for number in range(5):
        write_stack(tmp_path / f"{number}.mrcs", images + number)
    for number in (0, 1, 2, 3, 4, 0):
        read = reader.read(tmp_path / f"{number}.mrcs", np.array([1]))
        np.testing.assert_array_equal(read[0], images[1] + number)
        assert len(reader._open) <= 2
    assert len(pickle.dumps(reader)) < 200


def test_particles_travel_to_other_processes(project: Project) -> None:
    particles = read_particles(project.star())
    before = particles.images(np.arange(3))
    copy = pickle.loads(pickle.dumps(particles))
    np.testing.assert_array_equal(copy.images(np.arange(3)), before)


def test_stacks_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, small_images("float32"))
    whole = path.read_bytes()
    other_mode = bytearray(whole)
    other_mode[12] = 4
    no_sizes = bytearray(whole)
    no_sizes[0:4] = (-4).to_bytes(4, "little", signed=True)
    cases = {
        whole[:-1]: "cut short",
        whole[:1000]: "less than the 1024",
        b"": "less than the 1024",
        bytes(other_mode): "mode 4 (complex float32)",
        bytes(no_sizes): "not an MRC file",
        b"some text " * 200: "not an MRC file",
        gzip.compress(whole): "compressed with gzip",
        bz2.compress(whole): "compressed with bzip2",
    }
    for content, part in cases.items():
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_stack_header(path)
        assert part in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="cannot be opened"):
        read_stack_header(tmp_path / "none.mrcs")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused_by_stack_and_image(project: Project, value: float) -> None:
    images = project.a.copy()
    images[2, 3, 4] = value
    with open(project.folder / "stacks" / "a.mrcs", "r+b") as file:
        file.seek(1024)
        file.write(images.tobytes())
    particles = read_particles(project.star())
    with pytest.raises(InputError, match=r"a\.mrcs: image 3 \(counted from 1\)"):
        particles.images(np.arange(3))
    np.testing.assert_array_equal(particles.images(np.array([0])), images[1:2])


def test_stacks_that_do_not_fit_the_file(project: Project) -> None:
    star = project.star()
    path = project.folder / "stacks" / "b.mrcs"
    write_stack(path, np.zeros((2, 8, 6), dtype=np.float32))
    with pytest.raises(InputError, match="6 x 8 pixels; square"):
        read_particles(star)
    write_stack(path, np.zeros((2, 10, 10), dtype=np.float32))
    with pytest.raises(InputError, match=r"b\.mrcs: images of 10 pixels, but the metadata say 8"):
        read_particles(star)


def test_stacks_that_change_after_reading(project: Project) -> None:
    particles = read_particles(project.star())
    path = project.folder / "stacks" / "b.mrcs"
    write_stack(path, np.zeros((2, 10, 10), dtype=np.float32))
    with pytest.raises(InputError, match="10 x 10 pixels, but the particles' metadata say 8 x 8"):
        particles.images(np.array([1]))
    write_stack(path, project.b)
    particles = read_particles(project.star())
    write_stack(project.folder / "stacks" / "a.mrcs", project.a[:1])
    with pytest.raises(InputError, match="image 2 is asked for, but the stack has 1"):
        particles.images(np.array([0]))


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    path = tmp_path / "map.mrc"
    write_map(path, values, 1.25)
    assert mrcfile.validate(path)
    (tmp_path / "map.mrc.gz").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("map.mrc", "map.mrc.gz"):
        with open_map(tmp_path / name, "map") as file:
            np.testing.assert_array_equal(file.data, values)
            assert {float(file.voxel_size[axis]) for axis in "xyz"} == {1.25}
            assert {float(file.header.origin[axis]) for axis in "xyz"} == {0.0}


def test_a_map_that_is_not_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    write_map(path, np.ones((2, 2, 2), np.float32), 1.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="dtype"):
        write_map(path, np.ones((2, 2, 2), dtype=object), 1.0)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["map.mrc"]


def test_maps_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    write_map(path, np.ones((4, 4, 4), np.float32), 1.0)
    whole = path.read_bytes()
    contents = {whole[:-1]: "cut short", b"text" * 300: "no 'MAP'", b"text": "no 'MAP'"}
    for content, reason in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=reason), open_map(path, "map"):
            pass
    path.unlink()
    with pytest.raises(InputError, match="no such file"), open_map(path, "map"):
        pass


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("stamp", [b"\x00\x00\x00\x00", b"\x44\x44\x00\x00", b"\x11\x11\x00\x00", b"\x44\x41\x00\x00"])
@pytest.mark.parametrize("word", [b"\x00\x00\x00\x00", b"none", b"    ", b"PAM "])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_maps_without_a_stamp_and_packed_ones(
    tmp_path: Path, big_endian: bool, stamp: bytes, word: bytes, pack: Callable[[bytes], bytes]
) -> None:
    values = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    path = tmp_path / "map.mrc"
    write_map(path, values, 1.25)
    content = bytearray(path.read_bytes())
    if big_endian:
        with mrcfile.open(path) as file:
            content = bytearray(file.header.byteswap().tobytes() + values.astype(">f4").tobytes())
    content[208:212], content[212:216] = word, stamp
    path.write_bytes(pack(bytes(content)))
    with open_map(path, "map") as file:
        np.testing.assert_array_equal(file.data, values)
        assert float(file.voxel_size.x) == 1.25


@pytest.mark.parametrize(("magic", "program"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz")])
def test_maps_packed_otherwise_are_refused_with_the_command(tmp_path: Path, magic: bytes, program: str) -> None:
    path = tmp_path / f"map.mrc.{'zst' if program == 'zstd' else 'xz'}"
    path.write_bytes(magic + bytes(2000))
    with pytest.raises(InputError, match=f"unpack it first: {program} -dc"), open_map(path, "map"):
        pass
