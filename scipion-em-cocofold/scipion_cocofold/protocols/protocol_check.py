"""Protocol that asks whether particles, model and volume belong together."""

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import String
from pyworkflow.protocol import params

from ..frames import convertToMrc
from .base import ProtCocofoldBase, addSeed
from .inputs import addParticles, modelInBoxFrame, particleOptions, validateParticles, writeInputs
from .summaries import checkSummary

STATUS_CONTRADICTION = 1


class ProtCocofoldCheck(ProtCocofoldBase):
    """Asks 200 particles whether contrast, poses, hand, shifts, CTF and pixel size agree with a model in the map.

    Seconds spent here save hours: a wrong convention upstream shows as a clear verdict.
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
            help="Map of the particles, for a model that does not know its own: whether both go with it is asked too.",
        )
        form.addParam(
            "count",
            params.IntParam,
            default=200,
            expertLevel=params.LEVEL_ADVANCED,
            label="Particles to look at",
            validators=[params.Range(20, 100000, "from 20 to 100,000 particles")],
            help="Drawn at random. 200 tell everything but small errors of the pixel size.",
        )
        form.addParam(
            "stopIfWrong",
            params.BooleanParam,
            default=True,
            label="Stop if something is clearly wrong?",
            help="Yes: the protocol fails, and what follows in a workflow does not start. No: it only says so.",
        )
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
        words = [
            *particleOptions(self),
            "--model",
            modelInBoxFrame(self),
            "--map",
            volume and convertToMrc(volume, self._getTmpPath()),
        ]
        words += ["--count", self.count.get(), "--seed", self.seed.get()]
        words += ["--json", self._getExtraPath("check.json"), "--picture", self._getExtraPath("check.png")]
        self.runEngine("check", words + self._deviceOptions(), accepted=(0, STATUS_CONTRADICTION))
        wrong = self._readJson("check.json")["contradictions"]
        if wrong and self.stopIfWrong:
            raise PyworkflowException("; ".join(wrong))

    def createOutputStep(self, key):
        given = self.inputStructure.get()
        model = given.clone()
        volume = self._volume()
        if volume is not None:
            model.setVolume(volume)
        model._cocofoldCheck = String("; ".join(self._readJson("check.json")["contradictions"]) or "agrees")
        self._defineOutputs(outputAtomStruct=model)
        self._defineSourceRelation(self.inputParticles, model)
        self._defineSourceRelation(self.inputStructure, model)

    def _volume(self):
        # Of a model placed in the mirror image of a volume, its own volume is the mirror image
        return self.inputStructure.get().getVolume() or self.inputVolume.get()

    def _validate(self):
        return validateParticles(self.inputParticles.get())

    def _summary(self):
        return checkSummary(self._readJson("check.json"))
