"""Protocol of fine-tuning: a model or prediction is moved until it explains the particle images."""

import contextlib
import csv
import os
import shutil
import threading

from pwem.objects import AtomStruct, SetOfAtomStructs, SetOfClasses3D, SetOfParticles, Volume
from pyworkflow.constants import BETA
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Float, String
from pyworkflow.utils import cleanPath

from ..constants import (
    AFTER_JSON,
    ANSWER_CIF,
    ASSESSMENT_PNG,
    BEFORE_JSON,
    CHECK_JSON,
    COMPARED_JSON,
    CONFIG_YAML,
    METRICS_CSV,
    METRICS_JSON,
    PLACED_FOLDER,
    PLACEMENT_JSON,
    RUN_FOLDER,
    START_CIF,
    VERDICT_JSON,
)
from ..frames import linkForViewers, originOf
from ..models import isPlaced, writeMoved
from ..objects import CocofoldPlacement, CocofoldPrediction
from ..verdict import writeVerdict
from .base import ProtCocofoldBase
from .finetune_form import PLACE_NO, PLACE_YES, PRESETS, REFINEMENTS, clashingSettings, defineFinetuneParams
from .finetune_outputs import cycleModels, gaussianVolume, refinedParticles
from .inputs import (
    contextInBoxFrame,
    frameSentence,
    liesInPlace,
    missingFiles,
    modelInBoxFrame,
    outputShift,
    particleOptions,
    validateParticles,
    validateScale,
    volumeOfStructure,
    warnOfScale,
    writeContext,
    writeInBoxFrame,
    writeInputs,
    writeJson,
)
from .protocol_fit import (
    B_FACTOR_CHOICES,
    fitOptions,
    mirroredVolume,
    modelOptions,
    placedOutputs,
    symmetryOption,
    validateFit,
)
from .states import stateOptions, stateOutputs, stateSummary
from .summaries import (
    assessmentSummary,
    checkSummary,
    finetuneMethods,
    finetuneSummary,
    placementDoubts,
    placementMethods,
    placementSummary,
    progressLines,
)

# Fewer particles hardly ever give a clear verdict
_FEW_PARTICLES = 50
# How often the run's folder is looked at; cycles take seconds at least
_POLL_INTERVAL_S = 3.0


class ProtCocofoldFinetune(ProtCocofoldBase):
    """Moves a predicted model, or fine-tunes AlphaFold-Multimer's structure module, against raw particle images.

    Connect particles, a model and their volume: inputs are checked, and the model is placed, fine-tuned and judged by
    held-out particles. While the protocol runs, the best model so far is already an output.
    """

    _label = "fine-tune"
    _devStatus = BETA
    _possibleOutputs = {
        "outputAtomStruct": AtomStruct,
        "outputVolume": Volume,
        "outputMap": Volume,
        "outputPlacement": CocofoldPlacement,
        "outputCycles": SetOfAtomStructs,
        "outputStates": SetOfAtomStructs,
        "outputClasses": SetOfClasses3D,
        "outputParticles": SetOfParticles,
    }

    def _defineParams(self, form):
        defineFinetuneParams(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=1)

    # --------------------------- steps
    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.convertStep, key, needsGPU=False)
        if self._fitsFirst():
            self._insertFunctionStep(self.fitStep, key)
        self._insertFunctionStep(self.finetuneStep, key)
        if self.inputReference.get() is not None:
            self._insertFunctionStep(self.assessStep, key, needsGPU=False)
        if self.makeReport:
            self._insertFunctionStep(self.reportStep, key, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def convertStep(self, key):
        # Files of an earlier run with other inputs, which summary and verdict would tell of this one
        for name in (VERDICT_JSON, COMPARED_JSON, BEFORE_JSON, AFTER_JSON, ASSESSMENT_PNG, PLACED_FOLDER):
            cleanPath(self._getExtraPath(name))
        structure = self.inputModel.get() if self._modelIsInPlace() else None
        writeInputs(self, self.inputParticles.get(), structure, self._volume())

    def fitStep(self, key):
        folder = self._getExtraPath(PLACED_FOLDER)
        shutil.rmtree(folder, ignore_errors=True)
        options = {**modelOptions(self.inputModel.get()), **fitOptions(self, self._volume(), self._getTmpPath())}
        self.runEngine("fit", {**options, "--out": folder, **self._deviceOptions()})
        doubts = placementDoubts(self._readJson(PLACED_FOLDER, "placement.json"))
        if doubts and not self.acceptPlacement:
            raise PyworkflowException(
                f"Where the model lies in the volume is not certain: {'; '.join(doubts)}. Look at placement.png in "
                f"{folder}; then give a placement that is right, or go on from this one (Accept a doubtful placement)."
            )

    def finetuneStep(self, key):
        run = self._runFolder()
        resumes = self._isFolderOf(run, key) and os.path.isfile(os.path.join(run, CONFIG_YAML))
        if not resumes:
            self._startFolder(run, key)
            if self.inputContext.get() is not None:
                writeContext(self, self._volumeOfResult(), self.inputParticles.get())
        options = {"--processes": self._processes(len(self._gpus())), "--oversubscribe": self.oversubscribe.get()}
        self._runShowingBestModel({**self._finetuneOptions(), **options, "--resume": resumes})

    def assessStep(self, key):
        reference = self._getExtraPath("reference.cif")
        given, volume = self.inputReference.get(), self._volumeOfResult()
        isKnown = writeInBoxFrame(given, reference, volume, self.inputParticles.get())
        writeJson(self, {"in_place": isKnown}, COMPARED_JSON)
        start = {"--model": self._startModel(), "--json": self._getExtraPath(BEFORE_JSON)}
        self.runEngine("assess", {**start, "--reference": reference})
        result = {
            "--model": os.path.join(self._runFolder(), ANSWER_CIF),
            "--start": self._startModel(),
            "--json": self._getExtraPath(AFTER_JSON),
            "--plot": self._getExtraPath(ASSESSMENT_PNG),
        }
        self.runEngine("assess", {**result, "--reference": reference})

    def reportStep(self, key):
        volume = self._volumeOfResult()
        shift = outputShift(self, volume, self.inputParticles.get())
        # Without a volume ISOLDE shows the Gaussians, which lie where the models do
        options = {"--particles-dir": os.getcwd(), "--map-origin": shift.tolist(), "--model-shift": shift.tolist()}
        options["--title"] = f"{self.getProject().getShortName()}, {self.getRunName()}"
        if volume is not None:
            options["--map"] = linkForViewers(volume, self._getExtraPath())
            options["--map-origin"] = originOf(volume).tolist()
        self.runEngine("report", options, arguments=[self._runFolder()])

    def createOutputStep(self, key):
        volume = self._volumeOfResult()
        outputs = {}
        if self._fitsFirst():
            placed = placedOutputs(self, self._getExtraPath(PLACED_FOLDER), self._volume())
            outputs["outputPlacement"] = placed["outputPlacement"]
            if "outputVolume" in placed:
                outputs["outputMap"] = volume
        outputs["outputVolume"] = gaussians = gaussianVolume(self, volume)
        target = self._getExtraPath(ANSWER_CIF)
        outputs["outputAtomStruct"] = self._writeStructure(ANSWER_CIF, target, volume or gaussians)
        if self.keepCycles:
            outputs["outputCycles"] = cycleModels(self, volume or gaussians)
        outputs.update(stateOutputs(self, volume or gaussians))
        poses = (self._readMetrics() or {}).get("poses") or {}
        if poses.get("refined"):
            outputs["outputParticles"] = refinedParticles(self)
        writeVerdict(self)
        self._defineOutputs(**outputs)
        for output in outputs.values():
            for source in self._sourcesOfOutputs():
                if source.hasValue():
                    self._defineSourceRelation(source, output)

    # --------------------------- what the steps do
    def _sourcesOfOutputs(self):
        """Return the pointers to what the outputs are made of."""
        return (self.inputParticles, self.inputModel, self.inputVolume, self.inputPlacement, self.inputContext)

    def _processes(self, gpus):
        # One for each GPU
        return max(1, self.numberOfMpi.get(), gpus)

    def _fitsFirst(self):
        if self._volume() is None or self.inputPlacement.get() is not None or self.place.get() == PLACE_NO:
            return False
        given = self.inputModel.get()
        if given is None:
            return False
        return (
            self.place.get() == PLACE_YES or isinstance(given, CocofoldPrediction) or not isPlaced(given.getFileName())
        )

    def _modelIsInPlace(self):
        return self.inputPlacement.get() is None and not self._fitsFirst()

    def _volume(self):
        given = self.inputModel.get()
        # A model that was placed belongs to its volume, which may be the mirror image of the one that is given
        if isinstance(given, AtomStruct) and given.hasVolume() and isPlaced(given.getFileName()):
            return given.getVolume()
        return volumeOfStructure(given, self.inputVolume.get())

    def _volumeOfResult(self):
        """Return the volume on which the result lies: the mirror image where the hand was wrong; None without one."""
        volume, placement = self._volume(), self._placementFile()
        if volume is None or placement is None:
            return volume
        return mirroredVolume(volume, os.path.dirname(placement)) or volume

    def _placementFile(self):
        """Return the path of the placement that is connected or was found here; None for a model in its place."""
        if self._modelIsInPlace():
            return None
        given = self.inputPlacement.get()
        return given.getFileName() if given else self._getExtraPath(PLACED_FOLDER, PLACEMENT_JSON)

    def _runFolder(self):
        return self._getExtraPath(RUN_FOLDER)

    def _startModel(self):
        """Return the path of the model at cycle 0, which has the atoms and the place that the run began with."""
        return os.path.join(self._runFolder(), START_CIF)

    def _finetuneOptions(self):
        """Return the options of the verb ``finetune`` but those on processes and resuming."""
        options = {
            **particleOptions(self),
            **self._startOptions(),
            "--context": contextInBoxFrame(self),
            "--out": self._runFolder(),
            "--max-particles": self.maxParticles.get() or None,
            "--heldout": self.heldout.get(),
            "--cycles": self.cycles.get(),
            "--batch-size": self.batchSize.get(),
            "--resolution": self.resolution.get(),
            "--refine-poses": REFINEMENTS[self.refinePoses.get()],
            "--effort": self.effort.get(),
            "--seed": self.seed.get(),
            "--b-factors": B_FACTOR_CHOICES[self.bFactors.get()],
            "--remove-below": self.removeBelow.get(),
            "--no-check": not self.checkFirst.get(),
            **stateOptions(self),
            **self._deviceOptions(),
        }
        if isinstance(self.inputModel.get(), CocofoldPrediction):
            options["--preset"] = PRESETS[self.preset.get()]
            options["--deform"] = self.deform.get()
        return options

    def _startOptions(self):
        """Return the options that name the model or prediction, its place and its symmetry."""
        if self._modelIsInPlace():
            return {"--model": modelInBoxFrame(self), "--symmetry": symmetryOption(self)}
        return {**modelOptions(self.inputModel.get()), "--placement": self._placementFile()}

    def _runShowingBestModel(self, options):
        """Run the engine; while it runs, its best model so far is an output."""
        failures = []

        def work():
            try:
                self.runEngine("finetune", options)
            except Exception as error:
                failures.append(error)

        # Only the job runs in a thread: the project's database belongs to this one
        job = threading.Thread(target=work, daemon=True)
        job.start()
        shown = None
        while job.is_alive():
            job.join(_POLL_INTERVAL_S)
            written = self._timeOfAnswer()
            if job.is_alive() and written is not None and written != shown:
                self._outputBestSoFar()
                shown = written
        if failures:
            raise failures[0]

    def _timeOfAnswer(self):
        """Return when the engine last wrote its best model so far (ns), None before the end of the first cycle.

        The engine decides which cycle that is: the gain must be clear, and the geometry sound. Until a cycle is
        accepted the best model is the start.
        """
        path = os.path.join(self._runFolder(), ANSWER_CIF)
        if len(self._readCycles()) < 2 or not os.path.isfile(path):
            return None
        return os.stat(path).st_mtime_ns

    def _readCycles(self):
        """Return the rows of ``metrics.csv``, one for each cycle; none before the run has started."""
        path = os.path.join(self._runFolder(), METRICS_CSV)
        if not os.path.isfile(path):
            return []
        with open(path, newline="") as table:
            return list(csv.DictReader(table))

    def _outputBestSoFar(self):
        structure = self._writeStructure(ANSWER_CIF, self._getExtraPath("model_so_far.cif"), self._volumeOfResult())
        self._defineOutputs(outputAtomStruct=structure)
        # The window shows what is stored, and steps store only at their ends
        self._store()

    def _writeStructure(self, name, target, volume):
        """Write a model of the run's folder in Scipion's frame; return it with its volume and the verdict."""
        writeMoved(os.path.join(self._runFolder(), name), target, outputShift(self, volume, self.inputParticles.get()))
        structure = AtomStruct(filename=target)
        if volume is not None:
            structure.setVolume(volume)
        metrics = self._readMetrics()
        if metrics is not None:
            structure._cocofoldVerdict = String(metrics["verdict"])
            structure._cocofoldFrcHeldout = Float(metrics["frc_heldout"])
        return structure

    def _readMetrics(self):
        """Return the figures of the finished run, None before its end."""
        return self._readJson(RUN_FOLDER, METRICS_JSON)

    def setFailed(self, msg):
        """Tell pipelines that there is no verdict, and why."""
        super().setFailed(msg)
        # The folder may be what failed, and the status must be told in any case
        with contextlib.suppress(OSError):
            writeVerdict(self, error=str(msg).strip())

    # --------------------------- information
    def _validate(self):
        given = self.inputModel.get()
        others = ((self.inputReference, "reference"), (self.inputMask, "mask"), (self.inputContext, "context"))
        errors = missingFiles((given, "model"), *((pointer.get(), name) for pointer, name in others))
        particles, volume = self.inputParticles.get(), self._volume()
        errors += validateParticles(particles) + validateFit(volume) + validateScale(particles, volume)
        if isinstance(given, CocofoldPrediction) and self._volume() is None and self.inputPlacement.get() is None:
            errors.append("The place of a prediction is not known: give the volume of the particles, or a placement.")
        errors += clashingSettings(self)
        if self._modelIsInPlace() and self.symmetry.get("").strip().lower() == "auto":
            errors.append(
                "The symmetry 'auto' is found from a volume in which the model is placed: name the point group."
            )
        if isinstance(given, AtomStruct) and self._fitsFirst() and isPlaced(given.getFileName()):
            errors.append("This model was placed by CoCoFold already: set 'Place the model' to auto or no.")
        return errors

    def _warnings(self):
        particles = self.inputParticles.get()
        warnings = warnOfScale(particles)
        if particles is not None and particles.getSize() < _FEW_PARTICLES:
            warnings.append(f"There are only {int(particles.getSize())} particles: expect a verdict of 'undecided'.")
        return warnings

    def _summary(self):
        metrics = self._readMetrics()
        lines = progressLines(self._readCycles()) if metrics is None else finetuneSummary(metrics)
        lines += stateSummary(metrics or {})
        after = self._readJson(AFTER_JSON)
        lines += assessmentSummary(self._readJson(BEFORE_JSON), after, liesInPlace(self)) if after else []
        frame = frameSentence(self)
        lines += [frame] if frame and self._modelIsInPlace() else []
        placement, check = self._readJson(PLACED_FOLDER, PLACEMENT_JSON), self._readJson(RUN_FOLDER, CHECK_JSON)
        lines += placementSummary(placement) if placement else []
        return lines + (checkSummary(check) if check else [])

    def _methods(self):
        metrics, placement = self._readMetrics(), self._readJson(PLACED_FOLDER, PLACEMENT_JSON)
        if metrics is None:
            return []
        isPrediction = isinstance(self.inputModel.get(), CocofoldPrediction)
        sentences = [finetuneMethods(metrics, isPrediction, self.inputContext.hasValue())]
        return [placementMethods(placement), *sentences] if placement else sentences

    def _citations(self):
        network = ["jumper2021", "evans2021"] if isinstance(self.inputModel.get(), CocofoldPrediction) else []
        # The viewer leads on to ISOLDE
        return [*super()._citations(), *network, "croll2018"]
