"""Protocol that places a model in a map."""

import os
import shutil

from pwem.objects import AtomStruct, Volume
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from ..constants import MIRRORED_MRC, NO_SYMMETRY, PLACED_CIF, PLACED_FOLDER, PLACEMENT_JSON
from ..frames import convertToMrc, originOf
from ..models import writeMoved
from ..objects import CocofoldPlacement, CocofoldPrediction
from .base import EngineRange, ProtCocofoldBase
from .inputs import missingFiles
from .summaries import placementMethods, placementSummary

HAND_CHOICES = ["auto", "as-is", "mirrored"]
B_FACTOR_CHOICES = ["auto", "plddt", "experimental"]


class ProtCocofoldFit(ProtCocofoldBase):
    """Places a model in a map: all rotations and translations are searched, and the best ones refined.

    The model may lie anywhere. Both hands of the map are tried. The output model lies on the volume and belongs to it.
    """

    _label = "fit model in map"
    _devStatus = BETA
    _possibleOutputs = {"outputAtomStruct": AtomStruct, "outputPlacement": CocofoldPlacement, "outputVolume": Volume}

    # --------------------------- form
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="AtomStruct,CocofoldPrediction",
            label="Model",
            important=True,
            help="Model or prediction to place. It may lie anywhere.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            label="Volume",
            important=True,
            help="Map of the particles. If it has half maps, its resolution is computed from them.",
        )
        addFitParams(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------- steps
    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.fitStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def fitStep(self, key):
        # The engine refuses a folder with files, such as those of an attempt with other settings
        shutil.rmtree(self._placedFolder(), ignore_errors=True)
        options = fitOptions(self, self.inputVolume.get(), self._getTmpPath())
        options.update(modelOptions(self.inputModel.get()))
        self.runEngine("fit", {**options, "--out": self._placedFolder(), **self._deviceOptions()})

    def createOutputStep(self, key):
        outputs = placedOutputs(self, self._placedFolder(), self.inputVolume.get())
        self._defineOutputs(**outputs)
        for output in outputs.values():
            self._defineSourceRelation(self.inputModel, output)
            self._defineSourceRelation(self.inputVolume, output)

    def _placedFolder(self):
        return self._getExtraPath(PLACED_FOLDER)

    # --------------------------- information
    def _validate(self):
        gone = missingFiles((self.inputModel.get(), "model"), (self.inputMask.get(), "mask"))
        return gone + validateFit(self.inputVolume.get())

    def _summary(self):
        return placementSummary(self._readJson(PLACED_FOLDER, PLACEMENT_JSON))

    def _methods(self):
        found = self._readJson(PLACED_FOLDER, PLACEMENT_JSON)
        return [] if found is None else [placementMethods(found)]


def addFitParams(form, condition="True", symmetryCondition="True"):
    """Add the parameters of placing a model in a volume to a form.

    Parameters
    ----------
    form : Form
    condition, symmetryCondition : str
        When a model is placed; and when its symmetry has an effect, which it may have for one that is in place too.
    """
    form.addParam(
        "inputMask",
        params.PointerParam,
        pointerClass="VolumeMask",
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        condition=condition,
        label="Mask",
        help="Region in which the model may lie, on the volume's grid. Empty: the whole volume.",
    )
    form.addParam(
        "mapResolution",
        params.FloatParam,
        allowsNull=True,
        condition=condition,
        label="Resolution of the volume (Å)",
        validators=[EngineRange("fit --resolution")],
        help="Finer detail is not compared. Empty: the resolution is computed from the half maps if the volume has "
        "them, and else estimated from the noise around the molecule. Masked or sharpened volumes need a value.",
    )
    form.addParam(
        "bodies",
        params.StringParam,
        default="",
        condition=condition,
        label="Bodies",
        help="Parts that are placed one after the other, after the whole model: chains, such as A,B;C, or residues, "
        "such as A:1-120;A:121-214. auto: each chain is a body, or the parts of a prediction whose aligned error to "
        "each other is large. Empty: the model is placed as one body.",
    )
    form.addParam(
        "symmetry",
        params.StringParam,
        default=NO_SYMMETRY,
        condition=symmetryCondition,
        label="Symmetry",
        help="Point group of the volume, if the model is one subunit of it: C3, D2, T, O, I, with axes as in RELION. "
        "auto: the point group is found from the volume. C1: the model is the whole molecule.",
    )
    form.addParam(
        "hand",
        params.EnumParam,
        choices=HAND_CHOICES,
        default=0,
        condition=condition,
        expertLevel=params.LEVEL_ADVANCED,
        label="Hand of the volume",
        help="auto: the model is placed in the volume and in its mirror image. If the mirror image fits clearly "
        "better, it becomes an output, and fine-tuning mirrors the particles' poses.",
    )
    addBFactors(form)


def addBFactors(form, condition="True"):
    """Add the parameter of what B factors of a model are."""
    form.addParam(
        "bFactors",
        params.EnumParam,
        choices=B_FACTOR_CHOICES,
        default=0,
        expertLevel=params.LEVEL_ADVANCED,
        condition=condition,
        label="B factors of the model",
        help="plddt: confidence of a prediction, 0 to 1 or 0 to 100. experimental: displacements. auto: what the file "
        "says of itself decides, or else whether they rise with the packing. Stretches of 10 and more residues whose "
        "pLDDT is below 50, or that touch nothing and have no pLDDT of 70, are unlikely to be ordered: they are "
        "carried along, have the occupancy 0 in outputs, and are not compared with volume and images.",
    )


def modelOptions(model):
    """Return the options that name a model or prediction."""
    return {"--prediction" if isinstance(model, CocofoldPrediction) else "--model": model.getFileName()}


def symmetryOption(protocol):
    """Return the point group for the engine, empty where the model is the whole molecule."""
    symmetry = protocol.symmetry.get("").strip()
    return "" if symmetry.upper() == NO_SYMMETRY else symmetry


def fitOptions(protocol, volume, folder):
    """Return the options that name a volume, converted into a folder if necessary, and that control the placement."""
    halves = [name for name in volume.getHalfMaps().split(",") if name] if volume.hasHalfMaps() else []
    options = {"--map": convertToMrc(volume, folder), "--pixel-size": volume.getSamplingRate()}
    if protocol.mapResolution.get() is None and len(halves) == 2:
        options.update({"--half1": halves[0], "--half2": halves[1]})
    mask = protocol.inputMask.get()
    return {
        **options,
        "--mask": mask and convertToMrc(mask, folder),
        "--resolution": protocol.mapResolution.get(),
        "--bodies": protocol.bodies.get("").strip(),
        "--symmetry": symmetryOption(protocol),
        "--hand": HAND_CHOICES[protocol.hand.get()],
        "--b-factors": B_FACTOR_CHOICES[protocol.bFactors.get()],
    }


def placedOutputs(protocol, folder, volume):
    """Return the outputs of a placement by name: the model on its volume, the placement, a mirrored volume."""
    found = protocol._readJson(os.path.basename(folder), PLACEMENT_JSON)
    outputs = {}
    mirrored = mirroredVolume(volume, folder)
    if mirrored is not None:
        outputs["outputVolume"] = volume = mirrored
    placed = protocol._getExtraPath(PLACED_CIF)
    writeMoved(os.path.join(folder, PLACED_CIF), placed, originOf(volume))
    model = AtomStruct(filename=placed)
    model.setVolume(volume)
    placement = CocofoldPlacement(filename=os.path.join(folder, PLACEMENT_JSON))
    placement.setFacts(found["hand"], found["symmetry"])
    return {"outputAtomStruct": model, "outputPlacement": placement, **outputs}


def mirroredVolume(volume, folder):
    """Return the mirror image of a volume that a placement's folder holds, or None where the hand was right."""
    path = os.path.join(folder, MIRRORED_MRC)
    if not os.path.isfile(path):
        return None
    mirrored = Volume()
    mirrored.copyInfo(volume)
    mirrored.setLocation(path)
    mirrored.setOrigin(volume.getOrigin(force=True))
    return mirrored


def validateFit(volume):
    """Return messages that say why a model cannot be placed in a volume; none without a volume."""
    errors = missingFiles((volume, "volume"))
    if volume is not None and not volume.getSamplingRate():
        errors.append("The volume has no sampling rate; import it again with one.")
    return errors
