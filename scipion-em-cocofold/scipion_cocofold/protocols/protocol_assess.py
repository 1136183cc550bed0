"""Protocol that compares a model with a reference."""

import os

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.object import Float
from pyworkflow.protocol import params

from .base import ProtCocofoldBase
from .inputs import boxedModel, particleWords, validateParticles, writeInputs
from .summaries import assessmentSummary


class ProtCocofoldAssess(ProtCocofoldBase):
    """Compares a model with a structure taken as true: the four figures of the paper, as MM-align defines them.

    Coverage, RMSD, TM-score and sequence identity; CA RMSD of all residues, superposed and in place; each chain and
    residue; the geometry of the backbone.
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
            label="Reference",
            important=True,
            help="Structure of the same protein, taken as true. Chains may have other names.",
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
            help="How well the model agrees with their images: mean Fourier ring correlation. The model lies in place.",
        )
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._key()
        self._insertFunctionStep(self.assessStep, key, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def assessStep(self, key):
        model, reference = self.inputStructure.get().getFileName(), self.inputReference.get().getFileName()
        start = self.inputStart.get()
        words = ["--model", model, "--reference", reference, "--start", start and start.getFileName()]
        words += ["--json", self._getExtraPath("after.json"), "--plot", self._getExtraPath("assessment.png")]
        self.runEngine("assess", words)
        if self.inputParticles.get() is not None:
            self._compareWithImages(reference)
        if start is not None:
            words = [
                "--model",
                start.getFileName(),
                "--reference",
                reference,
                "--json",
                self._getExtraPath("before.json"),
            ]
            self.runEngine("assess", words)

    def _compareWithImages(self, reference):
        """Assess again in the frame of the particles' box, for their agreement alone."""
        structure = self.inputStructure.get()
        writeInputs(self, self.inputParticles.get(), structure, structure.getVolume())
        words = ["--model", boxedModel(self), "--reference", reference, *particleWords(self), *self._deviceWords()]
        self.runEngine("assess", [*words, "--json", self._getExtraPath("images.json")])

    def createOutputStep(self, key):
        found = self._readJson("after.json")
        given = self.inputStructure.get()
        structure = given.clone()
        if given.hasVolume():
            structure.setVolume(given.getVolume())
        structure._cocofoldCaRmsd = Float(found["ca_rmsd"])
        structure._cocofoldTmScore = Float(found["tm_score"])
        self._defineOutputs(outputAtomStruct=structure)
        self._defineSourceRelation(self.inputStructure, structure)
        self._defineSourceRelation(self.inputReference, structure)

    def _validate(self):
        errors = validateParticles(self.inputParticles.get())
        named = ((self.inputStructure, "model"), (self.inputReference, "reference"), (self.inputStart, "start"))
        return errors + [
            f"The file of the {name} is gone: {pointer.get().getFileName()}"
            for pointer, name in named
            if pointer.get() is not None and not os.path.isfile(pointer.get().getFileName())
        ]

    def _summary(self):
        after, images = self._readJson("after.json"), self._readJson("images.json")
        if after is None:
            return ["Not assessed yet."]
        lines = [f"Agreement with the images: {images['frc']:.4f}."] if images else []
        reference = os.path.basename(self.inputReference.get().getFileName())
        return [f"Compared with {reference}:", *assessmentSummary(self._readJson("before.json"), after), *lines]
