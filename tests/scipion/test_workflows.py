"""Workflows for Scipion's "Import workflow": in step with the templates, and read by Scipion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from scipion_cocofold.workflows import templatePaths, workflowOf, workflowPath
from scipion_project import make_project

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
