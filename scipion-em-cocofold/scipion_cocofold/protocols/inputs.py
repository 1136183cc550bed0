"""Inputs of the protocols that compare particles with a model: their form, their validation, their files."""

import json
import os

import numpy as np
from pwem.objects import AtomStruct
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from ..constants import COMPARED_JSON
from ..convert import ConversionError, boxSize, requirePosesAndCtfs, writeParticles
from ..engine import wholeFile
from ..frames import findShiftToBox, guessShiftToBox, originOf
from ..models import writeMoved
from ..pixels import contradict, pixelSizeOfStack

PARTICLES = "particles.star"
_MODEL, _FRAME, _CONTEXT = "start.cif", "frame.json", "context.cif"
# A model in its density has a mean of 3 standard deviations of the map and more, one that lies elsewhere about 0
_LEAST_DENSITY_SIGMA = 1.0


def addParticles(form):
    """Add the parameter of the particles to a form."""
    form.addParam(
        "inputParticles",
        params.PointerParam,
        pointerClass="SetOfParticles",
        pointerCondition="hasAlignmentProj",
        label="Particles",
        important=True,
        help="Particles with 3D poses and CTFs, from a 3D refinement in RELION, CryoSPARC or another program. Images "
        "are read where they are. Whether protein is white or dark is found from the images.",
    )


def validateParticles(particles):
    """Return messages that say why particles cannot be compared with a model; none without particles."""
    if particles is None:
        return []
    errors = []
    for require in (requirePosesAndCtfs, _requireEvenBox):
        try:
            require(particles)
        except ConversionError as error:
            errors.append(str(error))
    return errors


def validateScale(particles, volume):
    """Return messages that say why particles and their volume cannot have the pixel sizes that they have here."""
    if particles is None or volume is None or not volume.getSamplingRate():
        return []
    try:
        box, dimensions = boxSize(particles), volume.getDimensions()
    except ConversionError:
        # Said by `validateParticles`
        return []
    sizes = particles.getSamplingRate(), volume.getSamplingRate()
    if dimensions is None or dimensions[0] != box or not contradict(*sizes):
        return []
    source = pixelSizeOfStack(particles)
    hint = f" The particles' stack says {source:.4g} Å." if source else ""
    return [
        f"Particles and volume have {box} pixels alike, of {sizes[0]:g} Å and of {sizes[1]:g} Å: one of them was "
        f"imported with a wrong pixel size.{hint} Import it again."
    ]


def warnOfScale(particles):
    """Return a warning if the particles' stack has another pixel size than the set."""
    source = None if particles is None else pixelSizeOfStack(particles)
    # Many programs leave 1 Å in headers
    if source in (None, 1.0) or not contradict(source, particles.getSamplingRate()):
        return []
    return [
        f"The particles have a pixel size of {particles.getSamplingRate():g} Å here, and their stack says {source:.4g} "
        "Å. If the import had a wrong one, nothing will agree."
    ]


def missingFiles(*named):
    """Return a message for each object whose file is gone.

    Parameters
    ----------
    named : pairs of an object (or None) and str
        Models, predictions or volumes, and what the message calls them.
    """
    # A volume in a stack or an MRC file may have a suffix, as in "map.mrc:mrc"
    files = [(given.getFileName().split(":")[0], name) for given, name in named if given is not None]
    return [f"The file of the {name} is gone: {path}" for path, name in files if not os.path.exists(path)]


def writeInputs(protocol, particles, structure, volume):
    """Write the particles as a STAR file, and the model in the frame of the box; `modelInBoxFrame` names it.

    Raises
    ------
    PyworkflowException
        If either cannot be written.
    """
    # Of an earlier run, whose model was in its place
    cleanPath(protocol._getExtraPath(_FRAME))
    try:
        writeParticles(particles, protocol._getExtraPath(PARTICLES))
        if structure is not None:
            _writeModelInBoxFrame(protocol, particles, structure, volume)
    except ConversionError as error:
        raise PyworkflowException(str(error)) from None


def particleOptions(protocol):
    """Return the options that name the written particles."""
    return {"--particles": protocol._getExtraPath(PARTICLES), "--particles-dir": os.getcwd()}


def modelInBoxFrame(protocol):
    """Return the path of the model in the frame of the box."""
    return protocol._getExtraPath(_MODEL)


def outputShift(protocol, volume, particles):
    """Return the vector (Å) from the frame of the box to the one in which outputs are shown, shape (3,)."""
    if volume is not None:
        return originOf(volume) - _betweenCentres(volume, particles)
    frame = _readFrame(protocol)
    if frame is not None:
        return -np.array(frame["shift_angstrom"])
    return np.zeros(3)


def frameSentence(protocol):
    """Return a sentence that names the frame in which the model was found or assumed to lie, or None."""
    frame = _readFrame(protocol)
    return frame and frame["line"]


def _requireEvenBox(particles):
    """Raise `ConversionError` if the particles' box is odd or cannot be read."""
    box = boxSize(particles)
    if box % 2:
        raise ConversionError(
            f"The particles' box is {box} pixels; programs disagree on the centre of odd boxes: crop or pad them."
        )


def _readFrame(protocol):
    return protocol._readJson(_FRAME)


def _writeModelInBoxFrame(protocol, particles, structure, volume):
    source = structure.getFileName()
    shift, line, _ = _shiftToBox(source, volume, particles)
    writeMoved(source, modelInBoxFrame(protocol), shift)
    writeJson(protocol, {"shift_angstrom": shift.tolist(), "line": line}, _FRAME)


def writeJson(protocol, content, name):
    """Write a JSON file into a protocol's extra folder; it appears whole or not at all."""
    with wholeFile(protocol._getExtraPath(name)) as written:
        json.dump(content, written)


def liesInPlace(protocol):
    """Return whether the models that a protocol has compared are known to lie in one frame."""
    return (protocol._readJson(COMPARED_JSON) or {}).get("in_place", True)


def writeInBoxFrame(structure, target, volume, particles=None):
    """Write a model that is compared with others in the frame of the box.

    Parameters
    ----------
    structure : AtomStruct
    target : str
        mmCIF file.
    volume : Volume
        In whose density the model may lie, if it knows none itself; or None, and then it lies where it is.
    particles : SetOfParticles, optional
        Whose box it is; otherwise it is the volume's.

    Returns
    -------
    bool
        Whether the model's place is known.
    """
    shift, _, isKnown = _shiftToBox(structure.getFileName(), structure.getVolume() or volume, particles)
    writeMoved(structure.getFileName(), target, shift)
    return isKnown


def writeContext(protocol, volume, particles):
    """Write the model of what lies beside a protocol's own in the frame of the box; `contextInBoxFrame` names it.

    Parameters
    ----------
    protocol : ProtCocofoldFinetune
        With a context.
    volume : Volume
        On which the result lies, and in whose density the context does, if it knows no other; or None.
    particles : SetOfParticles

    Raises
    ------
    PyworkflowException
        If the context does not lie in its volume.
    """
    context, target = protocol.inputContext.get(), contextInBoxFrame(protocol)
    if volume is None and context.getVolume() is None:
        # As the model
        writeMoved(context.getFileName(), target, -outputShift(protocol, None, particles))
    elif not writeInBoxFrame(context, target, volume, particles):
        cleanPath(target)
        raise PyworkflowException(
            "The context does not lie in the volume: the mean density at its atoms is less than "
            f"{_LEAST_DENSITY_SIGMA:g} σ of the map, in the frame of the volume's origin and in that of its box. Place "
            "it there first (fit model in map), or leave it out."
        )


def contextInBoxFrame(protocol):
    """Return the path of the context in the frame of the box, None where the form has none."""
    return None if protocol.inputContext.get() is None else protocol._getExtraPath(_CONTEXT)


def _shiftToBox(source, volume, particles):
    """Return the vector (Å) from a model's frame to the box's, a sentence about it, and whether it is known."""
    if volume is not None:
        shift, (density, other) = findShiftToBox(source, volume)
        frame = "the volume's origin" if shift.any() else "its box (voxel 0 at 0 Å)"
        line = (
            f"The model lies in the frame of {frame}: the mean density at its atoms is {density:.1f} σ there, and "
            f"{other:.1f} σ in the other frame."
        )
        offset = np.zeros(3) if particles is None else _betweenCentres(volume, particles)
        return shift + offset, line, density >= _LEAST_DENSITY_SIGMA
    if particles is None:
        return np.zeros(3), "There is no volume: the model is taken to lie where it is.", False
    shift = guessShiftToBox(source, boxSize(particles), particles.getSamplingRate())
    place = "around 0 Å" if shift.any() else "in the box (voxel 0 at 0 Å)"
    return shift, f"There is no volume: the model is assumed to lie {place}.", True


def _betweenCentres(volume, particles):
    """Return the vector (Å) from the centre of a volume's box to that of the particles' box, each from voxel 0."""
    dimensions = volume.getDimensions()
    if dimensions is None:
        raise ConversionError(f"The volume cannot be read: {volume.getFileName()}")
    ofParticles = boxSize(particles) // 2 * particles.getSamplingRate()
    return ofParticles - np.array(dimensions[:3]) // 2 * volume.getSamplingRate()


def volumeOfStructure(structure, volume):
    """Return the given volume, or that to which a model belongs, or None."""
    if volume is None and isinstance(structure, AtomStruct):
        return structure.getVolume()
    return volume
