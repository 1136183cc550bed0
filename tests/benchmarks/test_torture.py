"""Readers are given damaged files, of numbers that are always the same; what the torture finds is found."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from benchmarks import torture
from benchmarks.audit import licences, pinned
from benchmarks.fuzz_readers import READERS, Reader, fuzz, make_samples
from benchmarks.torture import Ended, Tally, Trial, Verb, make_verbs, read
from cocofold.system.processes import settle_standard_streams

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
    tally = Tally(
        tmp_path / "t.json", 0.5, {"kill": 3, "size": 1}, [{"kind": "kill", "number": 7, "fault": "lost"}] * 2
    )
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


def test_dates_of_files_are_no_other_result(tmp_path: Path) -> None:
    verb = Verb([], ("",))
    rows = b"\ndata_particles\n# Created by hand\n"
    (tmp_path / "out.star").write_bytes(b"# Created by the starfile package at 12:12:09\n" + rows)
    assert torture.results_of("select", verb, tmp_path) == {"": rows}
    label = b"Created by mrcfile.py" + b" " * 39 + b"2026-12-01 12:15:17 "
    assert torture._undated(b"\x00" + label + b"\x01") == b"\x00Created by mrcfile.py \x01"


def ends_of_a_child(folder: Path, prepare: Callable[[], None], do: Callable[[], None]) -> Ended:
    """How a child ends that does something in place of a command."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torture, "main", do)
        return torture.run([], folder / "said", prepare)


def test_a_clock_goes_back_in_the_child_alone(tmp_path: Path) -> None:
    here = time.time()

    def tell() -> None:
        time.sleep(0.2)
        print(time.time(), time.time_ns() / 1e9)

    ended = ends_of_a_child(tmp_path, torture._clock_set_back(0.1, 1e6), tell)
    assert ended.status == 0
    assert all(here - 1.1e6 < float(word) < here - 0.9e6 for word in ended.said.split())
    assert time.time() >= here


def test_what_a_refused_child_says_is_kept(tmp_path: Path) -> None:
    def refuse() -> None:
        print("cocofold: no", file=sys.stderr)
        sys.exit(2)

    ended = ends_of_a_child(tmp_path, lambda: None, refuse)
    assert (ended.status, ended.said) == (2, "cocofold: no\n")


def test_a_stream_that_nobody_reads_or_that_is_closed_is_as_python_would_open_it(tmp_path: Path) -> None:
    def unread() -> None:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)

    for prepare, is_open in ((unread, True), (lambda: os.close(1), False)):

        def settle(expected: bool = is_open) -> None:
            is_there = sys.stdout is not None
            settle_standard_streams()
            assert is_there is expected

        assert ends_of_a_child(tmp_path, prepare, settle) == replace(Ended(0, "", 0.0), seconds=ANY)


def test_processes_that_a_run_has_started_are_found(tmp_path: Path) -> None:
    assert torture.workers_of(tmp_path) == []
    program, pipe = "print(flush=True); input()", subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert torture.workers_of(tmp_path) == [other.pid]
        other.communicate(b"\n")
    assert torture.workers_of(tmp_path) == []


def test_what_a_machine_cannot_do_counts_as_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torture, "_GROUPS", tmp_path / "none")
    monkeypatch.setattr(torture, "small_disk", lambda *_: contextlib.nullcontext(False))
    for kind in ("group", "disk", "readonly"):
        (tmp_path / kind).mkdir()
        trial = Trial(random.Random(1), tmp_path, tmp_path / kind, {"move": Verb([], ("",))})
        torture.KINDS[kind](trial)
        assert (trial.counted, trial.faults) == (0, [])
        assert capsys.readouterr().out.startswith("skipped: no ")


def test_a_kind_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="kil: no such kind; there are kill, stop"):
        torture.repeat(["kil"], range(1), Tally(tmp_path / "t.json"), tmp_path)


def test_all_packages_have_a_licence() -> None:
    found = licences()
    assert {"torch", "gemmi", "mrcfile"} <= set(found)
    assert len(found) > 30
    assert set(found) <= set(pinned())


def test_verbs_of_the_torture_are_those_that_write(samples: Path) -> None:
    assert {"simulate", "select", "finetune", "fit", "reconstruct", "assess"} <= set(make_verbs(samples))
