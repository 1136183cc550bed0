"""Time and memory against size: ``python -m benchmarks.growth [--pictures FOLDER] [--json FILE]``.

Measures one image (forward and backward) for numbers of atoms and boxes, the structure module for numbers of residues,
and reading an image for boxes, each size in a process of its own, and fits a sum of terms to each:

- an image: a constant, atoms, pixels of the grid;
- the module, its time and its memory: a constant, residues, residues squared;
- reading from memory and transforming: a constant, pixels of the image.

MSP-1 is left out of the fit and says how well it predicts. From the fit follow time and memory of the paper's protocol
(all particles twice, batches of 32, the network once a batch) for ten sizes, and for a million particles.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import mrcfile
import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.step import CASES, Case, image_seconds, network_step, peak_gb, timed
from cocofold.imaging.fourier import RingPixels, normalise_rings
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, bytes_per_image
from cocofold.likelihood.observed_images import MOST_CACHE_BYTES, bytes_per_transform
from cocofold.particles.mrc import StackReader

_PIXEL_SIZE_A = 1.073
ATOMS, BOXES, RESIDUES = (1700, 6500, 13_400, 20_700), (64, 128, 288, 384), (214, 500, 1000, 1683, 2600)
LEFT_OUT = CASES["msp1"]
# Residues and box from the smallest to the largest that the paper speaks of; it does not give all ten.
TEN = (
    *((214, 128), (400, 160), (600, 192), (800, 224), (1000, 256)),
    *((1300, 256), (1683, 288), (2000, 320), (2300, 352), (2600, 384)),
)
PARTICLES, MANY_PARTICLES = 3000, 1_000_000
_EPOCHS, _BATCH = 2, 32


@dataclass(frozen=True)
class Terms:
    """A sum of terms that are not negative, fitted for the same relative error everywhere."""

    factors: np.ndarray

    @classmethod
    def fitted(cls, terms: list[list[float]], values: list[float]) -> Terms:
        """To values (n,), each with its terms (n, k)."""
        relative = np.array(terms) / np.array(values)[:, None]
        return cls(nnls(relative, np.ones(len(values)))[0])

    def of(self, terms: list[float]) -> float:
        """Value for these terms."""
        return float(self.factors @ np.array(terms))

    def worst(self, terms: list[list[float]], values: list[float]) -> float:
        """Largest relative error."""
        return max(abs(self.of(known) / value - 1) for known, value in zip(terms, values))


def image_terms(case: Case) -> list[float]:
    """A constant, atoms, pixels of the grid."""
    return [1.0, case.atoms, case.grid**2]


def network_terms(residues: int) -> list[float]:
    """A constant, residues, residues squared."""
    return [1.0, residues, residues**2]


def read_seconds(box: int) -> dict[str, float]:
    """Of one image: read from a stack that lies in the system's cache, transformed and normalised."""
    count, rings = 64, RingPixels.up_to(box, box // 2 - 1)
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / "stack.mrcs"
        mrcfile.write(stack, np.random.default_rng(0).standard_normal((count, box, box)).astype(np.float32))
        reader = StackReader()

        def whole() -> None:
            for start in range(0, count, 8):
                images = torch.as_tensor(reader.read(stack, np.arange(start, start + 8)))
                planes = torch.fft.rfft2(images).reshape(8, -1)[:, rings.flat_indices_in(box)]
                normalise_rings(torch.view_as_real(planes), rings)

        return {"seconds": timed(whole, 5) / count}


def measure(kind: str, size: list[int]) -> dict[str, float]:
    """Seconds, and this process's peak memory."""
    if kind == "image":
        found = {"seconds": image_seconds(Case(size[0] / Case.ATOMS_PER_RESIDUE, size[1], _PIXEL_SIZE_A))["image"]}
    elif kind == "network":
        found = {"seconds": timed(network_step(Case(size[0], 64, 2.5), backward=True), 3)}
    else:
        found = read_seconds(size[0])
    return {**found, "gb": peak_gb()}


def alone(kind: str, *size: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--alone", kind, *map(str, size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"| {kind} | {' × '.join(map(str, size))} | {1000 * found['seconds']:.2f} | {found['gb']:.2f} |", flush=True)
    return found


@dataclass(frozen=True)
class Growth:
    """What was fitted: seconds of an image, the module and reading; memory (GB) of the module."""

    image: Terms
    network: Terms
    network_gb: Terms
    read: Terms

    def minutes(self, case: Case, particles: int) -> float:
        """Of the paper's protocol; images are read once if they are kept, else in each epoch."""
        steps = _EPOCHS * math.ceil(particles / _BATCH)
        kept = min(particles, self.kept(case))
        read = particles + (_EPOCHS - 1) * (particles - kept)
        seconds = steps * self.network.of(network_terms(case.residues))
        seconds += _EPOCHS * particles * self.image.of(image_terms(case))
        return (seconds + read * self.read.of([1.0, case.box**2])) / 60

    def kept(self, case: Case) -> int:
        """Most images whose transforms are kept."""
        return MOST_CACHE_BYTES // bytes_per_transform(RingPixels.up_to(case.box, case.box // 2 - 1))

    def gigabytes(self, case: Case, particles: int) -> float:
        """Peak of the whole."""
        rings = RingPixels.up_to(case.box, case.box // 2 - 1)
        image = bytes_per_image(case.atoms, rings, case.pixel_size_angstrom, REFERENCE_WIDTH_ANGSTROM)
        kept = min(particles, self.kept(case)) * bytes_per_transform(rings)
        return self.network_gb.of(network_terms(case.residues)) + (image + kept) / 1e9


def fit(found: dict[str, dict[str, dict[str, float]]]) -> tuple[Growth, dict[str, float]]:
    """The terms, and the largest relative error of each fit."""

    def chosen(kind: str) -> list[tuple[list[int], dict[str, float]]]:
        sizes = [([int(part) for part in name.split()], value) for name, value in found[kind].items()]
        left_out = {"image": [LEFT_OUT.atoms, LEFT_OUT.box], "network": [LEFT_OUT.residues]}.get(kind)
        return [(size, value) for size, value in sizes if size != left_out]

    images = [(image_terms(_case(*size)), value["seconds"]) for size, value in chosen("image")]
    modules = [(network_terms(size[0]), value) for size, value in chosen("network")]
    reading = [([1.0, size[0] ** 2], value["seconds"]) for size, value in chosen("read")]
    tables = {
        "image": ([terms for terms, _ in images], [value for _, value in images]),
        "network": ([terms for terms, _ in modules], [value["seconds"] for _, value in modules]),
        "network_gb": ([terms for terms, _ in modules], [value["gb"] for _, value in modules]),
        "read": ([terms for terms, _ in reading], [value for _, value in reading]),
    }
    fits = {name: Terms.fitted(*table) for name, table in tables.items()}
    return Growth(**fits), {name: fits[name].worst(*table) for name, table in tables.items()}


def _case(atoms: int, box: int) -> Case:
    return Case(atoms / Case.ATOMS_PER_RESIDUE, box, _PIXEL_SIZE_A)


def draw(growth: Growth, found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Measured points and the fit."""
    figure, (images, modules, whole) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for box in BOXES:
        known = {
            int(name.split()[0]): value["seconds"] for name, value in found["image"].items() if name.endswith(f" {box}")
        }
        line = images.plot(known.keys(), [1000 * value for value in known.values()], "o", label=f"box {box}")[0]
        across = np.linspace(min(ATOMS), max(ATOMS), 50)
        images.plot(
            across, [1000 * growth.image.of(image_terms(_case(int(n), box))) for n in across], color=line.get_color()
        )
    images.set(xlabel="atoms", ylabel="ms an image, forward and backward", ylim=(0, None))
    images.legend()
    across = np.linspace(100, 3000, 60)
    modules.plot(
        [int(n) for n in found["network"]], [value["seconds"] for value in found["network"].values()], "o", color="C0"
    )
    modules.plot(across, [growth.network.of(network_terms(n)) for n in across], color="C0", label="time")
    modules.set(xlabel="residues", ylabel="s a step, forward and backward", ylim=(0, None))
    memory = modules.twinx()
    memory.plot(
        [int(n) for n in found["network"]], [value["gb"] for value in found["network"].values()], "s", color="C1"
    )
    memory.plot(across, [growth.network_gb.of(network_terms(n)) for n in across], color="C1")
    memory.set_ylabel("peak memory, GB", color="C1")
    memory.set_ylim(0, None)
    counts = np.logspace(2, 6, 30)
    for residues, box in (TEN[0], TEN[4], TEN[6], TEN[9]):
        case = Case(residues, box, _PIXEL_SIZE_A)
        whole.loglog(
            counts, [growth.minutes(case, int(count)) / 60 for count in counts], label=f"{residues} residues, box {box}"
        )
    whole.set(xlabel="particles", ylabel="hours of the paper's protocol")
    whole.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, fit, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, default=Path("bench_runs"), help="folder of growth.png")
    parser.add_argument("--json", type=Path, default=Path("bench_runs/growth.json"), help="all that was measured")
    parser.add_argument("--again", action="store_true", help="fit and draw what --json holds; measure nothing")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.alone[0], [int(part) for part in options.alone[1:]])))
        return
    if options.again:
        found = json.loads(options.json.read_text())
    else:
        print("| part | size | ms | GB |\n| --- | --- | --- | --- |")
        sizes = [(atoms, box) for box in BOXES for atoms in ATOMS]
        found = {
            "image": {
                f"{atoms} {box}": alone("image", atoms, box) for atoms, box in [*sizes, (LEFT_OUT.atoms, LEFT_OUT.box)]
            },
            "network": {str(residues): alone("network", residues) for residues in RESIDUES},
            "read": {str(box): alone("read", box) for box in BOXES},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    growth, worst = fit(found)
    draw(growth, found, options.pictures / "growth.png")
    print("\nlargest error of the fits: " + ", ".join(f"{name} {100 * error:.0f} %" for name, error in worst.items()))
    image = growth.image.of(image_terms(LEFT_OUT)) / found["image"][f"{LEFT_OUT.atoms} {LEFT_OUT.box}"]["seconds"]
    module = growth.network.of(network_terms(LEFT_OUT.residues)) / found["network"][str(LEFT_OUT.residues)]["seconds"]
    print(f"left out, MSP-1: predicted {image:.2f} times the image's time, {module:.2f} times the module's\n")
    print("| residues | atoms | box | min | GB | hours for a million |\n| --- | --- | --- | --- | --- | --- |")
    for residues, box in TEN:
        case = Case(residues, box, _PIXEL_SIZE_A)
        times = growth.minutes(case, PARTICLES), growth.minutes(case, MANY_PARTICLES) / 60
        memory = growth.gigabytes(case, PARTICLES)
        print(f"| {residues} | {case.atoms} | {box} | {times[0]:.1f} | {memory:.1f} | {times[1]:.0f} |")


if __name__ == "__main__":
    main()
