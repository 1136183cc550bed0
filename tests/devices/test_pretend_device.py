"""Runs of ``cocofold finetune`` on a device that refuses what a GPU refuses, and what they wait for there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pretend_runs import COMMAND, OF_A_STEP, Done, Small, environment, farthest, run, succeed

# Sums on the device are of other parts, and differ in their last digits; the model moves by 2.5 Å.
SAME_ANGSTROM = 0.02
# Bytes, less than the 8 million that the run would take
MEMORY = 7_000_000


def ends(out: Path, *arguments: object) -> None:
    """Run a command up to its first cycle, and stop it there with a checkpoint."""
    program = [sys.executable, *COMMAND, *map(str, arguments)]
    process = subprocess.Popen(
        program, env=environment(out.parent / "stopped.json"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "log.txt").is_file() or "cycle  1" not in (out / "log.txt").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def on_device(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder of a run on the device, and what is known of it."""
    folder = tmp_path_factory.mktemp("device")
    return folder / "run", succeed(folder, *small.finetune(folder / "run", "--device", "pretend"))


@pytest.mark.slow
def test_a_run_ends_as_on_the_processor(small: Small, on_processor: Path, on_device: tuple[Path, Done]) -> None:
    out, done = on_device
    assert "on pretend" in done.said
    assert farthest(out / "model.cif", on_processor / "model.cif") < SAME_ANGSTROM
    assert farthest(out / "model.cif", small.start) > 1


@pytest.mark.slow
def test_a_step_waits_only_where_it_must(small: Small, on_device: tuple[Path, Done], tmp_path: Path) -> None:
    """Of a run with more steps in as many stages, what is waited for more often belongs to a step."""
    longer = succeed(tmp_path, *small.finetune(tmp_path / "run", "--device", "pretend", "--effort", 0.02))
    few, many = (json.loads((out / "metrics.json").read_text())["steps"] for out in (on_device[0], tmp_path / "run"))
    assert many >= few + 10
    before, after = on_device[1].waits(), longer.waits()
    assert {where for where in after if after[where] - before[where] >= (many - few) / 2} == OF_A_STEP


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("cpu", "pretend"), ("pretend", "cpu")])
def test_a_run_goes_on_on_the_other_device(
    first: str, then: str, small: Small, on_processor: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = small.finetune(out, "--cycles", 3)
    ends(out, *settings, "--device", first)
    assert not (out / "metrics.json").exists()
    done = run(tmp_path, *settings, "--device", then, "--resume")
    assert done.status == 0, done.complaint
    assert f"on {then}" in done.said
    assert farthest(out / "model.cif", on_processor / "model.cif") < SAME_ANGSTROM


@pytest.mark.slow
def test_a_finished_run_is_completed_on_another_device(small: Small, on_processor: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(on_processor, tmp_path / "run"))
    (out / "metrics.json").unlink()
    succeed(tmp_path, *small.finetune(out, "--device", "pretend", "--resume"))
    assert (out / "model.cif").read_bytes() == (on_processor / "model.cif").read_bytes()
    assert (out / "metrics.json").is_file()


@pytest.mark.slow
def test_a_device_that_runs_out_of_memory_gets_fewer_images_at_once_and_no_maps(
    small: Small, on_processor: Path, tmp_path: Path
) -> None:
    command = small.finetune(tmp_path / "run", "--device", "pretend")
    # The device says that more is free than there is, as where another program takes it meanwhile.
    done = succeed(tmp_path, *command, PRETEND_BYTES=str(MEMORY), PRETEND_TOLD_BYTES=str(1 << 32))
    assert re.search(r"pretend is out of memory with 40 images at once: going on with 20", done.said)
    assert done.reports[-1]["peak"] <= MEMORY
    assert farthest(tmp_path / "run" / "model.cif", on_processor / "model.cif") < SAME_ANGSTROM
    # It does not hold the Fourier volumes of the reconstruction, which the processor makes instead.
    assert (tmp_path / "run" / "reconstruction.mrc").is_file()


@pytest.mark.slow
def test_a_device_with_next_to_no_memory_is_refused(small: Small, tmp_path: Path) -> None:
    done = run(tmp_path, *small.finetune(tmp_path / "run", "--device", "pretend"), PRETEND_BYTES=str(1 << 19))
    assert done.status == 2
    assert len(done.complaint.splitlines()) == 1
    assert "out of memory" in done.complaint or "does not hold" in done.complaint


def test_the_device_refuses_what_a_gpu_refuses_and_counts_what_is_waited_for(tmp_path: Path) -> None:
    words = """
import torch, pretend
there, here = torch.arange(3.0, device="pretend"), torch.arange(3.0)
def refused(act):
    try:
        act()
    except (RuntimeError, TypeError):
        return
    raise SystemExit("not refused")
def waited(act, *kinds):
    pretend.WAITS.clear()
    act()
    found = {kind.removeprefix("elsewhere ") for kind in pretend.WAITS}
    if found != set(kinds):
        raise SystemExit(f"waits for {found}, not {kinds}")
refused(lambda: there + here)
refused(lambda: torch.cat([there, here]))
refused(lambda: there.numpy())
refused(lambda: there[torch.tensor([0, 1])])
refused(lambda: here[torch.tensor([0, 1], device="pretend")])
refused(lambda: torch.randn(3, device="pretend", generator=torch.Generator()))
refused(lambda: there.pin_memory())
refused(lambda: there.to("cpu", non_blocking=True))
assert (there + 1).cpu().tolist() == [1, 2, 3]
waited(lambda: there + 1)
waited(lambda: there.sum().item(), "_local_scalar_dense")
waited(lambda: bool(there.any()), "_local_scalar_dense")
waited(lambda: there[there > 1], "mask", "nonzero")
waited(lambda: there.unique(), "_unique2")
waited(lambda: there.nonzero(), "nonzero")
waited(lambda: there.tolist(), "copy from the device")
waited(lambda: here.to("pretend"), "copy to the device")
waited(lambda: here.to("pretend", non_blocking=True))
counts = torch.ones(3, dtype=torch.long, device="pretend")
waited(lambda: there.repeat_interleave(counts), "repeat_interleave")
waited(lambda: there.repeat_interleave(counts, output_size=3))
pretend.MEMORY.limit = 100
refused(lambda: torch.zeros(100, device="pretend"))
"""
    done = run(tmp_path, words, program=("-c",))
    assert done.status == 0, done.complaint
