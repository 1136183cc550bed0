"""Protocol that makes a fine-tuned model fit for deposition."""

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.object import Integer
from pyworkflow.protocol import params

from ..frames import writeMoved
from .base import ProtCocofoldBase
from .inputs import (
    frameSentence,
    modelInBoxFrame,
    outputShift,
    particleOptions,
    validateParticles,
    volumeOfStructure,
    writeInputs,
)
from .summaries import relaxSummary


class ProtCocofoldRelax(ProtCocofoldBase):
    """Takes clashes and strain out of a model by molecular mechanics, held to where the images put it.

    Missing side chains are built. Peptides stay cis or trans, residues keep their hand; ligands and nucleic acids stay
    where they are.
    """

    _label = "relax"
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
            help="Model to relax, such as the output of 'fine-tune'. 214 residues take about a minute on two cores.",
        )
        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            pointerCondition="hasAlignmentProj",
            allowsNull=True,
            label="Particles",
            help="Their images pull at the model while it is relaxed, so that relaxation does not undo the fit. Empty: "
            "the force field alone, with restraints to the positions given.",
        )
        form.addParam(
            "hydrogens",
            params.BooleanParam,
            default=False,
            label="Keep hydrogens?",
            help="They are used in any case; yes writes them into the model.",
        )
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.convertStep, key, needsGPU=False)
        self._insertFunctionStep(self.relaxStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def convertStep(self, key):
        if self.inputParticles.get() is not None:
            writeInputs(self, self.inputParticles.get(), self.inputStructure.get(), self._volume())

    def relaxStep(self, key):
        words = ["--out", self._getExtraPath("relaxed.cif"), "--json", self._getExtraPath("relaxed.json")]
        if self.inputParticles.get() is None:
            words += ["--model", self.inputStructure.get().getFileName()]
        else:
            words += ["--model", modelInBoxFrame(self), *particleOptions(self)]
        words += ["--threads", self.numberOfThreads.get()] + (["--hydrogens"] if self.hydrogens else [])
        self.runEngine("relax", words + self._deviceOptions())

    def createOutputStep(self, key):
        given, relaxed = self.inputStructure.get(), self._getExtraPath("relaxed.cif")
        if self.inputParticles.get() is not None:
            shown = self._getExtraPath("model.cif")
            writeMoved(relaxed, shown, outputShift(self, self._volume(), self.inputParticles.get()))
            relaxed = shown
        structure = AtomStruct(filename=relaxed)
        if given.hasVolume():
            structure.setVolume(given.getVolume())
        structure._cocofoldClashes = Integer(len(self._readJson("relaxed.json")["after"]["clashes"]))
        self._defineOutputs(outputAtomStruct=structure)
        self._defineSourceRelation(self.inputStructure, structure)

    def _volume(self):
        return volumeOfStructure(self.inputStructure.get(), None)

    def _validate(self):
        return validateParticles(self.inputParticles.get())

    def _summary(self):
        found = self._readJson("relaxed.json")
        lines = ["Not relaxed yet."] if found is None else relaxSummary(found)
        return lines + ([frameSentence(self)] if frameSentence(self) else [])

    def _methods(self):
        found = self._readJson("relaxed.json")
        if found is None:
            return []
        return [
            "The model was relaxed in implicit solvent with Amber14 by OpenMM, with restraints to its positions that "
            f"faded, in CoCoFold [cocofold2026]; CA atoms moved by {found['moved_angstrom']:.2f} Å (rms)."
        ]
