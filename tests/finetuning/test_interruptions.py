"""Runs that are killed, ended, orphaned or left without space: what is left, and that they resume to the same model."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from running import command, log, refused, run_here
from safetensors.torch import load_file, save_file

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.finetuning.run_folder import RunFolder
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError
from cocofold.system.processes import Interrupted, SignalHandler, time_limit

pytestmark = [pytest.mark.usefixtures("usual_signals")]

SHORT = 0.03
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def short(particles: Path, start: Path, out: Path, *more: object) -> list[str]:
    return command(particles, start, out, "--effort", SHORT, *more)


@pytest.fixture(scope="module")
def options(particles: Path, start: Path) -> Options:
    """Of the runs that ``short`` starts."""
    return Options(particles=str(particles), model=str(start), effort=SHORT, seed=1, cycles=7, check=False)


@pytest.fixture(scope="module")
def undisturbed(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    finetune(options, out)
    return out


def started(arguments: list[str], **more: object) -> subprocess.Popen:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": ONE_THREAD, **more}
    return subprocess.Popen(arguments, **streams)  # type: ignore[call-overload]


def wait_for(what: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and messages of a process that is to end within 10 s, or longer on a machine that is busy."""
    _, complaint = process.communicate(timeout=60)
    complaint = (complaint or b"").decode()
    assert "Traceback" not in complaint
    return process.returncode, complaint


def ends_like(undisturbed: Path, options: Options, out: Path) -> None:
    """Resuming, here with as many threads as there are, gives the same model, and leaves nothing half-written."""
    finetune(options, out, resume=True)
    assert (out / "model.cif").read_bytes() == (undisturbed / "model.cif").read_bytes()
    assert {path.relative_to(out) for path in out.rglob("*")} == {
        path.relative_to(undisturbed) for path in undisturbed.rglob("*")
    }


@pytest.mark.slow
def test_a_run_in_pieces_of_a_queues_time_ends_with_the_same_model(
    undisturbed: Path, options: Options, particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    seconds, statuses, messages = 0.5, [], []
    while not statuses or statuses[-1] == 75:
        more = ["--resume"] if (out / "config.yaml").is_file() else []
        status, said = run_here(short(particles, start, out, "--time-limit", f"{seconds:.1f}s", *more))
        statuses.append(status)
        messages.append(said)
        seconds *= 1.7
    assert statuses[-1] == 0
    assert statuses[0] == 75
    assert messages[0] == "cocofold: ended by the time limit; --resume goes on from here\n"
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    ends_like(undisturbed, options, out)


@pytest.mark.parametrize("limit", ["55", "m", "1h 30m", "0s", "-5m", "366d", "99999999999d", "1.2.3h", "\u0665m"])
def test_a_time_limit_that_is_no_time_is_refused(particles: Path, start: Path, tmp_path: Path, limit: str) -> None:
    message = refused(short(particles, start, tmp_path / "run", f"--time-limit={limit}"))
    assert message.startswith(f"cocofold: --time-limit {limit}: give a time")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("55m", 3300), ("1h30m", 5400), ("2d", 172_800), ("90s", 90), ("0.5h", 1800)]
)
def test_a_time_limit_is_a_sum_of_times_with_units(text: str, seconds: float) -> None:
    with time_limit(text):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(seconds, abs=5)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.slow
def test_a_run_ended_and_killed_resumes_to_the_same_model(
    undisturbed: Path,
    options: Options,
    particles: Path,
    start: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "run"
    process = started(short(particles, start, out))
    wait_for(lambda: "cycle  2" in log(out), process)
    time.sleep(0.1)
    asked = time.time()
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "cocofold: ended by SIGTERM; --resume goes on from here\n")
    # Not the one of the cycle's end; file systems' clocks may lag a little.
    assert (out / "checkpoints" / "latest.safetensors").stat().st_mtime > asked - 0.02
    assert log(out).endswith("ended by SIGTERM; --resume goes on from here\n")
    assert not list(out.rglob("*.part"))
    process = started(short(particles, start, out, "--resume"))
    # In the second pass, which gives the answer.
    wait_for(lambda: "cycle  6" in log(out).partition("pass 2 of 2")[2], process)
    time.sleep(0.1)
    process.kill()
    assert ended(process) == (-9, "")
    assert not (out / "metrics.json").exists()
    # What a process leaves that is killed while it writes.
    (out / "models" / ".cycle_03.cif.4711.part").write_text("half")
    with open(out / "log.txt", "ab") as file:
        file.write("half of a line, moved  1.00 Å".encode()[:-1])
    ends_like(undisturbed, options, out)
    assert "half of a line" not in log(out)
    with caplog.at_level("INFO", logger="cocofold"):
        finetune(options, out, resume=True)
    assert "finished already" in caplog.text


@pytest.mark.slow
def test_a_run_ended_before_its_first_step_resumes_from_the_beginning(
    undisturbed: Path, options: Options, particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = started(short(particles, start, out))
    wait_for(lambda: (out / "config.yaml").exists(), process)
    process.send_signal(signal.SIGINT)
    status, complaint = ended(process)
    assert status == 130
    assert complaint.count("\n") == 1
    assert "ended by SIGINT" in complaint
    assert not (out / "checkpoints" / "latest.safetensors").exists()
    ends_like(undisturbed, options, out)


ENDED_WHILE_IT_IMPORTS = """
import os, signal, sys
from cocofold.__main__ import main

class Ending:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGTERM)

assert "torch" not in sys.modules
sys.meta_path.insert(0, Ending())
main()
"""


@pytest.mark.slow
def test_a_signal_before_the_run_begins_ends_it_with_its_status(particles: Path, start: Path, tmp_path: Path) -> None:
    process = started([sys.executable, "-c", ENDED_WHILE_IT_IMPORTS, *short(particles, start, tmp_path / "run")[3:]])
    assert ended(process) == (143, "cocofold: ended by SIGTERM\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_signals_that_are_ignored_stay_so(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(["nohup", *short(particles, start, out)])
    wait_for(lambda: "cycle  2" in log(out), process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


def test_a_second_signal_does_not_disturb_the_end() -> None:
    before = signal.getsignal(signal.SIGINT)
    statuses = []
    with SignalHandler() as endings:
        try:
            with endings.deferred():
                os.kill(os.getpid(), signal.SIGINT)
                statuses.append("waited")
        except Interrupted as ending:
            os.kill(os.getpid(), signal.SIGTERM)
            statuses.append(ending.code)
        # Had a library kept the exception to itself, the next step would raise it again.
        with contextlib.suppress(Interrupted):
            endings.check()
            statuses.append("went on")
    assert statuses == ["waited", 130]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_a_library_kept_to_itself_ends_what_comes_next() -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = []
    with SignalHandler():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after the signal")
        around = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted) as ended, SignalHandler():
            reached.append("the next step")
        assert signal.getsignal(signal.SIGTERM) == around
    assert ended.value.code == 128 + signal.SIGTERM
    assert reached == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_run_ends_with_the_process_that_started_it_though_its_output_is_cut(
    options: Options, particles: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(["sleep", "120"]) as owner:
        process = started(short(particles, start, out, "--stop-with", owner.pid), stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert b"80 particles" in process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        # Nobody reads what it says; it goes on all the same.
        wait_for(lambda: "cycle  2" in log(out), process)
        # Killed and not waited for: a process of this number is still listed.
        owner.kill()
        status, complaint = ended(process)
        assert status == 143
        assert f"ended by the end of process {owner.pid}" in complaint
        assert f"ended by the end of process {owner.pid}" in log(out)
        assert (out / "checkpoints" / "latest.safetensors").is_file()
        with pytest.raises(InputError, match="has ended already"):
            finetune(options, tmp_path / "late", stop_with=owner.pid)
    with pytest.raises(InputError, match="no such process"):
        finetune(options, tmp_path / "late", stop_with=2**22 + 1)
    assert not (tmp_path / "late").exists()
    assert "stop" not in (out / "config.yaml").read_text()


@pytest.mark.slow
def test_a_terminal_that_hangs_up_ends_the_run_with_a_checkpoint(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    terminal, of_run = pty.openpty()
    os.set_blocking(terminal, False)
    # As its own terminal, so that both the signal and errors on writing come.
    process = started(["setsid", "--ctty", *short(particles, start, out)], stdin=of_run, stdout=of_run, stderr=of_run)
    os.close(of_run)

    def reads_until_the_second_cycle() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
        return "cycle  2" in log(out)

    wait_for(reads_until_the_second_cycle, process)
    os.close(terminal)
    assert process.wait(timeout=60) == 129
    assert "ended by SIGHUP" in log(out)
    assert (out / "checkpoints" / "latest.safetensors").is_file()


@contextlib.contextmanager
def files_of_at_most(n_bytes: float) -> Iterator[None]:
    """Writing beyond this size fails (EFBIG), as it does (ENOSPC) on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Written at the end, the first of them first
MAPS = ("reconstruction.mrc", "unexplained.mrc", "density.mrc")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reconstruction.mrc", "checkpoints/latest.safetensors"])
def test_a_file_that_cannot_be_written_ends_the_run_whole(
    undisturbed: Path, options: Options, tmp_path: Path, name: str
) -> None:
    sizes = {str(path.relative_to(undisturbed)): path.stat().st_size for path in undisturbed.rglob("*.*")}
    limit = 0.97 * sizes[name]
    assert max(size for other, size in sizes.items() if other not in {name, *MAPS}) < limit
    out = tmp_path / "run"
    with pytest.raises(InputError, match=rf"{name}: .* MB of the disk are free.*--resume"), files_of_at_most(limit):
        finetune(options, out)
    assert not (out / "density.mrc").exists()
    assert not list(out.rglob("*.part"))
    ends_like(undisturbed, options, out)


@pytest.mark.slow
def test_nothing_is_left_of_a_run_that_could_not_write_its_first_model(options: Options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.cif: .*start again"), files_of_at_most(50_000):
        finetune(options, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_did_not_reach_the_disk_does_not_replace_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "file", "old")

    def late(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(OSError, match=r"quota exceeded: .*file'"):
        write_atomically(tmp_path / "file", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


FILLING = """
set -u
mount -t tmpfs -o size=24m none "$1"
out="$1/run"
shift 1
"$@" --out "$out" >/dev/null 2>"$MESSAGES" &
until grep -q "cycle  2" "$out/log.txt" 2>/dev/null; do sleep 0.05; kill -0 $! || exit 90; done
head -c 100m /dev/zero > "$out/../filler" 2>/dev/null
wait $!
[ $? -eq 2 ] || exit 91
[ -z "$(find "$out" -name '*.part')" ] || exit 92
rm "$out/../filler"
"$@" --out "$out" --resume >/dev/null 2>&1 || exit 93
cp "$out/model.cif" "$RESULT"
"""


@pytest.mark.slow
def test_a_full_disk_in_mid_run(undisturbed: Path, particles: Path, start: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here (unshare -rm)")
    disk, result, messages = tmp_path / "disk", tmp_path / "model.cif", tmp_path / "messages"
    disk.mkdir()
    arguments = short(particles, start, tmp_path)
    where = arguments.index("--out")
    del arguments[where : where + 2]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FILLING, "sh", str(disk), *arguments],
        capture_output=True, check=False, env={**ONE_THREAD, "RESULT": str(result), "MESSAGES": str(messages)},
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "full (No space left on device; 0.0 MB of the disk are free); make room, then go on" in messages.read_text()
    assert "Traceback" not in messages.read_text()
    assert result.read_bytes() == (undisturbed / "model.cif").read_bytes()


@pytest.mark.slow
def test_too_small_a_disk_is_refused_at_once(
    undisturbed: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))(10**9, 10**9, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"0\.0 MB are free there; make room") as refusal:
        finetune(options, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    announced = float(re.findall(r"up to ([\d.]+) MB", str(refusal.value))[0]) * 1e6
    written = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    assert written < announced < 2 * written


@pytest.mark.slow
def test_a_folder_made_read_only_in_mid_run(
    undisturbed: Path, options: Options, particles: Path, start: Path, tmp_path: Path
) -> None:
    # Permissions do not bind root, unless it gives up the right to pass over them.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if bound and (shutil.which("setpriv") is None or subprocess.run([*bound, "true"], capture_output=True).returncode):
        pytest.skip("root, and setpriv cannot take its rights away")
    out = tmp_path / "run"
    process = started([*bound, *short(particles, start, out)])
    wait_for(lambda: "cycle  2" in log(out), process)
    folders = [out, out / "models", out / "checkpoints"]
    for folder in folders:
        folder.chmod(0o555)
    status, complaint = ended(process)
    for folder in folders:
        folder.chmod(0o755)
    assert status == 2
    assert "cannot be written: Permission denied; make it writable, then go on" in complaint
    ends_like(undisturbed, options, out)


@pytest.mark.slow
def test_a_folder_that_vanishes_in_mid_run(particles: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(short(particles, start, out))
    wait_for(lambda: "cycle  2" in log(out), process)
    # At once: while it is emptied, other messages would be true.
    shutil.rmtree(out.rename(tmp_path / "gone"))
    status, complaint = ended(process)
    assert status == 2
    assert complaint == f"cocofold: --out {out}: cannot be written: the folder is gone; start again\n"
    assert not out.exists()


@pytest.mark.slow
def test_a_folder_in_use_full_or_of_other_settings_is_refused(
    undisturbed: Path, options: Options, tmp_path: Path, particles: Path, start: Path
) -> None:
    with pytest.raises(InputError, match="not empty"):
        finetune(options, undisturbed)
    other = Options(particles=str(particles), model=str(start), effort=SHORT, seed=2, cycles=7, check=False)
    with pytest.raises(InputError, match=r"seed \(1 then, 2 now\)"):
        finetune(other, undisturbed, resume=True)
    with pytest.raises(InputError, match="holds no run"):
        finetune(options, tmp_path / "none", resume=True)
    with RunFolder(tmp_path / "held", options, resume=False):
        assert "another run" in refused(short(particles, start, tmp_path / "held", "--resume"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        finetune(options, tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        finetune(options, Path("/proc/run"))


@pytest.mark.slow
def test_a_run_killed_before_it_wrote_its_settings_can_be_started_again(options: Options, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".config.yaml.4711.part").write_text("half")
    with RunFolder(tmp_path, options, resume=False):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml", "models", "checkpoints"}


@pytest.mark.slow
def test_a_run_whose_teacher_has_a_checkpoint_is_not_withdrawn(options: Options, tmp_path: Path) -> None:
    for name, is_kept in (("teacher/checkpoints/latest.safetensors", True), ("model.cif", False)):
        out = tmp_path / Path(name).stem
        with contextlib.suppress(InputError), RunFolder(out, options, resume=False):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).touch()
            raise InputError("the disk is full")
        assert (out / "config.yaml").is_file() == is_kept
        assert out.exists() == is_kept


@pytest.mark.slow
def test_a_run_that_has_stopped_gaining_does_not_go_on_when_it_is_resumed(
    particles: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "particles.star").write_text(particles.read_text())
    with mrcfile.new(tmp_path / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(5).normal(size=(80, 64, 64)).astype(np.float32))
    given = {"particles": str(tmp_path / "particles.star"), "model": str(start), "effort": SHORT}
    options = Options(**given, contrast="white", check=False)  # type: ignore[arg-type]

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


def _cut_short(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])


def _empty(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"")


def _of_another_version(checkpoint: Path) -> None:
    save_file(load_file(checkpoint), checkpoint, {"facts": '{"number": 1, "passes": [{"cycles": [{"n": 1}]}]}'})


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_cut_short, _empty, _of_another_version])
def test_a_damaged_checkpoint_is_refused(
    undisturbed: Path, options: Options, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "metrics.json").unlink()
    damage(out / "checkpoints" / "latest.safetensors")
    with pytest.raises(InputError, match="not a usable checkpoint"):
        finetune(options, out, resume=True)
