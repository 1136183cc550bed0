"""Protocol that selects particles for fine-tuning."""

from pwem.objects import SetOfParticles
from pyworkflow.constants import BETA
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from ..constants import SELECTED_JSON
from ..convert import appendSelectedParticles
from .base import EngineRange, ProtCocofoldBase, addSeed
from .inputs import (
    addParticles,
    missingFiles,
    modelInBoxFrame,
    particleOptions,
    validateParticles,
    volumeOfStructure,
    writeInputs,
)

SELECTION_MODES = ["random", "views", "frc"]
BY_RANDOM, BY_VIEWS, BY_FRC = range(3)


class ProtCocofoldSelect(ProtCocofoldBase):
    """Selects some of the particles: at random, evenly over views, or those that agree best with a model.

    Held-out particles are drawn from all particles before anything is selected. Fine-tuning holds out exactly these.
    """

    _label = "select particles"
    _devStatus = BETA
    _possibleOutputs = {"outputParticles": SetOfParticles}

    def _defineParams(self, form):
        form.addSection("Input")
        addParticles(form)
        form.addParam(
            "count",
            params.IntParam,
            default=3000,
            label="Particles to select",
            validators=[EngineRange("select --count")],
            help="Number of particles, including the held-out ones: 5 % of them and at least 50, or a fifth of fewer "
            "than 500. The paper used 3,000 of 75,600.",
        )
        form.addParam(
            "by",
            params.EnumParam,
            choices=["at random", "evenly over views", "agreement with a model"],
            default=BY_RANDOM,
            label="Select",
            help="agreement with a model: by Fourier ring correlation. *A model that selects its own images biases the "
            "result towards itself*: where a quarter of the molecules were in the start's state, two thirds of the "
            "selected ones were, and the model stayed where it was. It helps where many images show no particle.",
        )
        form.addParam(
            "inputStructure",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            condition=f"by == {BY_FRC}",
            label="Model, placed",
            help="Model that lies in the particles' map.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            condition=f"by == {BY_FRC}",
            label="Volume",
            help="Map of the particles, from which the frame of the model is found. Empty: the model's own volume.",
        )
        addSeed(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.convertStep, key, needsGPU=False)
        self._insertFunctionStep(self.selectStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def convertStep(self, key):
        structure = self.inputStructure.get() if self.by.get() == BY_FRC else None
        volume = volumeOfStructure(structure, self.inputVolume.get())
        writeInputs(self, self.inputParticles.get(), structure, volume)

    def selectStep(self, key):
        star = self._getPath("selected.star")
        cleanPath(star)
        options = {
            **particleOptions(self),
            "--by": SELECTION_MODES[self.by.get()],
            "--count": self.count.get(),
            "--seed": self.seed.get(),
            "--model": modelInBoxFrame(self) if self.by.get() == BY_FRC else None,
            "--out": star,
            "--json": self._getExtraPath(SELECTED_JSON),
            **self._deviceOptions(),
        }
        self.runEngine("select", options)

    def createOutputStep(self, key):
        found = self._readJson(SELECTED_JSON)
        selected = self._createSetOfParticles()
        appendSelectedParticles(
            self.inputParticles.get(), found["selected"], found["held_out"], found["scored_rings"] or [], selected
        )
        self._defineOutputs(outputParticles=selected)
        self._defineSourceRelation(self.inputParticles, selected)
        if self.by.get() == BY_FRC:
            self._defineSourceRelation(self.inputStructure, selected)

    def _comparesImages(self):
        return self.by.get() == BY_FRC

    def _validate(self):
        particles = self.inputParticles.get()
        errors = validateParticles(particles)
        # An emptied field is said to be no number by its own validator
        if None not in (particles, self.count.get()) and self.count.get() > particles.getSize():
            errors.append(f"{self.count.get()} particles cannot be selected of {particles.getSize()}; give fewer.")
        if self.by.get() == BY_FRC:
            errors += missingFiles((self.inputStructure.get(), "model"), (self.inputVolume.get(), "volume"))
            if self.inputStructure.get() is None:
                errors.append("To select by agreement with a model, give the model.")
        return errors

    def _summary(self):
        found = self._readJson(SELECTED_JSON)
        if found is None:
            return ["Not selected yet."]
        lines = [
            f"{len(found['selected']) + len(found['held_out'])} of {found['of_particles']} particles, "
            f"{len(found['held_out'])} of them held out, which were drawn before the selection."
        ]
        if self.by.get() == BY_FRC:
            lines.append("Selected by agreement with the model: the result is biased towards it.")
        return lines
