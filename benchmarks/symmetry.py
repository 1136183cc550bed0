"""Symmetric assemblies from one subunit: ``python -m benchmarks.symmetry``.

Copies of adenylate kinase's open state stand about the axes as close as they can without touching. Images of this
assembly and a noisy map of it are simulated; the closed state of one subunit, moved anywhere, is placed in the map and
fine-tuned with ``cocofold finetune --map --symmetry``. One table is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.accuracy import ROOT, cocofold
from benchmarks.placement import moved_anywhere
from cocofold.assessment.comparison import assess
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.mapfit.density_map import DensityMap
from cocofold.structure.geometry import build_assembly, copy_positions, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

BOX, PIXEL, BLUR_ANGSTROM, MAP_NOISE = 96, 2.5, 2.0, 0.03
# Where the subunit's centroid lies from the axes, seen from the centre.
DIRECTIONS = {"C3": (1.0, 0.0, 0.0), "D2": (1.0, 1.0, 1.0)}
_APART_ANGSTROM = 5.0
HEADINGS = (
    "group",
    "images",
    "start",
    "subunit",
    "assembly in place",
    "copies differ",
    "hand, symmetry",
    "verdict",
    "s",
)


def assembled(open_state: Model, group: str) -> tuple[Model, Model]:
    """The open state as a subunit in its place, and all its copies."""
    centre, rotations = np.full(3, BOX // 2 * PIXEL), point_group_rotations(group)
    direction = np.array(DIRECTIONS[group]) / np.linalg.norm(DIRECTIONS[group])
    centred = open_state.positions - open_state.positions.mean(0)
    for distance in np.arange(5.0, 100.0, 1.0):
        subunit = open_state.moved_to(centred + centre + distance * direction)
        everyone = copy_positions(subunit.positions, rotations, centre)
        if cKDTree(everyone[len(subunit) :]).query(subunit.positions)[0].min() > _APART_ANGSTROM:
            break
    return subunit, build_assembly(subunit, rotations, centre)


def write_map(path: Path, assembly: Model, seed: int) -> None:
    """A blurred, noisy map of an assembly."""
    widths = np.full(len(assembly), REFERENCE_WIDTH_ANGSTROM)
    values = render_density(assembly.positions, assembly.atomic_numbers.astype(float), widths, BOX, PIXEL)
    values = ndimage.gaussian_filter(values, BLUR_ANGSTROM / PIXEL)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=values.shape), 0.7)
    noise *= MAP_NOISE * values.max() / noise.std()
    DensityMap((values + noise).astype(np.float32), PIXEL).write(path)


def run_case(group: str, symmetry: str, count: int, effort: float, seed: int, data: Path, folder: Path) -> str:
    """A row of the table."""
    subunit, assembly = assembled(read_model(data / "adk/truth_open.cif"), group)
    write_model(folder / "truth.cif", assembly)
    write_map(folder / "map.mrc", assembly, seed)
    write_model(folder / "closed.cif", moved_anywhere(read_model(data / "adk/start_closed.cif"), seed))
    shape = ["--box", BOX, "--pixel-size", PIXEL, "--count", count, "--snr", 0.1, "--seed", seed]
    cocofold(["simulate", "--model", folder / "truth.cif", "--out", folder / "sim", *shape])
    given = ["--particles", folder / "sim" / "particles.star", "--map", folder / "map.mrc", "--symmetry", symmetry]
    start = ["--model", folder / "closed.cif", "--effort", effort, "--seed", seed]
    cocofold(["finetune", *given, *start, "--out", folder / "run"])
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    found, answer = read_model(folder / "run" / "subunit.cif"), read_model(folder / "run" / "model.cif")
    rotations, centre = point_group_rotations(group), np.full(3, BOX // 2 * PIXEL)
    alphas = found.positions[found.backbone()[1][:, 1]]
    places = copy_positions(subunit.positions[subunit.backbone()[1][:, 1]], rotations, centre)
    in_place = np.sqrt(((places.reshape(len(rotations), -1, 3) - alphas) ** 2).sum(2).mean(1)).min()
    differ = np.abs(answer.positions - copy_positions(found.positions, rotations, centre)).max()
    cells = [
        group if symmetry == group else f"{group}, {symmetry}",
        str(count),
        f"{assess(read_model(folder / 'closed.cif'), subunit).ca_rmsd:.2f}",
        f"{assess(found, subunit).ca_rmsd:.2f}",
        f"{in_place:.2f}",
        f"{differ:.1e}",
        f"{metrics['hand']}, {metrics['symmetry']}",
        metrics["verdict"],
        f"{metrics['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--group", action="append", choices=list(DIRECTIONS), help="only these")
    parser.add_argument("--symmetry", help="what finetune is told in place of the group, such as auto")
    parser.add_argument("--count", type=int, default=300, help="images")
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for all files, otherwise thrown away")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|", flush=True)
    for group in options.group or DIRECTIONS:
        with tempfile.TemporaryDirectory() as thrown_away:
            folder = Path(thrown_away) if options.keep is None else options.keep / group
            folder.mkdir(parents=True, exist_ok=True)
            symmetry = options.symmetry or group
            print(
                run_case(group, symmetry, options.count, options.effort, options.seed, options.data, folder), flush=True
            )


if __name__ == "__main__":
    main()
