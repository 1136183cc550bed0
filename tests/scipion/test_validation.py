"""What forms say before a run starts: numbers that the engine would refuse, files that are gone."""

from __future__ import annotations

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
from pwem.objects import AtomStruct, Volume
from scipion_cocofold.convert import ConversionError, boxSize
from scipion_cocofold.protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFinetune,
    ProtCocofoldFit,
    ProtCocofoldReconstruct,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
)
from scipion_cocofold.protocols.base import ENGINE_RANGES
from scipion_project import empty_set, make_particles, make_project

from cocofold.finetuning.options import Options
from cocofold.mapfit.workflow import MapFiles
from cocofold.preflight.check_inputs import CheckSettings
from cocofold.system.errors import InputError


@pytest.fixture(scope="module")
def project():
    return make_project("validation")


@pytest.fixture
def model(tmp_path) -> AtomStruct:
    residue = gemmi.Residue()
    residue.name, residue.seqid = "ALA", gemmi.SeqId("1")
    atom = gemmi.Atom()
    atom.name, atom.element = "CA", gemmi.Element("C")
    residue.add_atom(atom)
    chain, one, structure = gemmi.Chain("A"), gemmi.Model("1"), gemmi.Structure()
    chain.add_residue(residue)
    one.add_chain(chain)
    structure.add_model(one)
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    return AtomStruct(filename=str(tmp_path / "model.cif"))


@pytest.fixture
def volume(tmp_path) -> Volume:
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(np.zeros((32, 32, 32), np.float32))
    found = Volume(location=str(tmp_path / "map.mrc"))
    found.setSamplingRate(2.5)
    return found


def accepts(option: str, value: float) -> bool:
    """Whether the engine accepts a number for an option."""
    verb, name = option.split(" --")
    try:
        if verb == "finetune":
            Options(particles="particles.star", model="model.cif", **{name.replace("-", "_"): value})
        elif verb == "fit":
            MapFiles(Path("map.mrc"), resolution_angstrom=value)
        else:
            CheckSettings(count=int(value))
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    "option", [option for option in ENGINE_RANGES if option.split()[0] not in ("predict", "select")]
)
def test_ranges_of_the_forms_are_the_engines(option):
    least, most = ENGINE_RANGES[option]
    # No particles by number: the option is left out
    assert accepts(option, 1 if option == "finetune --max-particles" else least)
    assert accepts(option, most)
    assert not accepts(option, least - 0.001 if least < 1 else least - 1)
    assert not accepts(option, most + 1)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("effort", 0.005, 0.01),
        ("heldout", 0.6, 0.5),
        ("cycles", 31, 30),
        ("batchSize", 0, 1),
        ("resolution", 0.1, 0.5),
        ("removeBelow", 101, 100),
        ("mapResolution", 0.1, 0.5),
        ("maxParticles", -1, 0),
    ],
)
def test_numbers_that_the_engine_refuses_are_refused_by_the_form(name, bad, good, project, model, tmp_path):
    given = {"inputParticles": make_particles(tmp_path), "inputModel": model}
    refused = project.newProtocol(ProtCocofoldFinetune, **given, **{name: bad}).validate()
    assert any("must be from" in error for error in refused)
    assert project.newProtocol(ProtCocofoldFinetune, **given, **{name: good}).validate() == []


def test_an_emptied_field_is_said_to_be_no_number(project, model, tmp_path):
    protocol = project.newProtocol(ProtCocofoldFinetune, inputParticles=make_particles(tmp_path), inputModel=model)
    protocol.effort.set(None)
    assert any("Effort" in error for error in protocol.validate())


def test_an_emptied_number_of_particles_to_select_is_no_traceback(project, tmp_path):
    protocol = project.newProtocol(ProtCocofoldSelect, inputParticles=make_particles(tmp_path))
    protocol.count.set(None)
    assert any("Particles to select" in error for error in protocol.validate())


def test_symmetry_cannot_be_found_without_a_volume(project, model, tmp_path):
    given = {"inputParticles": make_particles(tmp_path), "inputModel": model}
    errors = project.newProtocol(ProtCocofoldFinetune, **given, symmetry="auto").validate()
    assert any("point group" in error for error in errors)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ProtCocofoldFinetune, "inputModel"),
        (ProtCocofoldCheck, "inputStructure"),
        (ProtCocofoldRelax, "inputStructure"),
        (ProtCocofoldAssess, "inputStructure"),
        (ProtCocofoldReconstruct, None),
        (ProtCocofoldSelect, None),
    ],
)
def test_a_stack_that_is_gone_is_named(kind, name, project, model, tmp_path):
    particles = make_particles(tmp_path)
    given = {"inputParticles": particles, **({name: model} if name else {})}
    if kind is ProtCocofoldSelect:
        given["count"] = 20
    (tmp_path / "it's a stack.mrcs").unlink()
    errors = " ".join(project.newProtocol(kind, **given).validate())
    assert "it's a stack.mrcs" in errors
    assert "cannot be read" in errors


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ProtCocofoldFinetune, "inputModel"),
        (ProtCocofoldFit, "inputModel"),
        (ProtCocofoldCheck, "inputStructure"),
        (ProtCocofoldRelax, "inputStructure"),
        (ProtCocofoldAssess, "inputStructure"),
    ],
)
def test_a_model_that_is_gone_is_named(kind, name, project, model, volume, tmp_path):
    given = {name: model, "inputVolume": volume, "inputParticles": make_particles(tmp_path)}
    if kind is ProtCocofoldFit:
        del given["inputParticles"]
    if kind in (ProtCocofoldRelax, ProtCocofoldAssess):
        del given["inputVolume"]
    (tmp_path / "model.cif").unlink()
    errors = " ".join(project.newProtocol(kind, **given).validate())
    assert f"The file of the model is gone: {tmp_path / 'model.cif'}" in errors


@pytest.mark.parametrize(("kind", "name"), [(ProtCocofoldFinetune, "inputModel"), (ProtCocofoldFit, "inputModel")])
def test_a_volume_that_is_gone_is_named(kind, name, project, model, volume, tmp_path):
    given = {name: model, "inputVolume": volume}
    if kind is ProtCocofoldFinetune:
        given["inputParticles"] = make_particles(tmp_path)
    (tmp_path / "map.mrc").unlink()
    errors = " ".join(project.newProtocol(kind, **given).validate())
    assert f"The file of the volume is gone: {tmp_path / 'map.mrc'}" in errors


def test_an_empty_set_of_particles_has_no_box(tmp_path):
    particles = empty_set(tmp_path)
    particles.write()
    with pytest.raises(ConversionError, match="empty"):
        boxSize(particles)
