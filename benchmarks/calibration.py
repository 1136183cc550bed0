"""Whether stated errors are as large as true ones, where the truth is known: ``python -m benchmarks.calibration``.

Each set is fine-tuned with twins by the command's defaults, in a folder of ``--out`` that is kept, so that what is
finished is not run again. The table shows, for CA atoms as the models lie: the true distance (median), its spread (90 %
less 10 %), the rank correlation of stated with true errors, the share of residues within two stated sigmas, and the
same for one sigma that is alike for all residues and all sets, as a control. Weights of the error model come from the
sets marked "fit"; ``--fit`` finds them anew, by maximum likelihood of normal errors, and then one factor by which 95 %
of the residues of those sets are within two sigmas.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from benchmarks.accuracy import ROOT, cocofold
from cocofold.finetuning.residue_findings import ERROR_WEIGHTS, error_features
from cocofold.structure.geometry import residue_centres
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@dataclass(frozen=True)
class Case:
    """Particles, start and truth, below the data folder; whether weights are fitted to it."""

    particles: str
    start: str
    truth: str
    fitted: bool
    options: tuple[str, ...] = ()


_ADK = ("adk/start_closed.cif", "adk/truth_open.cif")
CASES = {
    "adk, 300 particles": Case("adk/small300/particles.star", *_ADK, fitted=True),
    "adk, multislice in water, 200": Case("physics/inf/particles_64.star", *_ADK, fitted=False),
    "adk, first 200": Case("adk/uniform/particles.star", *_ADK, fitted=True, options=("--first", "200")),
    "adk, 2,000 particles": Case("adk/uniform/particles.star", *_ADK, fitted=False),
    "adk, first 50": Case("adk/uniform/particles.star", *_ADK, fitted=False, options=("--first", "50")),
    "tcr, 300 particles": Case("tcr/particles.star", "tcr/start_tcr_displaced.cif", "tcr/truth.cif", fitted=False),
}
# Logarithm of the least squared error that all residues share, Å²: files round, and truths are models themselves
_LEAST_FLOOR = float(np.log(0.02))
COLUMNS = ("set", "use", "residues", "true error", "its spread", "rank correlation", "within 2 sigma", "constant sigma")


@dataclass(frozen=True)
class Found:
    """Features of residues, (n, 5), and their true errors, (n,) Å."""

    features: np.ndarray
    errors: np.ndarray

    def table(self, weights: np.ndarray, constant: float) -> tuple[str, ...]:
        """Cells of the set's row."""
        sigma = np.sqrt(self.features @ weights)
        spread = np.quantile(self.errors, 0.9) - np.quantile(self.errors, 0.1)
        rank = spearmanr(sigma, self.errors)[0]
        within, control = (np.mean(self.errors <= 2 * some) for some in (sigma, constant))
        return (
            f"{len(self.errors)}", f"{np.median(self.errors):.2f} Å", f"{spread:.2f} Å", f"{rank:.2f}",
            f"{within:.1%}", f"{control:.1%}",
        )  # fmt: skip


def run_case(case: Case, data: Path, out: Path, twins: int) -> None:
    """Fine-tune with twins, or go on with it."""
    if (out / "metrics.json").is_file():
        return
    resume = ("--resume",) if (out / "config.yaml").is_file() else ()
    arguments = ["--particles", data / case.particles, "--model", data / case.start, "--out", out, "--twin", twins]
    cocofold(["finetune", *arguments, *case.options, *resume])


def compare(case: Case, data: Path, out: Path) -> Found | None:
    """Features and true errors of a finished run; None where its answer is the start."""
    twins = [read_model(path).positions for path in sorted(out.glob("twins/twin_*/model.cif"))]
    if not twins:
        return None
    start, answer = read_model(out / "models" / "cycle_00.cif"), read_model(out / "model.cif")
    known = _centres_by_residue(read_model(data / case.truth))
    centres = residue_centres(answer, answer.positions)
    rows = [row for row, key in enumerate(answer.residues) if (key.chain, key.number) in known]
    true = np.array([known[answer.residues[row].chain, answer.residues[row].number] for row in rows])
    return Found(error_features(start, answer, twins)[rows], np.linalg.norm(centres[rows] - true, axis=1))


def _centres_by_residue(model: Model) -> dict[tuple[str, int], np.ndarray]:
    centres = residue_centres(model, model.positions)
    return {(key.chain, key.number): centre for key, centre in zip(model.residues, centres)}


def fit_weights(found: list[Found]) -> np.ndarray:
    """Weights of features, (5,), under which true errors are likeliest; then 95 % are within two sigmas.

    The random part counts whole: a pair's distance fixes it.
    """
    features, errors = (np.concatenate([getattr(one, name) for one in found]) for name in ("features", "errors"))
    # Sets count alike, whatever their size.
    share = np.concatenate([np.full(len(one.errors), 1 / len(one.errors)) for one in found])

    def cost(logs: np.ndarray) -> float:
        squares = features @ np.r_[1, np.exp(logs)]
        return float((share * (1.5 * np.log(squares) + 1.5 * errors**2 / squares)).sum())

    bounds = [(_LEAST_FLOOR, 5), *[(-9, 5)] * 3]
    tried = [minimize(cost, np.full(4, begin), method="L-BFGS-B", bounds=bounds) for begin in (-3, -1, 0)]
    best = min(tried, key=lambda one: one.fun)
    weights = np.r_[1, np.exp(best.x)]
    ratio = errors / (2 * np.sqrt(features @ weights))
    return weights * float(np.quantile(ratio, 0.95)) ** 2


def main() -> None:
    """Run the sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, kept")
    parser.add_argument("--twins", type=int, default=2)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="sets, by their names")
    parser.add_argument("--fit", action="store_true", help="find the weights anew from the sets that are for that")
    given = parser.parse_args()
    found = {}
    for name in given.cases:
        out = given.out / name.replace(" ", "_").replace(",", "")
        run_case(CASES[name], given.data, out, given.twins)
        compared = compare(CASES[name], given.data, out)
        if compared is None:
            print(f"{name}: the answer is the start, which has no errors", file=sys.stderr)
        else:
            found[name] = compared
    fitted = [one for name, one in found.items() if CASES[name].fitted]
    weights = fit_weights(fitted) if given.fit else np.array(ERROR_WEIGHTS)
    if given.fit:
        print(f"ERROR_WEIGHTS = ({', '.join(f'{weight:.3g}' for weight in weights)})")
    constant = float(np.quantile(np.concatenate([one.errors for one in fitted or found.values()]), 0.95)) / 2
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"| {' | '.join('---' for _ in COLUMNS)} |")
    for name, one in found.items():
        use = "fit" if CASES[name].fitted else "shown"
        print(f"| {name} | {use} | {' | '.join(one.table(weights, constant))} |")
    pooled = Found(*(np.concatenate([getattr(one, part) for one in found.values()]) for part in ("features", "errors")))
    print(f"| all | | {' | '.join(pooled.table(weights, constant))} |")


if __name__ == "__main__":
    main()
