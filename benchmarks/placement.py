"""How reliably ``cocofold fit`` places models in maps: ``python -m benchmarks.placement``.

Each case moves a model anywhere with each of the seeds (a random rotation, up to 100 Å along each axis), places it in a
map as it is or mirrored, and asks whether it is right: CA RMSD in place below a limit, or, of a model in another
conformation than the map, a real-space correlation at least that of the same model superposed on the true structure's
core. The hand counts as wrong only where it is claimed wrongly.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cocofold.assessment.comparison import assess
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.mapfit.density_map import DensityMap, read_map
from cocofold.mapfit.fit_model import fit_in_map
from cocofold.mapfit.target_map import resolution_from_noise
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """A model and a map; ``truth`` is the model in place, which ``within`` (Å) is to be reached, or as good a place."""

    model: str
    density: str
    truth: str
    within: float | None = None
    bodies: str | None = None
    mirrored: bool = False
    resolution: float | None = None


_OPEN, _CLOSED, _TCR = "adk/truth_open.cif", "adk/start_closed.cif", "tcr/start_tcr_displaced.cif"
_MAP, _FEW, _TCR_MAP = "adk/uniform/reconstruction.mrc", "adk/uniform/reconstruction_200.mrc", "tcr/reconstruction.mrc"
_BODIES = "A,B,C;D,E"

CASES = {
    "adk open, 2,000 images": Case(_OPEN, _MAP, _OPEN, 1.0),
    "adk open, 200 images": Case(_OPEN, _FEW, _OPEN, 2.5),
    "adk closed in the open map": Case(_CLOSED, _MAP, _CLOSED),
    "tcr, bodies A,B,C and D,E": Case(_TCR, _TCR_MAP, "tcr/truth.cif", 1.5, _BODIES),
    "adk open, mirrored map": Case(_OPEN, _MAP, _OPEN, 1.0, mirrored=True),
    "adk open, 200 images, mirrored": Case(_OPEN, _FEW, _OPEN, 2.5, mirrored=True),
    "adk closed, mirrored open map": Case(_CLOSED, _MAP, _CLOSED, mirrored=True),
    "tcr, bodies, mirrored map": Case(_TCR, _TCR_MAP, "tcr/truth.cif", 1.5, _BODIES, mirrored=True),
    "adk open at 10 Å": Case(_OPEN, _MAP, _OPEN, 2.5, resolution=10.0),
    "adk open at 10 Å, mirrored": Case(_OPEN, _MAP, _OPEN, 2.5, mirrored=True, resolution=10.0),
    "adk closed at 10 Å": Case(_CLOSED, _MAP, _CLOSED, resolution=10.0),
    "adk closed at 10 Å, mirrored": Case(_CLOSED, _MAP, _CLOSED, mirrored=True, resolution=10.0),
}

HEADINGS = ("case", "starts", "right", "worst (Å, or CC less the reference's)", "hand right / undecided / wrong",
            "trusted", "s, median / worst", "CPU s", "GB")  # fmt: skip


def run_case(case: Case, data: Path, seed: int) -> dict:
    """Place from one random start; its figures."""
    model, truth, density = read_model(data / case.model), read_model(data / case.truth), read_map(data / case.density)
    start = moved_anywhere(model, seed)
    given = density.mirrored() if case.mirrored else density
    began, used = time.perf_counter(), time.process_time()
    found = fit_in_map(
        start, given, case.resolution or resolution_from_noise(given) or 2.1 * given.pixel_size_angstrom, case.bodies
    )
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    rmsd = assess(found.placed, truth).ca_rmsd_in_place
    gain = correlation(found.placed, found.density) - correlation(truth, density)
    return {
        "seed": seed,
        "rmsd": rmsd,
        "gain": gain,
        "right": rmsd < case.within if case.within is not None else gain >= 0,
        "hand": found.placement.hand_scores,
        "trusted": found.placement.facts["whole"]["trusted"],
        "uncovered": found.placement.facts["uncovered_share"],
        "warnings": list(found.warnings),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def moved_anywhere(model: Model, seed: int) -> Model:
    """A model turned at random and shifted by up to 100 Å along each axis."""
    turn = Rotation.random(random_state=seed).as_matrix()
    return model.moved_to(model.positions @ turn.T + np.random.default_rng(seed).uniform(-100, 100, 3))


def correlation(model: Model, density: DensityMap) -> float:
    """Real-space correlation over the whole box, with the density that fine-tuning draws."""
    widths = np.full(len(model), REFERENCE_WIDTH_ANGSTROM)
    box, pixel_size = len(density.values), density.pixel_size_angstrom
    drawn = render_density(model.positions, model.atomic_numbers.astype(float), widths, box, pixel_size)
    return float(np.corrcoef(drawn.ravel(), density.values.ravel())[0, 1])


def _row(name: str, case: Case, runs: list[dict]) -> str:
    truth = "mirrored" if case.mirrored else "as-is"
    verdicts = [run["hand"]["verdict"] for run in runs]
    undecided = verdicts.count("undecided")
    worst = max(run["rmsd"] for run in runs) if case.within is not None else min(run["gain"] for run in runs)
    seconds = [run["seconds"] for run in runs]
    cells = [
        name,
        str(len(runs)),
        str(sum(run["right"] for run in runs)),
        f"{worst:.2f}" if case.within is not None else f"{worst:+.3f}",
        f"{verdicts.count(truth)} / {undecided} / {len(runs) - undecided - verdicts.count(truth)}",
        str(sum(run["trusted"] for run in runs)),
        f"{statistics.median(seconds):.0f} / {max(seconds):.0f}",
        f"{statistics.median(run['cpu_seconds'] for run in runs):.0f}",
        f"{max(run['peak_memory_gb'] for run in runs):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table; all figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--starts", type=int, default=30, help="random starts of each case, seeds 0 ... N-1")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("bench_runs/placement.json"), help="all figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    torch.set_num_threads(options.threads)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|")
    figures: dict[str, list[dict]] = {}
    for name in options.case or CASES:
        figures[name] = [run_case(CASES[name], options.data, seed) for seed in range(options.starts)]
        options.json.write_text(json.dumps(figures, indent=1))
        print(_row(name, CASES[name], figures[name]), flush=True)


if __name__ == "__main__":
    main()
