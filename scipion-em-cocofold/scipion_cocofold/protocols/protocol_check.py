"""Protocol that asks whether particles, model and volume belong together."""

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import String
from pyworkflow.protocol import params

from ..constants import CHECK_JSON, CHECK_PNG
from ..frames import convertToMrc
from .base import EngineRange, ProtCocofoldBase, addSeed
from .inputs import (
    addParticles,
    missingFiles,
    modelInBoxFrame,
    particleOptions,
    validateParticles,
    validateScale,
    warnOfScale,
    writeInputs,
)
from .protocol_fit import B_FACTOR_CHOICES, addBFactors
from .summaries import checkSummary

# Exit status of the engine where something is clearly wrong
STATUS_CONTRADICTION = 1


class ProtCocofoldCheck(ProtCocofoldBase):
    """Tests on 200 particles whether contrast, poses, hand, shifts, CTF and pixel size agree with a model in the map.

    It takes seconds and can save hours: a wrong convention upstream shows as a clear verdict.
    """

    _label = "check inputs"
    _devStatus = BETA
    _possibleOutputs = {"outputAtomStruct": AtomStruct}

    def _defineParams(self, form):
        form.addSection("Input")
        addParticles(form)
        form.addParam(
            "inputStructure",
            params.PointerParam,
            pointerClass="AtomStruct",
            label="Model, placed",
            important=True,
            help="Model that lies in the particles' map, such as the output of 'fit model in map'.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            label="Volume",
            help="Map of the particles, for a model that belongs to no volume yet. Whether particles and model agree "
            "with the map is then tested too.",
        )
        form.addParam(
            "count",
            params.IntParam,
            default=200,
            expertLevel=params.LEVEL_ADVANCED,
            label="Particles to test",
            validators=[EngineRange("check --count")],
            help="They are drawn at random. 200 show all errors but small ones of the pixel size.",
        )
        form.addParam(
            "stopIfWrong",
            params.BooleanParam,
            default=True,
            label="Stop if something is clearly wrong?",
            help="Yes: the protocol fails, and the protocols that follow in a workflow do not start. No: the error is "
            "only reported.",
        )
        addBFactors(form)
        addSeed(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.convertStep, key, needsGPU=False)
        self._insertFunctionStep(self.checkStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def convertStep(self, key):
        writeInputs(self, self.inputParticles.get(), self.inputStructure.get(), self._volume())

    def checkStep(self, key):
        volume = self._volume()
        options = {
            **particleOptions(self),
            "--model": modelInBoxFrame(self),
            "--map": volume and convertToMrc(volume, self._getTmpPath()),
            "--count": self.count.get(),
            "--seed": self.seed.get(),
            "--b-factors": B_FACTOR_CHOICES[self.bFactors.get()],
            "--json": self._getExtraPath(CHECK_JSON),
            "--picture": self._getExtraPath(CHECK_PNG),
            **self._deviceOptions(),
        }
        self.runEngine("check", options, accepted=(0, STATUS_CONTRADICTION))
        wrong = self._readJson(CHECK_JSON)["contradictions"]
        if wrong and self.stopIfWrong:
            raise PyworkflowException(" ".join(wrong))

    def createOutputStep(self, key):
        given = self.inputStructure.get()
        model = given.clone()
        volume = self._volume()
        if volume is not None:
            model.setVolume(volume)
        model._cocofoldCheck = String(" ".join(self._readJson(CHECK_JSON)["contradictions"]) or "agrees")
        self._defineOutputs(outputAtomStruct=model)
        for source in (self.inputParticles, self.inputStructure, self.inputVolume):
            if source.get() is not None:
                self._defineSourceRelation(source, model)

    def _volume(self):
        # The volume of a model that was placed in a mirror image is that mirror image, so it comes first
        return self.inputStructure.get().getVolume() or self.inputVolume.get()

    def _validate(self):
        gone = missingFiles((self.inputStructure.get(), "model"), (self.inputVolume.get(), "volume"))
        particles, structure = self.inputParticles.get(), self.inputStructure.get()
        errors = gone + validateParticles(particles)
        return errors + (validateScale(particles, self._volume()) if structure is not None else [])

    def _warnings(self):
        return warnOfScale(self.inputParticles.get())

    def _summary(self):
        return checkSummary(self._readJson(CHECK_JSON))
