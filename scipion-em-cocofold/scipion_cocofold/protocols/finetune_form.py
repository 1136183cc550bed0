"""The form of the fine-tuning protocol."""

from pyworkflow.protocol import params

from .base import addSeed
from .inputs import addParticles
from .protocol_fit import addFitParams

PLACE_AUTO, PLACE_YES, PLACE_NO = range(3)
PRESETS = ["default", "paper"]


def defineFinetuneParams(form):
    """Add the parameters of fine-tuning to a form; with inputs connected, each has a sensible value."""
    _addInputs(form)
    _addFineTuning(form)
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
        help="Of 'fit model in map', with the model or prediction that was given there. A prediction needs it, "
        "or a volume.",
    )
    addFitParams(form)


def _addFineTuning(form):
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
        "expected",
        params.StringParam,
        default="",
        label="Expected time and memory",
        help="The wand fills it in, from particles, model, effort and threads.",
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
    addSeed(form)
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


def _addResults(form):
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
