"""The protocol that all others serve: a model or prediction is moved until it explains the particle images."""

import csv
import json
import os
import shutil
import threading

from pwem.objects import AtomStruct, SetOfAtomStructs, Volume
from pyworkflow.constants import BETA
from pyworkflow.object import Float, String
from pyworkflow.protocol import params

from ..frames import isPlaced, originOf, writeMoved
from ..objects import CocofoldPlacement, CocofoldPrediction
from .base import ProtCocofoldBase
from .inputs import (
    addParticles,
    boxedModel,
    frameLine,
    outputShift,
    particleWords,
    structureVolume,
    validateParticles,
    writeInputs,
)
from .protocol_assess import assessmentSummary
from .protocol_check import checkSummary
from .protocol_fit import addFitParams, fitWords, modelWords, placedOutputs, placementSummary, validateFit

PLACE_AUTO, PLACE_YES, PLACE_NO = range(3)
PRESETS = ["default", "paper"]
_LOOK_EVERY_S = 3.0


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

    # --------------------------- form
    def _defineParams(self, form):
        form.addSection("Input")
        addParticles(form)
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="AtomStruct,CocofoldPrediction",
            label="Model or prediction",
            important=True,
            help="A model from any program (AlphaFold 3, Boltz, AlphaFold DB, a homologue) is moved as it is. Of a "
            "prediction by AlphaFold-Multimer the network itself is trained, which takes a few times as long.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            label="Volume",
            important=True,
            help="Map of the particles. It serves once, to place the model; then only the images count. Empty: the "
            "model lies in place already.",
        )
        form.addParam(
            "place",
            params.EnumParam,
            choices=["auto", "yes", "no"],
            default=PLACE_AUTO,
            display=params.EnumParam.DISPLAY_HLIST,
            condition="inputVolume is not None",
            label="Place the model in the volume first?",
            help="auto: unless 'fit model in map' placed it. Takes about 10 seconds for 214 residues. no: the model "
            "lies on the volume.",
        )
        form.addParam(
            "inputPlacement",
            params.PointerParam,
            pointerClass="CocofoldPlacement",
            allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED,
            label="Placement",
            help="Of 'fit model in map', with the model or prediction that was given there. A prediction needs it, or a "
            "volume.",
        )
        addFitParams(form)

        form.addSection("Fine-tuning")
        form.addParam(
            "checkFirst",
            params.BooleanParam,
            default=True,
            label="Check inputs first?",
            help="Asks 200 particles whether contrast, poses, hand, shifts, CTF and pixel size agree with the model, and "
            "stops if one is clearly wrong. Takes some seconds.",
        )
        form.addParam(
            "maxParticles",
            params.IntParam,
            default=0,
            label="Particles",
            validators=[params.GE(0, "0 or more particles")],
            help="Use so many particles, drawn at random; 0: all. The time hardly depends on it. 2,000 particles at SNR "
            "0.1 brought adenylate kinase from 7.1 to 0.65 Å, 200 to 0.7 Å, 50 to 0.8 Å.",
        )
        form.addParam(
            "resolution",
            params.FloatParam,
            allowsNull=True,
            label="Finest resolution (Å)",
            help="Finer detail of the images is not compared. Empty: all rings up to Nyquist.",
        )
        form.addParam(
            "effort",
            params.FloatParam,
            default=1.0,
            label="Effort",
            validators=[params.Range(0.001, 100, "from 0.001 to 100")],
            help="Factor on the number of optimiser steps: 0.3 for a quick look, at a third of the time.",
        )
        form.addParam(
            "heldout",
            params.FloatParam,
            allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED,
            label="Share held out",
            help="Particles that are not fitted but tell when to stop and whether the data support the change: from 0 "
            "to 0.5. Empty: 5 %, at least 50, or a fifth of fewer than 500.",
        )
        form.addParam(
            "batchSize",
            params.IntParam,
            allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED,
            label="Images per step",
            help="Empty: 16; with the paper's preset 32.",
        )
        form.addParam(
            "cycles",
            params.IntParam,
            allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED,
            label="Cycles",
            help="At the end of each the run is scored and a model written: 1 to 30. Empty: one for each stage, from "
            "coarse to fine.",
        )
        self._addSeed(form)
        form.addParam(
            "preset",
            params.EnumParam,
            choices=PRESETS,
            default=0,
            expertLevel=params.LEVEL_ADVANCED,
            label="Recipe for predictions",
            help="default keeps the fold. paper trains as the paper's authors did: all rings at once, no restraints.",
        )
        form.addParam(
            "deform",
            params.BooleanParam,
            default=False,
            expertLevel=params.LEVEL_ADVANCED,
            label="Field on top of predictions?",
            help="A field of rigid motions moves the network's atoms further.",
        )
        form.addParam(
            "removeBelow",
            params.FloatParam,
            allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED,
            label="Remove residues of pLDDT below",
            help="Of predictions only: residues whose pLDDT ends below are left out of the answer. The paper's is 30. "
            "Empty: none.",
        )

        form.addSection("Results")
        form.addParam(
            "inputReference",
            params.PointerParam,
            pointerClass="AtomStruct",
            allowsNull=True,
            label="Reference",
            help="Structure taken as true; the start and the result are compared with it. It is not used otherwise.",
        )
        form.addParam(
            "makeReport",
            params.BooleanParam,
            default=True,
            label="Write a report?",
            help="One HTML page that works offline: models in 3D, curves, particles beside projections; and a script "
            "that opens the result for ISOLDE.",
        )
        form.addParam(
            "keepCycles",
            params.BooleanParam,
            default=False,
            expertLevel=params.LEVEL_ADVANCED,
            label="Output the model of each cycle?",
        )
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------- steps
    def _insertAllSteps(self):
        key = self._key()
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
        structure = self.inputModel.get() if self._liesInPlace() else None
        writeInputs(self, self.inputParticles.get(), structure, self._volume())

    def fitStep(self, key):
        shutil.rmtree(self._getExtraPath("placed"), ignore_errors=True)
        words = modelWords(self.inputModel.get()) + fitWords(self, self._volume(), self._getTmpPath())
        self.runEngine("fit", [*words, "--out", self._getExtraPath("placed"), *self._deviceWords()])

    def finetuneStep(self, key):
        run = self._runFolder()
        resumes = self._startedWith(key) and os.path.isfile(os.path.join(run, "config.yaml"))
        if not resumes:
            shutil.rmtree(run, ignore_errors=True)
            with open(self._getExtraPath("run.key"), "w") as kept:
                kept.write(key)
        self._runWatched([*self._finetuneWords(), *(["--resume"] if resumes else [])])

    def assessStep(self, key):
        reference = self._getExtraPath("reference" + os.path.splitext(self.inputReference.get().getFileName())[1])
        shutil.copyfile(self.inputReference.get().getFileName(), reference)
        for name, model in (("before", self._startModel()), ("after", os.path.join(self._runFolder(), "model.cif"))):
            words = ["--model", model, "--reference", reference, "--json", self._getExtraPath("%s.json" % name)]
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

    def _liesInPlace(self):
        return self.inputPlacement.get() is None and not self._fitsFirst()

    def _volume(self):
        return structureVolume(self.inputModel.get(), self.inputVolume.get())

    def _runFolder(self):
        return self._getExtraPath("run")

    def _startedWith(self, key):
        kept = self._getExtraPath("run.key")
        return os.path.isfile(kept) and open(kept).read() == key

    def _startModel(self):
        """Return the path of the model at cycle 0, which has the atoms and the place that the run began with."""
        return os.path.join(self._runFolder(), "models", "cycle_00.cif")

    def _finetuneWords(self):
        given = self.inputModel.get()
        words = particleWords(self)
        if self._liesInPlace():
            words += ["--model", boxedModel(self)]
        else:
            words += modelWords(given)
            placement = self.inputPlacement.get()
            words += [
                "--placement",
                placement.getFileName() if placement else self._getExtraPath("placed", "placement.json"),
            ]
        if isinstance(given, CocofoldPrediction):
            words += ["--preset", PRESETS[self.preset.get()], "--remove-below", self.removeBelow.get()]
            words += ["--deform"] if self.deform else []
        if self._liesInPlace() and self.symmetry.get("").strip().upper() not in ("", "C1"):
            words += ["--symmetry", self.symmetry.get().strip()]
        words += ["--out", self._runFolder(), "--max-particles", self.maxParticles.get() or None]
        words += ["--heldout", self.heldout.get(), "--cycles", self.cycles.get(), "--batch-size", self.batchSize.get()]
        words += ["--resolution", self.resolution.get(), "--effort", self.effort.get(), "--seed", self.seed.get()]
        return words + ([] if self.checkFirst else ["--no-check"]) + self._deviceWords()

    def _runWatched(self, words):
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
            job.join(_LOOK_EVERY_S)
            best = self._bestCycle()
            if job.is_alive() and best is not None and best != shown:
                self._showSoFar(best)
                shown = best
        if failures:
            raise failures[0]

    def _bestCycle(self):
        """Return the row of ``metrics.csv`` whose model explains held-out particles best so far, None before the second."""
        path = os.path.join(self._runFolder(), "metrics.csv")
        if not os.path.isfile(path):
            return None
        with open(path, newline="") as table:
            rows = list(csv.DictReader(table))
        if len(rows) < 2:
            return None
        return max(rows, key=lambda row: float(row["frc_heldout"] or row["frc_work"]))

    def _showSoFar(self, row):
        name = os.path.join("models", "cycle_%02d.cif" % int(row["number"]))
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
            errors.append("The share held out is %g; it can be from 0 to 0.5, or empty." % heldout)
        return errors

    def _warnings(self):
        particles = self.inputParticles.get()
        if particles is not None and particles.getSize() < 50:
            return ["There are only %d particles: expect a verdict of 'undecided'." % particles.getSize()]
        return []

    def _summary(self):
        metrics = self._readJson("run", "metrics.json")
        lines = []
        if metrics is None:
            best = self._bestCycle()
            lines.append(
                "Running: cycle %s, FRC %.3f." % (best["number"], float(best["frc_heldout"] or best["frc_work"]))
                if best
                else "Not run yet."
            )
        else:
            lines.append(
                "*%s*: held-out FRC %.3f -> %.3f, atoms moved by %.2f Å."
                % (
                    metrics["verdict"].capitalize(),
                    metrics["frc_heldout_start"],
                    metrics["frc_heldout"],
                    metrics["moved_angstrom"],
                )
                if metrics["frc_heldout"] is not None
                else "*%s*: no particles were held out; atoms moved by %.2f Å."
                % (metrics["verdict"].capitalize(), metrics["moved_angstrom"])
            )
            if metrics["verdict"] != "supported":
                lines.append("The output model is the start: held-out particles do not ask for a change.")
            lines.append(
                "%d particles, %.1f min, %.1f GB on %s."
                % (metrics["particles"], metrics["seconds"] / 60, metrics["peak_memory_gb"], metrics["device"])
            )
        after = self._readJson("after.json")
        if after is not None:
            lines += assessmentSummary(self._readJson("before.json"), after)
        frame = frameLine(self)
        lines += [frame] if frame and self._liesInPlace() else []
        if self._readJson("placed", "placement.json"):
            lines += placementSummary(self._readJson("placed", "placement.json"))
        if self._readJson("run", "check.json"):
            lines += checkSummary(self._readJson("run", "check.json"))
        return lines

    def _methods(self):
        metrics = self._readJson("run", "metrics.json")
        if metrics is None:
            return []
        source = (
            "structure module of AlphaFold-Multimer"
            if isinstance(self.inputModel.get(), CocofoldPrediction)
            else "model, under a multi-scale field of rigid motions,"
        )
        return [
            "The %s was fine-tuned against %d raw particle images by Fourier ring correlation with CoCoFold "
            "[cocofold2026], version %s. %s"
            % (
                source,
                metrics["particles"],
                metrics["versions"]["cocofold"],
                "Held-out particles (%d) gave %.3f at the start and %.3f at the end; the change is %s."
                % (
                    metrics["heldout_particles"],
                    metrics["frc_heldout_start"],
                    metrics["frc_heldout"],
                    metrics["verdict"],
                )
                if metrics["frc_heldout"] is not None
                else "",
            )
        ]
