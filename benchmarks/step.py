"""Time and memory of one step and its parts: ``python -m benchmarks.step --case adk|msp1|cav12 [--json]``.

Random atoms in a ball of a protein's density, noise images and random weights: time does not depend on them. Each part
runs in a process of its own, so that its peak memory is its own; what a step repeats is timed after a first time. The
protocol is the paper's for MSP-1: 3,000 particles, two epochs, batches of 32, the network once a batch.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import literal
from cocofold.imaging import (
    Ctf,
    Poses,
    RingPixels,
    contrast_transfer,
    electron_wavelength_angstrom,
    normalise_rings,
    project,
    ring_correlations,
)
from cocofold.network.module import StructureModule

_PARTICLES, _EPOCHS, _BATCH = 3000, 2, 32
_ATOMS_PER_RESIDUE = 7.96
VOLUME_PER_ATOM_A3 = 18.0
_CHUNK_ATOMS = 24_000
PARTS = ("image", "literal", "network", "network_pass")


@dataclass(frozen=True)
class Case:
    """Size of a molecule and its images."""

    residues: int
    box: int
    pixel_size_angstrom: float
    literal: bool = True

    @property
    def atoms(self) -> int:
        """Heavy atoms."""
        return round(self.residues * _ATOMS_PER_RESIDUE)


CASES = {"adk": Case(214, 64, 2.5), "msp1": Case(1683, 288, 1.073), "cav12": Case(2600, 384, 1.0, literal=False)}


class Scene:
    """Atoms and images of a case."""

    def __init__(self, case: Case, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.case = case
        side = case.box * case.pixel_size_angstrom
        radius = min(0.45 * side, (case.atoms * VOLUME_PER_ATOM_A3 * 3 / (4 * math.pi)) ** (1 / 3))
        directions = torch.nn.functional.normalize(torch.randn(case.atoms, 3, generator=generator), dim=1)
        self.positions = side / 2 + radius * directions * torch.rand(case.atoms, 1, generator=generator) ** (1 / 3)
        self.amplitudes = torch.full((case.atoms,), 7.0)
        self.widths = literal.starting_widths(case.atoms)
        quaternions = torch.nn.functional.normalize(torch.randn(images, 4, generator=generator), dim=1)
        self.rotations = _matrices(quaternions)
        self.origins = torch.randn(images, 2, generator=generator)
        self.noise = torch.randn(images, case.box, case.box, generator=generator)
        self.ctf = Ctf(*(torch.full((images,), value) for value in (
            15000.0, 14500.0, 0.5, 0.0, 0.1, electron_wavelength_angstrom(300), 2.7e7, 0.0, 1.0, 0.0, 0.0
        )))  # fmt: skip

    def leaves(self) -> list[torch.Tensor]:
        """Positions, amplitudes and widths that ask for their gradients."""
        return [values.clone().requires_grad_() for values in (self.positions, self.amplitudes, self.widths)]


def _matrices(quaternions: torch.Tensor) -> torch.Tensor:
    w, x, y, z = quaternions.unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def image_seconds(case: Case) -> dict[str, float]:
    """Of one image, forward and backward, CTF computed in the step, and its parts."""
    at_once = max(1, min(_BATCH, _CHUNK_ATOMS // case.atoms))
    scene = Scene(case, at_once)
    rings = RingPixels.up_to(case.box, case.box // 2 - 1)
    step = 1 / (case.box * case.pixel_size_angstrom)
    planes = torch.fft.rfft2(scene.noise).reshape(at_once, -1)[:, rings.positions_in(case.box)]
    observed = normalise_rings(torch.view_as_real(planes), rings)
    poses = Poses(scene.rotations, scene.origins)
    leaves = scene.leaves()

    def transfer() -> torch.Tensor:
        return contrast_transfer(scene.ctf, rings.kx * step, rings.ky * step)[..., None]

    def whole() -> None:
        predicted = project(*leaves, poses, rings, case.pixel_size_angstrom)
        ring_correlations(predicted * transfer(), observed, rings).mean(1).sum().backward()

    def forward() -> None:
        with torch.no_grad():
            predicted = project(*leaves, poses, rings, case.pixel_size_angstrom)
            ring_correlations(predicted * transfer(), observed, rings)

    def drawn() -> None:
        with torch.no_grad():
            project(*leaves, poses, rings, case.pixel_size_angstrom)

    parts = {"image": whole, "image_forward": forward, "project_forward": drawn, "ctf": lambda: (transfer(), None)[1]}
    return {name: _timed(part, 5) / at_once for name, part in parts.items()}


def literal_seconds(case: Case) -> dict[str, float]:
    """Of one image by the plain equations, forward and backward."""
    scene = Scene(case, 1)
    frequency = torch.fft.fftfreq(case.box, case.pixel_size_angstrom)
    ky, kx = (values.reshape(-1) for values in torch.meshgrid(frequency, frequency, indexing="ij"))
    ctf = contrast_transfer(scene.ctf, kx, ky).view(case.box, case.box)
    view = literal.View(scene.rotations[0], scene.origins[0], ctf, scene.noise[0])
    leaves = scene.leaves()

    def whole() -> None:
        literal.correlate(*leaves, view, case.pixel_size_angstrom).mean().backward()

    return {"literal": _timed(whole, 1, warm=False)}


def network_seconds(case: Case, backward: bool) -> dict[str, float]:
    """Of the structure module with the adapter: forward alone, or forward and backward with respect to all weights."""
    from cocofold.network.pairs import normalise_pair, pair_types

    generator = torch.Generator().manual_seed(0)
    n = case.residues
    pair = normalise_pair(torch.randn(n, n, 128, generator=generator), *pair_types("auto", n))
    single = torch.randn(n, 384, generator=generator).requires_grad_(backward)
    module = StructureModule().with_adapter()
    aatype, mask = torch.randint(0, 20, (n,), generator=generator), torch.ones(n)

    def whole() -> None:
        with torch.set_grad_enabled(backward):
            atoms = module(single, pair, aatype, mask).atom14
        if backward:
            atoms.square().mean().backward()

    return {"network" if backward else "network_pass": _timed(whole, 3)}


def _timed(part: Callable[[], None], times: int, warm: bool = True) -> float:
    """Median seconds."""
    if warm:
        part()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(case: Case, part: str) -> dict[str, float]:
    """Seconds of a part, by name, and the peak memory of this process."""
    if part == "image":
        found = image_seconds(case)
    elif part == "literal":
        found = literal_seconds(case)
    else:
        found = network_seconds(case, backward=part == "network")
    return {**found, f"{part}_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def summary(case: Case, found: dict[str, float]) -> dict[str, float | None]:
    """The figures that are promised, from those measured."""
    steps = _EPOCHS * math.ceil(_PARTICLES / _BATCH)
    protocol = steps * (found["network"] + _BATCH * found["image"])
    plain = found.get("literal")
    return {
        "image_ms": 1000 * found["image"],
        "image_ratio_to_literal": None if plain is None else plain / found["image"],
        "structure_module_seconds": found["network"],
        "protocol_minutes": protocol / 60,
        "peak_memory_gb": max(found["image_gb"], found["network_gb"]),
    }


def main() -> None:
    """Measure each part in its own process and print a table; with ``--json`` a last line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), default="msp1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = CASES[options.case]
    if options.part:
        print(json.dumps(measure(case, options.part)))
        return
    found: dict[str, float] = {}
    for part in PARTS:
        if part == "literal" and not case.literal:
            continue
        command = [sys.executable, "-m", "benchmarks.step", "--case", options.case, "--threads", str(options.threads)]
        result = subprocess.run([*command, "--part", part], check=True, capture_output=True, text=True)
        found.update(json.loads(result.stdout.splitlines()[-1]))
    figures = summary(case, found)
    print(
        f"| {options.case}: {case.residues} residues, {case.atoms} atoms, box {case.box}, {options.threads} threads | |"
    )
    print("| --- | --- |")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.2f} GB |" if name.endswith("_gb") else f"| {name} | {1000 * seconds:.1f} ms |")
    for name, value in figures.items():
        print(f"| {name} | {'-' if value is None else format(value, '.2f')} |")
    if options.json:
        print(json.dumps({"case": options.case, "threads": options.threads, **figures, "parts": found}))


if __name__ == "__main__":
    main()
