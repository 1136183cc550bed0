"""What a GPU gives, in minutes: ``sh benchmarks/gpu.sh OUT`` (which calls ``python -m benchmarks.gpu``).

Parts run in the order of their weight, each in a process of its own, until the time is over. Each writes one line of
JSON to ``OUT/results.jsonl`` as soon as it is done, and what it failed of if it failed; the table for
docs/performance.md is printed at the end. ``--device cpu`` tries the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import _BATCH, CASES, Case, Scene
from cocofold.imaging.fourier import RingPixels, contrast_transfer, normalise_rings, ring_correlations
from cocofold.imaging.projection import Poses, project

ROOT = Path(__file__).resolve().parents[1]
# Images at once on a GPU at the size of MSP-1; the others in proportion.
_ATOMS_AT_ONCE = 500_000
_TIMES = 10
# Rates of the optimiser's first step, Å: Adam moves each coordinate by as much.
_RATE_ANGSTROM = 0.1
# Modules that the whole protocol needs and the other parts do not.
_FOR_PROTOCOL = ("pandas", "starfile", "mrcfile", "lz4", "safetensors", "typer", "rich", "matplotlib")


def _module(device: torch.device) -> Any:
    """Memory and waiting of a device: ``torch.cuda``, or on a processor what stands for it."""
    return torch.get_device_module(device)


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        _module(device).synchronize()


def _timed(part: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a part that runs on the device, after a first time."""
    part()
    seconds = []
    for _ in range(_TIMES):
        _synchronise(device)
        began = time.perf_counter()
        part()
        _synchronise(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


class Comparison:
    """Images of a case and their comparison with its atoms, forward and backward, on a device."""

    def __init__(self, case: Case, device: torch.device, images: int) -> None:
        scene = Scene(case, images)
        self.case, self.device, self.images = case, device, images
        self.rings = RingPixels.up_to(case.box, case.box // 2 - 1, device)
        planes = torch.fft.rfft2(scene.noise.to(device)).reshape(images, -1)
        planes = planes[:, self.rings.flat_indices_in(case.box)]
        self.observed = normalise_rings(torch.view_as_real(planes), self.rings)
        self.poses = Poses(scene.rotations, scene.origins).to(device)
        self.ctf = scene.ctf.to(device)
        self.leaves = [leaf.detach().to(device).requires_grad_() for leaf in scene.leaves()]

    def correlations(self) -> torch.Tensor:
        """Of each image, (n,)."""
        step = 1 / (self.case.box * self.case.pixel_size_angstrom)
        transfer = contrast_transfer(self.ctf, self.rings.kx * step, self.rings.ky * step)[..., None]
        predicted = project(*self.leaves, self.poses, self.rings, self.case.pixel_size_angstrom)
        return ring_correlations(predicted * transfer, self.observed, self.rings).mean(1)

    def backward(self) -> None:
        """Add the gradient of their sum to that of the atoms."""
        self.correlations().sum().backward()


def parity(case: Case, device: torch.device) -> dict[str, float]:
    """Largest differences from the processor: of correlations, and of atoms (Å) after a step of Adam."""
    found = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        comparison = Comparison(case, where, 8)
        optimiser = torch.optim.Adam([comparison.leaves[0]], lr=_RATE_ANGSTROM)
        correlations = comparison.correlations()
        (-correlations.mean()).backward()
        gradient = comparison.leaves[0].grad
        assert gradient is not None
        optimiser.step()
        found.append([correlations.detach().cpu(), gradient.cpu(), comparison.leaves[0].detach().cpu()])
    (ours, our_slope, our_atoms), (theirs, slope, atoms) = found
    # Adam's first step has the sign of the gradient alone; where that is lost in rounding, atoms may go either way.
    sure = our_slope.abs() > 1e-4 * our_slope.abs().max()
    return {
        "frc_difference": float((ours - theirs).abs().max()),
        "gradient_difference": float((our_slope - slope).abs().max() / our_slope.abs().max()),
        "atoms_difference_angstrom": float((our_atoms - atoms).abs()[sure].max()),
    }


def image(case: Case, device: torch.device) -> dict[str, float]:
    """Milliseconds of an image, forward and backward, and peak memory (GB)."""
    comparison = Comparison(case, device, max(1, min(_BATCH, _ATOMS_AT_ONCE // case.atoms)))
    seconds = _timed(comparison.backward, device)
    return {"images_at_once": comparison.images, "image_ms": 1000 * seconds / comparison.images, **_peak(device)}


def network(case: Case, device: torch.device) -> dict[str, float]:
    """Seconds of the structure module with adapter, forward and backward, and peak memory (GB)."""
    from cocofold.alphafold.pair_representation import choose_pair_dtypes, normalise_pair
    from cocofold.alphafold.structure_network import StructureModule

    draw = torch.Generator().manual_seed(0)
    n = int(case.residues)
    pair = normalise_pair(torch.randn(n, n, 128, generator=draw).to(device), *choose_pair_dtypes("auto", n, device))
    single = torch.randn(n, 384, generator=draw).to(device).requires_grad_()
    module = StructureModule().with_adapter().to(device)
    aatype, mask = torch.randint(0, 20, (n,), generator=draw).to(device), torch.ones(n, device=device)
    seconds = _timed(lambda: module(single, pair, aatype, mask).atom14.square().mean().backward(), device)
    return {"module_seconds": seconds, **_peak(device)}


def kernels(case: Case, device: torch.device) -> dict[str, Any]:
    """The ten operations that take most of an image's time on the device, in per cent of it."""
    from torch.profiler import ProfilerActivity, profile

    comparison = Comparison(case, device, max(1, min(_BATCH, _ATOMS_AT_ONCE // case.atoms)))
    comparison.backward()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        for _ in range(3):
            comparison.backward()
        _synchronise(device)
    # By its name of now, or that of older versions of torch
    names = ("self_device_time_total", "self_cuda_time_total") if on_gpu else ("self_cpu_time_total",)
    averages = found.key_averages()
    times = {one.key: float(next(getattr(one, name) for name in names if hasattr(one, name))) for one in averages}
    whole = sum(times.values()) or 1.0
    largest = sorted(times.items(), key=lambda pair: -pair[1])[:10]
    return {"kernels_per_cent": {key[:60]: round(100 * value / whole, 1) for key, value in largest}}


def utilisation(case: Case, device: torch.device) -> dict[str, Any]:
    """Per cent of the time in which the busiest GPU computes while images are compared, as nvidia-smi tells."""
    comparison = Comparison(case, device, max(1, min(_BATCH, _ATOMS_AT_ONCE // case.atoms)))
    comparison.backward()
    ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def told() -> list[int]:
        until, found = time.monotonic() + 4, []
        while time.monotonic() < until:
            # One call for each: of a program that goes on, what it has written last may be lost.
            words = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout.split()
            found += [max(int(word) for word in words if word.isdigit())] if any(map(str.isdigit, words)) else []
            time.sleep(0.2)
        return found

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(told)
        while not asked.done():
            comparison.backward()
    found = asked.result()
    return {"utilisation_per_cent": statistics.median(found) if found else None}


def messages(case: Case, device: torch.device) -> dict[str, Any]:
    """Whether nccl adds up atoms' gradients in one process."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    values = torch.arange(3.0 * case.atoms, device=device)
    dist.all_reduce(values)
    dist.destroy_process_group()
    return {"backend": backend, "is_the_sum": bool((values.cpu() == torch.arange(3.0 * case.atoms)).all())}


def protocol(case: Case, device: torch.device) -> dict[str, Any]:
    """The paper's protocol as a whole: 3,000 particles, two epochs."""
    missing = [name for name in _FOR_PROTOCOL if importlib.util.find_spec(name) is None]
    if missing:
        return {"left_out": f"needs {', '.join(missing)}"}
    folder = Path(os.environ["COCOFOLD_GPU_OUT"]) / "protocol"
    name = next(name for name, one in CASES.items() if one is case)
    words = [sys.executable, "-m", "benchmarks.protocol", str(folder), "--case", name, "--json"]
    done = subprocess.run([*words, "--device", str(device)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return {name: value for name, value in json.loads(done.stdout.splitlines()[-1]).items() if name != "case"}


def _peak(device: torch.device) -> dict[str, float]:
    return {} if device.type == "cpu" else {"peak_gb": _module(device).max_memory_allocated() / 1e9}


PARTS: dict[str, Callable[[Case, torch.device], dict[str, Any]]] = {
    "parity": parity,
    "image": image,
    "network": network,
    "kernels": kernels,
    "utilisation": utilisation,
    "messages": messages,
    "protocol": protocol,
}
# Most important first.
ORDER = (
    ("parity", "adk"),
    ("image", "msp1"),
    ("network", "msp1"),
    ("messages", "adk"),
    ("kernels", "msp1"),
    ("image", "adk"),
    ("network", "adk"),
    ("utilisation", "msp1"),
    ("parity", "msp1"),
    ("image", "cav12"),
    ("network", "cav12"),
    ("protocol", "msp1"),
)


def _run_part(part: str, case: str, device: str, out: Path, seconds: float) -> dict[str, Any]:
    """A part in a process of its own; what it failed of stands under ``error``."""
    words = [sys.executable, "-m", "benchmarks.gpu", str(out), "--device", device, "--part", part, "--case", case]
    began = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True)
    try:
        said, complaint = process.communicate(timeout=seconds)
        lines = (said if process.returncode == 0 else complaint).strip().splitlines() or ["no output"]
        found = json.loads(lines[-1]) if process.returncode == 0 else {"error": lines[-1]}
    except subprocess.TimeoutExpired:
        found = {"error": f"longer than {seconds:.0f} s"}
    finally:
        # With all that it has started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"part": part, "case": case, **found, "seconds": round(time.monotonic() - began, 1)}


def _write(row: dict[str, Any], out: Path) -> dict[str, Any]:
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {share}" for name, share in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run all parts within the time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for results.jsonl, which is added to")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE", help="cases: adk, msp1, cav12")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), default="msp1", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        os.environ.setdefault("COCOFOLD_GPU_OUT", str(options.out))
        print(json.dumps(PARTS[options.part](CASES[options.case], torch.device(options.device))))
        return
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"no GPU that torch {torch.__version__} can use; --device cpu tries the script")
    until = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    machine = {"device": name, "torch": torch.__version__, "python": sys.version.split()[0]}
    rows = [_write({"part": "machine", "case": "", **machine}, options.out)]
    for part, case in ORDER:
        left = until - time.monotonic()
        if left > 0 and (not options.only or case in options.only):
            rows.append(_write(_run_part(part, case, options.device, options.out.resolve(), left), options.out))
            print(f"{part} {case}: {rows[-1]['seconds']} s", file=sys.stderr, flush=True)
    print("| part | case | found |\n| --- | --- | --- |")
    for row in rows:
        told = ", ".join(f"{name} {_shown(value)}" for name, value in row.items() if name not in ("part", "case"))
        print(f"| {row['part']} | {row['case']} | {told} |")


if __name__ == "__main__":
    main()
