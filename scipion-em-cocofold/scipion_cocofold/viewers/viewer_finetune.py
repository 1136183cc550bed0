"""Viewer of fine-tuning: models in ChimeraX, curves, residues, cycles, the report, the script for ISOLDE."""

import os
import webbrowser

import numpy as np
from pwem.viewers.views import TableView
from pyworkflow.protocol import params
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from ..constants import ANSWER_CIF, COCOFOLD, ISOLDE_SCRIPT, REPORT_HTML
from ..models import displacements, gaussianWidths, numberWithoutCode, writeMoved
from ..protocols import ProtCocofoldFinetune
from ..protocols.inputs import outputShift
from .chimerax import BY_CHANGE, COLOURS, chimeraxView, writeChimeraxScript
from .plots import newPlot, showResolutions


class CocofoldFinetuneViewer(ProtocolViewer):
    """Views of a fine-tuning protocol, while it runs and after."""

    _label = "results of fine-tuning"
    _targets = [ProtCocofoldFinetune]
    _environments = [DESKTOP_TKINTER]

    @classmethod
    def getClassLabel(cls, prependPackageName=True):
        """Return the title, with the plugin's name: Scipion knows no package of a viewer."""
        return f"{COCOFOLD} - {cls._label}"

    def _defineParams(self, form):
        form.addSection("Results")
        form.addParam(
            "colour",
            params.EnumParam,
            choices=COLOURS,
            default=BY_CHANGE,
            label="Colour the result by",
            display=params.EnumParam.DISPLAY_COMBO,
        )
        for name, label, text in (
            ("showModels", "Start, result and volume", "In ChimeraX; the start is grey."),
            ("showStates", "States", "Their models in ChimeraX, in the order of their shares."),
            (
                "showIsolde",
                "Result, ready for ISOLDE",
                "In ChimeraX with the ISOLDE bundle: the result on your volume, with hydrogens and restraints.",
            ),
            ("showReport", "Report", "One page in the web browser; it needs no network."),
            ("showCycles", "Cycles", "A table of the figures at the end of each cycle."),
            ("plotTraining", "Agreement with the images", "Mean Fourier ring correlation at the end of each cycle."),
            ("plotRings", "Fourier ring correlation", "By resolution, at the start and at the end."),
            ("plotResidues", "Displacement of residues", "CA atoms, from the start to the result, by chain."),
            ("plotWidths", "Learned widths", "Widths of the atoms' Gaussians."),
        ):
            # Scipion knows no conditions on outputs
            if name != "showStates" or hasattr(self.protocol, "outputStates"):
                form.addParam(name, params.LabelParam, label=label, help=text)

    def _getVisualizeDict(self):
        return {
            "showModels": self._showModels,
            "showStates": self._showStates,
            "showIsolde": self._showIsolde,
            "showReport": self._showReport,
            "showCycles": self._showCycles,
            "plotTraining": self._plotTraining,
            "plotRings": self._plotRings,
            "plotResidues": self._plotResidues,
            "plotWidths": self._plotWidths,
        }

    # --------------------------- views
    def _showModels(self, param=None):
        protocol = self.protocol
        structure = getattr(protocol, "outputAtomStruct", None)
        if structure is None:
            return self._nothingYet()
        start = protocol._getExtraPath("start_shown.cif")
        shift = outputShift(protocol, protocol._volumeOfResult(), protocol.inputParticles.get())
        writeMoved(protocol._startModel(), start, shift)
        script = protocol._getExtraPath("show_models.cxc")
        result = structure.getFileName()
        changes = displacements(start, result)
        writeChimeraxScript(
            script, [(start, "start"), (result, "result")], structure.getVolume(), self.colour.get(), changes
        )
        return [chimeraxView(self, script)]

    def _showStates(self, param=None):
        states = getattr(self.protocol, "outputStates", None)
        if states is None:
            return [self.errorMessage("Particles were not told apart: ask for states in the form.")]
        models = [(state.getFileName(), state.getObjLabel()) for state in states.iterItems()]
        # The last is coloured: that with most particles
        script = self.protocol._getExtraPath("show_states.cxc")
        writeChimeraxScript(script, models[::-1], states.getFirstItem().getVolume())
        return [chimeraxView(self, script)]

    def _showIsolde(self, param=None):
        script = os.path.join(self.protocol._runFolder(), ISOLDE_SCRIPT)
        return [chimeraxView(self, script)] if os.path.isfile(script) else self._noReport("script")

    def _showReport(self, param=None):
        page = os.path.join(self.protocol._runFolder(), REPORT_HTML)
        return [PageView(page)] if os.path.isfile(page) else self._noReport("report")

    def _showCycles(self, param=None):
        rows = self._lastPass()
        if not rows:
            return self._nothingYet()
        return [CyclesView(rows, self._metrics().get("best_cycle"))]

    def _plotTraining(self, param=None):
        rows = self._lastPass()
        if not rows:
            return self._nothingYet()
        plotter, axes = newPlot("Agreement with the images", "cycle", "mean Fourier ring correlation")
        number = [int(row["number"]) for row in rows]
        axes.plot(number, [float(row["frc_work"]) for row in rows], "o-", label="fitted particles")
        held = [(n, float(row["frc_heldout"])) for n, row in zip(number, rows) if row["frc_heldout"]]
        if held:
            axes.plot(*zip(*held), "s-", label="held-out particles")
        axes.legend()
        return [plotter]

    def _plotRings(self, param=None):
        curves = dict(self._metrics().get("frc_curves", {}))
        if not curves:
            return self._nothingYet()
        resolutions = np.array(curves.pop("resolution_angstrom"))
        frequency = 1 / resolutions
        plotter, axes = newPlot("Fourier ring correlation", "", "correlation")
        for name, values in curves.items():
            axes.plot(frequency, values, "--" if "start" in name else "-", label=name)
        axes.axhline(0, color="grey", linewidth=0.5)
        showResolutions(axes, resolutions.min())
        axes.legend()
        return [plotter]

    def _plotResidues(self, param=None):
        final = os.path.join(self.protocol._runFolder(), ANSWER_CIF)
        if not os.path.isfile(final):
            return self._nothingYet()
        moved = displacements(self.protocol._startModel(), final)
        plotter, axes = newPlot("Displacement of residues", "residue", "displacement of CA atoms (Å)")
        for chain in dict.fromkeys(chain for chain, _ in moved):
            points = [
                (numberWithoutCode(number), distance) for (name, number), distance in moved.items() if name == chain
            ]
            axes.plot(*zip(*points), label="chain " + chain)
        axes.legend()
        return [plotter]

    def _plotWidths(self, param=None):
        final = os.path.join(self.protocol._runFolder(), ANSWER_CIF)
        found = gaussianWidths(final) if os.path.isfile(final) else np.zeros(0)
        if not len(found):
            return self._nothingYet()
        plotter, axes = newPlot("Learned widths of the Gaussians", "width (Å)", "atoms")
        axes.hist(found, bins=60)
        return [plotter]

    # --------------------------- data of the views
    def _metrics(self):
        return self.protocol._readMetrics() or {}

    def _lastPass(self):
        """Return the rows of the cycles of the last pass over the particles that has begun."""
        rows = self.protocol._readCycles()
        return [row for row in rows if row.get("pass") == rows[-1].get("pass")]

    def _nothingYet(self):
        return [self.errorMessage("There is nothing to show yet.")]

    def _noReport(self, name):
        return [self.errorMessage(f"There is no {name}: run the protocol with 'Write a report?' set to yes.")]


class PageView(View):
    """A page in the web browser."""

    def __init__(self, path):
        super().__init__()
        self.path = os.path.abspath(path)

    def show(self):
        webbrowser.open("file://" + self.path)


class CyclesView(View):
    """A table of the figures of each cycle; a star marks the cycle that is the result."""

    # Scipion's table writes headings with capitals, which spoils FRC
    columns = {
        "number": "cycle",
        "stage": "stage",
        "step": "step",
        "frc_work": "correlation, fitted",
        "frc_heldout": "correlation, held out",
        "moved_angstrom": "moved (Å)",
        "worst_link_angstrom": "worst link (Å)",
        "seconds": "seconds",
    }

    def __init__(self, rows, best):
        super().__init__()
        self.headings = ["best", *self.columns.values()]
        self.rows = [
            ["*" if str(best) == row["number"] else "", *(_shortNumber(row[name]) for name in self.columns)]
            for row in rows
        ]

    def show(self):
        # The table opens its window when it is made
        TableView(
            headerList=self.headings, dataList=self.rows, mesg="", title="Cycles", height=len(self.rows), width=900
        )


def _shortNumber(value):
    try:
        return value if float(value) == int(float(value)) and "." not in value else f"{float(value):.3f}"
    except ValueError:
        return value
