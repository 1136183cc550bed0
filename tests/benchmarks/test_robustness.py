"""Runs that are finished are not run again, and views are kept by where they look from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import starfile
from PIL import Image
from scipy.spatial.transform import Rotation

from benchmarks import robustness
from benchmarks.robustness import AXES, Cell, keep_views, turned
from cocofold.commands.demo import closed_state
from cocofold.structure.read_model import read_model


class Runs:
    """Stands for the runs: notes which are asked for, and fails or is stopped where it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Cell, int]] = []
        self.raises: dict[Cell, BaseException] = {}

    def __call__(self, cell: Cell, data: Path, seed: int, folder: Path) -> dict:
        self.asked.append((cell, seed))
        if cell in self.raises:
            raise self.raises[cell]
        figures = {
            "ca_rmsd": 0.5 + seed,
            "ca_rmsd_in_place": 0.75,
            "tm_score": 0.9,
            "scf": 0.8,
            "scf_of_random_views": 0.85,
            "seconds": 7,
        }
        return {
            "cell": asdict(cell),
            "seed": seed,
            "verdict": "supported",
            "false_residues": 3,
            "seconds": 7,
            **figures,
        }


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stand_in = Runs()
    monkeypatch.setattr(robustness, "run", stand_in)
    return stand_in


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Folder of figures."""
    return tmp_path / "kept figures"


@pytest.fixture
def call(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call the program with the folder of figures; returns its exit status."""
    data = tmp_path / "the data"
    (data / "adk").mkdir(parents=True)
    (data / robustness.TRUTH).touch()

    def called(*words: object) -> int:
        words = ("robustness", "--out", kept, "--data", data, *words)
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as ended:
            robustness.main()
        return int(ended.value.code or 0)

    return called


def test_a_call_after_one_that_was_stopped_runs_only_what_is_missing(runs: Runs, call: Callable[..., int]) -> None:
    junk = list(AXES["junk"].cells.values())
    runs.raises[junk[2]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call("--axis", "junk", "--seeds", 1)
    runs.raises.clear()
    for missing in (junk[2:], []):
        runs.asked.clear()
        assert call("--axis", "junk", "--seeds", 1) == 0
        assert runs.asked == [(cell, 0) for cell in missing]


def test_a_level_that_two_axes_share_is_run_once(runs: Runs, call: Callable[..., int], capsys) -> None:
    assert call("--axis", "junk", "--axis", "start", "--default", "--seeds", 2) == 0
    assert len(runs.asked) == len(set(runs.asked)) == 2 * 5
    table = capsys.readouterr().out
    assert "| images without a particle | 0% | 0.80 (0.85) | 0.50 / 1.50 | 0.75 / 0.75 |" in table
    assert "| start turned by | 0° | 0.80 (0.85) | 0.50 / 1.50 |" in table
    assert "not finished" not in table


def test_a_run_that_fails_is_told_and_tried_again_and_the_others_go_on(
    runs: Runs, call: Callable[..., int], capsys
) -> None:
    failing = AXES["start"].cells["20°"]
    runs.raises[failing] = SystemExit("no such model")
    assert call("--axis", "start", "--seeds", 1) == 1
    told = capsys.readouterr()
    assert "no such model" in told.err
    assert "1 of 5 runs are not finished" in told.out
    assert "20°" not in told.out
    runs.raises.clear()
    runs.asked.clear()
    assert call("--axis", "start", "--seeds", 1) == 0
    assert runs.asked == [(failing, 0)]


@pytest.mark.parametrize("content", ["", "[1]", '{"cell": {}}'])
def test_figures_that_are_damaged_or_of_other_settings_are_made_anew(
    runs: Runs, call: Callable[..., int], kept: Path, content: str
) -> None:
    assert call("--axis", "life-like", "--seeds", 1) == 0
    file = kept / Cell(life_like=True).file_name(0)
    file.write_text(content)
    runs.asked.clear()
    assert call("--axis", "life-like", "--seeds", 1) == 0
    assert runs.asked == [(Cell(life_like=True), 0)]
    assert json.loads(file.read_text())["verdict"] == "supported"


def test_the_figure_draws_what_is_there(runs: Runs, call: Callable[..., int], tmp_path: Path) -> None:
    picture = tmp_path / "axes.png"
    assert call("--axis", "particles", "--level", 25, "--seeds", 1) == 0
    assert call("--axis", "particles", "--axis", "snr", "--show", "--figure", picture) == 0
    assert len(runs.asked) == 1
    with Image.open(picture) as drawn:
        assert drawn.width > 300


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--seeds", 0), "--seeds 0"),
        (("--level", "26"), "--level 26"),
        (("--figure", "axes.xyz"), "FILE.png"),
        (("--data", "nowhere"), "--data"),
    ],
)
def test_options_without_sense_are_refused(
    runs: Runs, call: Callable[..., int], capsys, words: tuple, named: str
) -> None:
    assert call(*words) == 2
    assert named in capsys.readouterr().err
    assert runs.asked == []


def test_views_are_kept_by_their_tilt(shared_data: Path, tmp_path: Path) -> None:
    """RELION's tilt is the angle between the view and z."""
    star, out = shared_data / "adk" / "uniform" / "particles.star", tmp_path / "kept.star"
    given = starfile.read(star)["particles"]
    from_z = 90 - np.abs(90 - given["rlnAngleTilt"].to_numpy() % 180)
    expected = given[from_z <= 40]
    assert 10 < len(expected) < len(given) / 2
    keep_views(star, out, 40, len(expected))
    found = starfile.read(out)["particles"]
    numbers = [table["rlnImageName"].str.partition("@")[0].astype(int).tolist() for table in (found, expected)]
    assert numbers[0] == numbers[1]
    keep_views(star, out, 40, 5)
    assert len(starfile.read(out)["particles"]) == 5
    with pytest.raises(ValueError, match="within 40° of z"):
        keep_views(star, out, 40, len(expected) + 1)


def test_a_start_is_turned_by_the_angle_about_its_centroid() -> None:
    model = read_model(closed_state())
    moved = turned(model, 15, seed=3).positions
    centre = model.positions.mean(0)
    assert moved.mean(0) == pytest.approx(centre, abs=1e-6)
    turn, distance = Rotation.align_vectors(moved - centre, model.positions - centre)
    assert np.rad2deg(turn.magnitude()) == pytest.approx(15, abs=1e-4)
    assert distance == pytest.approx(0, abs=1e-3)
    assert not np.allclose(moved, turned(model, 15, seed=4).positions)
