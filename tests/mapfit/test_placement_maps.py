"""Maps as they come, and maps that cannot be used."""

import bz2
import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.__main__ import app
from cocofold.finetuning.options import Options
from cocofold.mapfit.density_map import DensityMap, read_map, same_grid
from cocofold.mapfit.target_map import resolution_from_noise
from cocofold.system.errors import InputError

_VALUES = np.random.default_rng(0).standard_normal((10, 12, 14)).astype(np.float32)


def _written(path: Path, values: np.ndarray = _VALUES, pixel_size: float = 2.0, **header: object) -> Path:
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as file:
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN
        file.set_data(values)
        file.voxel_size = pixel_size
        for name, value in header.items():
            setattr(file.header, name, value)
    return path


def test_any_box_compressed_or_not(tmp_path: Path) -> None:
    path = _written(tmp_path / "map.mrc")
    packed = tmp_path / "map.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for one in (read_map(path), read_map(packed)):
        assert np.array_equal(one.values, _VALUES)
        assert one.pixel_size_angstrom == pytest.approx(2.0)
        assert one.extent_angstrom == pytest.approx([28, 24, 20])
        assert not one.has_origin
    assert not same_grid(read_map(path), read_map(path, 2.1))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3)])
def test_axes_are_put_in_order_with_their_starts(tmp_path: Path, order: tuple) -> None:
    starts = {1: 4, 2: -3, 3: 7}  # of x, y, z
    # Columns, rows and sections hold the axes of ``order``; an array's axes are sections, rows, columns.
    stored = _VALUES.transpose([3 - order[2 - place] for place in range(3)])
    names = ("nxstart", "nystart", "nzstart")
    header = {name: starts[axis] for name, axis in zip(names, order)}
    found = read_map(
        _written(tmp_path / "map.mrc", stored, mapc=order[0], mapr=order[1], maps=order[2], **header),
        pixel_size_angstrom=2,
    )
    assert np.array_equal(found.values, _VALUES)
    assert found.header_origin_angstrom == pytest.approx((8, -6, 14))
    assert found.has_origin


def test_the_mirror_image_leaves_the_rotation_centre(tmp_path: Path) -> None:
    found = DensityMap(_VALUES, 2.0).mirrored()
    assert np.array_equal(found.values, np.roll(np.flip(_VALUES, 0), 1, 0))
    odd = DensityMap(_VALUES[:9], 2.0)
    assert np.array_equal(odd.mirrored().values[9 // 2], odd.values[9 // 2])
    found.write(tmp_path / "mirrored.mrc")
    assert np.array_equal(read_map(tmp_path / "mirrored.mrc").mirrored().values, _VALUES)


def _with(value: float, where: tuple = (slice(None),)) -> np.ndarray:
    values = _VALUES.copy()
    values[where] = value
    return values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_with(0), "is empty"),
        (_with(3), "is constant"),
        (_with(np.nan, (1, 2, 3)), "1 of 1680 voxels are not finite"),
        (_VALUES[0], "14 x 12 pixels, no volume"),
        (_VALUES.astype(np.complex64), "holds no real numbers"),
    ],
)
def test_maps_that_hold_nothing_are_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_map(_written(tmp_path / "map.mrc", values))


def test_pixel_sizes_that_cannot_be(tmp_path: Path) -> None:
    path = _written(tmp_path / "map.mrc", pixel_size=0)
    with pytest.raises(InputError, match=r"no pixel size.*give it with --pixel-size"):
        read_map(path, pixel_size_option="--pixel-size")
    # Where a command has no such option, none is named.
    with pytest.raises(InputError, match=r"no pixel size.*write it into the header"):
        read_map(path)
    assert read_map(path, 1.5).pixel_size_angstrom == 1.5
    with pytest.raises(InputError, match="must be cubes"):
        read_map(_written(tmp_path / "oblong.mrc", pixel_size=(1.0, 1.0, 2.0)))


def test_files_that_are_no_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_map(tmp_path / "missing.mrc")
    other = tmp_path / "model.cif"
    other.write_text("data_x\n" * 100)
    with pytest.raises(InputError, match="no MRC or CCP4 map"):
        read_map(other)
    whole = _written(tmp_path / "map.mrc").read_bytes()
    (tmp_path / "cut.mrc").write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="cut short"):
        read_map(tmp_path / "cut.mrc")
    (tmp_path / "cut.mrc.gz").write_bytes(gzip.compress(whole)[:-200])
    packed = bytearray(gzip.compress(whole))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    (tmp_path / "damaged.mrc.gz").write_bytes(packed)
    with pytest.raises(InputError, match="cannot be read as a map"):
        read_map(tmp_path / "damaged.mrc.gz")
    with pytest.raises(InputError, match="cut short"):
        read_map(tmp_path / "cut.mrc.gz")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_a_stack_of_one_volume_is_a_map(tmp_path: Path, count: int, pack: Callable[[bytes], bytes]) -> None:
    path = _written(tmp_path / "map.mrc", np.repeat(_VALUES[None], count, axis=0))
    path.write_bytes(pack(path.read_bytes()))
    if count == 1:
        found = read_map(path)
        assert np.array_equal(found.values, _VALUES)
        assert found.pixel_size_angstrom == pytest.approx(2.0)
    else:
        with pytest.raises(InputError, match="14 x 12 x 10 x 2 pixels, no volume"):
            read_map(path)


@pytest.mark.parametrize("pixel_size", [8.0, 9.5, 10.0, 11.4, 20.0, 50.0])
def test_the_resolution_of_coarse_maps(pixel_size: float) -> None:
    values = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    values[8:16, 8:16, 8:16] += 20
    found = resolution_from_noise(DensityMap(values, pixel_size))
    assert found is None or found >= 2 * pixel_size


@pytest.mark.parametrize("name", ["K_coarse_map/map.mrc", "N1_bz2_map/map.mrc.bz2", "N2_map_without_MAP/map.mrc"])
def test_cases_of_maps(cases: Path, name: str) -> None:
    density = read_map(cases / "particles" / name)
    found = resolution_from_noise(density)
    assert found is None or found >= 2 * density.pixel_size_angstrom


def test_the_option_that_a_message_names_is_there(tmp_path: Path) -> None:
    path = _written(tmp_path / "map.mrc", pixel_size=0)
    arguments = ["check", "--particles", "none.star", "--model", "none.cif", "--map", str(path)]
    with pytest.raises(InputError, match="give it with --map-pixel-size"):
        app(arguments, standalone_mode=False)
    with pytest.raises(InputError, match="none"):
        app([*arguments, "--map-pixel-size", "2"], standalone_mode=False)
    with pytest.raises(InputError, match="add --map FILE"):
        app([*arguments[:-2], "--map-pixel-size", "2"], standalone_mode=False)
    with pytest.raises(InputError, match="--map-pixel-size: is about a map"):
        Options(particles="P.star", model="M.cif", map_pixel_size=2.0)
