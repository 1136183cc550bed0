"""Starts that lie wrongly: ``python -m benchmarks.misplaced``.

The closed state of adenylate kinase, superposed on the open state's core, turned about its centroid and shifted: 12°
and 3.5 Å as ``start_closed_small.cif`` is, and at random up to that. Each is fine-tuned with defaults; one table is
printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.accuracy import ROOT, assess, cocofold
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

LARGEST_DEG, LARGEST_ANGSTROM = 12.0, 3.5
START, SMALL, TRUTH = "adk/start_closed.cif", "adk/start_closed_small.cif", "adk/truth_open.cif"
HEADINGS = ("start", "CA RMSD", "in place", "after", "in place", "verdict", "s")


def misplaced(model: Model, seed: int) -> tuple[Model, str]:
    """A model turned and shifted at random, by half of the largest angle and distance at least."""
    rng = np.random.default_rng(seed)
    axis, direction = rng.normal(size=(2, 3))
    angle, distance = rng.uniform(0.5, 1, 2) * (LARGEST_DEG, LARGEST_ANGSTROM)
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    centre = model.positions.mean(0)
    moved = (model.positions - centre) @ turn.T + centre + distance * direction / np.linalg.norm(direction)
    return model.moved_to(moved), f"{angle:.1f}° and {distance:.1f} Å off"


def run_case(name: str, start: Path, particles: Path, data: Path, seed: int, folder: Path) -> str:
    """A row of the table."""
    truth = data / TRUTH
    before = assess(start, truth, start, folder)
    cocofold(["finetune", "--particles", particles, "--model", start, "--seed", seed, "--out", folder / "run"])
    after = assess(folder / "run" / "model.cif", truth, start, folder)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    figures = [of[key] for of in (before, after) for key in ("ca_rmsd", "ca_rmsd_in_place")]
    cells = [name, *(f"{value:.2f}" for value in figures), metrics["verdict"], f"{metrics['seconds']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--particles", default="adk/uniform/particles.star", help="in the folder of the test data")
    parser.add_argument("--random", type=int, default=5, help="random misplacements")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|", flush=True)
    with tempfile.TemporaryDirectory() as thrown_away:
        starts = {"in place": options.data / START, "12° and 3.5 Å off": options.data / SMALL}
        for number in range(options.random):
            model, name = misplaced(read_model(options.data / START), number)
            starts[name] = Path(thrown_away) / f"start_{number}.cif"
            write_model(starts[name], model)
        for number, (name, start) in enumerate(starts.items()):
            folder = Path(thrown_away) / str(number)
            folder.mkdir()
            print(
                run_case(name, start, options.data / options.particles, options.data, options.seed, folder), flush=True
            )


if __name__ == "__main__":
    main()
