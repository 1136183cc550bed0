"""What nobody expected, readers that are gone, letters that a terminal lacks, files that unpack to too much, links."""

from __future__ import annotations

import gzip
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold import __main__ as program
from cocofold.commands.demo import closed_state
from cocofold.finetuning.options import Options
from cocofold.likelihood.worker_messages import translate_peer_errors
from cocofold.mapfit.density_map import read_map
from cocofold.particles.mrc import write_map
from cocofold.structure.read_model import read_model
from cocofold.system import atomic_files, hardware
from cocofold.system.atomic_files import atomic_path, write_json
from cocofold.system.errors import UNPACKED_VARIABLE, InputError, refuse_damaged
from cocofold.system.hardware import require_processes, require_threads
from cocofold.system.progress import console_log


def raising(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def test_what_nobody_expected_is_one_message_and_a_file_beside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "fit"
    out.parent.mkdir()
    monkeypatch.setattr(sys, "argv", ["cocofold", "fit", "--out", str(out)])
    monkeypatch.setattr(program, "app", raising(KeyError("surprise")))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 70
    said = capsys.readouterr().err
    (report,) = out.parent.iterdir()
    assert said.count("\n") == 1
    assert "please report it with " + str(report) in said
    assert "Traceback" not in said
    content = report.read_text()
    assert "surprise" in content
    assert "Traceback" in content
    assert str(out) in content


def test_without_a_place_to_write_the_report_lies_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["cocofold", "fit", "--out=/no/such/folder/fit"])
    monkeypatch.setattr(program, "app", raising(ValueError("x" * 10_000)))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 70
    assert len(capsys.readouterr().err) < 1000
    assert len(list(tmp_path.glob("cocofold-error-*.log"))) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_a_full_memory_is_no_defect(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cocofold", "fit"])
    monkeypatch.setattr(program, "app", raising(error))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\rb", r"a\rb"),
        ("a\udcffb", r"a\udcffb"),
        ("a\x9b31m\u2028\u202eb", r"a\x9b31m\u2028\u202eb"),
        ("a Åb 日本", "a Åb 日本"),
    ],
)
def test_names_send_nothing_to_a_terminal_and_end_no_line(
    name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    below = [f"line of {name}", "another"]
    (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "argv", ["cocofold", "fit", "--out", str(tmp_path / name / "fit")])
    for error, status, said in (
        (InputError(f"--model {name}: none"), 2, f"cocofold: --model {shown}: none\n"),
        (
            InputError(f"{name} failed; its end:", below),
            2,
            f"cocofold: {shown} failed; its end:\n  line of {shown}\n  another\n",
        ),
        (FileNotFoundError(2, "No such file", name), 2, f"cocofold: {shown}: No such file\n"),
        (KeyError(name), 70, f"please report it with {tmp_path / shown}"),
    ):
        monkeypatch.setattr(program, "app", raising(error))
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert ended.value.code == status
        told = capsys.readouterr().err
        assert told == said or (status == 70 and said in told and told.count("\n") == 1)
    logger = logging.getLogger("cocofold")
    # What pytest itself keeps of a log it sends between processes, as UTF-8.
    monkeypatch.setattr(logger, "propagate", False)
    with console_log():
        logger.info("reads %s", name)
    assert capsys.readouterr().out == f"reads {shown}\n"


@pytest.mark.parametrize(
    ("error", "of_a_device"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuFFT error: CUFFT_INVALID_SIZE"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUFFT_ALLOC_FAILED"), False),
    ],
)
def test_a_full_device_is_known_by_what_its_libraries_say(error: Exception, of_a_device: bool) -> None:
    assert hardware.is_out_of_device_memory(error) is of_a_device
    assert hardware.is_out_of_memory(error) is of_a_device
    told = pytest.raises(type(error) if of_a_device or isinstance(error, ValueError) else InputError)
    with told, translate_peer_errors():
        raise error


def test_a_full_processor_is_no_full_device() -> None:
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")
    assert hardware.is_out_of_memory(error)
    assert not hardware.is_out_of_device_memory(error)


STREAMS = """
import os, sys
from cocofold.system.processes import settle_standard_streams
settle_standard_streams()
print("1.5 \\u00c5, \\u65e5 " + "\\udcff")
if sys.argv[1:]:
    print("x" * 100_000)
    os.write(2, b"%d" % os.open(sys.argv[0], os.O_RDONLY))
"""


def streams(tmp_path: Path, *arguments: str, encoding: str = "utf-8", **options: object) -> subprocess.CompletedProcess:
    (tmp_path / "s.py").write_text(STREAMS)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    command = [sys.executable, tmp_path / "s.py", *arguments]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", "1.5 A, \\u65e5 "), ("gbk", "1.5 A, 日 "), ("utf-8", "1.5 Å, 日 ")]
)
def test_letters_that_a_terminal_lacks_end_nothing(encoding: str, said: str, tmp_path: Path) -> None:
    done = streams(tmp_path, encoding=encoding, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding) == said + "\\udcff\n"


def test_a_reader_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert streams(tmp_path, "more", stdout=writing).returncode == 0
    os.close(writing)


def test_no_file_takes_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    done = streams(tmp_path, "more", preexec_fn=lambda: os.close(1))
    assert done.returncode == 0
    assert int(done.stderr) > 2


def test_a_full_disk_behind_standard_output_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = streams(tmp_path, "more", stdout=full)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNPACKED_VARIABLE, "0.001")
    (tmp_path / "m.pdb.gz").write_bytes(gzip.compress(b"REMARK\n" * 200_000))
    with pytest.raises(InputError, match=r"unpacks to 0\.00 GB or more.*--most-unpacked"):
        read_model(tmp_path / "m.pdb.gz")
    write_map(tmp_path / "map.mrc", np.ones((64, 64, 64), np.float32), 1.0)
    (tmp_path / "map.mrc.gz").write_bytes(gzip.compress((tmp_path / "map.mrc").read_bytes()))
    for name in ("map.mrc", "map.mrc.gz"):
        with pytest.raises(InputError, match=r"0\.00 GB are allowed"):
            read_map(tmp_path / name)
    monkeypatch.setenv(UNPACKED_VARIABLE, "0.01")
    with pytest.raises(InputError, match="neither mmCIF"):
        read_model(tmp_path / "m.pdb.gz")


def test_a_header_that_announces_the_memory_of_a_machine_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "map.mrc", np.ones((16, 16, 16), np.float32), 1.0)
    with mrcfile.open(tmp_path / "map.mrc", "r+") as file:
        file.header.nz = 2**31 - 1
    with pytest.raises(InputError, match=r"unpacks to .*--most-unpacked"):
        read_map(tmp_path / "map.mrc")


@pytest.mark.parametrize("value", ["nan", "-1", "much", "0"])
def test_the_limit_has_limits(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNPACKED_VARIABLE, value)
    with pytest.raises(InputError, match="--most-unpacked"):
        read_model(closed_state())


def test_what_is_written_is_no_link_that_somebody_laid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(atomic_files.secrets, "token_hex", lambda count: "guessed")
    (tmp_path / ".x.json.guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "x.json", {})
    assert victim.read_text() == "mine"
    monkeypatch.undo()
    write_json(tmp_path / "x.json", {})
    assert not (tmp_path / "x.json").is_symlink()
    usual = os.umask(0)
    os.umask(usual)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o666 & ~usual


def test_a_link_in_place_of_the_temporary_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")

    def write() -> None:
        with atomic_path(tmp_path / "x.json") as partial:
            partial.unlink()
            partial.symlink_to(tmp_path / "victim")

    with pytest.raises(OSError, match="symbolic links"):
        write()
    assert not (tmp_path / "x.json").exists()


def test_long_names_have_temporary_files_too(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "é" * 125):
        write_json(tmp_path / name, {})
        assert (tmp_path / name).is_file()


def test_damage_is_told_in_one_line_and_what_is_none_passes() -> None:
    told = pytest.raises(InputError, match=r"^a file: cannot be read as JSON \(first\); remedy$")
    with told, refuse_damaged("a file", "remedy", "JSON"):
        raise RuntimeError("first\nsecond")
    with pytest.raises(MemoryError), refuse_damaged("a file", "remedy"):
        raise MemoryError
    with pytest.raises(InputError, match="told"), refuse_damaged("a file", "remedy"):
        raise InputError("told")


def test_cores_and_memory_bound_threads_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = hardware.usable_cores()
    require_threads(cores, oversubscribe=False)
    require_threads(cores + 1, oversubscribe=True)
    require_processes(cores + 1, oversubscribe=True)
    with pytest.raises(InputError, match=f"--threads {cores + 1}: this process may use {cores} cores"):
        require_threads(cores + 1, oversubscribe=False)
    with pytest.raises(InputError, match=f"--processes {cores + 1}: this process may use {cores} cores"):
        require_processes(cores + 1, oversubscribe=False)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 64)
    monkeypatch.setattr(hardware, "available_bytes", lambda: 10**9)
    require_processes(2, oversubscribe=False)
    with pytest.raises(InputError, match=r"--processes 64: they hold 25\.6 GB .* 1\.0 GB are free"):
        require_processes(64, oversubscribe=False)


@pytest.mark.parametrize("values", [{"cycles": "3"}, {"particles": 5}, {"passthrough": "x"}, {"seed": 1.5}])
def test_settings_have_their_types(values: dict) -> None:
    with pytest.raises(InputError, match="must be of type"):
        Options(**{"particles": "p.star", "model": "m.cif", **values})
