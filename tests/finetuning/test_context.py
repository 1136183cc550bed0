"""A run with another model beside its own: fixed, in every image, in none of its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import command, refused, succeed

from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

SHORTER = ("--effort", 0.02, "--cycles", 2, "--set-aside", "off")


@pytest.fixture(scope="module")
def pieces(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The open state without its LID domain, and that domain."""
    folder, model = tmp_path_factory.mktemp("pieces"), read_model(truth)
    lid = np.array([118 <= key.number <= 160 for key in model.residues])
    for name, kept in (("rest", ~lid), ("lid", lid)):
        write_model(folder / f"{name}.cif", model.only(kept))
    return folder / "rest.cif", folder / "lid.cif"


@pytest.mark.slow
def test_a_context_is_in_the_images_and_not_in_the_model(
    particles: Path, truth: Path, pieces: tuple[Path, Path], tmp_path: Path
) -> None:
    rest, lid = pieces
    for name, start, more in (("whole", truth, ()), ("beside", rest, ("--context", lid))):
        succeed(command(particles, start, tmp_path / name, *SHORTER, *more))
    scores = {
        name: json.loads((tmp_path / name / "metrics.json").read_text())["frc_work_start"]
        for name in ("whole", "beside")
    }
    assert scores["beside"] == pytest.approx(scores["whole"], abs=1e-4)
    for name in ("models/cycle_00.cif", "model.cif"):
        assert read_model(tmp_path / "beside" / name).residues == read_model(rest).residues
    # The file is part of the run: another one, or none, is another run.
    again = command(particles, rest, tmp_path / "beside", *SHORTER, "--resume")
    assert "context" in refused(again)
    moved = read_model(lid)
    write_model(lid, moved.moved_to(moved.positions + 1))
    (tmp_path / "beside" / "metrics.json").unlink()
    assert "holds something else" in refused([*again, "--context", str(lid)])


def test_a_context_that_is_the_model_is_refused(particles: Path, truth: Path, tmp_path: Path) -> None:
    said = refused(command(particles, truth, tmp_path / "run", *SHORTER, "--context", truth))
    assert "leave these chains out" in said
    assert not (tmp_path / "run").exists()
    said = refused(command(particles, truth, tmp_path / "run", *SHORTER, "--context", tmp_path / "none.cif"))
    assert "none.cif" in said
