"""Types of outputs beside Scipion's own: predictions and placements."""

import os

from pwem.objects import EMFile
from pyworkflow.object import Integer, String

from .constants import ANSWER_CIF, NO_SYMMETRY


class CocofoldPrediction(EMFile):
    """A prediction of AlphaFold-Multimer: representations, the network's weights, the model.

    The file name is that of the folder that ``cocofold predict`` wrote.
    """

    def __init__(self, filename=None, **kwargs):
        super().__init__(filename, **kwargs)
        self._chains = String()
        self._residues = Integer()

    def getModelFileName(self):
        """Return the path of the predicted model."""
        return os.path.join(self.getFileName(), ANSWER_CIF)

    def setChains(self, lengths):
        """Store the chains' names and numbers of residues, in order."""
        self._chains.set(", ".join(f"{chain} ({length})" for chain, length in lengths.items()))
        self._residues.set(sum(lengths.values()))

    def getResidues(self):
        """Return the number of residues of all chains."""
        return self._residues.get()

    def __str__(self):
        return f"{self.getClassName()} (chains {self._chains.get('?')})"


class CocofoldPlacement(EMFile):
    """The place of a model in a map: the ``placement.json`` of ``cocofold fit``."""

    def __init__(self, filename=None, **kwargs):
        super().__init__(filename, **kwargs)
        self._hand = String()
        self._symmetry = String()

    def setFacts(self, hand, symmetry):
        """Store the map's hand ('as-is', 'mirrored' or 'undecided') and its point group or None."""
        self._hand.set(hand)
        self._symmetry.set(symmetry or NO_SYMMETRY)

    def __str__(self):
        return f"{self.getClassName()} (hand {self._hand.get('?')}, {self._symmetry.get(NO_SYMMETRY)})"
