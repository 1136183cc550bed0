"""Running a project without a screen: templates filled in, statuses, the lock, limits, and what verdict.json says."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import psutil
from json_schema import complaints_of_verdict
from pwem.objects import AtomStruct
from pwem.protocols import ProtImportPdb
from pyworkflow.project import Manager
from pyworkflow.protocol import getProtocolFromDb
from pyworkflow.protocol.constants import STATUS_FINISHED, STATUS_INTERACTIVE, STATUS_RUNNING
from scipion_cocofold import headless, project_run
from scipion_cocofold.engine import lastMessage
from scipion_cocofold.protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFinetune,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
)
from scipion_cocofold.verdict import SCHEMA_VERSION
from scipion_cocofold.workflows import TemplateError, fieldsOf, fillIn, readTemplate
from scipion_project import fresh, make_particles, make_project


@pytest.fixture
def command(capfd):
    """Runs the command line in this process; returns status, standard output and standard error."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    here = os.getcwd()

    def run(*words: str) -> tuple[int, str, str]:
        output = os.dup(1)
        with pytest.raises(SystemExit) as ended:
            headless.main(list(words))
        os.dup2(output, 1)
        os.close(output)
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    yield run
    os.chdir(here)
    for number, handler in kept.items():
        signal.signal(number, handler)


def values(files: dict[str, str], **changes: str) -> list[str]:
    return [f"{name}={value}" for name, value in {**files, **changes}.items()]


def test_an_empty_pixel_size_is_that_of_the_file(files):
    boxes = json.loads(fillIn(readTemplate("cocofold-relion"), files))
    assert boxes[0]["samplingRate"] == boxes[1]["samplingRate"] == 2.5
    assert boxes[0]["starFile"] == files["particles"]
    assert boxes[5]["effort"] == 1.0


def test_a_pixel_size_that_is_not_the_files_is_refused(files):
    with pytest.raises(TemplateError, match=r"px=1\.0: .*particles\.star says 2\.5 Å"):
        fillIn(readTemplate("relion"), {**files, "px": "1.0"})
    assert json.loads(fillIn(readTemplate("relion"), {**files, "px": "2.5001"}))[0]["samplingRate"] == 2.5001


def test_a_file_that_has_no_pixel_size_asks_for_one(files):
    Path(files["particles"]).write_text("data_particles\n\nloop_\n_rlnImageName #1\n000001@stack.mrcs\n")
    with pytest.raises(TemplateError, match="px \\(Pixel size"):
        fillIn(readTemplate("relion"), files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partcles": "x"}, "no field partcles"),
        ({"particles": "nothing.star"}, "there is no such file"),
        ({"effort": "much"}, "effort=much: is no number"),
        ({"effort": "nan"}, "effort=nan: is no number"),
        ({"model": ""}, "Values are missing: model"),
    ],
)
def test_values_that_cannot_be_used_make_no_project(command, files, changes, words):
    name = fresh("not_made")
    status, said, _ = command(name, "--template", "cocofold-relion", *values(files, **changes))
    assert status == 2
    assert words in said
    assert not Manager().hasProject(name)


def test_a_template_that_is_not_there_names_those_that_are(command):
    status, said, _ = command("any", "--template", "none_such", "a=b")
    assert status == 2
    assert "cocofold-relion" in said


def test_an_existing_project_is_not_made_again(command, files):
    make_project("existing")
    status, said, _ = command("existing", "--template", "cocofold-relion", *values(files))
    assert status == 2
    assert "already" in said


@pytest.mark.parametrize("name", ["S1.2", "..", "S 1", "a/b"])
def test_a_name_that_scipion_would_change_makes_no_project(name, command, files):
    """Scipion makes S1-2 of S1.2, and empties the project of that name."""
    kept = Path(make_project("S1-2").path, "kept.txt")
    kept.write_text("of the project that was there")
    status, said, _ = command(name, "--template", "cocofold-relion", *values(files))
    assert status == 2
    assert "names of projects" in said
    assert kept.exists()


def test_fields_are_those_of_a_template(command):
    status, _, said = command("any", "--fields")
    assert status == 2
    assert "--template" in said


def test_fields_of_a_template_are_listed(command):
    status, said, _ = command("any", "--template", "cocofold-relion", "--fields")
    assert status == 0
    assert {line.split(":")[0] for line in said.splitlines()} == {
        field.alias for field in fieldsOf(readTemplate("relion"))
    }


def test_a_scipion_below_a_folder_with_a_blank_is_refused(command, files, monkeypatch):
    """It would start protocols by the first half of its path."""
    monkeypatch.setattr(headless.pyworkflow, "__file__", "/opt/a folder/pyworkflow/__init__.py")
    name = fresh("below_a_blank")
    status, said, _ = command(name, "--template", "cocofold-relion", *values(files))
    assert status == 2
    assert "path with a blank" in said
    assert not Manager().hasProject(name)


def test_json_is_the_only_output(command):
    status, said, _ = command("none_such", "--json")
    assert status == 2
    found = json.loads(said)
    assert found["status"] == 2
    assert "none_such" in found["message"]


def test_quiet_says_what_went_wrong_and_nothing_else(command):
    status, said, _ = command("none_such", "--quiet")
    assert status == 2
    assert said.startswith("There is no project none_such")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\rb", "a\udcffb"])
def test_names_send_nothing_to_a_terminal(name, command):
    status, said, told = command(name)
    assert status == 2
    assert "There is no project a" in said
    assert not [letter for letter in said + told if not letter.isprintable() and letter != "\n"]
    status, said, told = command(name, "--json")
    assert status == 2
    assert name in json.loads(said)["message"]


def test_what_is_shown_of_the_engine_sends_nothing_to_a_terminal():
    assert lastMessage("cocofold: it failed\n  \x1b[31mlast line\n") == "it failed"
    assert lastMessage("one\n\x1b[31mtwo\udcff\n") == "one\n\\x1b[31mtwo\\udcff"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("55m", 3300), ("2h", 7200), ("0.5h", 1800)])
def test_durations(text, seconds):
    assert headless.secondsOf(text) == seconds


def test_commands_of_the_documents_are_understood():
    root = Path(__file__).resolve().parents[2]
    shown = []
    for page in (root / "README.md", root / "docs" / "facility.md", root / "docs" / "tutorial.md"):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        shown += [
            line.split("scipion_cocofold.headless")[1].split()
            for line in text.splitlines()
            if line.startswith("scipion python -m scipion_cocofold.headless")
        ]
    assert len(shown) >= 3
    for words in shown:
        given = headless._parser().parse_intermixed_args(words)
        if given.template:
            known = {field.alias for field in fieldsOf(readTemplate(given.template))}
            assert {value.split("=")[0] for value in given.values} <= known


def test_two_runs_do_not_share_a_project(command):
    project = make_project("locked")
    project.saveProtocol(project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile="nothing.cif"))
    with open(Path(project.path, project_run.LOCK), "w") as lock:
        lock.write("process 1 on another machine")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, said, _ = command("locked")
    assert status == 2
    assert "process 1 on another machine" in said


def test_a_file_system_without_locks_is_said(command, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    project = make_project("without_locks")
    project.saveProtocol(project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile="nothing.cif"))
    monkeypatch.setattr(fcntl, "flock", refuse)
    status, said, _ = command("without_locks")
    assert status == 1
    assert "cannot be locked (No locks available)" in said


def left_active(project, status: str, process: int):
    """A protocol that the database has as running in a process."""
    protocol = project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile="nothing.cif")
    project.saveProtocol(protocol)
    protocol.setStatus(status)
    protocol.setPid(process)
    protocol.makePathsAndClean()
    project._storeProtocol(protocol)
    shutil.copy(project.dbPath, protocol.getDbPath())
    return protocol


def test_the_number_of_another_process_is_not_waited_for(command):
    """After a crash of the machine any process may have the number that a protocol had."""
    left_active(make_project("crashed"), STATUS_RUNNING, os.getpid())
    status, said, _ = command("crashed", "--timeout", "20")
    assert status == 1
    assert "nothing.cif" in said


def test_a_protocol_that_has_neither_process_nor_job_is_not_waited_for():
    project = make_project("without_process")
    protocol = left_active(project, STATUS_RUNNING, 0)
    ended = project_run._waitForEnd(project, protocol.getObjId(), None, project_run.Limits(5))
    assert ended.isFailed()
    assert "ended without a word" in ended.getErrorMessage()


def test_an_end_that_was_written_while_scipion_read_is_seen(monkeypatch):
    """The database then is no newer than Scipion's time of its last reading."""
    project = make_project("in_between")
    protocol = left_active(project, STATUS_RUNNING, 0)
    protocol.setJobId(7)
    project._storeProtocol(protocol)
    shutil.copy(project.dbPath, protocol.getDbPath())
    monkeypatch.setattr(project, "checkJobId", lambda _: True)

    def finish(_):
        ended = getProtocolFromDb(project.path, protocol.getDbPath(), protocol.getObjId())
        ended.setStatus(STATUS_FINISHED)
        ended._store()
        ended.getProject().closeMapper()
        os.utime(protocol.getDbPath(), (1, 1))

    monkeypatch.setattr(project_run.time, "sleep", finish)
    assert project_run._waitForEnd(project, protocol.getObjId(), None, project_run.Limits(5)).isFinished()


@pytest.mark.parametrize(
    ("name", "ending", "words"),
    [
        ("killed", "kill -9 $$", r"was ended by SIGKILL \(memory may have run out\)"),
        ("ended", "exit 3", "has ended with status 3"),
    ],
)
def test_a_process_that_dies_is_told_of_with_the_end_of_its_log(name, ending, words):
    project = make_project(name)
    with subprocess.Popen(["/bin/sh", "-c", ending]) as process:
        protocol = left_active(project, STATUS_RUNNING, process.pid)
        Path(protocol.getStdoutLog()).write_text("loading\nimages are read\n\n")
        ended = project_run._waitForEnd(project, protocol.getObjId(), process.pid, project_run.Limits(5))
    assert ended.isFailed()
    assert re.search(
        f"Its process {words} without a word. Its log .* ends with: images are read", ended.getErrorMessage()
    )


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_what_was_refused_is_run_once_it_is_mended(command, tmp_path):
    project = make_project("mended")
    protocol = project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile="nothing.cif")
    project.saveProtocol(protocol)
    status, said, _ = command("mended", "--json")
    assert status == 1
    assert json.loads(said)["boxes"][0]["status"] == "failed"
    (tmp_path / "model.cif").write_text("data_nothing\n")
    protocol = project.getProtocol(protocol.getObjId())
    protocol.pdbFile.set(str(tmp_path / "model.cif"))
    project.saveProtocol(protocol)
    status, _, _ = command("mended")
    assert status == 0


def test_a_protocol_that_waits_for_somebody_is_not_waited_for(command):
    left_active(make_project("interactive"), STATUS_INTERACTIVE, 0)
    status, said, _ = command("interactive", "--timeout", "20")
    assert status == 1
    assert "run it in Scipion's window" in said


def test_what_a_form_refuses_is_not_launched(command):
    project = make_project("refused")
    protocol = project.newProtocol(ProtCocofoldFinetune, effort=0.001)
    project.saveProtocol(protocol)
    status, said, _ = command("refused", "--json")
    found = json.loads(said)
    assert status == found["status"] == 1
    assert "must be from" in found["boxes"][0]["error"]
    verdict = json.loads(next(Path(project.path).glob("Runs/*/extra/verdict.json")).read_text())
    assert verdict["verdict"] is None
    assert verdict["status"] in ("failed", "not run")
    assert "must be from" in verdict["error"]
    assert complaints_of_verdict(verdict) == []


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_the_time_limit_stops_the_protocol(command, shared_data):
    project = make_project("in_time")
    star = shared_data / "adk" / "start_closed.cif"
    project.saveProtocol(project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile=str(star)))
    status, said, _ = command("in_time", "--timeout", "0.1")
    assert status == 75
    assert "time limit" in said
    # The same command goes on
    status, _, _ = command("in_time")
    assert status == 0


def engines_below(number: int) -> list[psutil.Process]:
    """Processes of the engine's verb finetune among the descendants of a process."""
    found = []
    for one in psutil.Process(number).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [one] if "finetune" in one.cmdline() else []
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_sigterm_ends_protocols_and_engines(adk):
    """With a run in a process of its own, since a signal goes to a whole process."""
    inputs = {"inputParticles": adk.particles, "inputModel": adk.closed, "inputVolume": adk.volume, "place": 2}
    settings = {"effort": 1.0, "cycles": 30, "makeReport": False, "checkFirst": False, "numberOfThreads": 1}
    protocol = adk.project.newProtocol(ProtCocofoldFinetune, **inputs, **settings)
    adk.project.saveProtocol(protocol)
    # Scipion's own programs must have no blank in their paths
    python = os.environ["SCIPION_PYTHON"]
    command = [python, "-m", "scipion_cocofold.headless", adk.project.getShortName(), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end, engines = time.monotonic() + 120, []
        while not engines and process.poll() is None and time.monotonic() < end:
            engines = engines_below(process.pid)
            time.sleep(0.2)
        assert engines, "no engine within two minutes" if process.poll() is None else "\n".join(process.communicate())
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM" in json.loads(said)["message"]
    assert not [one for one in engines if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    adk.project.deleteProtocol(adk.project.getProtocol(protocol.getObjId(), fromRuns=False))


@pytest.mark.slow
def test_the_verdict_of_a_run_has_all_fields(everything, adk):
    verdict = json.loads(Path(everything._getExtraPath("verdict.json")).read_text())
    assert complaints_of_verdict(verdict) == []
    assert verdict["schema_version"] == SCHEMA_VERSION
    assert verdict["status"] == "finished"
    assert verdict["error"] is None
    assert verdict["placement"]["hand"] == "as-is"
    assert verdict["check"]["contradictions"] == []
    assert verdict["check"]["questions"]["poses"]["verdict"] == "agrees"
    assert verdict["assessment"]["compared_with"] == "reference"
    assert verdict["assessment"]["ca_rmsd"] < verdict["assessment"]["start"]["ca_rmsd"]
    assert verdict["started"] <= verdict["ended"]
    assert verdict["versions"]["plugin"]
    assert verdict["versions"]["cocofold"]
    for name in ("model", "run", "report"):
        assert os.path.isabs(verdict["paths"][name])
        assert os.path.exists(verdict["paths"][name])
    assert Path(verdict["paths"]["project"], verdict["model"]) == Path(verdict["paths"]["model"])


def test_what_other_protocols_found_stands_beside_the_verdict(tmp_path):
    """Protocols that are connected as in the templates, with the files that the engine writes for them."""
    project = make_project("collected")
    kinds = (ProtCocofoldSelect, ProtCocofoldFinetune, ProtCocofoldCheck, ProtCocofoldRelax, ProtCocofoldAssess)
    select, finetune, check, relax, assess = protocols = [project.newProtocol(kind) for kind in kinds]
    for protocol in protocols:
        project._setupProtocol(protocol)
        os.makedirs(protocol._getExtraPath())
    select._defineOutputs(outputParticles=make_particles(tmp_path))
    model = AtomStruct(filename=relax._getExtraPath("model.cif"))
    relax._defineOutputs(outputAtomStruct=model)
    for pointer, source, name in (
        (finetune.inputParticles, select, "outputParticles"),
        (check.inputParticles, select, "outputParticles"),
        (relax.inputStructure, finetune, "outputAtomStruct"),
        (assess.inputStructure, relax, "outputAtomStruct"),
    ):
        pointer.set(source)
        pointer.setExtended(name)
    for protocol in protocols:
        project.saveProtocol(protocol)
    faults = {"clashes": ["a", "b"], "outliers": ["c"]}
    figures = dict.fromkeys(("ca_rmsd", "ca_rmsd_in_place", "coverage", "rmsd", "tm_score", "sequence_identity"), 0.5)
    question = {"question": "hand", "verdict": "agrees", "line": "hand: agrees."}
    for protocol, name, content in (
        (check, "check.json", {"contradictions": [], "questions": [question]}),
        (relax, "relaxed.json", {"before": faults, "after": {**faults, "clashes": []}, "ca_rmsd": 0.3, "frc": None}),
        (assess, "after.json", figures),
        (assess, "images.json", {"frc": 0.2, "against": ["A 1-3"]}),
    ):
        Path(protocol._getExtraPath(name)).write_text(json.dumps(content))
    project_run._collect(project, "stopped for this test")
    found = json.loads(Path(finetune._getExtraPath("verdict.json")).read_text())
    assert complaints_of_verdict(found) == []
    assert (found["status"], found["error"]) == ("not run", "stopped for this test")
    assert found["check"]["questions"]["hand"]["verdict"] == "agrees"
    assert found["relaxed"]["clashes"] == {"before": 2, "after": 0}
    assert found["paths"]["relaxed"] == os.path.abspath(model.getFileName())
    assert (found["assessment"]["tm_score"], found["assessment"]["frc"]) == (0.5, 0.2)
    assert found["assessment"]["against"] == ["A 1-3"]
    # A second look changes nothing
    project_run._collect(project)
    assert json.loads(Path(finetune._getExtraPath("verdict.json")).read_text()) == found
