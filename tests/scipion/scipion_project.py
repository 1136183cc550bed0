"""Real Scipion projects for tests: what is imported once and used by many."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import starfile
from pwem.constants import ALIGN_PROJ
from pwem.objects import Acquisition, CTFModel, Particle, SetOfParticles, Transform
from pwem.protocols import ProtImportParticles, ProtImportPdb, ProtImportVolumes
from pyworkflow.project import Manager, Project


def fresh(name: str) -> str:
    """The name, of which there is no project from now on."""
    if Manager().hasProject(name):
        Manager().deleteProject(name)
    return name


def make_project(name: str) -> Project:
    """A new, empty project, into whose folder the process goes, as a protocol's does."""
    project = Manager().createProject(fresh(name))
    os.chdir(project.path)
    return project


def run(project, protocol_class, label="", **parameters):
    """Launch a protocol in a process of its own, wait for it, and return it as the database has it."""
    protocol = project.newProtocol(protocol_class, **parameters)
    if label:
        protocol.setObjLabel(label)
    return again(project, protocol)


def again(project, protocol):
    """Launch a protocol (once more) and wait for it."""
    project.launchProtocol(protocol, wait=True)
    return project.getProtocol(protocol.getObjId(), fromRuns=False)


def finished(protocol):
    assert protocol.isFinished(), protocol.getErrorMessage()
    return protocol


def import_particles(project, star: Path, **parameters):
    return finished(
        run(
            project,
            ProtImportParticles,
            importFrom=ProtImportParticles.IMPORT_FROM_RELION,
            starFile=str(star),
            samplingRate=2.5,
            magnification=50000,
            **parameters,
        )
    ).outputParticles


def import_volume(project, path: Path, **parameters):
    return finished(run(project, ProtImportVolumes, filesPath=str(path), samplingRate=2.5, **parameters)).outputVolume


def import_model(project, path: Path):
    source = ProtImportPdb.IMPORT_FROM_FILES
    return finished(run(project, ProtImportPdb, inputPdbData=source, pdbFile=str(path))).outputPdb


# As few as the tests can do with: most of their time goes into comparing images.
COUNT = 100


def some_particles(data: Path, folder: Path, star: str = "particles.star") -> Path:
    """STAR in the folder, of the first particles of the open state, whose stack is a link beside it."""
    source = data / "adk" / "small300"
    blocks = starfile.read(source / star, always_dict=True)
    last = list(blocks)[-1]
    blocks[last] = blocks[last].head(COUNT)
    folder.mkdir(parents=True, exist_ok=True)
    starfile.write(blocks, folder / Path(star).name)
    if not (folder / "particles.mrcs").exists():
        (folder / "particles.mrcs").symlink_to(source / "particles.mrcs")
    return folder / Path(star).name


def adenylate_kinase(project, data: Path) -> SimpleNamespace:
    """Particles of the open state, its map, the closed state (moved, and on the core), and the open state."""
    folder = data / "adk"
    star = some_particles(data, Path(project.getPath("given")).absolute())
    return SimpleNamespace(
        star=star,
        particles=import_particles(project, star),
        volume=import_volume(project, folder / "uniform" / "reconstruction.mrc"),
        moved=import_model(project, folder / "start_closed_moved.cif"),
        closed=import_model(project, folder / "start_closed.cif"),
        truth=import_model(project, folder / "truth_open.cif"),
    )


def empty_set(folder: Path) -> SetOfParticles:
    particles = SetOfParticles(filename=str(folder / "particles.sqlite"))
    particles.setSamplingRate(2.5)
    return particles


def make_particles(folder: Path, count: int = 4, flipped: bool = False, aberrations: str = "") -> SetOfParticles:
    """A set as importers make it, with images of noise in a stack whose name has blanks and an apostrophe."""
    rng = np.random.default_rng(0)
    stack = folder / "it's a stack.mrcs"
    with mrcfile.new(stack, overwrite=True) as mrc:
        mrc.set_data(rng.normal(size=(count, 32, 32)).astype(np.float32))
    particles = empty_set(folder)
    acquisition = Acquisition(voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1, magnification=50000)
    acquisition.opticsGroupInfo.set(aberrations)
    particles.setAcquisition(acquisition)
    particles.setIsPhaseFlipped(flipped)
    particles.setHasCTF(True)
    particles.setAlignment(ALIGN_PROJ)
    for index in range(count):
        particle = Particle(location=(index + 1, str(stack)))
        particle.setSamplingRate(2.5)
        particle.setAcquisition(acquisition.clone())
        ctf = CTFModel()
        ctf.setStandardDefocus(20000 + index, 19000, 30)
        particle.setCTF(ctf)
        particle.setTransform(Transform(matrix=np.eye(4)))
        particles.append(particle)
    particles.setDim((32, 32, 1))
    particles.write()
    return particles


def copy_of(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder))
