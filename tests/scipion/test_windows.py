"""Viewers of relaxed and predicted models, and wizards as a form's buttons call them, without any run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.objects import AtomStruct
from pwem.viewers.viewer_chimera import Chimera, ChimeraView
from pyworkflow import Config
from pyworkflow.viewer import DESKTOP_TKINTER
from scipion_cocofold import wizards
from scipion_cocofold.objects import CocofoldPrediction
from scipion_cocofold.protocols import ProtCocofoldFinetune, ProtCocofoldReconstruct, ProtCocofoldRelax
from scipion_cocofold.viewers import CocofoldFinetuneViewer, CocofoldPredictViewer, CocofoldRelaxViewer
from scipion_cocofold.viewers.plots import pairPlot
from scipion_project import make_particles, make_project


@pytest.fixture(scope="module")
def project():
    return make_project("windows")


@pytest.fixture(autouse=True)
def _in_the_project_with_chimerax(project, monkeypatch, tmp_path):
    """Something stands where ChimeraX would."""
    monkeypatch.chdir(project.path)
    (tmp_path / "ChimeraX").touch()
    monkeypatch.setattr(Chimera, "_program", str(tmp_path / "ChimeraX"))


def script_of(view) -> str:
    assert isinstance(view, ChimeraView)
    return Path(view._cmd.split('"')[1]).read_text(encoding="utf-8")


def test_faults_before_and_after_relaxation_are_shown(project):
    protocol = project.newProtocol(ProtCocofoldRelax, inputStructure=AtomStruct(filename="given.cif"))
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    before, after = ({"clashes": [1] * clashes, "outliers": [1] * outliers} for clashes, outliers in ((7, 3), (1, 2)))
    found = {"before": before, "after": after, "geometry": {"twisted": [5, 4]}}
    Path(protocol._getExtraPath("relaxed.json")).write_text(json.dumps(found))
    protocol._defineOutputs(outputAtomStruct=AtomStruct(filename="relaxed.cif"))
    plot, models = CocofoldRelaxViewer(project=project, protocol=protocol)._visualize(protocol)
    bars = [bar.get_width() for bar in plot.getFigure().axes[0].patches]
    assert bars == [7, 3, 5, 1, 2, 4]
    script = script_of(models)
    assert script.index("given.cif") < script.index("relaxed.cif")


@pytest.mark.parametrize(
    ("more", "traced"),
    [
        ({}, "CA"),  # of earlier versions
        ({"trace_atom": "CA", "nucleic_acids": None}, "CA"),
        ({"trace_atom": "C1'", "nucleic_acids": {"kept_base_pairs": 5, "reference_base_pairs": 6}}, "C1'"),
    ],
)
def test_a_relaxed_model_is_summed_up_by_what_it_consists_of(project, more, traced):
    protocol = project.newProtocol(ProtCocofoldRelax, inputStructure=AtomStruct(filename="given.cif"))
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    faults = {"clashes": [], "outliers": []}
    found = {"before": faults, "after": faults, "geometry": {"twisted": [0, 0]}, "frc": None, "notes": [], **more}
    path = Path(protocol._getExtraPath("relaxed.json"))
    path.write_text(json.dumps({**found, "ca_rmsd": 0.12, "moved_angstrom": 0.34}))
    summary, methods = " ".join(protocol._summary()), " ".join(protocol._methods())
    assert f"{traced} RMSD to the input model: 0.12 Å" in summary
    assert f"{traced} atoms moved by 0.34 Å" in methods
    assert ("Twisted peptides" in summary, "beyond 4σ" in summary) == (traced == "CA", traced == "CA")
    assert ("Base pairs kept: 5 of 6." in summary) == (traced != "CA")


def test_a_prediction_is_shown_by_its_confidence(project, tmp_path):
    prediction = CocofoldPrediction(filename=str(tmp_path))
    (view,) = CocofoldPredictViewer(project=project)._visualize(prediction)
    assert str(tmp_path / "model.cif") in script_of(view)
    assert "palette alphafold" in script_of(view)


def test_few_faults_are_counted_in_whole_numbers():
    axes = pairPlot("Faults of the model", "number", {"clashes": 1}, {"clashes": 0}).getFigure().axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_states_are_among_the_views_only_where_there_are_some(project):
    protocol = project.newProtocol(ProtCocofoldFinetune)
    offered = []
    for _ in range(2):
        viewer = CocofoldFinetuneViewer(project=project)
        viewer.setProtocol(protocol)
        offered.append([viewer.hasAttribute(name) for name in ("showModels", "showStates")])
        protocol.outputStates = AtomStruct(filename="state.cif")
    assert offered == [[True, False], [True, True]]


class Form:
    """What a wizard needs of a form, whose user chooses some rows of each list."""

    def __init__(self, protocol, monkeypatch, *rows: int, typed: str | None = None):
        self.protocol, self.root, self.values, self.offered, self.warned = protocol, None, {}, [], []
        monkeypatch.setattr(wizards, "_choose", self._choose(list(rows)))
        told = SimpleNamespace(askString=lambda *_: typed, showWarning=lambda *words: self.warned.append(words[1]))
        told.showInfo = lambda *words: self.offered.append(words[1])
        monkeypatch.setattr(wizards, "dialog", told)

    def _choose(self, rows):
        def choose(form, title, texts, message):
            self.offered += texts
            return rows

        return choose

    def setVar(self, name, value):
        self.values[name] = value


def test_chains_and_ranges_of_residues_are_offered_as_bodies(project, shared_data, monkeypatch):
    model = AtomStruct(filename=str(shared_data / "tcr" / "truth.cif"))
    protocol = project.newProtocol(ProtCocofoldFinetune, inputModel=model)
    show = wizards.CocofoldBodiesWizard().show
    form = Form(protocol, monkeypatch, 3, 4)
    show(form)
    assert form.offered[0] == "A (275 residues, 1-275)"
    assert form.values == {"bodies": "A,B,C;D;E"}
    form = Form(protocol, monkeypatch, 0, typed="A:1-180; A:181-275")
    show(form)
    assert form.values == {"bodies": "B,C,D,E;A:1-180;A:181-275"}
    form = Form(project.newProtocol(ProtCocofoldFinetune), monkeypatch, 0)
    show(form)
    assert form.values == {}
    assert "first" in form.warned[0]


def test_resolutions_point_groups_and_time_are_offered(project, shared_data, tmp_path, monkeypatch):
    model = AtomStruct(filename=str(shared_data / "adk" / "truth_open.cif"))
    given = {"inputModel": model, "inputParticles": make_particles(tmp_path)}
    form = Form(project.newProtocol(ProtCocofoldFinetune, **given), monkeypatch, 3)
    wizards.CocofoldResolutionWizard().show(form)
    wizards.CocofoldSymmetryWizard().show(form)
    # Half of Nyquist at 2.5 Å; the fourth of the point groups
    assert form.values == {"resolution": "10.00", "symmetry": wizards.POINT_GROUPS[3]}
    wizards.CocofoldEstimateWizard().show(form)
    assert "min with" in form.offered[-1]
    assert "GB" in form.offered[-1]


def test_point_groups_are_offered_for_a_reconstruction_too_which_finds_none(project, monkeypatch):
    protocol = project.newProtocol(ProtCocofoldReconstruct)
    assert "symmetry" in Config.getDomain().findWizards(protocol, DESKTOP_TKINTER)
    form = Form(protocol, monkeypatch, 1)
    wizards.CocofoldSymmetryWizard().show(form)
    assert form.values == {"symmetry": "C2"}
    assert "auto" not in form.offered
