"""Viewers of all protocols but fine-tuning, and of predictions and placements."""

import json
import os

import numpy as np
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from ..constants import (
    AFTER_JSON,
    CHECK_JSON,
    IMAGES_JSON,
    PLACED_FOLDER,
    PLACEMENT_PNG,
    RECONSTRUCTED_FOLDER,
    RECONSTRUCTION_JSON,
    RELAXED_JSON,
    SELECTED_JSON,
)
from ..objects import CocofoldPlacement, CocofoldPrediction
from ..protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFit,
    ProtCocofoldPredict,
    ProtCocofoldReconstruct,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
)
from .chimerax import BY_CONFIDENCE, chimeraxView, writeChimeraxScript
from .plots import barPlot, checkPlot, newPlot, pairPlot, picture, residuePlot, shellPlot


class CocofoldViewer(Viewer):
    """What the viewers below share: files of the protocol, a message where it has not ended."""

    _environments = [DESKTOP_TKINTER]

    def _read(self, *names):
        """Return the content of a JSON file of the protocol, or None."""
        return self.protocol._readJson(*names)

    def _output(self, name):
        return getattr(self.protocol, name, None)

    def _nothingYet(self):
        return [self.errorMessage("There is nothing to show yet: the protocol has not ended.")]

    def _models(self, name, models, volume, **colours):
        """Return a view of models in ChimeraX, by a script of this name in the protocol's folder."""
        script = self.protocol._getExtraPath(name)
        writeChimeraxScript(script, models, volume, **colours)
        return chimeraxView(self, script)


class CocofoldFitViewer(CocofoldViewer):
    """The placed model on its volume in ChimeraX, and the volume's outline from three sides."""

    _label = "placed model"
    _targets = [ProtCocofoldFit]

    def _visualize(self, obj, **kwargs):
        structure = self._output("outputAtomStruct")
        if structure is None:
            return self._nothingYet()
        models = [(structure.getFileName(), "placed")]
        outline = picture(self.protocol._getExtraPath(PLACED_FOLDER, PLACEMENT_PNG), "Placement")
        return [outline, self._models("show_placed.cxc", models, structure.getVolume())]


class CocofoldCheckViewer(CocofoldViewer):
    """The scores of all alternatives that the check compared."""

    _label = "verdicts"
    _targets = [ProtCocofoldCheck]

    def _visualize(self, obj, **kwargs):
        found = self._read(CHECK_JSON)
        return self._nothingYet() if found is None else [checkPlot(found)]


class CocofoldAssessViewer(CocofoldViewer):
    """Distance of each residue from the reference, its support by the images, and each chain's CA RMSD."""

    _label = "assessment"
    _targets = [ProtCocofoldAssess]

    def _visualize(self, obj, **kwargs):
        after, images = self._read(AFTER_JSON), self._read(IMAGES_JSON)
        if after is None and images is None:
            return self._nothingYet()
        views = []
        if after is not None:
            other = "start" if self.protocol._comparesWithStart() else "reference"
            title = f"Distance from the {other}, superposed"
            views.append(residuePlot(title, "distance of CA atoms (Å)", after["residues"], "superposed_angstrom"))
            chains = {f"chain {chain['chain']}": round(chain["ca_rmsd_together"], 2) for chain in after["chains"]}
            views.append(barPlot(f"CA RMSD of chains to the {other}", "CA RMSD (Å)", chains))
        if images is not None:
            title = "Support by the images (band: two standard errors)"
            views.append(residuePlot(title, "support", images["support"], "support", "standard_error"))
        return views


class CocofoldRelaxViewer(CocofoldViewer):
    """The relaxed model on the input in ChimeraX, and its faults before and after."""

    _label = "relaxed model"
    _targets = [ProtCocofoldRelax]

    def _visualize(self, obj, **kwargs):
        found, structure = self._read(RELAXED_JSON), self._output("outputAtomStruct")
        if found is None or structure is None:
            return self._nothingYet()
        faults = [
            {
                "clashes": len(found[when]["clashes"]),
                "bonds and angles": len(found[when]["outliers"]),
                "twisted peptides": found["geometry"]["twisted"][place],
            }
            for place, when in enumerate(("before", "after"))
        ]
        models = [(self.protocol.inputStructure.get().getFileName(), "input"), (structure.getFileName(), "relaxed")]
        plot = pairPlot("Faults of the model", "number", *faults)
        return [plot, self._models("show_relaxed.cxc", models, structure.getVolume())]


class CocofoldSelectViewer(CocofoldViewer):
    """The views of the selected particles among those of all."""

    _label = "selected particles"
    _targets = [ProtCocofoldSelect]

    def _visualize(self, obj, **kwargs):
        found, particles = self._read(SELECTED_JSON), self.protocol.inputParticles.get()
        if found is None or particles is None:
            return self._nothingYet()
        angles = np.array([viewAngles(particle.getTransform().getMatrix()) for particle in particles.iterItems()])
        plotter, axes = newPlot("Directions of view", "azimuth (°)", "tilt (°)", (9, 5))
        axes.plot(*angles.T, ".", color="0.8", markersize=3, label=f"all {len(angles)}")
        for name, marker, text in (("selected", "o", "selected"), ("held_out", "x", "held out")):
            rows = np.array(found[name], dtype=int)
            axes.plot(*angles[rows].T, marker, markersize=4, label=f"{len(rows)} {text}")
        axes.legend()
        return [plotter]


class CocofoldReconstructViewer(CocofoldViewer):
    """The FSC of the half maps; in ChimeraX the map, the model, and the density that no atom explains."""

    _label = "reconstruction"
    _targets = [ProtCocofoldReconstruct]

    def _visualize(self, obj, **kwargs):
        found, volume = self._read(RECONSTRUCTED_FOLDER, RECONSTRUCTION_JSON), self._output("outputVolume")
        if found is None or volume is None:
            return self._nothingYet()
        structure, unexplained = self.protocol.inputStructure.get(), self._output("outputUnexplained")
        models = [] if structure is None else [(structure.getFileName(), "model")]
        others = [] if unexplained is None else [unexplained]
        plot = shellPlot("Half maps", "FSC within a soft mask", found["fsc"], 0.143)
        return [plot, self._models("show_map.cxc", models, volume, others=others)]


class CocofoldPredictViewer(CocofoldViewer):
    """The predicted model, coloured by its confidence, in ChimeraX."""

    _label = "predicted model"
    _targets = [ProtCocofoldPredict, CocofoldPrediction]

    def _visualize(self, obj, **kwargs):
        prediction = obj if isinstance(obj, CocofoldPrediction) else getattr(obj, "outputPrediction", None)
        if prediction is None:
            return self._nothingYet()
        model = prediction.getModelFileName()
        script = os.path.splitext(model)[0] + "_shown.cxc"
        writeChimeraxScript(script, [(model, "prediction")], None, BY_CONFIDENCE)
        return [chimeraxView(self, script)]


class CocofoldPlacementViewer(CocofoldViewer):
    """Correlations of a placement: of the whole, of its bodies, and of the next best place."""

    _label = "placement"
    _targets = [CocofoldPlacement]

    def _visualize(self, obj, **kwargs):
        path = obj.getFileName()
        if not os.path.isfile(path):
            return [self.errorMessage(f"The file of the placement is gone: {path}")]
        with open(path, encoding="utf-8") as content:
            found = json.load(content)
        values = {"whole": found["whole"]["correlation"], "next best place": found["whole"]["runner_up"]}
        # A single body is the whole
        bodies = found["bodies"] if len(found["bodies"]) > 1 else []
        values.update({body["selection"]: body["correlation"] for body in bodies})
        shown = {name: round(value, 3) for name, value in values.items() if value is not None}
        views = [barPlot(f"Placement, hand {found['hand']}", "correlation with the volume", shown)]
        outline = os.path.join(os.path.dirname(path), os.path.basename(PLACEMENT_PNG))
        return [*views, picture(outline, "Placement")] if os.path.isfile(outline) else views


def viewAngles(matrix):
    """Return azimuth and tilt (degrees) of the direction of view of a particle's transform, shape (4, 4)."""
    x, y, z = np.asarray(matrix)[:3, 2]
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arccos(np.clip(z, -1, 1)))
