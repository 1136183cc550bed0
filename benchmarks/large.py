"""A large complex with displaced chains: ``python -m benchmarks.large``.

Of 15 chains and 2,395 residues eight are turned and shifted (``../shared/data/large``). For each seed 500 particles are
simulated anew, fine-tuned with defaults, and one row printed: RMSD (Å) of CA atoms as they lie, of the whole and of the
worst chain of those that were right and of those that were not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.accuracy import ROOT, cocofold

IMAGES = ("--box", 96, "--pixel-size", 2.5, "--snr", 0.1, "--count", 500)
# A chain of the start nearer to the truth than this was right, Å.
_RIGHT_BELOW_ANGSTROM = 0.5
HEADINGS = ("seed", "start", "end", "worst of chains that were right", "worst of the others", "verdict", "s", "GB")


def assess(model: Path, truth: Path, folder: Path) -> tuple[float, dict[str, float]]:
    """CA RMSD in place of the whole and of each chain, Å."""
    cocofold(["assess", "--model", model, "--reference", truth, "--json", folder / "assessment.json"])
    found = json.loads((folder / "assessment.json").read_text())
    return found["ca_rmsd_in_place"], {chain["chain"]: chain["ca_rmsd_in_place"] for chain in found["chains"]}


def run_case(data: Path, seed: int, options: list[str], folder: Path) -> str:
    """A row of the table."""
    truth, start, run = data / "large/truth.cif", data / "large/start.cif", folder / "run"
    cocofold(["simulate", "--model", truth, "--out", folder / "particles", "--seed", seed, *IMAGES])
    given = ["--particles", folder / "particles/particles.star", "--model", start, "--seed", seed]
    cocofold(["finetune", *given, "--out", run, *options])
    before, chains_before = assess(start, truth, folder)
    after, chains = assess(run / "model.cif", truth, folder)
    right = {chain for chain, rmsd in chains_before.items() if rmsd < _RIGHT_BELOW_ANGSTROM}
    metrics = json.loads((run / "metrics.json").read_text())
    cells = [
        str(seed),
        f"{before:.2f}",
        f"{after:.2f}",
        f"{max(chains[chain] for chain in right):.2f}",
        f"{max(rmsd for chain, rmsd in chains.items() if chain not in right):.2f}",
        metrics["verdict"],
        f"{metrics['seconds']:.0f}",
        f"{metrics['peak_memory_gb']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the seeds and print the table; further options go to ``cocofold finetune``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 ... N-1")
    arguments, options = parser.parse_known_args()
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + " --- |" * len(HEADINGS), flush=True)
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            print(run_case(arguments.data, seed, options, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
