"""Outputs of fine-tuning beside its model: the atoms' Gaussians, the models of all cycles, refined particles."""

import os

from pwem.objects import SetOfAtomStructs

from ..constants import CYCLES_FOLDER, DENSITY_MRC, PARTICLES_STAR
from ..convert import appendRefinedParticles
from .inputs import outputShift
from .states import mapOf


def gaussianVolume(protocol, volume):
    """Return the density of the atoms' Gaussians as a volume in Scipion's frame.

    Parameters
    ----------
    protocol : ProtCocofoldFinetune
        Whose run is finished.
    volume : Volume
        On which the model lies, or None.
    """
    particles, path = protocol.inputParticles.get(), os.path.join(protocol._runFolder(), DENSITY_MRC)
    gaussians = mapOf(path, particles, outputShift(protocol, volume, particles))
    gaussians.setObjLabel("Gaussians of the atoms")
    return gaussians


def cycleModels(protocol, volume):
    """Write the models of all cycles in Scipion's frame; return them as a set, each with the volume."""
    cycles = SetOfAtomStructs.create(protocol._getPath())
    for name in sorted(os.listdir(os.path.join(protocol._runFolder(), CYCLES_FOLDER))):
        model = os.path.join(CYCLES_FOLDER, name)
        cycles.append(protocol._writeStructure(model, protocol._getExtraPath(name), volume))
    return cycles


def refinedParticles(protocol):
    """Return the particles that a run used, with the poses that it refined, as a set."""
    refined = protocol._createSetOfParticles()
    star = os.path.join(protocol._runFolder(), PARTICLES_STAR)
    appendRefinedParticles(protocol.inputParticles.get(), star, refined)
    return refined
