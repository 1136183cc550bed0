"""Protocol that reconstructs a map from particles, and what a model does not explain of it."""

import os

from pwem.objects import Volume
from pyworkflow.constants import BETA
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from ..constants import (
    HALF_MAPS,
    NO_SYMMETRY,
    RECONSTRUCTED_FOLDER,
    RECONSTRUCTION_JSON,
    RECONSTRUCTION_MRC,
    UNEXPLAINED_MRC,
)
from .base import ProtCocofoldBase, addSeed
from .inputs import (
    addParticles,
    frameSentence,
    missingFiles,
    modelInBoxFrame,
    outputShift,
    particleOptions,
    validateParticles,
    volumeOfStructure,
    writeInputs,
)
from .protocol_fit import symmetryOption

# Pieces of unexplained density in the summary; all are in the engine's JSON
_MOST_PIECES_SHOWN = 3


class ProtCocofoldReconstruct(ProtCocofoldBase):
    """Reconstructs a map and two half maps from particles, at the poses and CTFs that they have.

    With a model it also says what of the map no atom explains: the mass that the model lacks, where its largest pieces
    lie, and a map of them.
    """

    _label = "reconstruct"
    _devStatus = BETA
    _possibleOutputs = {"outputVolume": Volume, "outputUnexplained": Volume}

    def _defineParams(self, form):
        form.addSection("Input")
        addParticles(form)
        form.addParam(
            "inputStructure",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            label="Model, placed",
            help="Model that lies in the particles' map, with all atoms that it has: density that no atom explains is "
            "weighed. A tenth of the mass is a domain of a small protein. Empty: only the maps are made.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            condition="inputStructure is not None",
            label="Volume",
            help="Map of the particles, from which the frame of the model is found. Empty: the model's own volume.",
        )
        form.addParam(
            "symmetry",
            params.StringParam,
            default=NO_SYMMETRY,
            label="Symmetry",
            help="Point group of the particle: C1 for none, C3, D2, T, O, I, ... with axes as in RELION. Each image is "
            "put in at all rotations of the group, which takes as many times as long.",
        )
        addSeed(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.convertStep, key, needsGPU=False)
        self._insertFunctionStep(self.reconstructStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def convertStep(self, key):
        writeInputs(self, self.inputParticles.get(), self.inputStructure.get(), self._volume())

    def reconstructStep(self, key):
        folder = self._getExtraPath(RECONSTRUCTED_FOLDER)
        cleanPath(folder)
        options = {
            **particleOptions(self),
            "--model": modelInBoxFrame(self) if self.inputStructure.get() is not None else None,
            "--symmetry": symmetryOption(self),
            "--seed": self.seed.get(),
            "--threads": max(1, self.numberOfThreads.get()),
            "--oversubscribe": True,
            "--out": folder,
            **self._deviceOptions(),
        }
        self.runEngine("reconstruct", options, arguments=("--half-maps",))

    def createOutputStep(self, key):
        outputs = {"outputVolume": self._asVolume(RECONSTRUCTION_MRC, "Reconstruction")}
        outputs["outputVolume"].setHalfMaps([self._path(name) for name in HALF_MAPS])
        if os.path.isfile(self._path(UNEXPLAINED_MRC)):
            outputs["outputUnexplained"] = self._asVolume(UNEXPLAINED_MRC, "Density that no atom explains")
        self._defineOutputs(**outputs)
        for output in outputs.values():
            for source in (self.inputParticles, self.inputStructure):
                if source.get() is not None:
                    self._defineSourceRelation(source, output)

    def _asVolume(self, name, label):
        """Return a map of the engine in the frame in which the model lies; without a model with the origin centred."""
        volume = Volume()
        volume.setLocation(self._path(name))
        volume.setSamplingRate(self.inputParticles.get().getSamplingRate())
        volume.setObjLabel(label)
        origin = volume.getOrigin(force=True)
        if self.inputStructure.get() is not None:
            origin.setShifts(*outputShift(self, self._volume(), self.inputParticles.get()))
        volume.setOrigin(origin)
        return volume

    def _volume(self):
        structure = self.inputStructure.get()
        return None if structure is None else volumeOfStructure(structure, self.inputVolume.get())

    def _path(self, name):
        return self._getExtraPath(RECONSTRUCTED_FOLDER, name)

    def _validate(self):
        errors = validateParticles(self.inputParticles.get())
        return errors + missingFiles((self.inputStructure.get(), "model"), (self._volume(), "volume"))

    def _summary(self):
        found = self._readJson(RECONSTRUCTED_FOLDER, RECONSTRUCTION_JSON)
        if found is None:
            return ["Not reconstructed yet."]
        lines = [
            f"{found['images']} images; resolution {found['resolution_angstrom']:.2f} Å, where the FSC of the half "
            "maps within a soft mask falls below 0.143."
        ]
        frame, lacking = frameSentence(self), found.get("unexplained")
        if lacking is not None:
            lines.append(f"Missing mass: {100 * lacking['missing_mass']:.1f} ± {100 * lacking['error']:.1f} %.")
            shift = outputShift(self, self._volume(), self.inputParticles.get())
            for piece in lacking["pieces"][:_MOST_PIECES_SHOWN]:
                place = ", ".join(f"{at + by:.0f}" for at, by in zip(piece["centre_angstrom"], shift))
                lines.append(f"{100 * piece['mass_share']:.1f} % of the mass lie around ({place}) Å.")
        return lines + ([frame] if frame else [])
