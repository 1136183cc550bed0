"""Files and folders that are written: JSON that every reader takes, folders that leave nothing in the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cocofold.system.atomic_files import check_new_folder, new_folder, write_json
from cocofold.system.errors import InputError


def test_json_has_no_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    content = {"a": [1.5, float("nan"), (float("inf"), "Infinity")], "b": {"c": np.float64("-inf")}, "d": 3}
    write_json(tmp_path / "a.json", content)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [1.5, None, [None, "Infinity"]], "b": {"c": None}, "d": 3}


def test_a_folder_is_free_or_refused(tmp_path: Path) -> None:
    check_new_folder("--out", tmp_path / "new" / "folder")
    (tmp_path / ".left.cif.123.part").write_text("")
    check_new_folder("--out", tmp_path)
    (tmp_path / "known").mkdir()
    check_new_folder("--out", tmp_path, ("known",))
    with pytest.raises(InputError, match="the folder holds known; give another one"):
        check_new_folder("--out", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        check_new_folder("--out", tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written in"):
        check_new_folder("--out", tmp_path / "file" / "beneath")


def fill(folder: Path, error: BaseException) -> None:
    with new_folder(folder):
        (folder / "half.cif").write_text("")
        (folder / "sub").mkdir()
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InputError("no"), KeyboardInterrupt()])
def test_a_failed_command_leaves_nothing_in_its_way(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "before.txt").write_text("")
    for name in ("new", "there"):
        kind = InputError if isinstance(error, OSError) else type(error)
        with pytest.raises(kind):
            fill(tmp_path / name, error)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["before.txt", "there"]
