"""What refining poses gains and costs, on simulated particles whose poses are off: ``python -m benchmarks.poses``.

Particles of known poses get errors: turns about random axes (root mean square in degrees) and shifts along x and y
(standard deviation, a third as many Å). Each case is fine-tuned without and with ``--refine-poses auto``, and compared
with the truth. The table shows CA RMSD (Å), the error of poses before and after, the width that the images gave, and
the time with over that without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.accuracy import ROOT, assess, cocofold
from cocofold.likelihood.particle_optics import with_pose_errors
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star

_ADK = ("adk/start_closed.cif", "adk/truth_open.cif")


@dataclass(frozen=True)
class Case:
    """Particles with true poses, what errors they get, start and truth.

    ``disturbed`` are particles that are off already.
    """

    particles: str
    start: str
    truth: str
    off_deg: float = 0.0
    disturbed: str | None = None


CASES = {
    **{f"adk, 300, {deg}°": Case("adk/small300/particles.star", *_ADK, deg) for deg in (0, 1, 2, 3, 5)},
    **{f"adk, 2,000, {deg}°": Case("adk/uniform/particles.star", *_ADK, deg) for deg in (0, 1, 2, 3, 5)},
    "adk, 300, poses refined by RELION": Case(
        "adk/small300/particles.star",
        *_ADK,
        disturbed="adk/small300/star_variants/relion_refined_local_it004_data.star",
    ),
    "tcr, 300, 3°": Case("tcr/particles.star", "tcr/start_tcr_displaced.cif", "tcr/truth.cif", 3),
}

HEADINGS = ("case", "CA RMSD", "with", "turns off by", "after", "shifts off by", "after", "found", "time")


def particles_of(case: Case, data: Path, seed: int, star: Path) -> Path:
    """Particles of a case, with errors drawn with the seed."""
    if case.disturbed is not None:
        # RELION wrote paths from the folder of its project.
        return data / case.disturbed
    truth = read_particles(data / case.particles)
    errors = np.random.default_rng([seed, 7]).normal(size=(len(truth), 5))
    errors *= np.repeat([np.deg2rad(case.off_deg) / 3**0.5, case.off_deg / 3], [3, 2])
    write_star(star, with_pose_errors(truth, errors))
    return star


def pose_errors(found: ParticleSet, truth: ParticleSet) -> tuple[float, float]:
    """Root mean square of turns (degrees), and of shifts along an axis (Å), between two sets of poses."""
    turns = Rotation.from_matrix(found.rotations @ truth.rotations.transpose(0, 2, 1)).magnitude()
    shifts = found.origins_angstrom - truth.origins_angstrom
    return float(np.rad2deg(np.sqrt((turns**2).mean()))), float(np.sqrt((shifts**2).mean()))


def run_case(case: Case, data: Path, seed: int, folder: Path, options: list[str]) -> dict:
    """Both runs of a case; their figures."""
    folder.mkdir()
    star = particles_of(case, data, seed, folder / "particles.star")
    truth = read_particles(data / case.particles)
    where = [] if case.disturbed is None else ["--particles-dir", (data / case.particles).parent]
    given = read_particles(star, where[-1] if where else None)
    found: dict = {"given": pose_errors(given, truth)}
    for name in ("off", "auto"):
        out = folder / name
        arguments = ["--particles", star, "--model", data / case.start, "--out", out, "--seed", seed, *where]
        cocofold(["finetune", *arguments, "--refine-poses", name, *options])
        figures = json.loads((out / "metrics.json").read_text())
        rmsd = assess(out / "model.cif", data / case.truth, data / case.start, out)["ca_rmsd"]
        found[name] = {"ca_rmsd": rmsd, "seconds": figures["seconds"], "poses": figures["poses"]}
        if figures["poses"] and figures["poses"]["refined"]:
            found["refined"] = pose_errors(read_particles(out / "particles.star"), truth)
    return found


def _row(name: str, runs: list[dict]) -> str:
    def median(values: list[float], digits: int = 2) -> str:
        return f"{statistics.median(values):.{digits}f}"

    after = [run.get("refined", run["given"]) for run in runs]
    widths = [run["auto"]["poses"].get("prior_turn_deg", 0.0) for run in runs]
    cells = [
        name,
        median([run["off"]["ca_rmsd"] for run in runs]),
        median([run["auto"]["ca_rmsd"] for run in runs]),
        median([run["given"][0] for run in runs]) + "°",
        median([one[0] for one in after]) + "°",
        median([run["given"][1] for run in runs]) + " Å",
        median([one[1] for one in after]) + " Å",
        median(widths) + "°",
        median([run["auto"]["seconds"] / run["off"]["seconds"] for run in runs]),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table; every run's figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 ... N-1, other errors each")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--json", type=Path, default=Path("bench_runs/poses.json"), help="all figures")
    parser.add_argument("--effort", type=float, default=1.0, help="of the runs")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|")
    figures: dict[str, list[dict]] = {}
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = [
                run_case(CASES[name], options.data, seed, Path(folder) / str(seed), ["--effort", str(options.effort)])
                for seed in range(options.seeds)
            ]
        options.json.write_text(json.dumps(figures, indent=1))
        print(_row(name, figures[name]), flush=True)


if __name__ == "__main__":
    main()
