"""Protocols in a real Scipion project, against the engine run directly on the same data."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.objects import AtomStruct, Volume
from scipion_cocofold.convert import writeParticles
from scipion_cocofold.frames import findShiftToBox, originOf
from scipion_cocofold.models import readPositions, writeMoved
from scipion_cocofold.protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFinetune,
    ProtCocofoldFit,
    ProtCocofoldReconstruct,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
)
from scipion_cocofold.viewers import CocofoldAssessViewer, CocofoldReconstructViewer
from scipion_project import COUNT, finished, import_model, import_particles, run, some_particles

pytestmark = pytest.mark.slow

QUICK = {"effort": 0.02, "makeReport": False, "checkFirst": False, "numberOfThreads": 1}


def cocofold(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "cocofold", *map(str, words)], check=True, capture_output=True)


def lies_on(structure: AtomStruct, volume: Volume) -> bool:
    """Whether a model's atoms have density in the frame in which ChimeraX shows the volume."""
    shift, (density, other) = findShiftToBox(structure.getFileName(), volume)
    return np.allclose(shift, -originOf(volume)) and density > 1 > other


def test_a_model_from_anywhere_is_placed_on_its_volume(adk, placed):
    structure = placed.outputAtomStruct
    assert lies_on(structure, adk.volume)
    assert structure.getVolume().getFileName() == adk.volume.getFileName()
    moved = readPositions(structure.getFileName()) - originOf(adk.volume)
    known = readPositions(adk.closed.getFileName())
    # Superposed on the core as the closed state is: as near the density, a little turned
    assert np.sqrt(((moved - known) ** 2).sum(1).mean()) < 3.0
    assert "far enough apart to trust" in " ".join(placed.summary())
    assert placed.outputPlacement._hand.get() == "as-is"


@pytest.fixture(scope="module")
def engines_model(_adenylate_kinase, shared_data, tmp_path_factory):
    """Atoms of the model of the engine run directly, of the same particles and settings."""
    out = tmp_path_factory.mktemp("engine") / "run"
    words = ["--particles", _adenylate_kinase.star, "--model", shared_data / "adk" / "start_closed.cif"]
    cocofold("finetune", *words, "--effort", 0.02, "--seed", 3, "--no-check", "--threads", 1, "--out", out)
    return readPositions(str(out / "model.cif"))


@pytest.mark.parametrize(
    ("star", "mpi"),
    [("particles.star", 1), pytest.param("star_variants/relion30.star", 2, marks=pytest.mark.independent)],
)
def test_fine_tuning_gives_the_engines_own_model(star, mpi, adk, engines_model, shared_data, tmp_path):
    path = adk.star if star == "particles.star" else some_particles(shared_data, tmp_path, star)
    particles = adk.particles if path == adk.star else import_particles(adk.project, path)
    inputs = {"inputParticles": particles, "inputModel": adk.closed, "inputVolume": adk.volume}
    protocol = finished(run(adk.project, ProtCocofoldFinetune, **inputs, place=2, seed=3, numberOfMpi=mpi, **QUICK))
    with open(protocol._getExtraPath("run", "metrics.json")) as content:
        assert json.load(content)["processes"] == mpi
    found = readPositions(protocol.outputAtomStruct.getFileName()) - originOf(adk.volume)
    start = readPositions(str(shared_data / "adk" / "start_closed.cif"))
    assert np.linalg.norm(engines_model - start, axis=1).mean() > 1
    assert np.linalg.norm(found - engines_model, axis=1).max() < 0.05


def test_everything_by_itself(everything, adk):
    structure, gaussians = everything.outputAtomStruct, everything.outputVolume
    assert lies_on(structure, adk.volume)
    assert lies_on(structure, gaussians)
    assert structure.getVolume().getFileName() == adk.volume.getFileName()
    # A fiftieth of the steps leaves the domains on their way.
    assert structure._cocofoldVerdict.get() == "supported in part"
    assert everything.outputCycles.getSize() == 10
    assert all(os.path.isfile(cycle.getFileName()) for cycle in everything.outputCycles)
    assert os.path.isfile(everything._getExtraPath("run", "report.html"))
    summary = " ".join(everything.summary())
    for words in (
        "*Supported in part*. The particles support the new model in part.",
        "Held-out FRC",
        "CA RMSD: 7.13",
        "TM-score",
        "poses: agree",
        "Hand: as-is",
    ):
        assert words in summary
    placed, tuned, *_ = everything.methods()
    assert "exhaustive rigid search" in placed
    assert f"{COUNT} raw particle images" in tuned


def test_the_verdict_is_left_for_pipelines(everything, adk):
    with open(everything._getExtraPath("verdict.json")) as content:
        verdict = json.load(content)
    assert verdict["verdict"] == "supported in part"
    assert verdict["assessment"]["ca_rmsd"] < 6.5
    assert verdict["placement"]["trusted"] is True
    assert os.path.isfile(verdict["model"])


def test_assess(everything, adk):
    inputs = {"inputStructure": everything.outputAtomStruct, "inputReference": adk.truth, "inputStart": adk.closed}
    inputs.update(inputParticles=adk.particles, numberOfThreads=1)
    protocol = finished(run(adk.project, ProtCocofoldAssess, **inputs))
    with open(everything._getExtraPath("run", "metrics.json")) as content:
        metrics = json.load(content)
    with open(protocol._getExtraPath("images.json")) as content:
        # With all atoms' widths as at the start, so a little below what the run ended with
        assert json.load(content)["frc"] == pytest.approx(metrics["frc_work"], abs=0.03)
    assert os.path.isfile(protocol._getExtraPath("support.png"))
    assert "Agreement with the images" in " ".join(protocol.summary())
    with open(everything._getExtraPath("after.json")) as content:
        known = json.load(content)
    assert protocol.outputAtomStruct._cocofoldCaRmsd.get() == pytest.approx(known["ca_rmsd"], abs=2e-3)
    assert "CA RMSD: 7.13 Å -> " in " ".join(protocol.summary())
    assert os.path.isfile(protocol._getExtraPath("assessment.png"))


def test_assess_in_one_frame(everything, adk, tmp_path):
    """The result lies in Scipion's frame, the model from which it was made in the box's."""
    inputs = {"inputStructure": everything.outputAtomStruct, "inputStart": adk.closed, "numberOfThreads": 1}
    protocol = finished(run(adk.project, ProtCocofoldAssess, **inputs))
    with open(protocol._getExtraPath("after.json")) as content:
        after = json.load(content)
    assert after["ca_rmsd_in_place"] == pytest.approx(after["ca_rmsd"], abs=3)
    summary = " ".join(protocol.summary())
    assert "Compared with the start, so these figures say what has changed" in summary
    assert f"in place: {after['ca_rmsd_in_place']:.2f} Å" in summary
    # A model that lies beside the map is compared in shape only
    writeMoved(adk.closed.getFileName(), str(tmp_path / "beside.cif"), (500.0, 0.0, 0.0))
    beside = import_model(adk.project, tmp_path / "beside.cif")
    beside = finished(run(adk.project, ProtCocofoldAssess, **{**inputs, "inputStart": beside}))
    assert "in place: not given" in " ".join(beside.summary())


def test_assess_without_a_reference(placed, adk):
    assert any("nothing to compare" in error for error in adk.project.newProtocol(ProtCocofoldAssess).validate())
    inputs = {"inputStructure": placed.outputAtomStruct, "inputParticles": adk.particles, "numberOfThreads": 1}
    protocol = finished(run(adk.project, ProtCocofoldAssess, **inputs))
    summary = " ".join(protocol.summary())
    # The placed start is the closed state, and the images show the open one
    assert "the images speak against: A " in summary
    assert "Ramachandran favoured" in summary
    assert "Compared with" not in summary
    with open(protocol._getExtraPath("images.json")) as content:
        assert protocol.outputAtomStruct._cocofoldFrc.get() == pytest.approx(json.load(content)["frc"])
    views = CocofoldAssessViewer(project=adk.project, protocol=protocol)._visualize(protocol)
    (axes,) = (view.getFigure().axes[0] for view in views)
    assert len(axes.lines[0].get_xdata()) > 200


def test_check_agrees(adk, placed):
    inputs = {"inputParticles": adk.particles, "inputStructure": placed.outputAtomStruct}
    protocol = finished(run(adk.project, ProtCocofoldCheck, **inputs, numberOfThreads=1))
    assert "poses: agree with the model" in " ".join(protocol.summary())
    assert os.path.isfile(protocol._getExtraPath("check.png"))


def test_check_stops_a_workflow_at_transposed_poses(adk, shared_data, tmp_path):
    import starfile

    blocks = starfile.read(some_particles(shared_data, tmp_path))
    rows = blocks["particles"]
    rows["rlnAngleRot"], rows["rlnAnglePsi"] = -rows["rlnAnglePsi"].copy(), -rows["rlnAngleRot"].copy()
    rows["rlnAngleTilt"] = -rows["rlnAngleTilt"]
    starfile.write(blocks, tmp_path / "transposed.star")
    particles = import_particles(adk.project, tmp_path / "transposed.star")
    inputs = {"inputParticles": particles, "inputStructure": adk.truth, "inputVolume": adk.volume}
    protocol = run(adk.project, ProtCocofoldCheck, **inputs, numberOfThreads=1)
    assert protocol.isFailed()
    assert "poses" in protocol.getErrorMessage()
    assert "transpose" in protocol.getErrorMessage()
    assert "Traceback" not in protocol.getErrorMessage()


def test_the_engines_message_is_shown(adk, tmp_path):
    import mrcfile
    from scipion_project import import_volume

    with mrcfile.new(tmp_path / "empty.mrc") as mrc:
        mrc.set_data(np.zeros((64, 64, 64), np.float32))
        mrc.voxel_size = 2.5
    volume = import_volume(adk.project, tmp_path / "empty.mrc")
    protocol = run(adk.project, ProtCocofoldFit, inputModel=adk.moved, inputVolume=volume, numberOfThreads=1)
    assert protocol.isFailed()
    assert "map" in protocol.getErrorMessage()
    assert "constant" in protocol.getErrorMessage() or "empty" in protocol.getErrorMessage()
    assert "status" not in protocol.getErrorMessage()


def test_what_is_known_before_the_start(adk, everything):
    def errors(**parameters):
        given = {"inputParticles": adk.particles, "inputModel": adk.moved, "inputVolume": adk.volume, **parameters}
        return " ".join(adk.project.newProtocol(ProtCocofoldFinetune, **given).validate())

    assert errors() == ""
    assert "0 to 0.5" in errors(heldout=0.7)
    assert "0.5 to 100" in errors(mapResolution=1000)
    assert "placed by CoCoFold already" in errors(inputModel=everything.outputAtomStruct, place=1)
    assert errors(inputModel=everything.outputAtomStruct, place=0) == ""


@pytest.mark.parametrize("by", [1, 2])
def test_selected_particles_keep_those_held_out(by, adk, tmp_path):
    from cocofold.particles import read_particles

    inputs = {"inputParticles": adk.particles, "count": 60, "by": by, "numberOfThreads": 1}
    if by == 2:
        inputs.update(inputStructure=adk.truth, inputVolume=adk.volume)
    protocol = finished(run(adk.project, ProtCocofoldSelect, **inputs))
    assert protocol.outputParticles.getSize() == 60
    writeParticles(protocol.outputParticles, str(tmp_path / "out.star"))
    # The engine's own file and Scipion's set, written again, say the same
    found, known = (
        read_particles(path, adk.project.path) for path in (tmp_path / "out.star", protocol._getPath("selected.star"))
    )
    assert found.slice_index.tolist() == known.slice_index.tolist()
    assert found.held_out.tolist() == known.held_out.tolist()
    assert found.held_out.sum() == 12
    assert found.scored_rings == known.scored_rings
    assert bool(found.scored_rings) == (by == 2)
    assert ("biased" in " ".join(protocol.summary())) == (by == 2)


def test_a_reconstruction_lies_where_the_model_does(adk, tmp_path, shared_data):
    """With half maps; without its LID domain the model leaves a fifth of the mass unexplained, which is shown."""
    from cocofold.structure.modelcif import write_model
    from cocofold.structure.read_model import read_model

    whole = read_model(shared_data / "adk" / "truth_open.cif")
    lid = np.array([118 <= key.number <= 160 for key in whole.residues])
    write_model(tmp_path / "without_lid.cif", whole.only(~lid))
    model = import_model(adk.project, tmp_path / "without_lid.cif")
    inputs = {"inputParticles": adk.particles, "inputStructure": model, "inputVolume": adk.volume}
    protocol = finished(run(adk.project, ProtCocofoldReconstruct, **inputs, numberOfThreads=1, useGpu=False))
    found = protocol.outputVolume
    shift, (density, other) = findShiftToBox(model.getFileName(), found)
    assert density > 3 > 1 > other
    assert np.allclose(shift, findShiftToBox(model.getFileName(), adk.volume)[0])
    assert np.allclose(originOf(found), originOf(adk.volume))
    assert len(found.getHalfMaps().split(",")) == 2
    assert all(os.path.isfile(path) for path in found.getHalfMaps().split(","))
    assert found.getSamplingRate() == pytest.approx(2.5)
    assert np.allclose(originOf(protocol.outputUnexplained), originOf(found))
    summary = " ".join(protocol.summary())
    assert f"{COUNT} images" in summary
    mass = float(summary.partition("Missing mass: ")[2].partition(" ")[0])
    assert mass == pytest.approx(20.8, abs=3)
    # Shown are the half maps' FSC, both maps and the model; without ChimeraX a message names the script
    plot, _ = CocofoldReconstructViewer(project=adk.project, protocol=protocol)._visualize(protocol)
    assert plot.getFigure().axes[0].lines[0].get_ydata()[0] > 0.99
    with open(protocol._getExtraPath("show_map.cxc")) as script:
        shown = [line for line in script if line.startswith("open")]
    assert [line.split(" name ")[1].strip() for line in shown] == ['"volume"', '"other density"', '"model"']


def test_relax(adk, shared_data, tmp_path):
    from cocofold.structure.modelcif import write_model
    from cocofold.structure.read_model import read_model

    whole = read_model(shared_data / "adk" / "truth_open.cif")
    write_model(tmp_path / "fragment.cif", whole.only(np.arange(len(whole.residues)) < 20))
    fragment = import_model(adk.project, tmp_path / "fragment.cif")
    protocol = finished(run(adk.project, ProtCocofoldRelax, inputStructure=fragment, numberOfThreads=1, useGpu=False))
    assert "Backbone bonds and angles beyond 4σ" in " ".join(protocol.summary())
    moved = readPositions(protocol.outputAtomStruct.getFileName()) - readPositions(fragment.getFileName())
    assert 0 < np.linalg.norm(moved, axis=1).mean() < 1
    assert protocol.outputAtomStruct._cocofoldClashes.get() == 0


def test_phenix_and_chimerax_take_the_outputs(everything, adk, monkeypatch):
    chimera = pytest.importorskip("chimera.protocols", reason="scipion-em-chimera is not installed")
    phenix = pytest.importorskip("phenix.protocols", reason="scipion-em-phenix is not installed")
    structure = everything.outputAtomStruct

    refine = adk.project.newProtocol(phenix.PhenixProtRunRSRefine, inputStructure=structure, resolution=5.0)
    refine.makePathsAndClean()
    refine.convertInputStep("tmp.mrc")
    assert density_in_header_frame(refine._getExtraPath("tmp.mrc"), structure) > 1

    fit = adk.project.newProtocol(chimera.ChimeraProtRigidFit, pdbFileToBeRefined=structure)
    adk.project.saveProtocol(fit)
    fit.makePathsAndClean()
    monkeypatch.setattr("chimera.Plugin.runChimeraProgram", lambda *arguments, **named: None)
    monkeypatch.setattr("chimera.Plugin.getProgram", lambda *arguments, **named: "chimerax")
    fit.runChimeraStep()
    with open(fit._getTmpPath("chimeraScript.cxc")) as script:
        lines = script.read().splitlines()
    (origin,) = (line.split("origin ")[1] for line in lines if " origin " in line)
    assert np.allclose([float(value) for value in origin.split(",")], originOf(adk.volume))
    assert not any(line.startswith("move") for line in lines)


def density_in_header_frame(path: str, structure: AtomStruct) -> float:
    """Mean density at a model's atoms in standard deviations of the map, where its header says that it lies."""
    import mrcfile

    with mrcfile.open(path) as mrc:
        values, voxel = mrc.data, float(mrc.voxel_size.x)
        header = mrc.header
        start = np.array([header.nxstart, header.nystart, header.nzstart], float) * voxel
        start += [float(header.origin.x), float(header.origin.y), float(header.origin.z)]
    at = np.rint((readPositions(structure.getFileName()) - start) / voxel).astype(int)[:, ::-1]
    return float((values[tuple(at.T)].mean() - values.mean()) / values.std())
