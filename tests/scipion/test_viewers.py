"""Viewers and wizards, on a real run; windows are not opened, what they would show is looked at."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import gemmi
import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import pyworkflow
from pwem.viewers import EmPlotter
from pwem.viewers.viewer_chimera import Chimera, ChimeraView
from scipion_cocofold import protocols
from scipion_cocofold.estimates import estimateSentence
from scipion_cocofold.frames import originOf
from scipion_cocofold.models import chainLengths, displacements, readPositions
from scipion_cocofold.protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFinetune,
    ProtCocofoldFit,
    ProtCocofoldSelect,
)
from scipion_cocofold.viewers import (
    CocofoldAssessViewer,
    CocofoldCheckViewer,
    CocofoldFinetuneViewer,
    CocofoldFitViewer,
    CocofoldPlacementViewer,
    CocofoldSelectViewer,
)
from scipion_cocofold.viewers.chimerax import BY_CHAIN, BY_CHANGE, BY_CONFIDENCE
from scipion_cocofold.viewers.viewers import viewAngles
from scipion_cocofold.wizards import CocofoldBodiesWizard, bodiesText
from scipion_project import COUNT, finished, run

pytestmark = pytest.mark.slow


@pytest.fixture
def chimerax(monkeypatch, tmp_path):
    """Something that stands where ChimeraX would."""
    program = tmp_path / "bin" / "ChimeraX"
    program.parent.mkdir()
    program.touch()
    monkeypatch.setattr(Chimera, "_program", str(program))


@pytest.fixture
def viewer(everything, adk, chimerax):
    viewer = CocofoldFinetuneViewer(project=adk.project)
    viewer.setProtocol(everything)
    return viewer


def script_of(views) -> list[str]:
    (view,) = (view for view in views if isinstance(view, ChimeraView))
    return Path(view._cmd.split('"')[1]).read_text().splitlines()


def axes_of(views):
    (plotter,) = views
    assert isinstance(plotter, EmPlotter)
    return plotter.getFigure().axes[0]


def opened(lines: list[str]) -> list[str]:
    return [line.split('"')[1] for line in lines if line.startswith("open")]


def test_models_lie_on_the_volume_in_the_script(viewer, adk):
    lines = script_of(viewer._getVisualizeDict()["showModels"]())
    (origin,) = (line.split("origin ")[1] for line in lines if " origin " in line)
    assert np.allclose([float(value) for value in origin.split(",")], originOf(adk.volume))
    volume, start, result, table = opened(lines)
    assert all(os.path.isfile(path) for path in (volume, start, result, table))
    # The start lies where the placed model does, the result on it but for what was fitted
    assert np.linalg.norm(readPositions(start).mean(0) - readPositions(result).mean(0)) < 5
    moved = displacements(start, result)
    assert len(moved) == 214
    rows = [line.split() for line in Path(table).read_text().splitlines() if line.startswith("\t/")]
    assert {spec: float(value) for spec, value in rows} == pytest.approx(
        {f"/{chain}:{number}": value for (chain, number), value in moved.items()}, abs=1e-3
    )


@pytest.mark.parametrize(
    ("colour", "command"),
    [(BY_CHAIN, "bychain"), (BY_CONFIDENCE, "bfactor"), (BY_CHANGE, "byattribute r:cocofold_change")],
)
def test_colours(colour, command, viewer):
    viewer.colour.set(colour)
    assert sum(command in line for line in script_of(viewer._getVisualizeDict()["showModels"]())) == 1


def test_curves_are_those_of_the_run(viewer, everything):
    with open(everything._getExtraPath("run", "metrics.csv"), newline="") as table:
        rows = list(csv.DictReader(table))
    rows = [row for row in rows if row["pass"] == rows[-1]["pass"]]
    lines = {line.get_label(): line.get_ydata() for line in axes_of(viewer._getVisualizeDict()["plotTraining"]()).lines}
    assert lines["fitted particles"].tolist() == [float(row["frc_work"]) for row in rows]
    rings = axes_of(viewer._getVisualizeDict()["plotRings"]())
    assert {line.get_label() for line in rings.lines} > {"held-out, start", "work, start"}
    (residues,) = axes_of(viewer._getVisualizeDict()["plotResidues"]()).lines
    assert len(residues.get_ydata()) == 214
    assert residues.get_ydata().max() > 3
    bars = axes_of(viewer._getVisualizeDict()["plotWidths"]()).patches
    assert sum(bar.get_height() for bar in bars) == 1656


def test_cycles_as_a_table(viewer):
    (view,) = viewer._getVisualizeDict()["showCycles"]()
    assert len(view.rows) == 10
    assert all(len(row) == len(view.headings) for row in view.rows)
    assert sum(row[0] == "*" for row in view.rows) == 1


def test_report_and_isolde(viewer, everything, adk):
    (page,) = viewer._getVisualizeDict()["showReport"]()
    assert os.path.getsize(page.path) > 1e6
    (view,) = viewer._getVisualizeDict()["showIsolde"]()
    script = Path(view._cmd.split('"')[1])
    lines = script.read_text().splitlines()
    assert "isolde start" in lines
    # The user's own volume where Scipion has it, and the models as the output shows them
    result, volume, start = (os.path.normpath(script.parent / path) for path in opened(lines))
    assert os.path.realpath(volume) == os.path.realpath(adk.volume.getFileName())
    (origin,) = (line.split("origin ")[1] for line in lines if " origin " in line)
    assert np.allclose([float(value) for value in origin.split(",")], originOf(adk.volume))
    known = readPositions(everything.outputAtomStruct.getFileName())
    assert np.abs(readPositions(result) - known).max() < 2e-3
    assert np.linalg.norm(readPositions(start).mean(0) - known.mean(0)) < 5


def test_nothing_to_show_yet_is_said(adk):
    protocol = adk.project.newProtocol(ProtCocofoldFinetune, inputParticles=adk.particles, inputModel=adk.closed)
    adk.project.saveProtocol(protocol)
    viewer = CocofoldFinetuneViewer(project=adk.project)
    viewer.setProtocol(protocol)
    for show in viewer._getVisualizeDict().values():
        (view,) = show()
        assert any(words in view.getMessage() for words in ("There is no", "Particles were not told apart"))


def test_views_of_a_placement(placed, adk, chimerax):
    outline, models = CocofoldFitViewer(project=adk.project, protocol=placed)._visualize(placed)
    assert len(axes_of([outline]).images) == 1
    volume, model = opened(script_of([models]))
    assert model == os.path.abspath(placed.outputAtomStruct.getFileName())
    assert volume == os.path.abspath(adk.volume.getFileName())
    correlations, _ = CocofoldPlacementViewer(project=adk.project)._visualize(placed.outputPlacement)
    assert len(axes_of([correlations]).patches) >= 2


def test_without_chimerax_a_message_says_what_to_set(placed, adk, monkeypatch):
    monkeypatch.setattr(Chimera, "_program", "/nowhere/bin/ChimeraX")
    _, view = CocofoldFitViewer(project=adk.project, protocol=placed)._visualize(placed)
    assert "CHIMERA_HOME" in view.getMessage()
    assert "show_placed.cxc" in view.getMessage()


def test_views_of_an_assessment(everything, adk):
    inputs = {"inputStructure": everything.outputAtomStruct, "inputReference": adk.truth}
    inputs["inputParticles"] = adk.particles
    assessed = finished(run(adk.project, ProtCocofoldAssess, **inputs))
    distances, chains, support = CocofoldAssessViewer(project=adk.project, protocol=assessed)._visualize(assessed)
    assert len(axes_of([distances]).lines[0].get_ydata()) == 214
    assert "(Å)" in axes_of([distances]).get_ylabel()
    assert len(axes_of([chains]).patches) == 1
    assert len(axes_of([support]).lines[0].get_ydata()) == 214


def test_views_of_a_check_and_a_selection(everything, adk):
    given = {"inputParticles": adk.particles, "inputStructure": everything.outputAtomStruct, "count": 60}
    checked = finished(run(adk.project, ProtCocofoldCheck, **given, stopIfWrong=False))
    found = json.loads(Path(checked._getExtraPath("check.json")).read_text())
    bars = axes_of(CocofoldCheckViewer(project=adk.project, protocol=checked)._visualize(checked)).patches
    scores = [one["score"] for question in found["questions"] for one in question["alternatives"]]
    assert [bar.get_width() for bar in bars] == scores
    selected = finished(run(adk.project, ProtCocofoldSelect, inputParticles=adk.particles, count=60))
    lines = axes_of(CocofoldSelectViewer(project=adk.project, protocol=selected)._visualize(selected)).lines
    assert [len(line.get_xdata()) for line in lines] == [COUNT, 48, 12]


def test_directions_of_view_are_those_of_relion(adk, shared_data):
    """Relion's rot and tilt are azimuth and tilt of the direction of view."""
    lines = adk.star.read_text().splitlines()
    rows = [line.split() for line in lines if "@" in line]
    for particle, row in zip(adk.particles.iterItems(), rows[:20]):
        azimuth, tilt = viewAngles(particle.getTransform().getMatrix())
        assert abs((azimuth - float(row[2]) + 180) % 360 - 180) < 1e-3
        assert tilt == pytest.approx(float(row[3]), abs=1e-3)


@pytest.mark.parametrize("kind", [getattr(protocols, name) for name in protocols.__all__])
def test_each_protocol_has_a_viewer_that_says_when_there_is_nothing_yet(kind, adk):
    (viewer,) = (found for found in pyworkflow.Config.getDomain().findViewers(kind.__name__, "tkinter"))
    if kind is ProtCocofoldFinetune:
        return
    protocol = adk.project.newProtocol(kind)
    adk.project.saveProtocol(protocol)
    (view,) = viewer(project=adk.project, protocol=protocol)._visualize(protocol)
    assert "has not ended" in view.getMessage()


def test_scipion_finds_viewers_and_wizards(everything, adk):
    domain = pyworkflow.Config.getDomain()
    found = domain.findViewers("ProtCocofoldFinetune", "tkinter")
    assert CocofoldFinetuneViewer in found
    wizards = domain.findWizards(adk.project.newProtocol(ProtCocofoldFit), "tkinter")
    assert wizards["bodies"] is CocofoldBodiesWizard


def test_what_wizards_offer(shared_data, tmp_path):
    path = str(shared_data / "tcr" / "truth.cif")
    chains = chainLengths(path)
    assert list(chains) == ["A", "B", "C", "D", "E"]
    assert sum(chains.values()) == 815
    short = tmp_path / "short.cif"
    content = gemmi.cif.read(path)
    atoms = content.sole_block().find_mmcif_category("_atom_site.")
    kept = [tag for tag in atoms.tags if "auth" not in tag and "ins_code" not in tag]
    rows = list(zip(*(content.sole_block().find_values(tag) for tag in kept)))
    loop = content.sole_block().init_loop("_atom_site.", [tag.split(".")[1] for tag in kept])
    for row in rows:
        loop.add_row(list(row))
    content.write_file(str(short))
    assert sum(chainLengths(str(short)).values()) == 815
    assert bodiesText(list(chains), ["D", "E"]) == "A,B,C;D;E"
    assert bodiesText(["A"], ["A"]) == "A"


def test_expected_time_grows_with_what_there_is_to_do():
    def minutes(*arguments):
        return int(estimateSentence(*arguments).split()[1])

    usual = minutes(2000, 64, 214, 10.0, 1, False)
    # Measured: 32 s on one thread with an effort of 1
    assert 4 <= usual <= 8
    assert minutes(2000, 64, 214, 100.0, 1, False) > 5 * usual
    assert minutes(2000, 288, 1683, 10.0, 1, False) > 4 * usual
    assert minutes(2000, 64, 214, 10.0, 4, False) < usual
