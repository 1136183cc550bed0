"""Templates, made into projects by Scipion's own command and run without a screen."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import pyworkflow
import scipion_cocofold
from pyworkflow.template import LocalTemplate
from scipion_project import COUNT, some_particles

TEMPLATES = sorted((Path(scipion_cocofold.__file__).parent / "templates").glob("*.json.template"))


@pytest.fixture(scope="module")
def scipion(tmp_path_factory, shared_data):
    """Runs Scipion's command in a home of its own; returns the finished process."""
    home = tmp_path_factory.mktemp("scipion")
    own = {name: value for name, value in os.environ.items() if not name.startswith("SCIPION_")}
    environment = {
        **own,
        "SCIPION_HOME": str(home),
        "SCIPION_USER_DATA": str(home),
        "SCIPION_NOTIFY": "False",
        "COCOFOLD_ENV_ACTIVATION": "",
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(os.environ["SCIPION_PYTHON"]).parent), os.environ["PATH"]]),
    }

    def run(*words: object, **variables: str) -> subprocess.CompletedProcess:
        command = [os.environ["SCIPION_PYTHON"], "-m", "scipion", *map(str, words)]
        return subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, timeout=500)

    assert run("config", "--notify", "--unattended").returncode == 0
    run.home = home
    return run


def make(scipion, data: Path, name: str, variables: dict | None = None, **changes: object):
    folder = data / "adk"
    star = some_particles(data, scipion.home / "given")
    fields = {
        "particles": star,
        "px": 2.5,
        "voltage": 300,
        "cs": 2.7,
        "q0": 0.1,
        "map": folder / "uniform" / "reconstruction.mrc",
        "mappx": 2.5,
        "model": folder / "start_closed_moved.cif",
        "symmetry": "C1",
        "effort": 0.02,
        **changes,
    }
    words = [f"{key}={value}" for key, value in fields.items()]
    made = scipion(
        "template", "cocofold-relion", f"project_name={name}", *words, "--nogui", "--noschedule", **(variables or {})
    )
    assert (scipion.home / "projects" / name).is_dir(), made.stdout + made.stderr


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name.split(".")[0])
def test_each_template_names_protocols_and_parameters_that_exist(path):
    template = LocalTemplate("cocofold", str(path))
    template.content = template.getContent().split("~") if isinstance(template.getContent(), str) else template.content
    template.parseContent()
    for field in template.params.values():
        field.setValue(field.getValue() or "1")
    template._replaceFields()
    flow = json.loads("".join(template.getContent()))
    protocols = pyworkflow.Config.getDomain().getProtocols()
    for box in flow:
        known = dict(protocols[box["object.className"]]().iterDefinitionAttributes())
        named = {key for key in box if not key.startswith(("object.", "_"))}
        assert named <= set(known), box["object.className"]
    numbers = {box["object.id"] for box in flow}
    pointers = [value for box in flow for value in box.values() if isinstance(value, str) and ".output" in value]
    assert pointers
    assert all(pointer.split(".")[0] in numbers for pointer in pointers)


@pytest.mark.slow
def test_the_relion_template_runs_to_a_model(scipion, shared_data):
    make(scipion, shared_data, "whole")
    ended = scipion("python", "-m", "scipion_cocofold.headless", "whole")
    # With a fiftieth of the steps the domains are on their way: supported in part
    assert ended.returncode == 5, ended.stdout + ended.stderr
    order = [line.partition(" ")[2].strip() for line in ended.stdout.splitlines() if line.startswith("running")]
    assert order.index("check inputs") < order.index("fine-tune") < order.index("relax")
    (verdict,) = (scipion.home / "projects" / "whole").glob("Runs/*/extra/verdict.json")
    assert json.loads(verdict.read_text())["verdict"] == "supported in part"
    assert str(verdict) in ended.stdout
    # Run again, there is nothing left to do, and the verdict stands
    again = scipion("python", "-m", "scipion_cocofold.headless", "whole")
    assert again.returncode == 5
    assert "running" not in again.stdout
    # What protocols of their own found stands beside the verdict
    whole = json.loads(verdict.read_text())
    assert whole["relaxed"]["clashes"]["after"] <= whole["relaxed"]["clashes"]["before"]
    assert Path(whole["paths"]["relaxed"]).is_file()
    assert whole["check"]["contradictions"] == []
    assert whole["placement"]["trusted"]
    assert whole["assessment"]["compared_with"] == "start"


@pytest.mark.slow
def test_a_failure_and_a_project_that_is_not_there_have_statuses_of_their_own(scipion, shared_data, tmp_path):
    wrong = tmp_path / "wrong.cif"
    wrong.write_text("data_nothing\n")
    make(scipion, shared_data, "failing", model=wrong)
    ended = scipion("python", "-m", "scipion_cocofold.headless", "failing")
    assert ended.returncode == 1
    assert "failed: " in ended.stdout
    assert "fine-tune" not in ended.stdout
    missing = scipion("python", "-m", "scipion_cocofold.headless", "none_such")
    assert missing.returncode == 2
    assert "failing" in missing.stdout


@pytest.fixture
def slurm(tmp_path):
    """The hosts.conf of the documentation, and stand-ins for Slurm's commands that run a job at once.

    Every other time, from the first on, nothing is said of a job.
    """
    said = tmp_path / "said"
    page = (Path(__file__).resolve().parents[2] / "docs" / "facility.md").read_text()
    hosts = tmp_path / "hosts.conf"
    hosts.write_text("[localhost]" + page.split("[localhost]")[1].split("```")[0])

    def with_sbatch(text: str) -> dict[str, str]:
        for name, lines in (
            ("sbatch", text),
            (
                "squeue",
                f'if rm {said} 2> /dev/null; then kill -0 "$3" 2> /dev/null && echo "$3 R"; else touch {said}; fi\n',
            ),
            ("scancel", 'kill "$1"\n'),
        ):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text("#!/bin/sh\n" + lines)
            program.chmod(0o755)
        folders = [str(tmp_path / "bin"), str(Path(os.environ["SCIPION_PYTHON"]).parent), os.environ["PATH"]]
        return {"SCIPION_HOSTS": str(hosts), "PATH": os.pathsep.join(folders)}

    return with_sbatch


@pytest.mark.slow
def test_boxes_go_through_a_queue(scipion, slurm, shared_data, tmp_path):
    log = tmp_path / "sbatch.log"
    started = f'cat "$1" >> {log}\nsetsid sh "$1" > /dev/null 2>&1 &\necho "Submitted batch job $!"\n'
    queue = {**slurm(started), "SCIPION_USE_QUEUE": "True"}
    wrong = tmp_path / "wrong.cif"
    wrong.write_text("data_nothing\n")
    make(scipion, shared_data, "queued", queue, model=wrong)
    ended = scipion("python", "-m", "scipion_cocofold.headless", "queued", **queue)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"          Particles: {COUNT} (ctf=True" in ended.stdout
    assert "[[" not in ended.stdout
    job = log.read_text()
    assert "#SBATCH --cpus-per-task=" in job
    assert "pw_protocol_run" in job


@pytest.mark.slow
def test_a_queue_that_refuses_a_job_ends_the_run(scipion, slurm, shared_data):
    refuses = slurm('echo "sbatch: error: invalid partition specified" >&2\nexit 1\n')
    make(scipion, shared_data, "refused", refuses)
    where = ("python", "-m", "scipion_cocofold.headless", "refused", "--json", "--queue")
    wrong = scipion(*where, "none_such", **refuses)
    assert wrong.returncode == 2, wrong.stderr
    assert "cpu, gpu" in json.loads(wrong.stdout.splitlines()[-1])["message"]
    ended = scipion(*where, "gpu,JOB_MEMORY=32", **refuses)
    assert ended.returncode == 1, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert "invalid partition" in found["message"]
    # Imports are not submitted
    assert [box["status"] for box in found["boxes"]] == ["finished", "finished", "finished", "failed"]
    (script,) = (scipion.home / "projects" / "refused" / "Runs").glob("*Fit/logs/*.job")
    words = script.read_text()
    assert "--partition=gpu" in words
    assert "--mem=32G" in words
    assert "--time=4:00:00" in words
    assert "--cpus-per-task=4" in words
    assert "--gres=gpu:1" in words
    (verdict,) = (scipion.home / "projects" / "refused").glob("Runs/*/extra/verdict.json")
    assert "invalid partition" in json.loads(verdict.read_text())["error"]
