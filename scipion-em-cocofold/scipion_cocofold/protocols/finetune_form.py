"""The form of the fine-tuning protocol."""

from pyworkflow.protocol import params

from ..objects import CocofoldPrediction
from .base import EngineRange, addSeed
from .inputs import addParticles
from .protocol_fit import addFitParams
from .states import addStates, stateOptions

REFINEMENTS = ["off", "auto", "on"]
PLACE_AUTO, PLACE_YES, PLACE_NO = range(3)
PRESETS = ["default", "paper"]
# Conditions of parameters: what has no effect is not shown. A condition knows the parameters before its own
_NO_PLACEMENT = "inputPlacement is None"
PLACES_MODEL = f"{_NO_PLACEMENT} and place != {PLACE_NO}"
_IS_PREDICTION = "isinstance(inputModel, CocofoldPrediction)"


def defineFinetuneParams(form):
    """Add the parameters of fine-tuning to a form; all but the inputs have defaults that are meant to be kept."""
    _addInputs(form)
    form.addSection("Fine-tuning")
    _addUsualSettings(form)
    _addExpertSettings(form)
    _addSettingsOfPredictions(form)
    addStates(form)
    _addResults(form)


def _addInputs(form):
    form.addSection("Input")
    addParticles(form)
    form.addParam(
        "inputModel",
        params.PointerParam,
        pointerClass="AtomStruct,CocofoldPrediction",
        label="Model or prediction",
        important=True,
        help="A model from any program (AlphaFold 3, Boltz, AlphaFold DB, a homologue) is moved directly. For a "
        "prediction of AlphaFold-Multimer the network itself is trained, which takes a few times as long.",
    )
    form.addParam(
        "inputVolume",
        params.PointerParam,
        pointerClass="Volume",
        allowsNull=True,
        label="Volume",
        important=True,
        help="Map of the particles. It is used once, to place the model; fine-tuning then uses only the images. Empty: "
        "the model lies in its place already.",
    )
    form.addParam(
        "inputPlacement",
        params.PointerParam,
        pointerClass="CocofoldPlacement",
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Placement",
        help="Placement that 'fit model in map' found for this model or prediction. A prediction needs a placement or "
        "a volume.",
    )
    form.addParam(
        "place",
        params.EnumParam,
        choices=["auto", "yes", "no"],
        default=PLACE_AUTO,
        display=params.EnumParam.DISPLAY_HLIST,
        condition=f"inputVolume is not None and {_NO_PLACEMENT}",
        label="Place the model in the volume first?",
        help="auto: the model is placed, unless 'fit model in map' placed it already. This takes about 10 seconds for "
        "214 residues. no: the model lies on the volume.",
    )
    addFitParams(form, PLACES_MODEL, symmetryCondition=_NO_PLACEMENT)
    form.addParam(
        "acceptPlacement",
        params.BooleanParam,
        default=False,
        expertLevel=params.LEVEL_ADVANCED,
        condition=PLACES_MODEL,
        label="Accept a doubtful placement?",
        help="No: if the model fits nearly as well elsewhere in the volume (by less than 2 standard errors), the "
        "protocol stops and names both places. Yes: it goes on from the better one.",
    )
    form.addParam(
        "inputContext",
        params.PointerParam,
        pointerClass="AtomStruct",
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Context",
        help="Model of what else is in every image, such as the other chains of a complex. Its atoms are compared with "
        "the images together with the model's, stay where they are, and are in no output. It must lie in the volume, "
        "complete with all copies, and without the chains of the model; without a volume, in the frame of the model.",
    )


def _addUsualSettings(form):
    form.addParam(
        "checkFirst",
        params.BooleanParam,
        default=True,
        label="Check inputs first?",
        help="Yes: 200 particles are tested for whether contrast, poses, hand, shifts, CTF and pixel size agree with "
        "the model, and the run stops if one of them is clearly wrong. This takes some seconds.",
    )
    form.addParam(
        "maxParticles",
        params.IntParam,
        default=0,
        label="Maximum number of particles",
        validators=[EngineRange("finetune --max-particles")],
        help="Number of particles that are used, drawn at random; 0: all. The time hardly depends on it. 2,000 "
        "particles at SNR 0.1 brought adenylate kinase from 7.1 to 0.65 Å, 200 to 0.7 Å, 50 to 0.8 Å.",
    )
    form.addParam(
        "resolution",
        params.FloatParam,
        allowsNull=True,
        label="Finest resolution (Å)",
        validators=[EngineRange("finetune --resolution")],
        help="Finer detail of the images is not compared. Empty: all Fourier rings up to Nyquist are compared.",
    )
    form.addParam(
        "refinePoses",
        params.EnumParam,
        choices=REFINEMENTS,
        default=0,
        display=params.EnumParam.DISPLAY_HLIST,
        label="Refine poses",
        help="The poses of single particles are refined with the model, by turns and shifts that are as large as the "
        "images show, and are an output. auto: only if the images show clearly that poses are off. This is a local "
        "refinement: it mends errors of some degrees.",
    )
    form.addParam(
        "effort",
        params.FloatParam,
        default=1.0,
        label="Effort",
        validators=[EngineRange("finetune --effort")],
        help="Factor on the number of optimiser steps, from 0.01 to 100. With 0.3 a run takes a third of the time.",
    )
    form.addParam(
        "expected",
        params.LabelParam,
        label="Expected time and memory",
        help="The wizard shows them, from particles, model, effort and threads as they are in the form.",
    )


def _addExpertSettings(form):
    form.addParam(
        "heldout",
        params.FloatParam,
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Share held out",
        validators=[EngineRange("finetune --heldout")],
        help="Share of the particles, from 0 to 0.5, that are not fitted. They decide when to stop and whether the "
        "data support the change. Empty: 5 % and at least 50, or a fifth of fewer than 500.",
    )
    form.addParam(
        "batchSize",
        params.IntParam,
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Images per step",
        validators=[EngineRange("finetune --batch-size")],
        help="Number of images in each step of the optimiser. Empty: 16, or 32 with the recipe 'paper'.",
    )
    form.addParam(
        "cycles",
        params.IntParam,
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Cycles",
        validators=[EngineRange("finetune --cycles")],
        help="Number of cycles, from 1 to 30. At the end of each the run is scored and a model written. Empty: one "
        "cycle for each stage, from coarse to fine.",
    )
    addSeed(form)
    form.addParam(
        "oversubscribe",
        params.BooleanParam,
        default=False,
        expertLevel=params.LEVEL_ADVANCED,
        label="Oversubscribe cores?",
        help="No: a run with more processes (MPI, or GPUs) than there are cores, or than the free memory holds, ends "
        "at once with a message. Yes: it runs, slowly. The model is the same, so Continue goes on after a change.",
    )


def _addSettingsOfPredictions(form):
    form.addParam(
        "preset",
        params.EnumParam,
        choices=PRESETS,
        default=0,
        condition=_IS_PREDICTION,
        expertLevel=params.LEVEL_ADVANCED,
        label="Recipe for predictions",
        help="default: the fold is kept. paper: the network is trained as the paper's authors did, on all rings at "
        "once and without restraints.",
    )
    form.addParam(
        "deform",
        params.BooleanParam,
        default=False,
        condition=_IS_PREDICTION,
        expertLevel=params.LEVEL_ADVANCED,
        label="Field on top of predictions?",
        help="Yes: a field of rigid motions moves the network's atoms further.",
    )
    form.addParam(
        "removeBelow",
        params.FloatParam,
        allowsNull=True,
        expertLevel=params.LEVEL_ADVANCED,
        label="Remove residues of pLDDT below",
        validators=[EngineRange("finetune --remove-below")],
        help="Residues whose pLDDT is lower (a prediction's at the end, else that of the model's file) are left out "
        "of the output model. The paper uses 30. Empty: no residue is left out.",
    )


def _addResults(form):
    form.addSection("Results")
    form.addParam(
        "inputReference",
        params.PointerParam,
        pointerClass="AtomStruct",
        allowsNull=True,
        label="Reference",
        help="Structure that is taken as true. Start and result are compared with it; it is used for nothing else.",
    )
    form.addParam(
        "makeReport",
        params.BooleanParam,
        default=True,
        label="Write a report?",
        help="Yes: one HTML page that works offline is written, with models in 3D, curves, and particles beside "
        "projections; and a script that opens the result in ISOLDE.",
    )
    form.addParam(
        "keepCycles",
        params.BooleanParam,
        default=False,
        expertLevel=params.LEVEL_ADVANCED,
        label="Output the model of each cycle?",
        help="Yes: the models at the ends of all cycles, 31 at most, are an output too, in Scipion's frame.",
    )


def clashingSettings(protocol):
    """Return messages that say which settings of a fine-tuning protocol do not go together."""
    errors = []
    refinesPoses, tellsApart = REFINEMENTS[protocol.refinePoses.get()] != "off", bool(stateOptions(protocol))
    isPrediction = isinstance(protocol.inputModel.get(), CocofoldPrediction)
    asInPaper = isPrediction and PRESETS[protocol.preset.get()] == "paper"
    if asInPaper and (protocol.effort.get() != 1 or protocol.deform):
        errors.append(
            "The recipe 'paper' has neither an effort, since its cycles are passes over the particles, nor a field on "
            "top: set the effort to 1, and 'Field on top of predictions?' to no."
        )
    if tellsApart and refinesPoses:
        errors.append(
            "Poses are refined with one state for all particles: set 'Refine poses' to off, or 'States' to 1 and "
            "'Junk' to off."
        )
    if asInPaper and (tellsApart or refinesPoses):
        errors.append(
            "The recipe 'paper' has neither states nor junk nor refined poses: set 'States' to 1, 'Junk' and 'Refine "
            "poses' to off, or the recipe to default."
        )
    return errors
