"""Several states, junk, and their number: ``python -m benchmarks.states [--rows NAMES] [--seeds N] [--effort E]``.

Each row simulates new particles by its seed, of one state or several and of noise, mixes them, and fine-tunes the
closed state of adenylate kinase against them. Printed are the number of states, CA RMSD of each truth to the model
nearest to it, particles that are in the right class, and how far shares are off. The exit status is 1 where a number
of states is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from benchmarks.accuracy import ROOT, cocofold
from cocofold.assessment.comparison import assess
from cocofold.structure.read_model import read_model

_CLOSED, _OPEN = "adk/start_closed.cif", "adk/truth_open.cif"
_COLUMNS = ("row", "seed", "states", "CA RMSD (Å)", "particles right", "shares off by", "junk right", "verdict", "s")


@dataclass(frozen=True)
class Row:
    """What is imaged: truths with their numbers of images, images of noise, and how."""

    truths: dict[str, int]
    junk: int = 0
    snr: float = 0.1
    life_like: bool = False
    options: tuple[str, ...] = ("--states", "auto")


ROWS = {
    "50/50 of 600": Row({_CLOSED: 300, _OPEN: 300}),
    "70/30 of 1000": Row({_CLOSED: 700, _OPEN: 300}),
    "30/70 of 1000": Row({_CLOSED: 300, _OPEN: 700}),
    "90/10 of 1000": Row({_CLOSED: 900, _OPEN: 100}),
    "50/50 of 2000, SNR 0.02": Row({_CLOSED: 1000, _OPEN: 1000}, snr=0.02),
    "50/50 of 1000, life-like": Row({_CLOSED: 500, _OPEN: 500}, life_like=True),
    "three states of 1500": Row({f"adk/trajectory/dims_{name}.cif": 500 for name in ("000", "044", "097")}),
    "pure, 600": Row({_OPEN: 600}),
    "pure, 600, life-like": Row({_OPEN: 600}, life_like=True),
    "30 % junk of 600": Row({_OPEN: 420}, junk=180, options=("--states", "auto", "--junk", "auto")),
    "50 % junk of 600": Row({_OPEN: 300}, junk=300, options=("--states", "auto", "--junk", "auto")),
}


def mix(row: Row, data: Path, seed: int, folder: Path) -> tuple[Path, np.ndarray]:
    """STAR of a row's particles in random order, and whose each is: the truth's number from 0, -1 for noise."""
    parts = [(data / path, count, row.snr) for path, count in row.truths.items()]
    if row.junk:
        parts.append((data / next(iter(row.truths)), row.junk, 1e-9))
    tables, owners, optics = [], [], None
    for number, (model, count, snr) in enumerate(parts):
        name = f"part_{number}"
        made = ["--box", 64, "--pixel-size", 2.5, "--snr", snr, "--count", count, "--seed", 1000 * seed + number]
        made += ["--life-like"] if row.life_like and snr == row.snr else ["--shift-spread", 3]
        cocofold(["simulate", "--model", model, "--out", folder / name, *made])
        blocks = starfile.read(folder / name / "particles.star")
        table = blocks["particles"]
        table["rlnImageName"] = table["rlnImageName"].str.replace("@", f"@{name}/", regex=False)
        optics = blocks["optics"] if optics is None else optics
        tables.append(table)
        owners.append(np.full(count, number if number < len(row.truths) else -1))
    order = np.random.default_rng(seed).permutation(sum(map(len, owners)))
    every = pd.concat(tables, ignore_index=True).fillna(0).iloc[order]
    starfile.write({"optics": optics, "particles": every}, folder / "particles.star")
    return folder / "particles.star", np.concatenate(owners)[order]


def judge(name: str, row: Row, data: Path, seed: int, folder: Path, more: list[str]) -> tuple[list[str], bool]:
    """A row of the table, and whether the number of states is right."""
    star, owners = mix(row, data, seed, folder)
    out = folder / "run"
    given = ["--particles", star, "--model", data / _CLOSED, "--seed", seed, "--no-check", *row.options, *more]
    cocofold(["finetune", *given, "--out", out])
    metrics = json.loads((out / "metrics.json").read_text())
    models = [read_model(out / one["model"]) for one in metrics["states"]]
    truths = [read_model(data / path) for path in row.truths]
    distances = np.array([[assess(model, truth).ca_rmsd_in_place for model in models] for truth in truths])
    nearest = distances.argmin(1)
    numbers = starfile.read(out / "particles.star")["particles"]["rlnClassNumber"].to_numpy()
    real = owners >= 0
    right = numbers[real] == nearest[owners[real]] + 1
    shares = np.array([one["share"] for one in metrics["states"]])
    wanted = np.array(list(row.truths.values())) / sum(row.truths.values())
    one_each = len(models) == len(truths) and len(set(nearest.tolist())) == len(truths)
    off = f"{100 * np.abs(shares[nearest] - wanted).max():.1f} %" if one_each else ""
    cells = [
        name,
        str(seed),
        str(len(models)),
        ", ".join(f"{distance:.2f}" for distance in distances.min(1)),
        f"{100 * right.mean():.1f} %",
        off,
        f"{100 * (numbers[~real] == 0).mean():.1f} %" if row.junk else "",
        metrics["verdict"],
        f"{metrics['seconds']:.0f}",
    ]
    return cells, one_each


def main() -> int:
    """Print the table; 1 where a number of states is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--states", help="In place of auto.")
    given = parser.parse_args()
    more = ["--effort", str(given.effort), *(["--states", given.states] if given.states else [])]
    print("| " + " | ".join(_COLUMNS) + " |\n|" + " --- |" * len(_COLUMNS))
    all_right = True
    for name in given.rows:
        for seed in range(1, given.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                cells, right = judge(name, ROWS[name], given.data, seed, Path(folder), more)
            print("| " + " | ".join(cells) + " |", flush=True)
            all_right = all_right and right
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
