"""Protocol that compares a model with a reference, with particles, or with both."""

import os

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.object import Float
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from ..constants import AFTER_JSON, ASSESSMENT_PNG, BEFORE_JSON, COMPARED_JSON, IMAGES_JSON, SUPPORT_PNG
from .base import ProtCocofoldBase
from .inputs import (
    liesInPlace,
    missingFiles,
    modelInBoxFrame,
    particleOptions,
    validateParticles,
    writeInBoxFrame,
    writeInputs,
    writeJson,
)
from .summaries import assessmentSummary, geometrySummary, supportSummary


class ProtCocofoldAssess(ProtCocofoldBase):
    """Assesses a model: against a structure that is taken as true, against particles, and by its own geometry.

    With a reference it gives the paper's four figures, as MM-align defines them: coverage, RMSD, TM-score and sequence
    identity; and the CA RMSD of all residues, superposed and in place, by chain and residue. With particles it gives
    the Fourier ring correlation with their images, what each residue contributes to it, and the stretches of residues
    that the images speak against. The geometry of the backbone, with the figures of the Ramachandran plot, is always
    assessed.
    """

    _label = "assess"
    _devStatus = BETA
    _possibleOutputs = {"outputAtomStruct": AtomStruct}

    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam(
            "inputStructure",
            params.PointerParam,
            pointerClass="AtomStruct",
            label="Model",
            important=True,
            help="Model to assess.",
        )
        form.addParam(
            "inputReference",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            label="Reference",
            important=True,
            help="Structure of the same protein that is taken as true. Its chains may have other names. A reference, a "
            "start or particles are needed.",
        )
        form.addParam(
            "inputStart",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            label="Start",
            help="Model before fine-tuning. With a reference it is compared with that too; without one the model is "
            "compared with the start, which shows what has changed. It also tells which faults of the geometry are "
            "new.",
        )
        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            pointerCondition="hasAlignmentProj",
            allowsNull=True,
            label="Particles",
            help="Their images are compared with the model: the mean Fourier ring correlation, and what each residue "
            "contributes to it. The model must lie in its place.",
        )
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.assessStep, key, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def assessStep(self, key):
        # Files of an earlier run with other inputs
        for name in (COMPARED_JSON, AFTER_JSON, BEFORE_JSON, IMAGES_JSON, ASSESSMENT_PNG, SUPPORT_PNG):
            cleanPath(self._getExtraPath(name))
        if self._reference() is not None:
            self._compareWithReference()
        if self.inputParticles.get() is not None:
            self._compareWithImages()

    def _compareWithReference(self):
        """Assess the model, and the start if it is not the reference itself, against the reference, in one frame."""
        volume = self.inputStructure.get().getVolume()
        given = {"model": self.inputStructure.get(), "reference": self._reference(), "start": self.inputStart.get()}
        paths = {name: self._getExtraPath(f"{name}_in_box.cif") for name in given if given[name] is not None}
        known = [writeInBoxFrame(given[name], path, volume) for name, path in paths.items()]
        # Without a volume all lie as they came, in one frame as far as anyone knows
        writeJson(self, {"in_place": volume is None or all(known)}, COMPARED_JSON)
        reference = {"--reference": paths["reference"]}
        options = {
            "--model": paths["model"],
            "--start": paths.get("start"),
            "--json": self._getExtraPath(AFTER_JSON),
            "--plot": self._getExtraPath(ASSESSMENT_PNG),
        }
        self.runEngine("assess", {**reference, **options})
        if "start" in paths and not self._comparesWithStart():
            options = {"--model": paths["start"], "--json": self._getExtraPath(BEFORE_JSON)}
            self.runEngine("assess", {**reference, **options})

    def _comparesImages(self):
        return self.inputParticles.get() is not None

    def _reference(self):
        """Return the structure with which the model is compared: the reference, or without one the start, or None."""
        return self.inputReference.get() or self.inputStart.get()

    def _comparesWithStart(self):
        start, reference = self.inputStart.get(), self._reference()
        return start is not None and reference.getFileName() == start.getFileName()

    def _compareWithImages(self):
        """Assess the model against the particles, in the frame of the particles' box."""
        structure = self.inputStructure.get()
        writeInputs(self, self.inputParticles.get(), structure, structure.getVolume())
        options = {
            **particleOptions(self),
            "--model": modelInBoxFrame(self),
            "--start": self.inputStart.get() and self.inputStart.get().getFileName(),
            "--json": self._getExtraPath(IMAGES_JSON),
            "--plot": self._getExtraPath(SUPPORT_PNG),
            **self._deviceOptions(),
        }
        self.runEngine("assess", options)

    def createOutputStep(self, key):
        after, images = self._readJson(AFTER_JSON), self._readJson(IMAGES_JSON)
        given = self.inputStructure.get()
        structure = given.clone()
        if given.hasVolume():
            structure.setVolume(given.getVolume())
        if after is not None:
            structure._cocofoldCaRmsd = Float(after["ca_rmsd"])
            structure._cocofoldTmScore = Float(after["tm_score"])
        if images is not None:
            structure._cocofoldFrc = Float(images["frc"])
        self._defineOutputs(outputAtomStruct=structure)
        for pointer in (self.inputStructure, self.inputReference, self.inputStart, self.inputParticles):
            if pointer.get() is not None:
                self._defineSourceRelation(pointer, structure)

    def _validate(self):
        errors = validateParticles(self.inputParticles.get())
        if self._reference() is None and self.inputParticles.get() is None:
            errors.append("There is nothing to compare the model with: give a reference, a start, or particles.")
        named = ((self.inputStructure, "model"), (self.inputReference, "reference"), (self.inputStart, "start"))
        return errors + missingFiles(*((pointer.get(), name) for pointer, name in named))

    def _summary(self):
        after, images = self._readJson(AFTER_JSON), self._readJson(IMAGES_JSON)
        if after is None and images is None:
            return ["Not assessed yet."]
        lines = []
        if after is not None:
            if self._comparesWithStart():
                lines.append("Compared with the start, so these figures say what has changed, not what is right:")
            else:
                lines.append(f"Compared with the reference, {os.path.basename(self._reference().getFileName())}:")
            lines += assessmentSummary(self._readJson(BEFORE_JSON), after, liesInPlace(self))
        if images is not None:
            lines += supportSummary(images)
        return lines + geometrySummary(after or images)
