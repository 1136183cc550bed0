"""States in Scipion: options, classes without junk, models, lines of the summary."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import mrcfile
from pwem.objects import AtomStruct
from scipion_cocofold.protocols import ProtCocofoldFinetune
from scipion_cocofold.protocols.states import STATE_CHOICES, stateOptions, stateOutputs, stateSummary
from scipion_project import make_particles, make_project
from test_best_so_far import write_model

STATES = [
    {"model": "model_1.cif", "share": 0.6, "share_error": 0.1, "verdict": "supported"},
    {"model": "model_2.cif", "share": 0.4, "share_error": 0.1, "verdict": "nothing to change"},
]
METRICS = {
    "states": STATES,
    "junk": {"particles": 1, "share": 0.1},
    "differences": [{"from": "model_1.cif", "to": "model_2.cif", "sentences": ["A domain turned by 40°."]}],
    "verdict": "nothing to change",
    "frc_heldout": 0.2,
}


@pytest.fixture(scope="module")
def project():
    return make_project("states")


@pytest.fixture
def protocol(project, tmp_path, monkeypatch):
    """One whose run told its particles apart: classes 2, 1, 0, 2, ... in the order of the set, the first unused."""
    monkeypatch.chdir(project.path)
    write_model(tmp_path / "given.cif", 0.0)
    protocol = project.newProtocol(
        ProtCocofoldFinetune,
        inputParticles=make_particles(tmp_path),
        inputModel=AtomStruct(filename=str(tmp_path / "given.cif")),
        states=STATE_CHOICES.index("auto"),
        junk=1,
    )
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    run = Path(protocol._runFolder())
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps(METRICS))
    for number in (1, 2):
        write_model(run / f"model_{number}.cif", float(number))
        mrcfile.write(run / f"reconstruction_{number}.mrc", np.zeros((8, 8, 8), np.float32))
    rows = []
    link = tmp_path / "stack.mrcs"  # names with blanks are links in the engine's files
    for place, particle in enumerate(protocol.inputParticles.get().iterItems()):
        index, name = particle.getLocation()
        if not link.is_symlink():
            link.symlink_to(os.path.abspath(name))
        if place > 0:
            rows.append(f"{index:06d}@{link} {(2, 1, 0)[place % 3]} 0.95 0.05")
    labels = ("rlnImageName", "rlnClassNumber", "cocofoldStateProbability", "cocofoldJunkProbability")
    head = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    (run / "particles.star").write_text(f"\ndata_particles\n\nloop_\n{head}" + "\n".join(rows) + "\n")
    return protocol


def test_the_form_s_values_are_options_of_the_engine(project, protocol) -> None:
    assert stateOptions(protocol) == {"--states": "auto", "--junk": "auto"}
    assert protocol._finetuneOptions().items() >= {"--states": "auto", "--junk": "auto"}.items()
    assert stateOptions(project.newProtocol(ProtCocofoldFinetune)) == {}


def test_classes_and_models_are_outputs(protocol) -> None:
    outputs = stateOutputs(protocol, None)
    count = protocol.inputParticles.get().getSize()
    expected = {number: sum((2, 1, 0)[place % 3] == number for place in range(1, count)) for number in (1, 2)}
    found = {}
    for one in outputs["outputClasses"].iterItems():
        found[one.getObjId()] = one.getSize()
        assert one.getRepresentative().getFileName().endswith(f"reconstruction_{one.getObjId()}.mrc")
        assert all(particle._cocofoldStateProbability.get() == 0.95 for particle in one.iterItems())
    assert found == {number: size for number, size in expected.items() if size}
    models = [(state.getObjLabel(), state._cocofoldShare.get()) for state in outputs["outputStates"].iterItems()]
    assert models == [("state 1, 60.0 %", 0.6), ("state 2, 40.0 %", 0.4)]


def test_the_summary_tells_of_all_states() -> None:
    lines = stateSummary(METRICS)
    assert lines[0] == "model_1.cif: 60.0 % (± 10.0) of the particles, supported."
    assert "1 particles show none" in lines[2]
    assert "turned by 40°" in lines[3]
    assert stateSummary({}) == []
