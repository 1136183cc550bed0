"""A reconstruction of the wrong hand: poses and map mirrored, as a refinement may end. The model is never mirrored."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
import starfile

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from scipion_cocofold.frames import findShiftToBox, originOf
from scipion_cocofold.protocols import ProtCocofoldCheck, ProtCocofoldFinetune, ProtCocofoldFit
from scipion_project import finished, import_particles, import_volume, run, some_particles

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.assessment.comparison import assess
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wrong_hand(_adenylate_kinase, shared_data, tmp_path_factory):
    import os

    folder = tmp_path_factory.mktemp("mirrored")
    blocks = starfile.read(some_particles(shared_data, folder))
    rows = blocks["particles"]
    # The map's mirror image along z gives the same images at these poses
    rows["rlnAngleRot"] = (rows["rlnAngleRot"] + 360) % 360 - 180
    rows["rlnAnglePsi"] = (rows["rlnAnglePsi"] + 360) % 360 - 180
    starfile.write(blocks, folder / "mirrored.star")
    values = mrcfile.read(shared_data / "adk" / "uniform" / "reconstruction.mrc")
    with mrcfile.new(folder / "mirrored.mrc") as mrc:
        mrc.set_data(np.roll(np.flip(values, 0), 1, 0))
        mrc.voxel_size = 2.5
    project = _adenylate_kinase.project
    os.chdir(project.path)
    return import_particles(project, folder / "mirrored.star"), import_volume(project, folder / "mirrored.mrc")


def test_a_wrong_hand_is_put_right(wrong_hand, adk, shared_data):
    particles, volume = wrong_hand
    placed = finished(run(adk.project, ProtCocofoldFit, inputModel=adk.truth, inputVolume=volume, numberOfThreads=1))
    assert "Hand: mirrored." in placed.summary()
    structure = placed.outputAtomStruct
    # On the mirrored volume, which it knows, and which has Scipion's frame
    assert structure.getVolume().getFileName() == placed.outputVolume.getFileName()
    shift, (density, _) = findShiftToBox(structure.getFileName(), placed.outputVolume)
    assert np.allclose(shift, -originOf(volume))
    assert density > 3
    inputs = {"inputParticles": particles, "inputStructure": structure, "inputVolume": volume}
    checked = finished(run(adk.project, ProtCocofoldCheck, **inputs, numberOfThreads=1))
    assert any(line.startswith("hand: agrees") for line in checked.summary())
    inputs = {"inputParticles": particles, "inputModel": structure, "inputVolume": volume}
    quick = {"effort": 0.02, "makeReport": False, "checkFirst": False, "numberOfThreads": 1}
    tuned = finished(run(adk.project, ProtCocofoldFinetune, **inputs, **quick))
    truth = read_model(shared_data / "adk" / "truth_open.cif")
    model = read_model(tuned.outputAtomStruct.getFileName())
    # It is the protein still, of its own hand, and where it was
    assert assess(model, truth).ca_rmsd < 1.0
    assert measure_geometry(model).d_residues == ()
    shift, (density, _) = findShiftToBox(tuned.outputAtomStruct.getFileName(), placed.outputVolume)
    assert np.allclose(shift, -originOf(volume))
    assert density > 3
