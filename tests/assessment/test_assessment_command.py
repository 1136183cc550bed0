"""The whole assessment and the verb ``cocofold assess``."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.assessment.comparison import assess
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow


Assessed = Callable[..., str]


@pytest.fixture
def assessed(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Assessed:
    """Run ``cocofold assess`` in this process, which must end well; returns what it prints."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> str:
        status = command("assess", *arguments)
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


def test_moving_the_model_changes_only_what_is_in_place(adk_closed: Model, adk_open: Model) -> None:
    turned = adk_closed.moved_to(adk_closed.positions[:, [1, 2, 0]] + [5.0, 60, -7])
    here, there = assess(adk_closed, adk_open), assess(turned, adk_open)
    assert there.ca_rmsd == pytest.approx(here.ca_rmsd, abs=1e-6)
    assert there.alignment.tm_score == pytest.approx(here.alignment.tm_score, abs=1e-6)
    assert there.alignment.rmsd == pytest.approx(here.alignment.rmsd, abs=1e-6)
    assert there.ca_rmsd_in_place > 30
    for before, after in zip(here.residues, there.residues):
        assert after.superposed_angstrom == pytest.approx(before.superposed_angstrom, abs=1e-6)
    here, there = measure_geometry(adk_closed), measure_geometry(turned)
    assert there.cis_proline == here.cis_proline
    assert there.d_residues == here.d_residues == ()
    assert there.ramachandran_outliers == here.ramachandran_outliers


def test_a_shift_is_its_own_rmsd_in_place(adk_open: Model) -> None:
    found = assess(adk_open.moved_to(adk_open.positions + np.array([2.0, -3, 6])), adk_open)
    assert found.ca_rmsd_in_place == pytest.approx(7)
    assert found.ca_rmsd == pytest.approx(0, abs=1e-6)
    assert {round(row.in_place_angstrom or 0, 6) for row in found.residues} == {7.0}


def test_displaced_chains_of_a_complex(shared_data: Path, tcr: Model) -> None:
    model = read_model(shared_data / "tcr" / "start_tcr_displaced.cif")
    published = json.loads((shared_data / "tcr" / "models.json").read_text())
    found = assess(model, tcr)
    assert found.ca_rmsd == pytest.approx(6.01, abs=0.01)
    assert found.ca_rmsd_in_place == pytest.approx(published["ca_rmsd"], abs=1e-3)
    assert [[row.chain, row.matched_residues] for row in found.chains] == published["chains"]
    assert all(row.ca_rmsd == pytest.approx(0, abs=1e-3) for row in found.chains)
    for row in found.chains:
        assert (row.ca_rmsd_in_place == pytest.approx(0, abs=1e-3)) == (row.chain not in published["moved_chains"])
    squares = [(row.in_place_angstrom or 0) ** 2 for row in found.residues if row.chain in published["moved_chains"]]
    assert np.sqrt(np.mean(squares)) == pytest.approx(published["ca_rmsd_DE"], abs=1e-3)
    assert np.sqrt(np.mean([r.superposed_angstrom**2 for r in found.residues])) == pytest.approx(found.ca_rmsd)


def test_the_command_prints_and_writes(assessed: Assessed, shared_data: Path, tmp_path: Path) -> None:
    closed, reference = shared_data / "adk" / "start_closed.cif", shared_data / "adk" / "truth_open.cif"
    printed = assessed(
        "--model", closed, "--reference", reference, "--start", closed,
        "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png",
    )  # fmt: skip
    assert "7.131" in printed
    assert "8.094" in printed
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["ca_rmsd"] == pytest.approx(7.1307, abs=1e-3)
    assert content["ca_rmsd_in_place"] == pytest.approx(8.0940, abs=1e-3)
    assert content["tm_score"] == pytest.approx(0.68, abs=0.005)
    assert 0.8 < content["coverage"] < 0.9
    assert content["matched_residues"] == content["reference_residues"] == 214
    assert len(content["residues"]) == 214
    assert content["geometry"]["new_d"] == content["geometry"]["new_cis"] == []
    assert {"rmsd", "sequence_identity", "chains", "geometry_of_start"} <= set(content)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]


def test_agreement_with_particles(assessed: Assessed, shared_data: Path, tmp_path: Path) -> None:
    """Of the structure that was imaged, of one 1.4 Å from it and of the start, in this order."""
    folder, found, against = shared_data / "adk", [], []
    for name in ("truth_open.cif", "trajectory/dims_088.cif", "start_closed.cif"):
        words = ["--model", folder / name, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
        printed = assessed(*words, "--particles", folder / "uniform" / "particles_200.star", "--device", "cpu")
        content = json.loads((tmp_path / "a.json").read_text())
        found.append(content["frc"])
        against.append(content["against"])
        assert f"{found[-1]:.4f}" in printed
        assert ", ".join(against[-1]) in printed
        assert "CA RMSD" not in printed
        assert "ca_rmsd" not in content
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert [row["number"] for row in content["support"]] == list(range(1, 215))
        # Correlation does not know scale
        assert sum(row["support"] for row in content["support"]) == pytest.approx(0, abs=1e-5)
    assert found[0] > found[1] > found[2] + 0.05
    # The truth's, and the start's, of all 2,000 particles
    assert found[0] == pytest.approx(0.308, abs=0.02)
    assert found[2] == pytest.approx(0.184, abs=0.02)
    # The two domains that are elsewhere in the images: residues 30-59 and 122-159
    assert against[0] == []
    named = np.zeros(215, dtype=bool)
    for line in against[2]:
        first, last = map(int, line.removeprefix("A ").split("-"))
        named[first : last + 1] = True
    domains = np.zeros(215, dtype=bool)
    domains[30:60] = domains[122:160] = True
    near = np.convolve(domains, np.ones(11), mode="same") > 0
    assert not named[~near].any()
    assert named[30:60].mean() >= 0.5
    assert named[122:160].mean() >= 0.5


def test_a_model_without_peptides_says_so(assessed: Assessed, adk_open: Model, tmp_path: Path) -> None:
    lone = adk_open.only(np.array([key.number in (10, 50, 100) for key in adk_open.residues]))
    write_model(tmp_path / "lone.cif", lone)
    write_model(tmp_path / "whole.cif", adk_open)
    printed = assessed("--model", tmp_path / "lone.cif", "--reference", tmp_path / "whole.cif")
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.splitlines() if "│" in line}
    assert rows["C-N within 0.1 Å of 1.33 Å"] == "none to judge"
    assert rows["C-N, largest deviation (Å)"] == "no peptides"
    assert rows["Ramachandran favoured"] == "none to judge"
    assert rows["D-amino acids"].startswith("0 of ")


def test_unusable_input_ends_the_program_with_status_2(shared_data: Path, tmp_path: Path) -> None:
    words = ["--model", tmp_path / "none.cif", "--reference", shared_data / "adk" / "truth_open.cif"]
    program = [sys.executable, "-m", "cocofold", "assess", *map(str, words)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines() == [
        f"cocofold: model {tmp_path / 'none.cif'}: no such file; give an mmCIF or PDB file"
    ]


def test_unusable_input_is_one_message_and_status_2(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    adk, tcr = shared_data / "adk" / "truth_open.cif", shared_data / "tcr" / "truth.cif"
    water = tmp_path / "water.pdb"
    water.write_text("HETATM    1  O   HOH A   1       1.000   2.000   3.000  1.00  0.00           O\nEND\n")
    for arguments, part in [
        (("--model", adk, "--reference", tmp_path / "none.cif"), "none.cif: no such file"),
        (("--model", adk), "nothing to compare the model with; give --reference, --particles, or both"),
        (("--model", adk, "--reference", water), "backbone"),
        (("--model", adk, "--reference", tcr), "no residues in common"),
        (("--model", adk, "--reference", adk, "--json", tmp_path / "no" / "a.json"), "there is no folder"),
        (("--model", adk, "--reference", adk, "--json", tmp_path), "is a folder"),
        (("--model", adk, "--reference", adk, "--plot", tmp_path / "a.pdf"), "only PNG"),
        (("--model", adk, "--reference", adk, "--start", tcr), "the start shares"),
    ]:
        assert command("assess", *arguments) == 2, arguments
        message = capsys.readouterr().err
        assert part in message
        assert len(message.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["water.pdb"]
