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
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from benchmarks import literal
from cocofold.alphafold.structure_network import StructureModule
from cocofold.finetuning.options import Options
from cocofold.imaging.fourier import (
    Ctf,
    RingPixels,
    contrast_transfer,
    electron_wavelength_angstrom,
    normalise_rings,
    ring_correlations,
)
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, Poses, added_width_angstrom, project, rendering_grid

_PARTICLES, _EPOCHS, _BATCH = 3000, 2, 32
VOLUME_PER_ATOM_A3 = 18.0
_CHUNK_ATOMS = Options.chunk_atoms
# Of cryoJAX, whose time goes with the square of it; ours is wider.
_CUT_IN_WIDTHS = 4.0
PARTS = ("image", "literal", "cryojax", "network", "network_pass")


@dataclass(frozen=True)
class Case:
    """Size of a molecule and its images."""

    residues: float
    box: int
    pixel_size_angstrom: float
    literal: bool = True
    ATOMS_PER_RESIDUE: ClassVar[float] = 7.96

    @property
    def atoms(self) -> int:
        """Heavy atoms."""
        return round(self.residues * self.ATOMS_PER_RESIDUE)

    @property
    def grid(self) -> int:
        """Side of the grid on which atoms are drawn."""
        return rendering_grid(self.box // 2 - 1)

    @property
    def rendered_width_pixels(self) -> float:
        """Width with which an atom is drawn, in pixels of the grid."""
        spacing = self.box * self.pixel_size_angstrom / self.grid
        return math.hypot(REFERENCE_WIDTH_ANGSTROM, added_width_angstrom(spacing)) / spacing


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


def image_parts(case: Case) -> tuple[int, dict[str, Callable[[], None]]]:
    """Number of images, and what is done with them: forward and backward, CTF computed in the step, and parts of it."""
    at_once = max(1, min(_BATCH, _CHUNK_ATOMS // case.atoms))
    scene = Scene(case, at_once)
    rings = RingPixels.up_to(case.box, case.box // 2 - 1)
    step = 1 / (case.box * case.pixel_size_angstrom)
    planes = torch.fft.rfft2(scene.noise).reshape(at_once, -1)[:, rings.flat_indices_in(case.box)]
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

    def drawn_backward() -> None:
        project(*leaves, poses, rings, case.pixel_size_angstrom).square().sum().backward()

    parts = {
        "image": whole,
        "image_forward": forward,
        "project": drawn_backward,
        "project_forward": drawn,
        "ctf": lambda: (transfer(), None)[1],
    }
    return at_once, parts


def image_seconds(case: Case) -> dict[str, float]:
    """Of one image and its parts."""
    at_once, parts = image_parts(case)
    return {name: timed(part, 5) / at_once for name, part in parts.items()}


def cryojax_seconds(case: Case, python: str) -> dict[str, float | str]:
    """Of one image's projection by cryoJAX, forward and backward, on the same grid; and how it differs.

    ``python`` is of an environment that has cryojax. Atoms are turned before, which ours does as a part of its time.
    """
    scene = Scene(case, 1)
    grid, spacing = case.grid, case.box * case.pixel_size_angstrom / case.grid
    variances = scene.widths**2 + added_width_angstrom(spacing) ** 2
    centre = (case.box // 2) * case.pixel_size_angstrom
    seen = (scene.positions - centre) @ scene.rotations[0].T
    seen[:, :2] -= scene.origins[0]
    given = {
        "positions": seen, "amplitudes": scene.amplitudes, "variances": variances,
        "weights": torch.randn(grid, grid), "spacing": torch.tensor(spacing),
        "spread": torch.tensor(2 * math.ceil(_CUT_IN_WIDTHS * case.rendered_width_pixels - 0.5) + 1),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(asked, **{name: values.numpy() for name, values in given.items()})
        script = Path(__file__).with_name("cryojax_projection.py")
        done = subprocess.run(
            [python, str(script), str(asked), str(answered)], check=True, stdout=subprocess.PIPE, text=True
        )
        theirs = torch.as_tensor(np.load(answered)["image"])
    rings = RingPixels.up_to(case.box, case.box // 2 - 1)
    transforms = torch.fft.rfft2(theirs).reshape(1, -1)[:, rings.flat_indices_in(grid)]
    ours = project(
        scene.positions,
        scene.amplitudes,
        scene.widths,
        Poses(scene.rotations, scene.origins),
        rings,
        case.pixel_size_angstrom,
    )
    alike = torch.view_as_real(transforms.to(torch.complex64))
    alike = alike * (ours * alike).sum() / alike.square().sum()
    return {**json.loads(done.stdout), "cryojax_difference": float((alike - ours).norm() / ours.norm())}


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

    return {"literal": timed(whole, 1, warm=False)}


def network_step(case: Case, backward: bool) -> Callable[[], None]:
    """The structure module with the adapter: forward alone, or forward and backward with respect to all weights."""
    from cocofold.alphafold.pair_representation import choose_pair_dtypes, normalise_pair

    generator = torch.Generator().manual_seed(0)
    n = int(case.residues)
    pair = normalise_pair(torch.randn(n, n, 128, generator=generator), *choose_pair_dtypes("auto", n))
    single = torch.randn(n, 384, generator=generator).requires_grad_(backward)
    module = StructureModule().with_adapter()
    aatype, mask = torch.randint(0, 20, (n,), generator=generator), torch.ones(n)

    def whole() -> None:
        with torch.set_grad_enabled(backward):
            atoms = module(single, pair, aatype, mask).atom14
        if backward:
            atoms.square().mean().backward()

    return whole


def timed(part: Callable[[], None], times: int, warm: bool = True) -> float:
    """Median seconds."""
    if warm:
        part()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def peak_gb() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(case: Case, part: str, cryojax: str | None = None) -> dict[str, float | str]:
    """Seconds of a part, by name, and the peak memory of this process."""
    found: dict[str, float] | dict[str, float | str]
    if part == "image":
        found = image_seconds(case)
    elif part == "cryojax":
        assert cryojax is not None
        return cryojax_seconds(case, cryojax)
    elif part == "literal":
        found = literal_seconds(case)
    else:
        found = {part: timed(network_step(case, backward=part == "network"), 3)}
    return {**found, f"{part}_gb": peak_gb()}


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


def _shown(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith(("_gb", "_difference")):
        return f"{value:.2f} GB" if name.endswith("_gb") else f"{value:.1e}"
    return f"{1000 * value:.1f} ms"


def main() -> None:
    """Measure each part in its own process and print a table; with ``--json`` a last line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), default="msp1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    parser.add_argument("--cryojax", metavar="PYTHON", help="of an environment with cryojax, to measure that too")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = CASES[options.case]
    if options.part:
        print(json.dumps(measure(case, options.part, options.cryojax)))
        return
    found: dict[str, float] = {}
    for part in PARTS:
        if (part == "literal" and not case.literal) or (part == "cryojax" and options.cryojax is None):
            continue
        command = [sys.executable, "-m", "benchmarks.step", "--case", options.case, "--threads", str(options.threads)]
        command += ["--cryojax", options.cryojax] if options.cryojax else []
        result = subprocess.run([*command, "--part", part], check=True, capture_output=True, text=True)
        found.update(json.loads(result.stdout.splitlines()[-1]))
    figures = summary(case, found)
    print(
        f"| {options.case}: {case.residues} residues, {case.atoms} atoms, box {case.box}, {options.threads} threads | |"
    )
    print("| --- | --- |")
    for name, value in found.items():
        print(f"| {name} | {_shown(name, value)} |")
    for name, value in figures.items():
        print(f"| {name} | {'-' if value is None else format(value, '.2f')} |")
    if options.json:
        print(json.dumps({"case": options.case, "threads": options.threads, **figures, "parts": found}))


if __name__ == "__main__":
    main()
