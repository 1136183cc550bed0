"""A context beside the model, and more processes than cores: what the form gives the engine."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import yaml

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.objects import AtomStruct, Volume
from pyworkflow.exceptions import PyworkflowException
from scipion_cocofold.frames import originOf
from scipion_cocofold.models import readPositions, writeMoved
from scipion_cocofold.protocols import ProtCocofoldFinetune
from scipion_cocofold.protocols.inputs import contextInBoxFrame, modelInBoxFrame, writeContext
from scipion_project import finished, import_model, make_particles, make_project, run

# From the centre of the map's box, 64 pixels, to that of the particles' box, 32 pixels of 2.5 Å
BETWEEN_CENTRES = -40.0
LID = range(118, 161)


@pytest.fixture(scope="module")
def project():
    return make_project("context")


@pytest.fixture(autouse=True)
def _in_the_project(request, project, monkeypatch):
    if "adk" not in request.fixturenames:
        monkeypatch.chdir(project.path)


def part_of(path: Path, target: Path, kept) -> Path:
    """Write those residues of a model whose numbers are kept."""
    structure = gemmi.read_structure(str(path))
    for chain in structure[0]:
        for place in reversed(range(len(chain))):
            if not kept(chain[place].seqid.num):
                del chain[place]
    structure.make_mmcif_document().write_file(str(target))
    return target


@pytest.fixture
def pieces(shared_data, tmp_path) -> tuple[Path, Path]:
    """The open state without its LID domain, and that domain; in the frame of the box."""
    truth = shared_data / "adk" / "truth_open.cif"
    rest = part_of(truth, tmp_path / "rest.cif", lambda number: number not in LID)
    return rest, part_of(truth, tmp_path / "lid.cif", lambda number: number in LID)


@pytest.fixture
def volume(shared_data) -> Volume:
    found = Volume(location=str(shared_data / "adk" / "uniform" / "reconstruction.mrc"))
    found.setSamplingRate(2.5)
    return found


def moved(path: Path, shift) -> AtomStruct:
    target = path.with_name("moved_" + path.name)
    writeMoved(str(path), str(target), np.asarray(shift, dtype=float))
    return AtomStruct(filename=str(target))


def started(project, **inputs) -> ProtCocofoldFinetune:
    protocol = project.newProtocol(ProtCocofoldFinetune, place=2, useGpu=False, **inputs)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    return protocol


@pytest.mark.slow
@pytest.mark.parametrize("frame", ["the box", "the volume's origin"])
def test_a_context_is_moved_into_the_frame_of_the_box(frame, project, pieces, volume, tmp_path):
    rest, lid = pieces
    context = moved(lid, np.zeros(3) if frame == "the box" else originOf(volume))
    inputs = {"inputParticles": make_particles(tmp_path), "inputVolume": volume}
    protocol = started(project, **inputs, inputModel=AtomStruct(filename=str(rest)), inputContext=context)
    protocol.convertStep("key")
    writeContext(protocol, protocol._volumeOfResult(), protocol.inputParticles.get())
    for path, source in ((modelInBoxFrame(protocol), rest), (contextInBoxFrame(protocol), lid)):
        assert np.allclose(readPositions(path), readPositions(str(source)) + BETWEEN_CENTRES, atol=2e-3)


@pytest.mark.slow
def test_without_a_volume_a_context_is_moved_as_the_model_is(project, pieces, tmp_path):
    """Alone it would be taken to lie in the other frame, to whose centre it is nearer."""
    rest, lid = pieces
    model, context = moved(rest, np.full(3, -80.0)), moved(lid, [20.0, -80.0, -80.0])
    protocol = started(project, inputParticles=make_particles(tmp_path), inputModel=model, inputContext=context)
    protocol.convertStep("key")
    writeContext(protocol, None, protocol.inputParticles.get())
    moves = [
        readPositions(path) - readPositions(given.getFileName())
        for path, given in ((modelInBoxFrame(protocol), model), (contextInBoxFrame(protocol), context))
    ]
    assert all(np.allclose(move, -BETWEEN_CENTRES, atol=2e-3) for move in moves)


def test_a_context_beside_the_map_is_refused(project, pieces, volume, tmp_path):
    rest, lid = pieces
    inputs = {"inputParticles": make_particles(tmp_path), "inputVolume": volume}
    context = moved(lid, [500.0, 0.0, 0.0])
    protocol = started(project, **inputs, inputModel=AtomStruct(filename=str(rest)), inputContext=context)
    with pytest.raises(PyworkflowException, match="does not lie in the volume"):
        writeContext(protocol, volume, protocol.inputParticles.get())
    assert not Path(contextInBoxFrame(protocol)).exists()
    Path(context.getFileName()).unlink()
    assert any("The file of the context is gone" in error for error in protocol.validate())


def test_the_engine_is_told_of_context_and_cores(project, pieces, volume, tmp_path, monkeypatch):
    rest, lid = pieces
    inputs = {"inputParticles": make_particles(tmp_path), "inputVolume": volume}
    inputs["inputModel"] = AtomStruct(filename=str(rest))
    given = []
    monkeypatch.setattr(ProtCocofoldFinetune, "_runShowingBestModel", lambda self, options: given.append(options))
    protocol = started(project, **inputs, inputContext=AtomStruct(filename=str(lid)), numberOfMpi=3)
    protocol.finetuneStep("key")
    assert given[0]["--context"] == contextInBoxFrame(protocol)
    assert (given[0]["--processes"], given[0]["--oversubscribe"]) == (3, False)
    # What was written once is what a run goes on with
    Path(protocol._runFolder()).mkdir()
    Path(protocol._runFolder(), "config.yaml").touch()
    Path(contextInBoxFrame(protocol)).write_text("as it was")
    key = protocol._inputsHash()
    protocol.oversubscribe.set(True)
    assert protocol._inputsHash() == key
    protocol.finetuneStep("key")
    assert (given[1]["--oversubscribe"], given[1]["--resume"]) == (True, True)
    assert Path(contextInBoxFrame(protocol)).read_text() == "as it was"
    plain = started(project, **inputs)
    assert plain._finetuneOptions()["--context"] is None
    assert plain._inputsHash() != key


def test_a_run_that_was_begun_before_forms_had_a_context_goes_on(project, pieces, tmp_path, monkeypatch):
    """Its steps were noted under what the form had then."""
    rest, lid = pieces
    inputs = {"inputParticles": make_particles(tmp_path), "inputModel": AtomStruct(filename=str(rest))}
    plain = started(project, **inputs)
    given = started(project, **inputs, inputContext=AtomStruct(filename=str(lid)))
    now = plain._inputsHash()
    assert given._inputsHash() != now
    every = ProtCocofoldFinetune.iterDefinitionAttributes
    monkeypatch.setattr(
        ProtCocofoldFinetune,
        "iterDefinitionAttributes",
        lambda self: (one for one in every(self) if one[0] not in ("inputContext", "oversubscribe")),
    )
    assert plain._inputsHash() == now


@pytest.mark.slow
def test_a_run_with_a_context(adk, pieces):
    """Of a model without its LID domain, which another model has, in Scipion's frame."""
    rest, lid = pieces
    context = import_model(adk.project, Path(moved(lid, originOf(adk.volume)).getFileName()))
    inputs = {"inputParticles": adk.particles, "inputVolume": adk.volume, "inputContext": context}
    settings = {"place": 2, "effort": 0.01, "makeReport": False, "numberOfThreads": 1, "oversubscribe": True}
    model = import_model(adk.project, rest)
    protocol = finished(run(adk.project, ProtCocofoldFinetune, **inputs, inputModel=model, **settings))
    folder = Path(protocol._runFolder())
    assert yaml.safe_load((folder / "config.yaml").read_text())["context"] == contextInBoxFrame(protocol)
    assert "are in every image and stay where they are" in (folder / "log.txt").read_text()
    known, found = readPositions(str(lid)), readPositions(contextInBoxFrame(protocol))
    assert np.allclose(found, known, atol=2e-3)
    result = gemmi.read_structure(protocol.outputAtomStruct.getFileName())
    assert not {residue.seqid.num for chain in result[0] for residue in chain} & set(LID)
    assert "what lies beside it" in " ".join(protocol.methods())
    sources = {one.getObjId() for one in adk.project.getSourceParents(protocol.outputAtomStruct)}
    assert context.getObjId() in sources
