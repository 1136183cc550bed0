"""Protocol that compares a model with a reference, with particles, or with both."""

import os

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.object import Float
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from .base import ProtCocofoldBase
from .inputs import modelInBoxFrame, particleOptions, validateParticles, writeInputs
from .summaries import assessmentSummary, geometrySummary, supportSummary


class ProtCocofoldAssess(ProtCocofoldBase):
    """Judges a model: against a structure taken as true, against particles, and by its own geometry.

    With a reference the four figures of the paper, as MM-align defines them: coverage, RMSD, TM-score and sequence
    identity; CA RMSD of all residues, superposed and in place, by chain and residue. With particles the Fourier ring
    correlation with their images, what each residue adds to it, and the stretches that the images speak against.
    Always the geometry of the backbone, with the Ramachandran plot's figures.
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
            help="Structure of the same protein, taken as true. Chains may have other names. This or particles are "
            "needed.",
        )
        form.addParam(
            "inputStart",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            label="Start",
            help="Model before fine-tuning: tells which faults of the geometry are new.",
        )

        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            pointerCondition="hasAlignmentProj",
            allowsNull=True,
            label="Particles",
            help="How well the model agrees with their images: mean Fourier ring correlation, and what each "
            "residue adds to it. The model must lie in place. This or a reference is needed.",
        )
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.assessStep, key, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def assessStep(self, key):
        # What an earlier run with other inputs left
        for name in ("after.json", "before.json", "images.json", "assessment.png", "support.png"):
            cleanPath(self._getExtraPath(name))
        reference, start = self.inputReference.get(), self.inputStart.get()
        startWords = ["--start", start and start.getFileName()]
        if reference is not None:
            against = ["--reference", reference.getFileName()]
            words = ["--model", self.inputStructure.get().getFileName(), *against, *startWords]
            words += ["--json", self._getExtraPath("after.json"), "--plot", self._getExtraPath("assessment.png")]
            self.runEngine("assess", words)
            if start is not None:
                words = ["--model", start.getFileName(), *against, "--json", self._getExtraPath("before.json")]
                self.runEngine("assess", words)
        if self.inputParticles.get() is not None:
            self._compareWithImages(startWords)

    def _compareWithImages(self, startWords):
        """Assess in the frame of the particles' box."""
        structure = self.inputStructure.get()
        writeInputs(self, self.inputParticles.get(), structure, structure.getVolume())
        words = ["--model", modelInBoxFrame(self), *particleOptions(self), *startWords, *self._deviceOptions()]
        words += ["--json", self._getExtraPath("images.json"), "--plot", self._getExtraPath("support.png")]
        self.runEngine("assess", words)

    def createOutputStep(self, key):
        after, images = self._readJson("after.json"), self._readJson("images.json")
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
        for pointer in (self.inputStructure, self.inputReference, self.inputParticles):
            if pointer.get() is not None:
                self._defineSourceRelation(pointer, structure)

    def _validate(self):
        errors = validateParticles(self.inputParticles.get())
        if self.inputReference.get() is None and self.inputParticles.get() is None:
            errors.append("There is nothing to compare the model with: give a reference, particles, or both.")
        named = ((self.inputStructure, "model"), (self.inputReference, "reference"), (self.inputStart, "start"))
        return errors + [
            f"The file of the {name} is gone: {pointer.get().getFileName()}"
            for pointer, name in named
            if pointer.get() is not None and not os.path.isfile(pointer.get().getFileName())
        ]

    def _summary(self):
        after, images = self._readJson("after.json"), self._readJson("images.json")
        if after is None and images is None:
            return ["Not assessed yet."]
        lines = []
        if after is not None:
            reference = os.path.basename(after["reference"])
            lines += [f"Compared with {reference}:", *assessmentSummary(self._readJson("before.json"), after)]
        if images is not None:
            lines += supportSummary(images)
        return lines + geometrySummary(after or images)
