"""Workflows for Scipion's "Import workflow": in step with the templates, and read by Scipion."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pyworkflow.project import Manager
from scipion_cocofold import headless
from scipion_cocofold.workflows import templatePaths, workflowOf, workflowPath
from scipion_project import fresh, make_project

PATHS = [Path(path) for path in templatePaths()]


@pytest.mark.parametrize("template", PATHS, ids=lambda path: path.name)
def test_a_workflow_is_in_step_with_its_template(template: Path) -> None:
    written = Path(workflowPath(str(template))).read_text(encoding="utf-8")
    assert written == workflowOf(template.read_text(encoding="utf-8")), "run python -m scipion_cocofold.workflows"
    assert "~" not in written


def test_no_pixel_size_is_made_up() -> None:
    for path in PATHS:
        boxes = json.loads(Path(workflowPath(str(path))).read_text(encoding="utf-8"))
        assert not any("samplingRate" in box for box in boxes), path.name
        assert next(box for box in boxes if box["object.className"] == "ProtImportParticles")["voltage"] == 300


@pytest.mark.parametrize("template", PATHS, ids=lambda path: path.name)
def test_scipion_imports_the_workflow(template: Path) -> None:
    project = make_project("imported_" + template.name.split(".")[0])
    project.loadProtocols(workflowPath(str(template)))
    protocols = {protocol.getClassName(): protocol for protocol in project.getRuns()}
    assert len(protocols) == 8
    written = json.loads(Path(workflowPath(str(template))).read_text(encoding="utf-8"))
    # Scipion drops those of protocols that do not keep them themselves
    labels = {name: box["object.label"] for box in written if "Cocofold" in (name := box["object.className"])}
    assert len(labels) >= 5
    assert {name: protocols[name].getObjLabel() for name in labels} == labels
    finetune, assess = protocols["ProtCocofoldFinetune"], protocols["ProtCocofoldAssess"]
    assert finetune.inputParticles.getObjValue().getClassName() == "ProtImportParticles"
    assert finetune.inputPlacement.getExtended() == "outputPlacement"
    # The result is compared with the placed start, and with the images
    assert assess.inputStart.getObjValue().getClassName() == "ProtCocofoldFit"
    assert assess.inputParticles.getExtended() == "outputParticles"
    assert not assess.inputReference.hasValue()


def make_of(path: Path, text: str) -> str:
    """Name of a project that was made of a template with this text."""
    path.write_text("A template of a user\n" + text, encoding="utf-8")
    name, here = fresh("of_a_users_template"), os.getcwd()
    try:
        headless.makeProject(name, str(path), {})
    finally:
        os.chdir(here)
    return name


@pytest.mark.parametrize("label", [{}, {"object.label": None}, {"object.label": ""}, {"object.label": " "}])
def test_a_protocol_without_a_label_has_scipions(label: dict, tmp_path: Path) -> None:
    box = {"object.className": "ProtCocofoldRelax", "object.id": "2", **label}
    name = make_of(tmp_path / "own.json.template", json.dumps([box], indent=4))
    (protocol,) = Manager().loadProject(name, chdir=False).getRuns()
    assert protocol.getObjLabel() == "cocofold - relax"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list of protocols in JSON"),
        ("[\n{]", "no list of protocols in JSON"),
        ("[\n3\n]", "no list of protocols"),
        ("[\n{}\n]", "no text as object.className"),
        ('[\n{"object.className": "ProtImportPdb"}\n]', "no text as object.id"),
        ('[\n{"object.className": "ProtImportPdb", "object.id": "2", "object.label": ["a"]}\n]', "has the label"),
    ],
)
def test_what_is_no_template_makes_no_project(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(headless.Ended, match=words) as ended:
        make_of(tmp_path / "own.json.template", text)
    assert ended.value.status == 2
    assert not Manager().hasProject("of_a_users_template")


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.json.template"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(headless.Ended, match="cannot be read"):
        headless.makeProject(fresh("of_no_text"), str(path), {})
