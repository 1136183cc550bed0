"""Particles and models as the engine reads them; shared by the protocols that compare the two."""

import json
import os

import numpy as np
from pwem.objects import AtomStruct
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params

from ..convert import ConversionError, boxOf, requirePosesAndCtfs, writeParticles
from ..frames import findShiftToBox, guessShiftToBox, originOf, writeMoved

PARTICLES = "particles.star"
_FRAME = "frame.json"


def addParticles(form):
    """Add the parameter of the particles to a form."""
    form.addParam(
        "inputParticles",
        params.PointerParam,
        pointerClass="SetOfParticles",
        pointerCondition="hasAlignmentProj",
        label="Particles",
        important=True,
        help="Particles with 3D poses and CTFs, of a 3D refinement in RELION, CryoSPARC or another program. Images are "
        "read where they are. White or dark protein is found out.",
    )


def validateParticles(particles):
    """Return what keeps particles from being compared with a model."""
    if particles is None:
        return []
    errors = []
    try:
        requirePosesAndCtfs(particles)
    except ConversionError as error:
        errors.append(str(error))
    try:
        box = boxOf(particles)
    except ConversionError as error:
        return [*errors, str(error)]
    if box % 2:
        errors.append(
            f"The particles' box is {int(box)} pixels; programs disagree on the centre of odd boxes: crop or pad them."
        )
    return errors


def writeInputs(protocol, particles, structure, volume):
    """Write the particles as a STAR file, and the model in the frame of the box; `boxedModel` names it.

    Raises
    ------
    PyworkflowException
        If either cannot be written.
    """
    try:
        writeParticles(particles, protocol._getExtraPath(PARTICLES))
        if structure is not None:
            _writeModelInBoxFrame(protocol, particles, structure, volume)
    except (ConversionError, ValueError, KeyError) as error:
        raise PyworkflowException(str(error)) from None


def particleOptions(protocol):
    """Return the options that name the written particles."""
    return ["--particles", protocol._getExtraPath(PARTICLES), "--particles-dir", os.getcwd()]


def modelInBoxFrame(protocol):
    """Return the path of the model in the frame of the box."""
    return protocol._getExtraPath(_readFrame(protocol)["model"])


def outputShift(protocol, volume, particles):
    """Return the vector (Å) from the frame of the box to the one in which outputs are shown, shape (3,)."""
    if volume is not None:
        return originOf(volume) - _betweenCentres(volume, particles)
    frame = _readFrame(protocol)
    if frame is not None:
        return -np.array(frame["shift_angstrom"])
    return np.zeros(3)


def frameSentence(protocol):
    """Return a sentence on the frame in which the model was taken to lie, or None."""
    frame = _readFrame(protocol)
    return frame and frame["line"]


def _readFrame(protocol):
    return protocol._readJson(_FRAME)


def _writeModelInBoxFrame(protocol, particles, structure, volume):
    source = structure.getFileName()
    if volume is not None:
        shift, (density, other) = findShiftToBox(source, volume)
        frame = "the volume's origin" if shift.any() else "its box (voxel 0 at 0 Å)"
        shift = shift + _betweenCentres(volume, particles)
        line = (
            f"Model taken to lie in the frame of {frame}: mean density at its atoms {density:.1f} σ, in the other "
            f"{other:.1f} σ."
        )
    else:
        shift = guessShiftToBox(source, boxOf(particles), particles.getSamplingRate())
        line = f"No volume: model taken to lie {'about 0 Å' if shift.any() else 'in the box (voxel 0 at 0 Å)'}."
    name = "start" + os.path.splitext(source)[1].lower()
    writeMoved(source, protocol._getExtraPath(name), shift)
    with open(protocol._getExtraPath(_FRAME), "w", encoding="utf-8") as written:
        json.dump({"model": name, "shift_angstrom": shift.tolist(), "line": line}, written)


def _betweenCentres(volume, particles):
    """Return the vector (Å) from the centre of a volume's box to that of the particles' box, each from voxel 0."""
    of_particles = boxOf(particles) // 2 * particles.getSamplingRate()
    return of_particles - np.array(volume.getDimensions()[:3]) // 2 * volume.getSamplingRate()


def volumeOfStructure(structure, volume):
    """Return the volume given, or else the one that a model knows."""
    if volume is None and isinstance(structure, AtomStruct):
        return structure.getVolume()
    return volume
