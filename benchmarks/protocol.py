"""The paper's protocol for MSP-1 as a whole: ``python -m benchmarks.protocol FOLDER [--case msp1] [--particles 3000]``.

``cocofold finetune --preset paper --cycles 2``: all particles twice in batches of 32, the network once a batch, with
held-out particles, checkpoints and files as for any user. The prediction is of random weights in AlphaFold's layout,
whose atoms fill a ball as a protein's do; images are simulated from them. Time and memory do not depend on that. What
lies in FOLDER already is used again; a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy import cocofold
from benchmarks.random_prediction import random_prediction
from benchmarks.step import CASES, VOLUME_PER_ATOM_A3, Case
from cocofold.alphafold.rebuild import write_prediction
from cocofold.alphafold.sequences import ONE_LETTER_CODES
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

_RIGID = "structure_module/fold_iteration/quat_rigid/rigid//weights"
# Of atoms around their middle, root mean square, with translations as the random weights give them.
_RADIUS_AT_SCALE_ONE_A = 28.0


def write_random_prediction(case: Case, folder: Path) -> None:
    """A prediction of one chain whose residues are not turned, only moved, to where a protein's would be."""
    residues = case.residues
    protein = math.sqrt(3 / 5) * (case.atoms * VOLUME_PER_ATOM_A3 * 3 / (4 * math.pi)) ** (1 / 3)
    draw = torch.Generator().manual_seed(0)
    letters = torch.randint(0, 20, (residues,), generator=draw)
    prediction = random_prediction("".join(ONE_LETTER_CODES[int(number)] for number in letters))
    weights = prediction.weights
    names = [name for name in weights if name.endswith(_RIGID)]
    assert len(names) == 1, names
    weights[names[0]][:, :3] = 0
    weights[names[0]][:, 3:] *= protein / _RADIUS_AT_SCALE_ONE_A
    # In full precision, as the times and memory of the documented runs are.
    write_prediction(replace(prediction, pair=prediction.pair.float()), folder)


def prepare(case: Case, particles: int, folder: Path) -> list[str]:
    """Make what is missing in a folder; returns the options of ``cocofold finetune``."""
    prediction, placed, stack = folder / "prediction", folder / "placed.cif", folder / f"particles_{particles}"
    if not prediction.exists():
        write_random_prediction(case, prediction)
    if not placed.exists():
        model = read_model(prediction / "model.cif")
        middle = case.box / 2 * case.pixel_size_angstrom
        write_model(placed, model.moved_to(model.positions - model.positions.mean(0) + middle))
        print(f"{len(model)} atoms, {np.sqrt(model.positions.var(0).sum()):.0f} Å from their middle (rms)", flush=True)
    if not stack.exists():
        simulated = ["--box", case.box, "--pixel-size", case.pixel_size_angstrom, "--count", particles, "--snr", 0.1]
        cocofold(["simulate", "--model", placed, "--out", stack, *simulated])
    given = ["--particles", stack / "particles.star", "--prediction", prediction, "--model", placed]
    return [*map(str, given), "--preset", "paper", "--cycles", "2", "--batch-size", "32", "--no-check"]


def main() -> None:
    """Run, print a table, and with ``--json`` a last line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", choices=list(CASES), default="msp1")
    parser.add_argument("--particles", type=int, default=3000)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    options, more = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    given, run = prepare(CASES[options.case], options.particles, options.folder), options.folder / "run"
    resumed = ["--resume"] if run.exists() else []
    subprocess.run(
        [sys.executable, "-m", "cocofold", "finetune", *given, "--out", str(run), *resumed, *more], check=True
    )
    metrics = json.loads((run / "metrics.json").read_text())
    figures = {
        "case": options.case,
        "particles": options.particles,
        "steps": metrics["steps"],
        "images": metrics["images"],
        "minutes": metrics["seconds"] / 60,
        "peak_memory_gb": metrics["peak_memory_gb"],
        "threads": metrics["threads"],
        "device": metrics["device"],
    }
    print("| " + " | ".join(figures) + " |\n" + "| --- " * len(figures) + "|")
    print(
        "| "
        + " | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in figures.values())
        + " |"
    )
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
