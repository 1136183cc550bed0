"""Pickles of arrays are read; what could run code is not."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.alphafold.external_programs import load_pickled_arrays
from cocofold.system.errors import InputError

CONTENT = {
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "swapped": np.arange(3, dtype=">i4"),
    "half": np.ones(2, np.float16),
    "flags": np.array([True, False]),
    "nothing_in_it": np.zeros((0, 3), np.float32),
    "zero_d": np.array(3),
    "deeper": {"list": [1, "x", (np.arange(2),)], "scalar": np.float16(0.5), "none": None},
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    found = load_pickled_arrays(path)
    for name, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype
    assert found["deeper"]["list"][:2] == [1, "x"]
    assert found["deeper"]["list"][2][0].tolist() == [0, 1]
    assert found["deeper"]["scalar"] == 0.5


class _Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return subprocess.call, (["touch", str(self.path)],)


def test_a_pickle_that_runs_a_program_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"single": np.zeros(2), "pair": _Touch(tmp_path / "made")}))
    with pytest.raises(InputError, match=r"asks for subprocess.call; only numpy arrays"):
        load_pickled_arrays(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (os.system, "posix.system"),
        (torch.zeros(2), "torch"),
        (Path("x"), "pathlib"),
        (np.random.default_rng(), "numpy"),
    ],
)
def test_any_other_class_is_refused_by_name(value: object, name: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": value}))
    with pytest.raises(InputError, match=f"asks for {name}"):
        load_pickled_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize("value", [np.array(["a", None], dtype=object), np.zeros(2, dtype=[("x", "f4"), ("y", "O")])])
def test_arrays_of_objects_are_refused(value: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": value}))
    with pytest.raises(InputError, match="an array of type"):
        load_pickled_arrays(tmp_path / "x.pkl")


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(CONTENT)
    for content, message in (
        (whole[: len(whole) // 2], "not a readable pickle"),
        (b"", "not a readable pickle"),
        (b"PDB file", "not a readable pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
    ):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_pickled_arrays(tmp_path / "x.pkl")
    with pytest.raises(InputError, match="no such file"):
        load_pickled_arrays(tmp_path / "y.pkl")
