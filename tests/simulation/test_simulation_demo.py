"""The bundled structures, and the demonstration on them."""

from __future__ import annotations

import json
from pathlib import Path

import gemmi
import numpy as np
import pytest

from cocofold.assessment.comparison import assess
from cocofold.commands.demo import DEMO_BOX, DEMO_PIXEL_SIZE_ANGSTROM, closed_state, open_state
from cocofold.relaxation import minimization
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow

SEQUENCE = (
    "MRIILLGAPGAGKGTQAQFIMEKYGIPQISTGDMLRAAVKSGSELGKQAKDIMDAGKLVTDELVIALVKERIAQEDCRNGFLLDGFPRTIPQADAMKEAGINVDYVLEF"
    "DVPDELIVDRIVGRRVHAPSGRVYHVKFNPPKVEGKDDVTGEELTTRKDDQEETVRKRLVEYHQMTAPLIGYYSKEAEAGNTKYAKVDGTKPVAEVRADLEKILG"
)
DOMAINS = {"NMP": (30, 67), "LID": (118, 160)}


@pytest.mark.parametrize(
    ("path", "entry", "doi"),
    [
        (closed_state(), "1AKE", "10.1016/0022-2836(92)90582-5"),
        (open_state(), "4AKE", "10.1016/S0969-2126(96)00018-4"),
    ],
)
def test_bundled_models_are_complete_and_name_their_source(path: Path, entry: str, doi: str) -> None:
    assert path.stat().st_size < 200_000
    block = gemmi.cif.read(str(path)).sole_block()
    assert block.find("_database_2.", ["database_id", "database_code"])[0][1] == entry
    assert block.find_value("_citation.pdbx_database_id_DOI") == doi
    assert "CC0" in block.find("_pdbx_data_usage.", ["name"])[0].str(0)
    assert entry in block.find_value("_struct.title")
    model = read_model(path)
    assert gemmi.one_letter_code([residue.name for residue in model.residues]) == SEQUENCE
    # Every heavy atom of 214 residues and the terminal oxygen; no hydrogen, water or ligand.
    assert len(model) == 1656
    assert set(model.atomic_numbers) == {6, 7, 8, 16}
    extent = DEMO_BOX * DEMO_PIXEL_SIZE_ANGSTROM
    assert np.linalg.norm(model.positions - extent / 2, axis=1).max() < extent / 2 - 30
    assert 2 < np.linalg.norm(model.positions.mean(0) - extent / 2) < 8


def test_bundled_models_differ_by_a_motion_of_two_domains() -> None:
    found = assess(read_model(closed_state()), read_model(open_state()))
    assert found.ca_rmsd == pytest.approx(7.13, abs=0.01)
    assert found.ca_rmsd_in_place == pytest.approx(8.09, abs=0.01)
    moved = np.array([row.in_place_angstrom for row in found.residues])
    inside = {name: np.arange(first - 1, last) for name, (first, last) in DOMAINS.items()}
    core = np.setdiff1d(np.arange(214), np.concatenate(list(inside.values())))
    assert np.sqrt((moved[core] ** 2).mean()) < 1.6
    assert all(np.sqrt((moved[rows] ** 2).mean()) > 10 for rows in inside.values())


def run_demo(command, out: Path, *options: object) -> dict:
    assert command("demo", "--out", out, "--count", 60, "--effort", 0.1, "--device", "cpu", *options) == 0
    return json.loads((out / "demo.json").read_text())


@pytest.fixture
def relaxed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the minimiser's iterations: bonds are mended in the first few."""
    stages = [stage._replace(iterations=stage.iterations // 10) for stage in minimization.RELAXATION_STAGES]
    monkeypatch.setattr(minimization, "RELAXATION_STAGES", tuple(stages))


def test_demo_comes_near_the_truth_and_replaces_itself(
    command, relaxed_briefly: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "my demo"
    results = run_demo(command, out, "--no-relax")
    assert results["before"]["ca_rmsd"] == pytest.approx(7.13, abs=0.01)
    assert results["after"]["ca_rmsd"] < 3.5
    assert results["after"]["tm_score"] > 0.85 > results["before"]["tm_score"]
    found = assess(read_model(out / "run" / "model.cif"), read_model(open_state()))
    assert results["after"]["ca_rmsd_in_place"] == pytest.approx(found.ca_rmsd_in_place)
    assert (out / "run" / "frc.png").is_file()
    assert (out / "run" / "report.html").is_file()
    printed = capsys.readouterr().out
    for words in (
        "7.13",
        f"{results['after']['ca_rmsd']:.2f}",
        "report.html",
        "cocofold finetune --particles",
        "chimerax",
    ):
        assert words in printed
    assert f"'{out}/run/model.cif'" in printed  # ready to paste

    (out / "run" / "log.txt").write_text("of the first demo")
    relaxed = run_demo(command, out, "--count", 19, "--effort", 0.01)
    # Relaxation repairs the bonds and leaves the fold
    assert relaxed["relaxed"]["bond_deviation_worst_angstrom"] < 0.1
    assert relaxed["relaxed"]["ca_rmsd"] == pytest.approx(relaxed["after"]["ca_rmsd"], abs=0.5)
    assert (read_model(out / "relaxed.cif").atomic_numbers > 1).all()
    printed = capsys.readouterr().out
    assert f"'{out}/relaxed.cif'" in printed
    assert "relaxed" in printed
    assert "of the first demo" not in (out / "run" / "log.txt").read_text()

    (out / "thesis.txt").write_text("mine")
    assert command("demo", "--out", out) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (out / "run" / "model.cif").is_file()


def test_demo_leaves_other_folders_alone(command, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, content in {"run": None, "demo.json": "{}", "start.cif": "mine"}.items():
        (tmp_path / "other").mkdir(exist_ok=True)
        target = tmp_path / "other" / name
        if content is None:
            target.mkdir()
        else:
            target.write_text(content)
        assert command("demo", "--out", tmp_path / "other") == 2
        assert "holds no earlier demo" in capsys.readouterr().err
        assert target.exists()
    assert command("demo", "--out", tmp_path / "other" / "start.cif") == 2
    assert "is a file" in capsys.readouterr().err
    assert command("demo", "--out", tmp_path / "new", "--count", 0) == 2
    assert not (tmp_path / "new").exists()
