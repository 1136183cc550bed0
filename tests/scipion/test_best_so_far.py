"""The output while fine-tuning runs is the engine's own best model so far, and summaries say no more than is known."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from pathlib import Path

import gemmi
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.objects import AtomStruct
from scipion_cocofold.models import readPositions
from scipion_cocofold.protocols import ProtCocofoldFinetune, protocol_finetune
from scipion_cocofold.protocols.summaries import placementSummary, progressLines
from scipion_project import make_particles, make_project

WAIT_S = 60


def write_model(path: Path, x: float) -> None:
    """One residue, whose position tells which model it is; the file appears whole."""
    residue = gemmi.Residue()
    residue.name, residue.seqid = "ALA", gemmi.SeqId("1")
    for place, name in enumerate(("N", "CA", "C")):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = name, gemmi.Element(name[0]), gemmi.Position(x, 1.5 * place, 0)
        residue.add_atom(atom)
    chain, model, structure = gemmi.Chain("A"), gemmi.Model("1"), gemmi.Structure()
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    partial = path.with_suffix(".part")
    structure.make_mmcif_document().write_file(str(partial))
    partial.rename(path)


def write_cycles(run: Path, *heldout: float) -> None:
    rows = [{"number": n, "frc_work": 0.2, "frc_heldout": value} for n, value in enumerate(heldout)]
    with open(run / "metrics.csv", "w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def project():
    return make_project("best_so_far")


@pytest.fixture
def protocol(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.path)
    write_model(tmp_path / "given.cif", 0.0)
    model = AtomStruct(filename=str(tmp_path / "given.cif"))
    protocol = project.newProtocol(ProtCocofoldFinetune, inputParticles=make_particles(tmp_path), inputModel=model)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    return protocol


def test_the_output_so_far_is_the_model_that_the_engine_accepts(protocol, monkeypatch):
    monkeypatch.setattr(protocol_finetune, "_POLL_INTERVAL_S", 0.05)
    run = Path(protocol._runFolder())
    (run / "models").mkdir(parents=True)
    shown = []

    def wait_for_output(x: float) -> None:
        end = time.monotonic() + WAIT_S
        while not shown or shown[-1] != x:
            assert time.monotonic() < end, shown
            time.sleep(0.01)

    def engine(verb, options):
        assert threading.current_thread() is not threading.main_thread()
        write_model(run / "model.cif", 0.0)
        shutil.copy(run / "model.cif", run / "models" / "cycle_00.cif")
        # Cycle 1 explains a little more than the start, which is not clear enough: model.cif stays as it is
        write_model(run / "models" / "cycle_01.cif", 1.0)
        write_cycles(run, 0.10, 0.12)
        wait_for_output(0.0)
        # Cycle 2 is accepted, cycle 3 has a higher correlation but has lost the fold
        write_model(run / "models" / "cycle_02.cif", 2.0)
        write_model(run / "model.cif", 2.0)
        write_cycles(run, 0.10, 0.12, 0.20)
        wait_for_output(2.0)
        write_model(run / "models" / "cycle_03.cif", 3.0)
        write_cycles(run, 0.10, 0.12, 0.20, 0.30)
        time.sleep(0.3)

    output = protocol._outputBestSoFar

    def output_and_note():
        output()
        shown.append(float(readPositions(protocol.outputAtomStruct.getFileName())[0, 0]))

    monkeypatch.setattr(protocol, "runEngine", engine)
    monkeypatch.setattr(protocol, "_outputBestSoFar", output_and_note)
    protocol._runShowingBestModel({})
    assert shown == [0.0, 2.0]


def test_a_failure_of_the_engine_is_raised(protocol, monkeypatch):
    def engine(verb, options):
        raise RuntimeError("what went wrong")

    monkeypatch.setattr(protocol, "runEngine", engine)
    with pytest.raises(RuntimeError, match="what went wrong"):
        protocol._runShowingBestModel({})


def test_progress_names_the_last_cycle_and_not_the_highest():
    rows = [{"number": str(n), "frc_work": "0.3", "frc_heldout": f"{value}"} for n, value in enumerate((0.1, 0.3, 0.2))]
    (line,) = progressLines(rows)
    assert "cycle 2 has ended, held-out FRC 0.100 -> 0.200" in line
    assert progressLines(rows[:1]) == ["Not run yet."]
    for row in rows:
        row["frc_heldout"] = ""
    assert "FRC of fitted particles 0.300 -> 0.300" in progressLines(rows)[0]


def test_progress_over_two_passes():
    rows = [
        {"number": "0", "frc_work": "0.1", "frc_heldout": "0.1", "pass": "1"},
        {"number": "1", "frc_work": "0.3", "frc_heldout": "0.3", "pass": "1"},
        {"number": "0", "frc_work": "0.1", "frc_heldout": "", "pass": "2"},
    ]
    assert "cycle 0 has ended, FRC of fitted particles 0.100 -> 0.100" in progressLines(rows)[0]


@pytest.mark.parametrize(
    ("runner_up", "trusted", "words"),
    [
        (None, True, "no other place was found"),
        (0.41, True, "the next best place 0.41 (far enough apart to trust)"),
        (0.6, False, "the next best place 0.60 (*too close to trust*)"),
    ],
)
def test_a_placement_without_a_second_place_has_a_summary(runner_up, trusted, words):
    whole = {"correlation": 0.62, "runner_up": runner_up, "trusted": trusted}
    found = {"whole": whole, "resolution_angstrom": 8.0, "hand": "as-is", "bodies": [], "warnings": []}
    first, second = placementSummary(found)
    assert first == f"Correlation 0.62 at 8.0 Å, {words}."
    assert second == "Hand: as-is."
