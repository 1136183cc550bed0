"""Protocol that removes clashes and strain from a fine-tuned model."""

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.object import Integer
from pyworkflow.protocol import params

from ..constants import ANSWER_CIF, RELAXED_JSON
from ..models import writeMoved
from .base import ProtCocofoldBase
from .inputs import (
    frameSentence,
    missingFiles,
    modelInBoxFrame,
    outputShift,
    particleOptions,
    validateParticles,
    volumeOfStructure,
    writeInputs,
)
from .summaries import relaxedTrace, relaxSummary


class ProtCocofoldRelax(ProtCocofoldBase):
    """Removes clashes and strain from a model by molecular mechanics, with restraints to its positions.

    Proteins, DNA and RNA move. Missing side chains are built. Peptides stay cis or trans, residues keep their
    chirality, and ligands, sugars and modified nucleotides do not move.
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
            help="A force from their images acts on the model while it is relaxed, so that relaxation does not undo "
            "the fit. Empty: only the force field acts, with restraints to the input positions.",
        )
        form.addParam(
            "hydrogens",
            params.BooleanParam,
            default=False,
            label="Keep hydrogens?",
            help="Hydrogens are used in any case. Yes: they are written into the model.",
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
        if self.inputParticles.get() is None:
            inputs = {"--model": self.inputStructure.get().getFileName()}
        else:
            inputs = {"--model": modelInBoxFrame(self), **particleOptions(self)}
        options = {
            **inputs,
            "--out": self._getExtraPath("relaxed.cif"),
            "--json": self._getExtraPath(RELAXED_JSON),
            "--threads": self.numberOfThreads.get(),
            # The form's number is what the user wants
            "--oversubscribe": True,
            "--hydrogens": self.hydrogens.get(),
            **self._deviceOptions(),
        }
        self.runEngine("relax", options)

    def createOutputStep(self, key):
        given, relaxed = self.inputStructure.get(), self._getExtraPath("relaxed.cif")
        if self.inputParticles.get() is not None:
            shown = self._getExtraPath(ANSWER_CIF)
            writeMoved(relaxed, shown, outputShift(self, self._volume(), self.inputParticles.get()))
            relaxed = shown
        structure = AtomStruct(filename=relaxed)
        if given.hasVolume():
            structure.setVolume(given.getVolume())
        structure._cocofoldClashes = Integer(len(self._readJson(RELAXED_JSON)["after"]["clashes"]))
        self._defineOutputs(outputAtomStruct=structure)
        for source in (self.inputStructure, self.inputParticles):
            if source.get() is not None:
                self._defineSourceRelation(source, structure)

    def _volume(self):
        return volumeOfStructure(self.inputStructure.get(), None)

    def _validate(self):
        return missingFiles((self.inputStructure.get(), "model")) + validateParticles(self.inputParticles.get())

    def _summary(self):
        found = self._readJson(RELAXED_JSON)
        lines = ["Not relaxed yet."] if found is None else relaxSummary(found)
        return lines + ([frameSentence(self)] if frameSentence(self) else [])

    def _methods(self):
        found = self._readJson(RELAXED_JSON)
        if found is None:
            return []
        return [
            "The model was relaxed in implicit solvent with Amber14 by OpenMM [eastman2017], with restraints to its "
            "positions that were reduced in stages, in CoCoFold [cocofold2026]; "
            f"{relaxedTrace(found)} atoms moved by {found['moved_angstrom']:.2f} Å (rms)."
        ]

    def _citations(self):
        return [*super()._citations(), "eastman2017"]
