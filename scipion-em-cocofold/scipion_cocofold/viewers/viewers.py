"""Viewers of placements, checks and assessments."""

import json
import os

from matplotlib.image import imread
from pwem.viewers import EmPlotter
from pwem.viewers.viewer_chimera import ChimeraView
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from ..constants import AFTER_JSON, ASSESSMENT_PNG, CHECK_PNG, PLACED_FOLDER, PLACEMENT_PNG, SUPPORT_PNG
from ..protocols import ProtCocofoldAssess, ProtCocofoldCheck, ProtCocofoldFit
from .chimerax import writeChimeraxScript


class CocofoldFitViewer(Viewer):
    """The placed model on its volume in ChimeraX, and the volume's outline from three sides."""

    _label = "placed model"
    _targets = [ProtCocofoldFit]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        structure = self.protocol.outputAtomStruct
        script = self.protocol._getExtraPath("show_placed.cxc")
        writeChimeraxScript(script, [(structure.getFileName(), "placed")], structure.getVolume())
        picture = self.protocol._getExtraPath(PLACED_FOLDER, PLACEMENT_PNG)
        return [_showPicture(picture, "Placement"), ChimeraView(script)]


class CocofoldCheckViewer(Viewer):
    """The scores of all hypotheses that the check compared."""

    _label = "verdicts"
    _targets = [ProtCocofoldCheck]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        return [_showPicture(self.protocol._getExtraPath(CHECK_PNG), "Check of inputs")]


class CocofoldAssessViewer(Viewer):
    """Distance of each residue from the reference, its support by the images, and each chain's CA RMSD."""

    _label = "assessment"
    _targets = [ProtCocofoldAssess]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        pictures = [
            _showPicture(path, title)
            for path, title in (
                (self.protocol._getExtraPath(ASSESSMENT_PNG), "Distance from the reference"),
                (self.protocol._getExtraPath(SUPPORT_PNG), "Support by the images"),
            )
            if os.path.isfile(path)
        ]
        path = self.protocol._getExtraPath(AFTER_JSON)
        if not os.path.isfile(path):
            return pictures or [self.errorMessage("Not assessed yet.")]
        with open(path, encoding="utf-8") as content:
            chains = json.load(content)["chains"]
        plotter = EmPlotter(windowTitle="Chains")
        axes = plotter.createSubPlot("CA RMSD of chains", "chain", "Å")
        axes.bar([chain["chain"] for chain in chains], [chain["ca_rmsd_together"] for chain in chains])
        return [*pictures, plotter]


def _showPicture(path, title):
    """Return a view that shows a PNG file in a window of its own."""
    plotter = EmPlotter(windowTitle=title, figsize=(10, 7))
    axes = plotter.createSubPlot(title, "", "")
    axes.imshow(imread(path))
    axes.set_axis_off()
    return plotter
