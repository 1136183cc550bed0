"""Readers are given damaged files, of numbers that are always the same; what the torture finds is found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks import torture
from benchmarks.audit import licences, pinned
from benchmarks.fuzz_readers import READERS, Reader, fuzz, make_samples
from benchmarks.torture import Tally, Trial, Verb, make_verbs, read

SECONDS_OF_A_READER = 0.3


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "samples"
    make_samples(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_taken_or_refused(name: str, samples: Path) -> None:
    reader = READERS[name]
    good = (samples / reader.sample).read_bytes()
    count = min(60, max(3, int(SECONDS_OF_A_READER / reader.seconds)))
    found = fuzz(name, samples, 1, count)
    assert 3 <= found.inputs <= count
    assert (samples / reader.sample).read_bytes() == good


def test_a_reader_that_raises_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("1 2 3")

    def read_numbers(path: Path) -> list[float]:
        return [float(word) for word in path.read_bytes().split()]

    monkeypatch.setitem(READERS, "numbers", Reader("a.txt", read_numbers))
    with pytest.raises(ValueError, match="could not convert"):
        fuzz("numbers", tmp_path, 1, 100)
    assert (tmp_path / "a.txt").read_text() == "1 2 3"
    (tmp_path / "trial").mkdir()
    trial = Trial(random.Random(1), tmp_path, tmp_path / "trial", {})
    read(trial, "numbers", seconds=0.3)
    assert "ValueError" in trial.faults[0]


def test_a_tally_is_gone_on_with(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "t.json", 0.5, {"kill": 3, "size": 1}, [{"kind": "kill", "number": 7, "fault": "lost"}])
    tally.save()
    again = Tally.load(tmp_path / "t.json")
    assert again == tally
    assert "| kill | 3 | 1 |" in again.table()
    assert "| size | 1 | 0 |" in again.table()
    assert json.loads((tmp_path / "t.json").read_text())["hours"] == 0.5


def test_half_a_file_is_found(samples: Path, tmp_path: Path) -> None:
    for name in ("m.cif", "map.mrc", "placement.json"):
        (tmp_path / name).write_bytes((samples / name).read_bytes())
    assert torture.half_written(tmp_path) == []
    for name in ("map.mrc", "placement.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert sorted(one.split(":")[0] for one in torture.half_written(tmp_path)) == ["map.mrc", "placement.json"]


def test_other_bytes_and_files_outside_are_found(tmp_path: Path) -> None:
    verbs = {"move": Verb([], ("",), 0.1, {"": b"expected"})}
    trial = Trial(random.Random(1), tmp_path, tmp_path, verbs)
    (tmp_path / "out.cif").write_bytes(b"data_x\n_a.b 1\n")
    (tmp_path / "foreign").write_text("")
    torture.require_result(trial, "move", tmp_path)
    torture.require_nothing_outside(trial, "move", tmp_path)
    assert trial.faults == ["move: other bytes than of an undisturbed run", "move: left outside: ['foreign']"]


def test_all_packages_have_a_licence() -> None:
    found = licences()
    assert {"torch", "gemmi", "mrcfile"} <= set(found)
    assert len(found) > 30
    assert set(found) <= set(pinned())


def test_verbs_of_the_torture_are_those_that_write(samples: Path) -> None:
    assert {"simulate", "select", "finetune", "fit", "reconstruct", "assess"} <= set(make_verbs(samples))
