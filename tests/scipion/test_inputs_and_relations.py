"""What a protocol knows of its inputs: when a step runs again, what outputs are made of, what forms refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.objects import AtomStruct, Sequence, SetOfParticles
from pwem.protocols import EMProtocol
from scipion_cocofold.objects import CocofoldPrediction
from scipion_cocofold.protocols import (
    ProtCocofoldFinetune,
    ProtCocofoldPredict,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
    protocol_predict,
    protocol_relax,
)
from scipion_cocofold.protocols.protocol_predict import FROM_COLABFOLD, FROM_SEQUENCES
from scipion_project import make_particles, make_project


@pytest.fixture(scope="module")
def project():
    return make_project("inputs_and_relations")


@pytest.fixture(autouse=True)
def _in_the_project(project, monkeypatch):
    monkeypatch.chdir(project.path)


class Source:
    """A protocol whose outputs are inputs of others."""

    def __init__(self, project):
        self.protocol = project.newProtocol(EMProtocol)
        project.saveProtocol(self.protocol)

    def gives(self, **outputs):
        self.protocol._defineOutputs(**outputs)
        return list(outputs.values())


def started(project, kind, **parameters):
    """A protocol with its folders, as at the beginning of its steps."""
    protocol = project.newProtocol(kind, **parameters)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    return protocol


def sequence(text: str) -> Sequence:
    return Sequence(name=text, sequence=text)


def test_lists_of_inputs_are_told_apart_by_what_is_in_them(project):
    """Their texts name places in the memory, so that each Continue would have predicted anew."""
    first, second = Source(project).gives(first=sequence("AAA"), second=sequence("GGG"))
    given = {"source": FROM_SEQUENCES}
    keys = [
        project.newProtocol(ProtCocofoldPredict, **given, inputSequences=chosen)._inputsHash()
        for chosen in ([first, second], [first, second], [second, first], [first])
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("kind", [ProtCocofoldPredict, ProtCocofoldFinetune])
def test_a_run_without_a_gpu_is_shown_none(kind, project):
    """ColabFold takes each GPU that it sees, and has no option against it."""
    assert project.newProtocol(kind, useGpu=False)._engineEnviron()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_queue_is_asked_for_a_gpu_only_where_images_are_compared(project):
    assert started(project, ProtCocofoldSelect, by=0).getSubmitDict()["GPU_COUNT"] == 0
    assert started(project, ProtCocofoldSelect, by=2).getSubmitDict()["GPU_COUNT"] == 1


def test_a_prediction_is_made_again_in_a_folder_that_was_used(project):
    protocol = started(project, ProtCocofoldPredict)
    folder = Path(protocol._predicted())
    protocol._clearPredicted("first")
    for name in ("model.cif", "colabfold/log.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of the first attempt")
    protocol._clearPredicted("first")
    assert [path.name for path in folder.iterdir()] == ["colabfold"]
    protocol._clearPredicted("second")
    assert not folder.exists()


def test_a_relaxed_model_is_made_of_model_and_particles(project, tmp_path, monkeypatch):
    model = AtomStruct(filename="model.cif")
    particles = make_particles(tmp_path)
    Source(project).gives(model=model, particles=particles)
    protocol = started(project, ProtCocofoldRelax, inputStructure=model, inputParticles=particles)
    Path(protocol._getExtraPath("relaxed.json")).write_text(json.dumps({"after": {"clashes": []}}))
    monkeypatch.setattr(protocol_relax, "writeMoved", lambda *_: None)
    protocol.createOutputStep("key")
    sources = {one.getObjId() for one in project.getSourceParents(protocol.outputAtomStruct)}
    assert sources == {model.getObjId(), particles.getObjId()}


def test_both_outputs_of_a_prediction_are_made_of_the_sequences(project, monkeypatch):
    (chain,) = Source(project).gives(chain=sequence("AAA"))
    protocol = started(project, ProtCocofoldPredict, source=FROM_SEQUENCES, inputSequences=[chain])
    monkeypatch.setattr(protocol_predict, "chainLengths", lambda _: {"A": 3})
    protocol.createOutputStep("key")
    for output in (protocol.outputPrediction, protocol.outputAtomStruct):
        assert [one.getObjId() for one in project.getSourceParents(output)] == [chain.getObjId()]


def test_selected_particles_are_made_of_the_model_that_selected_them(project, tmp_path):
    model, particles = AtomStruct(filename="model.cif"), make_particles(tmp_path)
    Source(project).gives(model=model, particles=particles)
    protocol = started(project, ProtCocofoldSelect, by=2, inputStructure=model, inputParticles=particles)
    found = {"selected": [0, 1], "held_out": [2], "scored_rings": [4]}
    Path(protocol._getExtraPath("selected.json")).write_text(json.dumps(found))
    protocol.createOutputStep("key")
    assert isinstance(protocol.outputParticles, SetOfParticles)
    sources = {one.getObjId() for one in project.getSourceParents(protocol.outputParticles)}
    assert sources == {model.getObjId(), particles.getObjId()}


def test_the_form_says_what_does_not_go_with_states(project):
    def errors(**parameters):
        return " ".join(project.newProtocol(ProtCocofoldFinetune, **parameters)._validate())

    assert "Poses are refined with one state" in errors(states=1, refinePoses=1)
    assert "Poses are refined with one state" in errors(junk=1, refinePoses=2)
    assert errors(states=1) == errors(refinePoses=1) == ""
    prediction = {"inputModel": CocofoldPrediction(filename="prediction"), "preset": 1}
    for others in ({"states": 3}, {"junk": 1}, {"refinePoses": 1}):
        assert "neither states nor junk" in errors(**prediction, **others)


def test_a_sequence_that_is_gone_is_said(project):
    protocol = project.newProtocol(ProtCocofoldPredict, source=FROM_SEQUENCES, inputSequences=[sequence("AAA")])
    protocol.inputSequences[0].set(None)
    errors = " ".join(str(error) for error in protocol.validate())
    assert "is gone" in errors
    assert "Traceback" not in errors


def test_a_seed_is_asked_only_of_what_is_predicted_here(project):
    shown = [
        project.newProtocol(ProtCocofoldPredict, source=source)._definition.evalParamCondition("seed")
        for source in (FROM_COLABFOLD, FROM_SEQUENCES)
    ]
    assert shown == [False, True]


def test_a_map_that_ends_in_its_header_has_no_pixel_size(tmp_path):
    from scipion_cocofold.pixels import filePixelSize

    (tmp_path / "map.mrc").write_bytes(os.urandom(10))
    assert filePixelSize(str(tmp_path / "map.mrc")) is None
