"""What forms show, and when: help everywhere, labels of one meaning, nothing without effect; clashing pixel sizes."""

from __future__ import annotations

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import mrcfile
import numpy as np
import pyworkflow
from pwem.objects import AtomStruct, Volume
from pyworkflow.protocol import params
from scipion_cocofold import protocols
from scipion_cocofold.objects import CocofoldPlacement, CocofoldPrediction
from scipion_cocofold.protocols import ProtCocofoldCheck, ProtCocofoldFinetune, ProtCocofoldFit
from scipion_cocofold.wizards import expectedText, halvesText
from scipion_project import make_particles, make_project

KINDS = [getattr(protocols, name) for name in protocols.__all__]


@pytest.fixture(scope="module")
def project():
    return make_project("forms")


def own_params(protocol):
    """Parameters that this plugin's form defines, by name."""
    for name, param in protocol._definition.iterAllParams():
        inherited = name in ("runName", "runMode", "hostName", "numberOfThreads", "numberOfMpi", "expertLevel")
        if not inherited and not name.startswith("_") and not isinstance(param, params.Section):
            yield name, param


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind._label)
def test_every_parameter_has_help_and_a_label_of_its_own(kind, project):
    protocol = project.newProtocol(kind)
    shown = dict(own_params(protocol))
    assert shown
    assert [name for name, param in shown.items() if not param.help.get("").strip()] == []
    assert kind.getClassLabel() == f"cocofold - {kind._label}"
    labels = [param.label.get() for param in shown.values() if param.label.get()]
    assert sorted(set(labels)) == sorted(labels)


def shows(protocol, *names: str) -> list[bool]:
    return [protocol._definition.evalParamCondition(name) for name in names]


PLACING = ("inputMask", "mapResolution", "bodies", "symmetry", "hand", "acceptPlacement", "place")


def test_a_placement_leaves_nothing_to_say_of_placing(project):
    protocol = project.newProtocol(ProtCocofoldFinetune, inputVolume=Volume(location="map.mrc"))
    assert all(shows(protocol, *PLACING))
    protocol.inputPlacement.set(CocofoldPlacement(filename="placement.json"))
    assert not any(shows(protocol, *PLACING))
    protocol.inputPlacement.set(None)
    protocol.place.set(2)
    assert shows(protocol, "bodies", "hand", "symmetry", "place") == [False, False, True, True]


def test_settings_of_the_network_are_for_predictions(project):
    protocol = project.newProtocol(ProtCocofoldFinetune, inputModel=AtomStruct(filename="model.cif"))
    assert shows(protocol, "preset", "deform", "removeBelow") == [False, False, True]
    protocol.inputModel.set(CocofoldPrediction(filename="prediction"))
    assert shows(protocol, "preset", "deform") == [True, True]


def test_the_window_asks_again_when_what_a_condition_names_changes(project):
    form = project.newProtocol(ProtCocofoldFinetune)._definition
    assert "preset" in form.getParam("inputModel")._dependants
    assert "bodies" in form.getParam("inputPlacement")._dependants


def test_the_mask_is_that_of_the_placement(project):
    assert "inputMask" in dict(own_params(project.newProtocol(ProtCocofoldFit)))


def volume_of(folder, box: int, pixel_size: float) -> Volume:
    path = folder / f"map{box}.mrc"
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.zeros((box,) * 3, np.float32))
    volume = Volume(location=str(path))
    volume.setSamplingRate(pixel_size)
    return volume


def test_pixel_sizes_that_clash_stop_before_anything_runs(project, tmp_path):
    given = {"inputParticles": make_particles(tmp_path), "inputModel": AtomStruct(filename=__file__)}
    clash = project.newProtocol(ProtCocofoldFinetune, **given, inputVolume=volume_of(tmp_path, 32, 1.0)).validate()
    assert any("of 2.5 Å and of 1 Å" in error for error in clash)
    for volume in (volume_of(tmp_path, 32, 2.5), volume_of(tmp_path, 64, 1.0)):
        errors = project.newProtocol(ProtCocofoldFinetune, **given, inputVolume=volume).validate()
        assert not any("pixel size" in error for error in errors)
    given = {"inputParticles": given["inputParticles"], "inputStructure": given["inputModel"]}
    checked = project.newProtocol(ProtCocofoldCheck, **given, inputVolume=volume_of(tmp_path, 32, 1.0)).validate()
    assert any("of 2.5 Å and of 1 Å" in error for error in checked)


def test_another_pixel_size_in_the_stack_is_a_warning(project, tmp_path):
    particles = make_particles(tmp_path, count=60)
    protocol = project.newProtocol(ProtCocofoldFinetune, inputParticles=particles)
    assert protocol._warnings() == []
    with mrcfile.open(tmp_path / "it's a stack.mrcs", "r+") as mrc:
        mrc.voxel_size = 1.25
    assert "2.5 Å here, and their stack says 1.25 Å" in protocol._warnings()[0]


def test_ranges_of_a_chain_are_offered_in_halves():
    assert halvesText("A", "1", "214") == "A:1-107;A:108-214"
    assert halvesText("B", "10A", "20") == "B:10-15;B:16-20"


def test_expected_time_asks_for_what_it_needs(project):
    assert "first" in expectedText(project.newProtocol(ProtCocofoldFinetune))
    assert pyworkflow.Config.getDomain().findWizards(project.newProtocol(ProtCocofoldFinetune), "tkinter")["expected"]
