"""The protocol that all others serve: a model or prediction is moved until it explains the particle images."""

import csv
import json
import os
import shutil
import threading

from pwem.objects import AtomStruct, SetOfAtomStructs, Volume
from pyworkflow.constants import BETA
from pyworkflow.object import Float, String

from ..frames import isPlaced, writeMoved
from ..objects import CocofoldPlacement, CocofoldPrediction
from .base import ProtCocofoldBase
from .finetune_form import PLACE_NO, PLACE_YES, PRESETS, defineFinetuneParams
from .inputs import (
    frameSentence,
    modelInBoxFrame,
    outputShift,
    particleOptions,
    validateParticles,
    volumeOfStructure,
    writeInputs,
)
from .protocol_fit import fitOptions, modelOptions, placedOutputs, validateFit
from .summaries import (
    assessmentSummary,
    checkSummary,
    finetuneMethods,
    finetuneSummary,
    placementSummary,
    progressLines,
)

_POLL_INTERVAL_S = 3.0


class ProtCocofoldFinetune(ProtCocofoldBase):
    """Moves a predicted model, or fine-tunes AlphaFold-Multimer's structure module, against raw particle images.

    Connect particles, a model and their volume: inputs are checked, the model is placed, fine-tuned and judged by
    particles that were held out. While it runs, the best model so far is already an output.
    """

    _label = "fine-tune"
    _devStatus = BETA
    _possibleOutputs = {
        "outputAtomStruct": AtomStruct,
        "outputVolume": Volume,
        "outputMap": Volume,
        "outputPlacement": CocofoldPlacement,
        "outputCycles": SetOfAtomStructs,
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
        structure = self.inputModel.get() if self._modelIsInPlace() else None
        writeInputs(self, self.inputParticles.get(), structure, self._volume())

    def fitStep(self, key):
        shutil.rmtree(self._getExtraPath("placed"), ignore_errors=True)
        words = modelOptions(self.inputModel.get()) + fitOptions(self, self._volume(), self._getTmpPath())
        self.runEngine("fit", [*words, "--out", self._getExtraPath("placed"), *self._deviceOptions()])

    def finetuneStep(self, key):
        run = self._runFolder()
        resumes = self._runFolderIsOf(key) and os.path.isfile(os.path.join(run, "config.yaml"))
        if not resumes:
            shutil.rmtree(run, ignore_errors=True)
            with open(self._getExtraPath("run.key"), "w") as kept:
                kept.write(key)
        # One process for each GPU
        processes = ["--processes", max(1, self.numberOfMpi.get(), len(self._gpus()))]
        self._runShowingBestModel([*self._finetuneOptions(), *processes, *(["--resume"] if resumes else [])])

    def assessStep(self, key):
        reference = self._getExtraPath("reference" + os.path.splitext(self.inputReference.get().getFileName())[1])
        shutil.copyfile(self.inputReference.get().getFileName(), reference)
        for name, model in (("before", self._startModel()), ("after", os.path.join(self._runFolder(), "model.cif"))):
            words = ["--model", model, "--reference", reference, "--json", self._getExtraPath(f"{name}.json")]
            if name == "after":
                words += ["--start", self._startModel(), "--plot", self._getExtraPath("assessment.png")]
            self.runEngine("assess", words)

    def reportStep(self, key):
        self.runEngine("report", [self._runFolder(), "--particles-dir", os.getcwd()])

    def createOutputStep(self, key):
        volume = self._volume()
        outputs = {}
        if self._fitsFirst():
            placed = placedOutputs(self, self._getExtraPath("placed"), volume)
            outputs["outputPlacement"] = placed["outputPlacement"]
            if "outputVolume" in placed:
                outputs["outputMap"] = volume = placed["outputVolume"]
        gaussians = self._gaussianVolume(volume)
        outputs["outputVolume"] = gaussians
        outputs["outputAtomStruct"] = self._structure("model.cif", self._getExtraPath("model.cif"), volume or gaussians)
        if self.keepCycles:
            outputs["outputCycles"] = self._cycles(volume or gaussians)
        self._writeVerdict()
        self._defineOutputs(**outputs)
        for output in outputs.values():
            for source in (self.inputParticles, self.inputModel, self.inputVolume):
                if source.hasValue():
                    self._defineSourceRelation(source, output)

    # --------------------------- what the steps do
    def _fitsFirst(self):
        if self._volume() is None or self.inputPlacement.get() is not None or self.place.get() == PLACE_NO:
            return False
        given = self.inputModel.get()
        return (
            self.place.get() == PLACE_YES or isinstance(given, CocofoldPrediction) or not isPlaced(given.getFileName())
        )

    def _modelIsInPlace(self):
        return self.inputPlacement.get() is None and not self._fitsFirst()

    def _volume(self):
        return volumeOfStructure(self.inputModel.get(), self.inputVolume.get())

    def _runFolder(self):
        return self._getExtraPath("run")

    def _runFolderIsOf(self, key):
        kept = self._getExtraPath("run.key")
        return os.path.isfile(kept) and open(kept).read() == key

    def _startModel(self):
        """Return the path of the model at cycle 0, which has the atoms and the place that the run began with."""
        return os.path.join(self._runFolder(), "models", "cycle_00.cif")

    def _finetuneOptions(self):
        given = self.inputModel.get()
        words = particleOptions(self)
        if self._modelIsInPlace():
            words += ["--model", modelInBoxFrame(self)]
        else:
            words += modelOptions(given)
            placement = self.inputPlacement.get()
            words += [
                "--placement",
                placement.getFileName() if placement else self._getExtraPath("placed", "placement.json"),
            ]
        if isinstance(given, CocofoldPrediction):
            words += ["--preset", PRESETS[self.preset.get()], "--remove-below", self.removeBelow.get()]
            words += ["--deform"] if self.deform else []
        if self._modelIsInPlace() and self.symmetry.get("").strip().upper() not in ("", "C1"):
            words += ["--symmetry", self.symmetry.get().strip()]
        words += ["--out", self._runFolder(), "--max-particles", self.maxParticles.get() or None]
        words += ["--heldout", self.heldout.get(), "--cycles", self.cycles.get(), "--batch-size", self.batchSize.get()]
        words += ["--resolution", self.resolution.get(), "--effort", self.effort.get(), "--seed", self.seed.get()]
        return words + ([] if self.checkFirst else ["--no-check"]) + self._deviceOptions()

    def _runShowingBestModel(self, words):
        """Run the engine, and show the best model so far as an output while it runs."""
        failures = []

        def work():
            try:
                self.runEngine("finetune", words)
            except Exception as error:
                failures.append(error)

        # The job alone goes to a thread: the project's database belongs to this one
        job = threading.Thread(target=work, daemon=True)
        job.start()
        shown = None
        while job.is_alive():
            job.join(_POLL_INTERVAL_S)
            best = self._bestCycle()
            if job.is_alive() and best is not None and best != shown:
                self._outputBestSoFar(best)
                shown = best
        if failures:
            raise failures[0]

    def _cycleRows(self):
        """Return the rows of ``metrics.csv`` of the pass that runs or ran last: its models are those in the folder."""
        path = os.path.join(self._runFolder(), "metrics.csv")
        if not os.path.isfile(path):
            return []
        with open(path, newline="") as table:
            rows = list(csv.DictReader(table))
        # Runs of older versions have rows of the last pass only, and no column for it
        return [row for row in rows if row.get("pass") == rows[-1].get("pass")]

    def _bestCycle(self):
        """Return the row of ``metrics.csv`` whose model explains held-out particles best, None before the second."""
        rows = self._cycleRows()
        if len(rows) < 2:
            return None
        return max(rows, key=lambda row: float(row["frc_heldout"] or row["frc_work"]))

    def _outputBestSoFar(self, row):
        name = os.path.join("models", f"cycle_{int(row['number']):02}.cif")
        if not os.path.isfile(os.path.join(self._runFolder(), name)):
            return
        volume = self._volume()
        structure = self._structure(name, self._getExtraPath("model_so_far.cif"), volume)
        self._defineOutputs(outputAtomStruct=structure)
        # The window sees what is stored, and steps store only at their ends
        self._store()

    def _structure(self, name, target, volume):
        writeMoved(os.path.join(self._runFolder(), name), target, outputShift(self, volume, self.inputParticles.get()))
        structure = AtomStruct(filename=target)
        if volume is not None:
            structure.setVolume(volume)
        metrics = self._readJson("run", "metrics.json")
        if metrics is not None:
            structure._cocofoldVerdict = String(metrics["verdict"])
            structure._cocofoldFrcHeldout = Float(metrics["frc_heldout"])
        return structure

    def _gaussianVolume(self, volume):
        particles = self.inputParticles.get()
        gaussians = Volume()
        gaussians.setLocation(os.path.join(self._runFolder(), "density.mrc"))
        gaussians.setSamplingRate(particles.getSamplingRate())
        gaussians.setObjLabel("Gaussians of the atoms")
        origin = (volume or gaussians).getOrigin(force=True).clone()
        origin.setShifts(*outputShift(self, volume, particles))
        gaussians.setOrigin(origin)
        return gaussians

    def _cycles(self, volume):
        cycles = SetOfAtomStructs.create(self._getPath())
        for name in sorted(os.listdir(os.path.join(self._runFolder(), "models"))):
            cycles.append(self._structure(os.path.join("models", name), self._getExtraPath(name), volume))
        return cycles

    def _writeVerdict(self):
        """Leave what a pipeline asks for in one file: the verdict and the figures of all phases."""
        metrics = self._readJson("run", "metrics.json")
        facts = {name: metrics[name] for name in metrics if name not in ("frc_curves", "versions")}
        placement = self._readJson("placed", "placement.json")
        after = self._readJson("after.json")
        facts["placement"] = placement and {"hand": placement["hand"], **placement["whole"]}
        facts["assessment"] = after and {name: after[name] for name in after if isinstance(after[name], float)}
        facts["model"] = self._getExtraPath("model.cif")
        partial = self._getExtraPath("verdict.json.part")
        with open(partial, "w", encoding="utf-8") as verdict:
            json.dump(facts, verdict, indent=1)
        os.replace(partial, self._getExtraPath("verdict.json"))

    # --------------------------- information
    def _validate(self):
        errors = validateParticles(self.inputParticles.get()) + validateFit(self, self._volume())
        given = self.inputModel.get()
        if isinstance(given, CocofoldPrediction) and self._volume() is None and self.inputPlacement.get() is None:
            errors.append("A prediction lies nowhere yet: give the volume of the particles, or a placement.")
        if isinstance(given, AtomStruct) and self._fitsFirst() and isPlaced(given.getFileName()):
            errors.append("This model was placed by CoCoFold already: set 'Place the model' to auto or no.")
        heldout = self.heldout.get()
        if heldout is not None and not 0 <= heldout <= 0.5:
            errors.append(f"The share held out is {heldout:g}; it can be from 0 to 0.5, or empty.")
        return errors

    def _warnings(self):
        particles = self.inputParticles.get()
        if particles is not None and particles.getSize() < 50:
            return [f"There are only {int(particles.getSize())} particles: expect a verdict of 'undecided'."]
        return []

    def _summary(self):
        metrics = self._readJson("run", "metrics.json")
        lines = progressLines(self._bestCycle()) if metrics is None else finetuneSummary(metrics)
        after = self._readJson("after.json")
        lines += assessmentSummary(self._readJson("before.json"), after) if after else []
        frame = frameSentence(self)
        lines += [frame] if frame and self._modelIsInPlace() else []
        placement, check = self._readJson("placed", "placement.json"), self._readJson("run", "check.json")
        lines += placementSummary(placement) if placement else []
        return lines + (checkSummary(check) if check else [])

    def _methods(self):
        metrics = self._readJson("run", "metrics.json")
        return (
            [] if metrics is None else [finetuneMethods(metrics, isinstance(self.inputModel.get(), CocofoldPrediction))]
        )
