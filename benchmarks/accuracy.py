"""How near fine-tuning comes to a known structure, on simulated particles: ``python -m benchmarks.accuracy``.

Every case runs ``cocofold finetune`` with its defaults, in a process of its own, for each of five seeds, and
``cocofold assess`` judges the model. Two tables are printed: of RELION's images with white noise, and of images that
``cocofold simulate --life-like`` makes of the same structures, anew for each seed. They show CA RMSD (Å) at the start,
to be reached, with seed 0, and median and worst of the seeds, superposed and in place, with the worst figures of
geometry.
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
    """Particles and start, the structure that was imaged, and what is to be reached.

    ``simulated`` are options of ``cocofold simulate``, which then makes the particles, with the seed of the run.
    """

    start: str
    truth: str
    particles: str | None = None
    simulated: tuple[str, ...] = ()
    to_reach_angstrom: float | None = None
    options: tuple[str, ...] = ()


_ADK = ("adk/start_closed.cif", "adk/truth_open.cif")
_TCR = ("tcr/start_tcr_displaced.cif", "tcr/truth.cif")
_LIFE_LIKE = ("--life-like", "--box", "64", "--snr", "0.1")
_LIFE_LIKE_ADK = (*_LIFE_LIKE, "--pixel-size", "2.5")

WHITE_NOISE = {
    "adk, 2,000 particles": Case(*_ADK, particles="adk/uniform/particles.star", to_reach_angstrom=0.95),
    "adk, first 200": Case(
        *_ADK, particles="adk/uniform/particles.star", to_reach_angstrom=1.10, options=("--first", "200")
    ),
    "adk, first 50": Case(
        *_ADK, particles="adk/uniform/particles.star", to_reach_angstrom=1.40, options=("--first", "50")
    ),
    "adk, poses refined by RELION": Case(
        *_ADK,
        particles="adk/small300/star_variants/relion_refined_local_it004_data.star",
        to_reach_angstrom=1.20,
    ),
    "tcr, 300 particles": Case(*_TCR, particles="tcr/particles.star", to_reach_angstrom=0.40),
}

LIFE_LIKE = {
    "adk, 2,000 particles, life-like": Case(*_ADK, simulated=(*_LIFE_LIKE_ADK, "--count", "2000")),
    "adk, 200, life-like": Case(*_ADK, simulated=(*_LIFE_LIKE_ADK, "--count", "200")),
    "adk, 50, life-like": Case(*_ADK, simulated=(*_LIFE_LIKE_ADK, "--count", "50")),
    "adk, 300, poses off by 3.9° and 1.05 Å, life-like": Case(
        *_ADK, simulated=(*_LIFE_LIKE_ADK, "--count", "300", "--pose-noise", "3.9", "--shift-noise", "1.05")
    ),
    "tcr, 300 particles, life-like": Case(
        *_TCR, simulated=(*_LIFE_LIKE, "--pixel-size", "2.75", "--count", "300", "--shift-spread", "1.5")
    ),
}

CASES = {**WHITE_NOISE, **LIFE_LIKE}

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


def particles_of(case: Case, data: Path, seed: int, folder: Path) -> Path:
    """STAR of the case's particles, made in ``folder`` if they are to be simulated."""
    if case.particles is not None:
        return data / case.particles
    out = folder / "particles"
    cocofold(["simulate", "--model", data / case.truth, "--out", out, "--seed", seed, *case.simulated])
    return out / "particles.star"


def run_case(case: Case, data: Path, seed: int, folder: Path) -> dict:
    """Fine-tune and assess; the figures of one run."""
    start, run = data / case.start, folder / "run"
    particles = particles_of(case, data, seed, folder)
    cocofold(["finetune", "--particles", particles, "--model", start, "--out", run, "--seed", seed, *case.options])
    metrics = json.loads((run / "metrics.json").read_text())
    return {"metrics": metrics, "end": assess(run / "model.cif", data / case.truth, start, run)}


def assess(model: Path, truth: Path, start: Path, out: Path) -> dict:
    """Figures of a model against the truth, geometry compared with the start's."""
    report = out / "assessment.json"
    cocofold(["assess", "--model", model, "--reference", truth, "--start", start, "--json", report])
    return json.loads(report.read_text())


def cocofold(arguments: list) -> None:
    """Run the command in a process of its own."""
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
        "" if case.to_reach_angstrom is None else f"{case.to_reach_angstrom:.2f}",
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
    figures: dict[str, dict] = {}
    for title, table in (("White noise, images by RELION", WHITE_NOISE), ("Life-like images", LIFE_LIKE)):
        chosen = [name for name in table if name in (options.case or table)]
        if chosen:
            print(f"\n{title}\n")
            print("| " + " | ".join(HEADINGS) + " |")
            print("| --- " * len(HEADINGS) + "|")
        for name in chosen:
            figures[name] = _measure(table[name], options.data, options.seeds)
            options.json.write_text(json.dumps(figures, indent=1))
            print(_row(name, table[name], figures[name]["start"], figures[name]["runs"]), flush=True)


def _measure(case: Case, data: Path, seeds: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        start = assess(data / case.start, data / case.truth, data / case.start, Path(folder))
        runs = [run_case(case, data, seed, Path(folder) / str(seed)) for seed in range(seeds)]
    return {"start": start, "runs": runs}


if __name__ == "__main__":
    main()
