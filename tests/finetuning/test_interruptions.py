"""Runs that are killed, ended, orphaned or left without space: what is left, and that they resume to the same model."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from running import EFFORT, command, log, refused

from cocofold.errors import InputError
from cocofold.finetuning import Options, finetune
from cocofold.finetuning.folder import RunFolder

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for(what: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def started(*arguments: object, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=stderr, env=ONE_THREAD)


def ends_like(finished: Path, particles: Path, start: Path, out: Path) -> None:
    """Resuming gives the model of the run that nothing disturbed, and leaves nothing half-written."""
    done = subprocess.run(command(particles, start, out, "--resume"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "model.cif").read_bytes() == (finished / "model.cif").read_bytes()
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_same_model(
    finished: Path, particles: Path, start: Path, tmp_path: Path, ending: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    process = started(particles, start, out)
    # In the second pass, which gives the answer.
    wait_for(lambda: "cycle  3" in log(out).partition("pass 2 of 2")[2], process)
    time.sleep(0.2)
    process.send_signal(ending)
    assert process.wait(timeout=20) == status
    assert not (out / "metrics.json").exists()
    # What a process leaves that is killed while it writes.
    (out / "models" / ".cycle_03.cif.4711.part").write_text("half")
    with open(out / "log.txt", "a") as file:
        file.write("cycle  4   half of a li")
    ends_like(finished, particles, start, out)
    assert "half of a li" not in log(out)
    # Once more finds nothing to do.
    again = subprocess.run(command(particles, start, out, "--resume"), check=True, capture_output=True, text=True)
    assert "finished already" in again.stdout


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_run_ended_before_its_first_step_resumes_from_the_beginning(
    finished: Path, particles: Path, start: Path, tmp_path: Path, ending: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    process = started(particles, start, out, stderr=subprocess.PIPE)
    wait_for(lambda: (out / "config.yaml").exists(), process)
    process.send_signal(ending)
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == status
    assert complaint == b""
    assert f"ended by {ending.name}" in log(out)
    assert not (out / "checkpoints" / "latest.safetensors").exists()
    if ending == signal.SIGINT:
        ends_like(finished, particles, start, out)


def test_signals_that_are_ignored_stay_so(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(["nohup", *command(particles, start, out)], stdout=subprocess.DEVNULL, env=ONE_THREAD)
    wait_for(lambda: "cycle  1" in log(out), process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_a_run_ends_with_the_process_that_started_it(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(["sleep", "120"]) as owner:
        process = started(particles, start, out, "--stop-with", owner.pid)
        wait_for(lambda: "cycle  1" in log(out), process)
        # Killed and not waited for: a process of this number is still listed.
        owner.kill()
        assert process.wait(timeout=20) == 143
        assert f"ended by the end of process {owner.pid}" in log(out)
        assert (out / "checkpoints" / "latest.safetensors").is_file()
        message = refused(command(particles, start, tmp_path / "late", "--stop-with", owner.pid))
        assert "has ended already" in message
    assert "no such process" in refused(command(particles, start, tmp_path / "late", "--stop-with", 2**22 + 1))
    assert not (tmp_path / "late").exists()


def limited(n_bytes: int) -> Callable[[], None]:
    """Let a child write files of at most this size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def test_a_file_that_cannot_be_written_ends_the_run_whole(
    finished: Path, particles: Path, start: Path, tmp_path: Path
) -> None:
    sizes = {path.name: path.stat().st_size for path in finished.rglob("*") if path.is_file()}
    density = sizes.pop("density.mrc")
    assert max(sizes.values()) < 0.9 * density
    out = tmp_path / "run"
    message = refused(command(particles, start, out), preexec_fn=limited(int(0.95 * density)))
    assert "density.mrc" in message
    assert "full" in message
    assert "--resume" in message
    assert not (out / "density.mrc").exists()
    assert not list(out.rglob("*.part"))
    ends_like(finished, particles, start, out)


def test_nothing_is_left_of_a_run_that_could_not_write_its_first_model(
    particles: Path, start: Path, tmp_path: Path
) -> None:
    message = refused(command(particles, start, tmp_path / "run"), preexec_fn=limited(50_000))
    assert "model.cif" in message
    assert "start again" in message
    assert not (tmp_path / "run").exists()


FILLING = """
set -u
mount -t tmpfs -o size=24m none "$1"
out="$1/run"
shift 1
"$@" --out "$out" >/dev/null 2>"$MESSAGES" &
until grep -q "cycle  1" "$out/log.txt" 2>/dev/null; do sleep 0.05; kill -0 $! || exit 90; done
head -c 100m /dev/zero > "$out/../filler" 2>/dev/null
wait $!
[ $? -eq 2 ] || exit 91
[ -z "$(find "$out" -name '*.part')" ] || exit 92
rm "$out/../filler"
"$@" --out "$out" --resume >/dev/null 2>&1 || exit 93
cp "$out/model.cif" "$RESULT"
"""
TOO_SMALL = """
mount -t tmpfs -o size=2m none "$1" && out="$1/run" && shift 1 && exec "$@" --out "$out"
"""


def in_namespace(script: str, folder: Path, arguments: list[str], **variables: Path) -> subprocess.CompletedProcess:
    """Run a script that may mount file systems of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here (unshare -rm)")
    folder.mkdir()
    where = arguments.index("--out")
    arguments = arguments[:where] + arguments[where + 2 :]
    environment = {**ONE_THREAD, **{name: str(path) for name, path in variables.items()}}
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(folder), *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_a_full_disk_in_mid_run(finished: Path, particles: Path, start: Path, tmp_path: Path) -> None:
    result, messages = tmp_path / "model.cif", tmp_path / "messages"
    done = in_namespace(
        FILLING, tmp_path / "disk", command(particles, start, tmp_path), RESULT=result, MESSAGES=messages
    )
    assert done.returncode == 0, done
    assert "full" in messages.read_text()
    assert "--resume" in messages.read_text()
    assert "Traceback" not in messages.read_text()
    assert result.read_bytes() == (finished / "model.cif").read_bytes()


def test_too_small_a_disk_is_refused_at_once(particles: Path, start: Path, tmp_path: Path) -> None:
    done = in_namespace(TOO_SMALL, tmp_path / "disk", command(particles, start, tmp_path))
    assert done.returncode == 2
    assert "MB are free there" in done.stderr


def test_folders_that_cannot_be_written(particles: Path, start: Path) -> None:
    assert "cannot be written" in refused(command(particles, start, Path("/proc/run")))


def test_a_folder_that_vanishes_in_mid_run(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(particles, start, out, stderr=subprocess.PIPE)
    wait_for(lambda: "cycle  1" in log(out), process)
    shutil.rmtree(out)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"cannot be written" in complaint
    assert b"Traceback" not in complaint
    assert not out.exists()


def test_a_folder_in_use_full_or_of_other_settings_is_refused(
    finished: Path, particles: Path, start: Path, tmp_path: Path
) -> None:
    assert "not empty" in refused(command(particles, start, finished))
    message = refused([*command(particles, start, finished, "--resume"), "--seed", "2"])
    assert "seed (1 then, 2 now)" in message
    assert "holds no run" in refused(command(particles, start, tmp_path / "none", "--resume"))
    options = Options(particles=str(particles), model=str(start))
    with RunFolder(tmp_path / "held", options, resume=False):
        (tmp_path / "held/checkpoints/latest.safetensors").write_bytes(b"x")
        message = refused(command(particles, start, tmp_path / "held", "--resume"))
    assert "another run" in message
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(command(particles, start, tmp_path / "file"))


def test_a_run_that_has_stopped_gaining_does_not_go_on_when_it_is_resumed(
    particles: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "particles.star").write_text(particles.read_text())
    with mrcfile.new(tmp_path / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(5).normal(size=(80, 64, 64)).astype(np.float32))
    options = Options(particles=str(tmp_path / "particles.star"), model=str(start), effort=EFFORT, contrast="white")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "density.mrc")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_density", full)
        with pytest.raises(InputError, match=r"density\.mrc.*--resume"):
            finetune(options, tmp_path / "run")
    assert "stopped" in log(tmp_path / "run")
    cycles = (tmp_path / "run" / "metrics.csv").read_bytes()
    finetune(options, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == cycles


def test_a_damaged_checkpoint_is_refused(finished: Path, particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "metrics.json").unlink()
    checkpoint = out / "checkpoints" / "latest.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    message = refused(command(particles, start, out, "--resume"))
    assert "not a usable checkpoint" in message
    assert sys.executable not in message
