"""The script that measures a GPU, tried on the pretend device, and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pretend_runs import HERE, succeed

SCRIPT = HERE.parents[1] / "benchmarks" / "gpu.sh"


def figures(folder: Path) -> dict[str, dict]:
    """What a run has written, by part."""
    rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return {row["part"]: row for row in rows}


@pytest.mark.slow
def test_a_device_is_compared_with_the_processor_and_measured(tmp_path: Path) -> None:
    for part, names in {"parity": 3, "image": 3}.items():
        asked = [tmp_path, "--device", "pretend", "--part", part, "--case", "adk"]
        done = succeed(tmp_path, *asked, program=("-m", "benchmarks.gpu"))
        found = json.loads(done.said.splitlines()[-1])
        assert len(found) == names
        if part == "parity":
            assert found["frc_difference"] < 1e-5
            assert found["gradient_difference"] < 1e-4
            assert found["atoms_difference_angstrom"] < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
def test_parts_are_written_as_they_come(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "benchmarks.gpu", tmp_path, "--device", "cpu", "--only", "adk"]
    with subprocess.Popen(list(map(str, asked)), cwd=HERE.parents[1], stderr=subprocess.PIPE, text=True) as script:
        assert script.stderr is not None
        said = script.stderr.readline()
        script.send_signal(signal.SIGINT)
        script.stderr.read()
    assert said.startswith("parity adk: ")
    found = figures(tmp_path)
    assert list(found)[:2] == ["machine", "parity"]
    assert found["parity"]["frc_difference"] == 0


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended_and_said(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "benchmarks.gpu", tmp_path, "--device", "cpu", "--only", "adk", "--minutes", "0.01"]
    done = subprocess.run(list(map(str, asked)), cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = figures(tmp_path)
    assert list(found) == ["machine", "parity"]
    assert "longer than" in found["parity"]["error"]
    assert "| parity | adk | error longer than" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacking", "said"), [("torch", "needs numpy and torch 2.4"), ("gemmi", "gpu.sh wheels 3."), ("", "no GPU that")]
)
def test_what_is_missing_is_said_in_one_message(lacking: str, said: str, tmp_path: Path) -> None:
    """Of a Python that lacks a package, as one is that finds an empty one first; a GPU is hidden."""
    if lacking:
        (tmp_path / f"{lacking}.py").write_text(f'raise ModuleNotFoundError("No module named {lacking!r}")')
    hidden = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path / "out")], env={**os.environ, **hidden}, capture_output=True, text=True
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
