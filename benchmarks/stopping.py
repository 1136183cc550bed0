"""Whether fine-tuning stops where it should: ``python -m benchmarks.stopping``.

Each case is run twice: with its defaults, and with no particles held out, which follows all stages to the end. Of the
second run every cycle's model is compared with the truth. The answer of the first should be within 0.1 Å of the best
of these; on noise it should be the start. One table is printed; the exit status is 1 if a case fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.accuracy import LIFE_LIKE, ROOT, WHITE_NOISE, Case, assess, cocofold, particles_of

ALLOWED_ANGSTROM = 0.1
NOISE = {
    f"{count} images of noise": Case(
        "adk/start_closed.cif",
        "adk/truth_open.cif",
        simulated=("--box", "64", "--pixel-size", "2.5", "--snr", "1e-9", "--count", str(count)),
    )
    for count in (50, 300, 1000)
}
HEADINGS = (
    "case",
    "start",
    "answer",
    "its cycle",
    "best of all cycles",
    "its cycle",
    "last cycle",
    "verdict",
    "passed",
)


def judge(name: str, case: Case, data: Path, seed: int, folder: Path) -> tuple[str, bool]:
    """A row of the table, and whether the answer is where it should be."""
    start, truth = data / case.start, data / case.truth
    given = ["--particles", particles_of(case, data, seed, folder), "--model", start, "--seed", seed, *case.options]
    cocofold(["finetune", *given, "--out", folder / "run"])
    cocofold(["finetune", *given, "--out", folder / "all", "--heldout", 0])
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    models = sorted((folder / "all" / "models").glob("cycle_*.cif"))
    trace = [assess(model, truth, start, folder)["ca_rmsd"] for model in models]
    answer = assess(folder / "run" / "model.cif", truth, start, folder)["ca_rmsd"]
    noise = name in NOISE
    passed = metrics["best_cycle"] == 0 if noise else answer <= min(trace) + ALLOWED_ANGSTROM
    cells = [
        name,
        f"{trace[0]:.2f}",
        f"{answer:.2f}",
        str(metrics["best_cycle"]),
        "" if noise else f"{min(trace):.2f}",
        "0" if noise else str(trace.index(min(trace))),
        f"{trace[-1]:.2f}",
        metrics["verdict"],
        "yes" if passed else "NO",
    ]
    return "| " + " | ".join(cells) + " |", passed


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seed", type=int, default=0)
    cases = {**WHITE_NOISE, **LIFE_LIKE, **NOISE}
    parser.add_argument("--case", action="append", choices=list(cases), help="only these cases")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|")
    failed = 0
    for name in options.case or cases:
        with tempfile.TemporaryDirectory() as folder:
            row, passed = judge(name, cases[name], options.data, options.seed, Path(folder))
        print(row, flush=True)
        failed += not passed
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
