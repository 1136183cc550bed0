"""What fine-tuning makes of a network that folds: ``python -m benchmarks.standin FOLDER``.

No AlphaFold weights are at hand. A structure module of full size, trained here to fold closed adenylate kinase
(``benchmarks.standin.training``; kept in FOLDER), is fine-tuned by ``cocofold finetune`` on images of the open state,
each case in a process of its own, for each seed. One table is printed: CA RMSD (Å) from the open state of the network's
own model, as the answer and at the end of the last cycle, with the field on top also of what is shown, and C-N bonds'
root mean square deviation; median and worst of the seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.accuracy import ROOT, assess, cocofold
from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import RunFolder
from cocofold.finetuning.starting_model import PredictedStart
from cocofold.finetuning.training_loop import load_checkpoint
from cocofold.particles import read_particles
from cocofold.structure.modelcif import write_model

START, TRUTH = "adk/start_closed.cif", "adk/truth_open.cif"
_PARTICLES = "adk/uniform/particles.star"
_LIFE_LIKE = ("--life-like", "--box", "64", "--pixel-size", "2.5", "--snr", "0.1", "--count", "2000")


@dataclass(frozen=True)
class Case:
    """Options of ``cocofold finetune``, and of ``cocofold simulate`` where that is to make the particles."""

    options: tuple[str, ...] = ()
    simulated: tuple[str, ...] = ()


CASES = {
    "default": Case(),
    "no teacher": Case(("--no-teacher",)),
    "no adapter": Case(("--no-adapter",)),
    "no teacher, no adapter": Case(("--no-teacher", "--no-adapter")),
    "field on top": Case(("--deform",)),
    "paper": Case(("--preset", "paper")),
    "200 particles": Case(("--first", "200")),
    "50 particles": Case(("--first", "50")),
    "life-like images": Case(simulated=_LIFE_LIKE),
}
HEADINGS = (
    "case",
    "CA RMSD",
    "shown",
    "last cycle",
    "held-out FRC",
    "C-N rms",
    "C-N rms, last cycle",
    "cycles without fold",
    "verdict",
    "s",
    "of these teacher",
    "GB",
)


def run_case(case: Case, prediction: Path, data: Path, seed: int, folder: Path) -> dict:
    """Fine-tune and assess; the figures of one run."""
    particles, run = data / _PARTICLES, folder / "run"
    if case.simulated:
        particles = folder / "particles" / "particles.star"
        cocofold(["simulate", "--model", data / TRUTH, "--out", particles.parent, "--seed", seed, *case.simulated])
    given = ["--particles", particles, "--prediction", prediction, "--model", data / START, "--seed", seed]
    cocofold(["finetune", *given, "--out", run, *case.options])
    metrics = json.loads((run / "metrics.json").read_text())
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    shown = _rmsd(run / "model.cif", data, run)
    own = _rmsd(_network_alone(run), data, run) if "--deform" in case.options else shown
    return {
        "seed": seed,
        "ca_rmsd": own,
        "ca_rmsd_shown": shown,
        "ca_rmsd_last_cycle": _rmsd(run / "models" / f"cycle_{int(last['number']):02d}.cif", data, run),
        "link_rms_last_cycle": float(last["link_rms_angstrom"]),
        "metrics": {name: value for name, value in metrics.items() if name != "frc_curves"},
    }


def _rmsd(model: Path, data: Path, folder: Path) -> float:
    return assess(model, data / TRUTH, data / START, folder)["ca_rmsd"]


def _network_alone(run: Path) -> Path:
    """The model of a run's network at its end, without the field on top."""
    options = replace(Options.read(run / "config.yaml"), deform=False)
    particles, folder = read_particles(options.particles), RunFolder(run, options, resume=True)
    start = PredictedStart.read(options, particles, folder, torch.device("cpu")).with_teacher(None)
    source = start.source()
    tensors, _ = load_checkpoint(run / "checkpoints" / "latest.safetensors")
    inner = "source.inner."
    source.restore(0, {name[len(inner) :]: values for name, values in tensors.items() if name.startswith(inner)})
    with torch.no_grad():
        positions = source.positions().double().numpy()
    write_model(run / "network.cif", start.model.moved_to(positions))
    return run / "network.cif"


def _row(name: str, runs: list[dict]) -> str:
    def of(key: str, digits: int) -> str:
        values = [run.get(key, run["metrics"].get(key)) for run in runs]
        return f"{statistics.median(values):.{digits}f} / {max(values):.{digits}f}"

    lowest = min(run["metrics"]["frc_heldout"] for run in runs)
    cells = [
        name,
        of("ca_rmsd", 2),
        of("ca_rmsd_shown", 2),
        of("ca_rmsd_last_cycle", 2),
        f"{statistics.median(run['metrics']['frc_heldout'] for run in runs):.3f} / {lowest:.3f}",
        of("link_rms_angstrom", 3),
        of("link_rms_last_cycle", 3),
        of("cycles_that_lost_the_fold", 0),
        ", ".join(sorted({run["metrics"]["verdict"] for run in runs})),
        of("seconds", 0),
        of("teacher_seconds", 0),
        of("peak_memory_gb", 2),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table; every run's figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the trained network is kept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--json", type=Path, default=Path("bench_runs/standin.json"), help="all figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    prediction = options.folder / "prediction"
    if not prediction.is_dir():
        training = [sys.executable, "-m", "benchmarks.standin.training", prediction, "--data", options.data]
        subprocess.run(list(map(str, training)), check=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[dict]] = {}
    print("| " + " | ".join(HEADINGS) + " |\n" + "| --- " * len(HEADINGS) + "|")
    for name in options.case or CASES:
        figures[name] = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                figures[name].append(run_case(CASES[name], prediction, options.data, seed, Path(folder)))
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
        print(_row(name, figures[name]), flush=True)


if __name__ == "__main__":
    main()
