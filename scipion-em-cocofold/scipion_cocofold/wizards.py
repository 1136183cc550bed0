"""Wizards: values that can be picked because the inputs tell them."""

from pwem.wizards import EmWizard
from pyworkflow.gui import dialog
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String

from .convert import ConversionError, boxOf
from .estimates import estimateSentence
from .objects import CocofoldPrediction
from .protocols import ProtCocofoldFinetune, ProtCocofoldFit
from .residues import chainLengths

POINT_GROUPS = [
    "C1",
    "auto",
    *(f"C{order}" for order in range(2, 13)),
    *(f"D{order}" for order in range(2, 13)),
    "T",
    "O",
    "I",
]


class CocofoldBodiesWizard(EmWizard):
    """Picks the chains that are to be placed as bodies of their own."""

    _targets = [(ProtCocofoldFit, ["bodies"]), (ProtCocofoldFinetune, ["bodies"])]

    def show(self, form, *args):
        model = form.protocol.inputModel.get()
        if model is None:
            return dialog.showWarning("Bodies", "Give the model first.", form.root)
        chains = chainLengths(modelFile(model))
        texts = [f"{chain} ({length} residues)" for chain, length in chains.items()]
        picked = _pick(form, "Bodies", texts, "Chains that are bodies of their own; the others stay together.")
        return (
            form.setVar("bodies", bodiesText(list(chains), [text.split(" (")[0] for text in picked]))
            if picked
            else None
        )


class CocofoldSymmetryWizard(EmWizard):
    """Picks a point group."""

    _targets = [(ProtCocofoldFit, ["symmetry"]), (ProtCocofoldFinetune, ["symmetry"])]

    def show(self, form, *args):
        picked = _pick(form, "Symmetry", POINT_GROUPS, "Point group of the volume, with axes as in RELION.")
        return form.setVar("symmetry", picked[0]) if picked else None


class CocofoldResolutionWizard(EmWizard):
    """Picks a resolution among those that the particles can have."""

    _targets = [(ProtCocofoldFinetune, ["resolution"])]

    def show(self, form, *args):
        particles = form.protocol.inputParticles.get()
        if particles is None:
            return dialog.showWarning("Resolution", "Give the particles first.", form.root)
        texts = [
            f"{value:.2f} Å ({share} of Nyquist)" for share, value in resolutionChoices(particles.getSamplingRate())
        ]
        picked = _pick(form, "Finest resolution", texts, "Finer detail of the images is not compared.")
        return form.setVar("resolution", picked[0].split(" ")[0]) if picked else None


class CocofoldEstimateWizard(EmWizard):
    """Says how long fine-tuning will take, and how much memory."""

    _targets = [(ProtCocofoldFinetune, ["expected"])]

    def show(self, form, *args):
        protocol = form.protocol
        particles, model = protocol.inputParticles.get(), protocol.inputModel.get()
        if particles is None or model is None:
            return dialog.showWarning("Time and memory", "Give particles and a model first.", form.root)
        residues = sum(chainLengths(modelFile(model)).values())
        try:
            box = boxOf(particles)
        except ConversionError as error:
            return dialog.showWarning("Time and memory", str(error), form.root)
        count = min(particles.getSize(), protocol.maxParticles.get() or particles.getSize())
        text = estimateSentence(
            count,
            box,
            residues,
            protocol.effort.get(),
            protocol.numberOfThreads.get(),
            isinstance(model, CocofoldPrediction),
        )
        return form.setVar("expected", text)


def modelFile(model):
    """Return the file of a model's atoms."""
    return model.getModelFileName() if isinstance(model, CocofoldPrediction) else model.getFileName()


def bodiesText(chains, alone):
    """Return the text for some chains that are bodies of their own and the others together: "A;B,C"."""
    together = [chain for chain in chains if chain not in alone]
    return ";".join([*([",".join(together)] if together else []), *alone])


def resolutionChoices(sampling):
    """Return resolutions (Å) that images of a sampling rate can have, with their share of Nyquist."""
    return [("all", 2 * sampling), ("4/5", 2.5 * sampling), ("2/3", 3 * sampling), ("1/2", 4 * sampling)]


def _pick(form, title, texts, message):
    chosen = dialog.ListDialog(form.root, title, ListTreeProviderString([String(text) for text in texts]), message)
    return [value.get() for value in chosen.values or []]


__all__ = [
    "CocofoldBodiesWizard",
    "CocofoldEstimateWizard",
    "CocofoldResolutionWizard",
    "CocofoldSymmetryWizard",
]
