"""Wizards: values that can be chosen from the inputs, and the expected time and memory that they lead to."""

from pwem.wizards import EmWizard
from pyworkflow.gui import dialog
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String

from .constants import NO_SYMMETRY
from .convert import ConversionError, boxSize
from .estimates import estimateSentence
from .models import chainLengths, chainRanges, numberWithoutCode
from .objects import CocofoldPrediction
from .protocols import ProtCocofoldFinetune, ProtCocofoldFit, ProtCocofoldReconstruct

_FOUND = "auto"
POINT_GROUPS = [
    NO_SYMMETRY,
    _FOUND,
    *(f"C{order}" for order in range(2, 13)),
    *(f"D{order}" for order in range(2, 13)),
    "T",
    "O",
    "I",
]


class CocofoldBodiesWizard(EmWizard):
    """Offers the chains of the model, to be placed as bodies of their own; one chain may be split into ranges."""

    _targets = [(ProtCocofoldFit, ["bodies"]), (ProtCocofoldFinetune, ["bodies"])]

    def show(self, form, *args):
        model = form.protocol.inputModel.get()
        if model is None:
            return dialog.showWarning("Bodies", "Give the model first.", form.root)
        chains, ranges = chainLengths(modelFile(model)), chainRanges(modelFile(model))
        texts = [f"{chain} ({length} residues, {'-'.join(ranges[chain])})" for chain, length in chains.items()]
        message = "Chains that are bodies of their own; the others stay together. Choose one to split it into ranges."
        chosen = [list(chains)[row] for row in _choose(form, "Bodies", texts, message)]
        if not chosen:
            return None
        if len(chosen) > 1:
            return form.setVar("bodies", bodiesText(list(chains), chosen))
        (chain,) = chosen
        whole = f"{chain}:{'-'.join(ranges[chain])}"
        hint = f"Ranges of residues, separated by ';', such as {halvesText(chain, *ranges[chain])}"
        parts = dialog.askString("Bodies", f"Chain {chain}", form.root, 50, whole, hint)
        if not parts:
            return None
        alone = chain if parts.strip() == whole else parts.replace(" ", "")
        others = bodiesText([one for one in chains if one != chain], [])
        return form.setVar("bodies", ";".join(part for part in (others, alone) if part))


class CocofoldSymmetryWizard(EmWizard):
    """Offers point groups."""

    _targets = [(where, ["symmetry"]) for where in (ProtCocofoldFit, ProtCocofoldFinetune, ProtCocofoldReconstruct)]

    def show(self, form, *args):
        # A placement can find the group, a reconstruction has to be told
        told = isinstance(form.protocol, ProtCocofoldReconstruct)
        groups = [group for group in POINT_GROUPS if not (told and group == _FOUND)]
        chosen = _choose(form, "Symmetry", groups, "Point group of the volume, with axes as in RELION.")
        return form.setVar("symmetry", groups[chosen[0]]) if chosen else None


class CocofoldResolutionWizard(EmWizard):
    """Offers resolutions up to the particles' Nyquist limit."""

    _targets = [(ProtCocofoldFinetune, ["resolution"])]

    def show(self, form, *args):
        particles = form.protocol.inputParticles.get()
        if particles is None:
            return dialog.showWarning("Resolution", "Give the particles first.", form.root)
        choices = resolutionChoices(particles.getSamplingRate())
        texts = [f"{value:.2f} Å ({share} of Nyquist)" for share, value in choices]
        chosen = _choose(form, "Finest resolution", texts, "Finer detail of the images is not compared.")
        return form.setVar("resolution", f"{choices[chosen[0]][1]:.2f}") if chosen else None


class CocofoldEstimateWizard(EmWizard):
    """Shows the expected time and memory of fine-tuning."""

    _targets = [(ProtCocofoldFinetune, ["expected"])]

    def show(self, form, *args):
        try:
            return dialog.showInfo("Expected time and memory", expectedText(form.protocol), form.root)
        except ConversionError as error:
            return dialog.showWarning("Expected time and memory", str(error), form.root)


def expectedText(protocol):
    """Return a sentence on the expected time and memory of a fine-tuning protocol, or what it lacks to tell.

    Raises
    ------
    ConversionError
        If the particles cannot be read.
    """
    particles, model = protocol.inputParticles.get(), protocol.inputModel.get()
    if particles is None or model is None:
        return "Give particles and a model first."
    residues = sum(chainLengths(modelFile(model)).values())
    count = min(particles.getSize(), protocol.maxParticles.get() or particles.getSize())
    effort, threads = protocol.effort.get() or 1.0, protocol.numberOfThreads.get()
    return estimateSentence(count, boxSize(particles), residues, effort, threads, isinstance(model, CocofoldPrediction))


def modelFile(model):
    """Return the file of a model's atoms."""
    return model.getModelFileName() if isinstance(model, CocofoldPrediction) else model.getFileName()


def bodiesText(chains, alone):
    """Return the text of the parameter: chains that are bodies of their own, and the others together, as in "B,C;A"."""
    together = [chain for chain in chains if chain not in alone]
    return ";".join([*([",".join(together)] if together else []), *alone])


def halvesText(chain, first, last):
    """Return an example of two ranges of a chain, from its first and last number."""
    start, end = numberWithoutCode(first), numberWithoutCode(last)
    middle = (start + end) // 2
    return f"{chain}:{start}-{middle};{chain}:{middle + 1}-{end}"


def resolutionChoices(sampling):
    """Return pairs of a fraction of Nyquist, as a text, and the resolution (Å) at that fraction for a sampling rate."""
    return [("all", 2 * sampling), ("4/5", 2.5 * sampling), ("2/3", 3 * sampling), ("1/2", 4 * sampling)]


def _choose(form, title, texts, message):
    """Return the rows of the texts that the user has chosen in a dialog."""
    shown = dialog.ListDialog(form.root, title, ListTreeProviderString([String(text) for text in texts]), message)
    return [texts.index(value.get()) for value in shown.values or []]


__all__ = [
    "CocofoldBodiesWizard",
    "CocofoldEstimateWizard",
    "CocofoldResolutionWizard",
    "CocofoldSymmetryWizard",
]
