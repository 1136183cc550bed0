"""How near fine-tuning comes to a known structure, on simulated particles: ``python -m benchmarks.accuracy``.

Every case runs ``cocofold finetune`` with its defaults, in a process of its own, for each of five seeds, and
``cocofold assess`` judges the model. One table is printed: CA RMSD (Å) at the start, to be reached, with seed 0, and
median and worst of the seeds, superposed and in place, with the worst figures of geometry.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """Particles and start, the structure that was imaged, and what is to be reached."""

    particles: str
    start: str
    truth: str
    to_reach_angstrom: float
    options: tuple[str, ...] = ()


CASES = {
    "adk, 2,000 particles": Case("adk/uniform/particles.star", "adk/start_closed.cif", "adk/truth_open.cif", 0.95),
    "adk, first 200": Case(
        "adk/uniform/particles.star", "adk/start_closed.cif", "adk/truth_open.cif", 1.10, ("--first", "200")
    ),
    "adk, first 50": Case(
        "adk/uniform/particles.star", "adk/start_closed.cif", "adk/truth_open.cif", 1.40, ("--first", "50")
    ),
    "adk, poses refined by RELION": Case(
        "adk/small300/star_variants/relion_refined_local_it004_data.star",
        "adk/start_closed.cif",
        "adk/truth_open.cif",
        1.20,
    ),
    "tcr, 300 particles": Case("tcr/particles.star", "tcr/start_tcr_displaced.cif", "tcr/truth.cif", 0.40),
}

HEADINGS = (
    "case",
    "start",
    "to reach",
    "seed 0",
    "median / worst",
    "in place, median / worst",
    "least TM",
    "least C-N within 0.1 Å",
    "new D / cis / CA-CA below 3 Å",
    "s, median / worst",
    "GB",
)


def run_case(case: Case, data: Path, seed: int, out: Path) -> dict:
    """Fine-tune and assess; the figures of one run."""
    start, truth = data / case.start, data / case.truth
    command = ["finetune", "--particles", data / case.particles, "--model", start, "--out", out, "--seed", seed]
    _cocofold([*command, *case.options])
    metrics = json.loads((out / "metrics.json").read_text())
    return {"metrics": metrics, "end": assess(out / "model.cif", truth, start, out)}


def assess(model: Path, truth: Path, start: Path, out: Path) -> dict:
    """Figures of a model against the truth, geometry compared with the start's."""
    report = out / "assessment.json"
    _cocofold(["assess", "--model", model, "--reference", truth, "--start", start, "--json", report])
    return json.loads(report.read_text())


def _cocofold(arguments: list) -> None:
    command = [sys.executable, "-m", "cocofold", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}: {done.stderr}")


def _row(name: str, case: Case, start: dict, runs: list[dict]) -> str:
    rmsd = [run["end"]["ca_rmsd"] for run in runs]
    in_place = [run["end"]["ca_rmsd_in_place"] for run in runs]
    seconds = [run["metrics"]["seconds"] for run in runs]
    memory = [run["metrics"]["peak_memory_gb"] for run in runs]
    geometry = [run["end"]["geometry"] for run in runs]
    wrong = [max(len(of[kind]) for of in geometry) for kind in ("new_d", "new_cis", "new_close_alphas")]
    cells = [
        name,
        f"{start['ca_rmsd']:.2f}",
        f"{case.to_reach_angstrom:.2f}",
        f"{rmsd[0]:.2f}",
        f"{statistics.median(rmsd):.2f} / {max(rmsd):.2f}",
        f"{statistics.median(in_place):.2f} / {max(in_place):.2f}",
        f"{min(run['end']['tm_score'] for run in runs):.3f}",
        f"{100 * min(of['bonds_within_tolerance'] for of in geometry):.1f} %",
        " / ".join(map(str, wrong)),
        f"{statistics.median(seconds):.0f} / {max(seconds):.0f}",
        f"{max(memory):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table; every run's figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 ... N-1")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--json", type=Path, default=Path("bench_runs/accuracy.json"), help="all figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|")
    figures = {}
    for name in options.case or CASES:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            start = assess(
                options.data / case.start, options.data / case.truth, options.data / case.start, Path(folder)
            )
            runs = [run_case(case, options.data, seed, Path(folder) / str(seed)) for seed in range(options.seeds)]
        figures[name] = {"start": start, "runs": runs}
        options.json.write_text(json.dumps(figures, indent=1))
        print(_row(name, case, start, runs), flush=True)


if __name__ == "__main__":
    main()
