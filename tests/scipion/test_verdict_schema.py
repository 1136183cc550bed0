"""The schema of verdict.json that comes with the plugin, against what the plugin writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from json_schema import complaints_of_verdict
from scipion_cocofold import project_run
from scipion_cocofold.protocols import ProtCocofoldFinetune, protocol_finetune
from scipion_cocofold.verdict import FIGURES, SCHEMA, SCHEMA_VERSION, writeVerdict
from scipion_project import make_project

FIELDS_ALWAYS_THERE = {
    *FIGURES, "schema_version", "status", "error", "started", "ended", "placement", "check", "assessment", "relaxed",
    "model", "paths",
}  # fmt: skip
ASSESSED = dict.fromkeys(("ca_rmsd", "ca_rmsd_in_place", "coverage", "rmsd", "tm_score", "sequence_identity"), 0.5)
METRICS = {
    "verdict": "supported", "verdict_headline": "The particles support it.", "verdict_explanation": "They do.",
    "best_cycle": 9, "frc_heldout_start": 0.2, "frc_heldout": 0.3, "frc_work_start": 0.2, "frc_work": 0.3,
    "moved_angstrom": 8.2, "particles": 500, "heldout_particles": 50, "seconds": 55.1, "peak_memory_gb": 0.5,
    "device": "cpu", "versions": {"cocofold": "0"}, "frc_curves": {},
}  # fmt: skip


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A fine-tuning protocol with the files that the engine writes; the process is in its project's folder."""
    monkeypatch.chdir(tmp_path)
    project = make_project("verdict_of_schema")
    protocol = project.newProtocol(ProtCocofoldFinetune)
    project._setupProtocol(protocol)
    os.makedirs(protocol._getExtraPath("run"))
    write(protocol, METRICS, "run", "metrics.json")
    return protocol


def write(protocol, content, *names: str) -> Path:
    path = Path(protocol._getExtraPath(*names))
    path.write_text(json.dumps(content))
    return path


def test_schema_and_plugin_agree_on_what_is_always_there():
    schema = json.loads(Path(SCHEMA).read_text(encoding="utf-8"))
    assert set(schema["required"]) == FIELDS_ALWAYS_THERE
    assert schema["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    assert set(schema["properties"]["verdict"]["enum"]) == {*project_run.STATUS_OF, None}
    page = (Path(__file__).resolve().parents[2] / "docs" / "facility.md").read_text(encoding="utf-8")
    assert os.path.basename(SCHEMA) in page
    assert [name for name in schema["properties"] if f"`{name}`" not in page] == []


def test_a_verdict_of_a_finished_run_follows_the_schema(finished):
    write(finished, ASSESSED, "before.json")
    write(finished, ASSESSED, "after.json")
    question = {"question": "hand", "verdict": "agrees", "line": "hand: agrees."}
    write(finished, {"contradictions": [], "questions": [question]}, "run", "check.json")
    verdict = writeVerdict(finished)
    assert complaints_of_verdict(verdict) == []
    assert verdict["assessment"]["ca_rmsd_in_place"] == 0.5
    for name in FIELDS_ALWAYS_THERE:
        assert complaints_of_verdict({key: value for key, value in verdict.items() if key != name})
    for wrong in ({"verdict": None}, {"status": "failed"}, {"error": "no"}, {"particles": -1}, {"seconds": "55"}):
        assert complaints_of_verdict({**verdict, **wrong})


def test_a_figure_of_the_engine_does_not_stand_for_the_plugins_own(finished):
    write(finished, {**METRICS, "status": "of the engine", "error": "none"}, "run", "metrics.json")
    verdict = writeVerdict(finished)
    assert (verdict["status"], verdict["error"]) == ("finished", None)


def test_no_distance_in_place_where_the_place_is_not_known(finished):
    for name in ("before.json", "after.json"):
        write(finished, ASSESSED, name)
    write(finished, {"in_place": False}, "compared.json")
    verdict = writeVerdict(finished)
    assert complaints_of_verdict(verdict) == []
    assert verdict["assessment"]["ca_rmsd_in_place"] is verdict["assessment"]["start"]["ca_rmsd_in_place"] is None
    assert verdict["assessment"]["ca_rmsd"] == 0.5
    assert any("in place: not given" in line for line in finished._summary())


def test_files_of_an_earlier_run_are_gone_when_another_begins(finished, monkeypatch):
    os.makedirs(finished._getExtraPath("placed"))
    kept = [write(finished, {}, name) for name in ("before.json", "after.json", "compared.json", "verdict.json")]
    kept.append(write(finished, {}, "placed", "placement.json"))
    monkeypatch.setattr(protocol_finetune, "writeInputs", lambda *_: None)
    finished.convertStep("key")
    assert [path for path in kept if path.exists()] == []


def test_the_verdict_of_an_earlier_run_is_gone_when_the_protocol_is_run_again(finished, monkeypatch):
    path = write(finished, {}, "verdict.json")
    monkeypatch.setattr(finished, "validate", list)
    monkeypatch.setattr(finished.getProject(), "launchProtocol", lambda *_, **__: None)
    monkeypatch.setattr(project_run, "_waitForEnd", lambda *_: finished)
    project_run._run(finished.getProject(), finished, project_run.Limits(), None)
    assert not path.exists()


def test_a_volume_without_a_model_is_no_traceback(finished):
    """What the form lacks is told by name; the verdict is written in any case."""
    from pwem.objects import Volume

    volume = Volume(location=__file__)
    volume.setSamplingRate(2.5)
    finished.inputVolume.set(volume)
    assert not any("Traceback" in str(error) for error in finished.validate())
    finished.setFailed("no model")
    verdict = json.loads(Path(finished._getExtraPath("verdict.json")).read_text())
    assert complaints_of_verdict(verdict) == []
    assert (verdict["status"], verdict["error"]) == ("failed", "no model")
