"""One workflow, whichever program refined the particles: RELION, CryoSPARC or Xmipp.

RELION's STAR is imported by pwem's own protocol. CryoSPARC's particles are a STAR that pyem made of a .cs file, read by
the reader of CryoSPARC's plugin: its import protocol needs pyem, which is no package. Xmipp's are a file of its own
library, and become a set by the rules of its plugin's reader (`rowToAlignment`, `rowToCtfModel`), stated here anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import starfile

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem import emlib
from pwem.constants import ALIGN_PROJ
from pwem.convert.transformations import euler_matrix
from pwem.emlib import metadata
from pwem.objects import Acquisition, CTFModel, Particle, SetOfParticles, Transform
from pwem.protocols import EMProtocol
from scipion_cocofold.protocols import ProtCocofoldFinetune
from scipion_cocofold.protocols.inputs import particleOptions
from scipion_project import COUNT, finished, run, some_particles

from cocofold.particles import read_particles

pytestmark = [pytest.mark.slow, pytest.mark.independent]

SAMPLING = 2.5
# Every so many particles of the Xmipp file are mirrored, as its programs write many of them
MIRRORED_EVERY = 3


def imported(project, fill) -> SetOfParticles:
    """An output of a protocol of the project, which a function has filled, as imports leave them."""
    protocol = project.newProtocol(EMProtocol)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    particles = protocol._createSetOfParticles()
    particles.setSamplingRate(SAMPLING)
    fill(particles)
    protocol._defineOutputs(outputParticles=particles)
    return particles


def acquisition() -> Acquisition:
    return Acquisition(voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1, magnification=50000)


def of_cryosparc(project, data: Path) -> SetOfParticles:
    """What CryoSPARC's plugin reads."""
    reader = pytest.importorskip("cryosparc2.convert", reason="scipion-em-cryosparc2 is not installed")
    folder = Path("given_cryosparc")
    star = some_particles(data, folder, "cs/from_pyem.star")
    # As a path from the project's folder, which the plugin's protocol makes of it
    star.write_text(star.read_text().replace("@particles.mrcs", f"@{folder}/particles.mrcs"))

    def fill(particles: SetOfParticles) -> None:
        particles.setAcquisition(acquisition())
        reader.readSetOfParticles(f"particles@{star}", particles, alignType=ALIGN_PROJ, samplingRate=SAMPLING)

    return imported(project, fill)


def write_xmipp(data: Path, folder: Path) -> Path:
    """Write the same particles as Xmipp has them, with its own library; some as mirrored images, with a flip."""
    rows = starfile.read(some_particles(data, folder), always_dict=True)["particles"]
    table = emlib.MetaData()
    for place, row in enumerate(rows.itertuples()):
        flip = place % MIRRORED_EVERY == 0
        sign, turn = (-1, 180) if flip else (1, 0)
        index, name = row.rlnImageName.split("@")
        values = {
            emlib.MDL_IMAGE: f"{index}@{folder}/{name}",
            emlib.MDL_ANGLE_ROT: row.rlnAngleRot,
            emlib.MDL_ANGLE_TILT: row.rlnAngleTilt - turn,
            emlib.MDL_ANGLE_PSI: sign * row.rlnAnglePsi,
            emlib.MDL_SHIFT_X: sign * row.rlnOriginXAngst / SAMPLING,
            emlib.MDL_SHIFT_Y: row.rlnOriginYAngst / SAMPLING,
            emlib.MDL_FLIP: flip,
            emlib.MDL_CTF_DEFOCUSU: row.rlnDefocusU,
            emlib.MDL_CTF_DEFOCUSV: row.rlnDefocusV,
            emlib.MDL_CTF_DEFOCUS_ANGLE: row.rlnDefocusAngle,
        }
        number = table.addObject()
        for label, value in values.items():
            table.setValue(label, value, number)
    path = folder / "particles.xmd"
    table.write(str(path))
    return path


def xmipps_matrix(row) -> np.ndarray:
    """Matrix of a pose: the inverse of the rotation by minus the angles about z, y, z, with the shift taken away."""
    rot, tilt, psi = (row.getValue(label) for label in (emlib.MDL_ANGLE_ROT, emlib.MDL_ANGLE_TILT, emlib.MDL_ANGLE_PSI))
    x, y = row.getValue(emlib.MDL_SHIFT_X), row.getValue(emlib.MDL_SHIFT_Y)
    if row.getValue(emlib.MDL_FLIP):
        tilt, psi, x = tilt + 180, -psi, -x
    matrix = euler_matrix(*-np.deg2rad([rot, tilt, psi]), "szyz")
    matrix[:2, 3] = -x, -y
    return np.linalg.inv(matrix)


def of_xmipp(project, data: Path) -> SetOfParticles:
    """What Xmipp's plugin makes of its file: a matrix for each particle, and standardised defocus."""
    path = write_xmipp(data, Path("given_xmipp"))

    def fill(particles: SetOfParticles) -> None:
        particles.setAcquisition(acquisition())
        particles.setHasCTF(True)
        particles.setAlignment(ALIGN_PROJ)
        for row in metadata.iterRows(str(path)):
            index, name = row.getValue(emlib.MDL_IMAGE).split("@")
            particle = Particle(location=(int(index), name))
            particle.setSamplingRate(SAMPLING)
            particle.setAcquisition(acquisition())
            particle.setTransform(Transform(matrix=xmipps_matrix(row)))
            ctf = CTFModel()
            ctf.setStandardDefocus(*(row.getValue(label) for label in (
                emlib.MDL_CTF_DEFOCUSU, emlib.MDL_CTF_DEFOCUSV, emlib.MDL_CTF_DEFOCUS_ANGLE
            )))  # fmt: skip
            particle.setCTF(ctf)
            particles.append(particle)
        particles.setDim((64, 64, 1))

    return imported(project, fill)


@pytest.fixture(scope="module")
def sets(_adenylate_kinase, shared_data):
    """The particles of the open state, as three programs have them."""
    os.chdir(_adenylate_kinase.project.path)
    project = _adenylate_kinase.project
    others = {"CryoSPARC": of_cryosparc(project, shared_data), "Xmipp": of_xmipp(project, shared_data)}
    return {"RELION": _adenylate_kinase.particles, **others}


def written_for_the_engine(project, particles, adk):
    """What fine-tuning hands to the engine, read as the engine reads it."""
    inputs = {"inputParticles": particles, "inputModel": adk.closed, "inputVolume": adk.volume}
    protocol = project.newProtocol(ProtCocofoldFinetune, **inputs, place=2)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    assert protocol.validate() == []
    protocol.convertStep("key")
    options = particleOptions(protocol)
    return read_particles(Path(options["--particles"]), Path(options["--particles-dir"]))


def test_three_programs_give_the_engine_the_same_particles(sets, adk):
    found = {name: written_for_the_engine(adk.project, particles, adk) for name, particles in sets.items()}
    # RELION's file itself, without Scipion
    known = read_particles(adk.star)
    assert len(known) == COUNT
    assert np.ptp(known.origins_angstrom, axis=0).min() > 5
    assert np.ptp(known.defocus_u_angstrom) > 1000
    assert list(found) == ["RELION", "CryoSPARC", "Xmipp"]
    for particles in found.values():
        assert particles.slice_index.tolist() == known.slice_index.tolist()
        # CryoSPARC has 32-bit numbers
        assert np.abs(particles.rotations - known.rotations).max() < 2e-6
        assert np.abs(particles.origins_angstrom - known.origins_angstrom).max() < 1e-5
        for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg"):
            assert np.allclose(getattr(particles, name), getattr(known, name), rtol=0, atol=2e-3), name
        (one,), (other,) = particles.optics, known.optics
        for name in ("voltage_kv", "cs_mm", "amplitude_contrast", "pixel_size_angstrom"):
            assert getattr(one, name) == getattr(other, name), name
        some = np.array([0, COUNT // 2, COUNT - 1])
        assert np.array_equal(particles.images(some), known.images(some))


def test_the_workflow_runs_on_particles_of_xmipp(sets, adk):
    """The check inside the run would notice wrong poses, shifts, hand or CTFs."""
    inputs = {"inputParticles": sets["Xmipp"], "inputModel": adk.closed, "inputVolume": adk.volume}
    settings = {"place": 2, "effort": 0.01, "makeReport": False, "numberOfThreads": 1}
    protocol = finished(run(adk.project, ProtCocofoldFinetune, **inputs, **settings))
    summary = " ".join(protocol.summary())
    for words in ("poses: agree", "shifts: agree", "CTF: agrees", f"{COUNT} particles"):
        assert words in summary
