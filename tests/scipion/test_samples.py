"""Projects of samples, made of templates: which values they need, what protocols are called, several at once."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.protocols import ProtImportPdb
from pyworkflow.project import Manager
from scipion_cocofold import headless
from scipion_cocofold.workflows import TemplateError, fieldsOf, fillIn, readTemplate
from scipion_project import fresh, make_project

TEMPLATES = ("relion", "cryosparc", "colabfold")


def test_only_optional_fields_may_stay_empty(files, tmp_path):
    (tmp_path / "colabfold").mkdir()
    given = {**files, "colabfold": str(tmp_path / "colabfold")}
    del given["model"]
    # The form says the same: empty means the installed weights
    assert json.loads(fillIn(readTemplate("colabfold"), given))[2]["weights"] == ""
    optional = {name: [one.alias for one in fieldsOf(readTemplate(name)) if one.isOptional] for name in TEMPLATES}
    assert optional == {"relion": [], "cryosparc": [], "colabfold": ["weights"]}
    del given["colabfold"]
    with pytest.raises(TemplateError, match="Values are missing: colabfold"):
        fillIn(readTemplate("colabfold"), given)


def test_labels_are_those_of_the_template(files):
    name, here = fresh("labelled"), os.getcwd()
    headless.makeProject(name, "cocofold-relion", files)
    try:
        runs = Manager().loadProject(name).getRuns()
        wanted = [box["object.label"] for box in json.loads(fillIn(readTemplate("relion"), files))]
        assert {run.getObjLabel() for run in runs} == set(wanted)
        assert "assess: what changed" in wanted
    finally:
        os.chdir(here)


@pytest.mark.slow
def test_several_samples_are_run_at_once(shared_data):
    """Each has a project and a process of its own, with a model that tells which sample it is."""
    models = {"sample_one": "truth_open.cif", "sample_two": "start_closed.cif"}
    for name, model in models.items():
        project = make_project(name)
        source = {"inputPdbData": ProtImportPdb.IMPORT_FROM_FILES, "pdbFile": str(shared_data / "adk" / model)}
        project.saveProtocol(project.newProtocol(ProtImportPdb, **source))
        project.closeMapper()
    command = [os.environ["SCIPION_PYTHON"], "-m", "scipion_cocofold.headless"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, name, "--json"], **pipes) for name in models]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    for (name, model), words in zip(models.items(), said):
        found = json.loads(words)
        assert found["project"].endswith(name)
        assert [box["status"] for box in found["boxes"]] == ["finished"]
        (protocol,) = Manager().loadProject(name).getRuns()
        assert os.path.basename(protocol.outputPdb.getFileName()) == model
