"""The check of particles and start that comes before a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from running import command, log, refused, succeed

from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star

pytestmark = pytest.mark.slow

SHORTER = ("--effort", 0.02, "--cycles", 2)


def test_a_contradiction_stops_the_run_before_it_starts(particles: Path, truth: Path, tmp_path: Path) -> None:
    given = read_particles(particles)
    write_star(tmp_path / "negated.star", replace(given, origins_angstrom=-given.origins_angstrom))
    message = refused(command(tmp_path / "negated.star", truth, tmp_path / "run", "--check", *SHORTER))
    assert "shifts: the sign looks wrong" in message
    assert "To go on as it is, give --no-check." in message
    assert not (tmp_path / "run").exists()


def test_a_check_that_finds_nothing_changes_nothing(particles: Path, start: Path, tmp_path: Path) -> None:
    for name, check in (("with", "--check"), ("without", "--no-check")):
        succeed(command(particles, start, tmp_path / name, check, *SHORTER))
    assert (tmp_path / "with" / "model.cif").read_text() == (tmp_path / "without" / "model.cif").read_text()
    assert not json.loads((tmp_path / "with" / "check.json").read_text())["contradictions"]
    assert log(tmp_path / "with").count("check: poses:") == 1
    assert "check:" not in log(tmp_path / "without")
    assert not (tmp_path / "without" / "check.json").exists()
    # Whoever resumes has been asked.
    (tmp_path / "with" / "metrics.json").unlink()
    succeed(command(particles, start, tmp_path / "with", "--check", *SHORTER, "--resume"))
    assert log(tmp_path / "with").count("check: poses:") == 1
