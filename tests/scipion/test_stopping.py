"""Stop, Continue, changed parameters, and protocols that are killed: no engine is left behind, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pyworkflow.protocol import MODE_RESUME
from scipion_cocofold.protocols import ProtCocofoldFinetune
from scipion_project import again, finished

WAIT_S = 120
# Scipion starts protocols and forgets about the processes
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")]


def engines(protocol) -> list[psutil.Process]:
    """Processes of the engine that work in the folder of a protocol's run.

    The folder is relative to the project's, and protocols of other tests' projects have the same numbers.
    """
    folder = protocol._getExtraPath("run")
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words, here = process.info["cmdline"] or [], process.info["cwd"]
        if here == os.path.realpath(os.getcwd()) and {"finetune", "cocofold", folder} <= set(words):
            found.append(process)
    return found


def wait_for(condition, what: str):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"no {what} after {WAIT_S} s"
        time.sleep(0.1)


def outputs_in_the_gui(project, protocol) -> list[str]:
    """Names of the outputs that the project's window shows after a refresh."""
    runs = [one for one in project.getRuns(refresh=True) if one.getObjId() == protocol.getObjId()]
    return [name for one in runs for name, _ in one.iterOutputAttributes()]


@pytest.fixture
def running(adk):
    """A run that has written its first checkpoint, and goes on for long."""
    inputs = {"inputParticles": adk.particles, "inputModel": adk.closed, "inputVolume": adk.volume, "place": 2}
    settings = {"effort": 1.0, "cycles": 30, "makeReport": False, "checkFirst": False, "numberOfThreads": 1}
    protocol = adk.project.newProtocol(ProtCocofoldFinetune, **inputs, **settings)
    adk.project.launchProtocol(protocol, wait=False)
    checkpoint = Path(adk.project.path, protocol._getExtraPath("run", "checkpoints", "latest.safetensors"))
    wait_for(checkpoint.is_file, "checkpoint")
    yield protocol
    for process in engines(protocol):
        process.kill()


def steps_of(protocol) -> int:
    cycles = protocol._readCycles()
    return int(cycles[-1]["step"]) if cycles else 0


def test_stop_and_continue(running, adk):
    wait_for(lambda: steps_of(running) > 0, "second cycle")
    running = adk.project.getProtocol(running.getObjId(), fromRuns=False)
    adk.project.stopProtocol(running)
    wait_for(lambda: not engines(running), "end of the engine")
    reached = steps_of(running)
    # What there is to do is cut short, but the settings of the run stay: the engine goes on where it was
    running.runMode.set(MODE_RESUME)
    adk.project.launchProtocol(running, wait=False)
    log = Path(running._getExtraPath("run", "log.txt"))
    wait_for(lambda: "resumed at step" in log.read_text(), "resuming")
    wait_for(lambda: steps_of(running) > reached, "progress")
    wait_for(lambda: "outputAtomStruct" in outputs_in_the_gui(adk.project, running), "model so far")
    adk.project.stopProtocol(adk.project.getProtocol(running.getObjId(), fromRuns=False))


def test_a_killed_protocol_leaves_no_engine(running, adk):
    known = engines(running)
    assert known
    protocol = adk.project.getProtocol(running.getObjId(), fromRuns=False)
    ancestors = {parent.pid for engine in known for parent in engine.parents()} - {os.getpid()}
    scipions = [pid for pid in ancestors if "pw_protocol_run" in " ".join(psutil.Process(pid).cmdline())]
    assert scipions, protocol.getPid()
    for pid in scipions:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not engines(running), "end of the engine")


def test_a_changed_parameter_runs_everything_again(adk):
    inputs = {"inputParticles": adk.particles, "inputModel": adk.closed, "inputVolume": adk.volume, "place": 2}
    settings = {"effort": 0.01, "makeReport": False, "checkFirst": False, "numberOfThreads": 1}
    protocol = adk.project.newProtocol(ProtCocofoldFinetune, **inputs, **settings)
    protocol = finished(again(adk.project, protocol))
    config, model = (Path(protocol._getExtraPath("run", name)) for name in ("config.yaml", "model.cif"))
    written = model.stat().st_mtime_ns
    protocol.runMode.set(MODE_RESUME)
    protocol = finished(again(adk.project, protocol))
    assert model.stat().st_mtime_ns == written
    protocol.seed.set(7)
    protocol.runMode.set(MODE_RESUME)
    protocol = finished(again(adk.project, protocol))
    assert model.stat().st_mtime_ns > written
    assert yaml.safe_load(config.read_text())["seed"] == 7
