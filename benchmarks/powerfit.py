"""PowerFit on the cases and starts of ``benchmarks.placement``: ``python -m benchmarks.powerfit ENV/bin/powerfit``.

PowerFit (van Zundert & Bonvin, 2015) is a program of its own, in an environment of its own (``pip install
powerfit-em``). It gets the same maps, the same moved models and the resolution that we found for the map, and its other
settings are its defaults. Bodies are sought one by one, as it can take chains; it does not judge hands.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gemmi

from benchmarks.placement import CASES, ROOT, Case, correlation, moved_anywhere
from cocofold.assessment.comparison import assess
from cocofold.mapfit.density_map import read_map
from cocofold.mapfit.target_map import resolution_from_noise
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

_UNMIRRORED = [name for name, case in CASES.items() if not case.mirrored]
FOUND_WITHIN_ANGSTROM = 5.0
HEADINGS = (
    "case",
    "starts",
    "right",
    f"within {FOUND_WITHIN_ANGSTROM:g} Å",
    "worst (Å, or CC less the reference's)",
    "s, median / worst",
)


def run_case(program: str, case: Case, data: Path, seed: int, threads: int) -> dict:
    """Place from one random start; its figures."""
    model, truth, density = read_model(data / case.model), read_model(data / case.truth), read_map(data / case.density)
    start = moved_anywhere(model, seed)
    resolution = case.resolution or resolution_from_noise(density) or 2.1 * density.pixel_size_angstrom
    began, used = time.perf_counter(), _cpu_seconds()
    placed = start
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "start.pdb"
        write_model(given.with_suffix(".cif"), start)
        gemmi.read_structure(str(given.with_suffix(".cif"))).write_pdb(str(given))
        for chains in case.bodies.split(";") if case.bodies else [""]:
            found = _best(
                program, data / case.density, resolution, given, chains, Path(folder) / f"fit{chains}", threads
            )
            placed = _with_chains_of(placed, found)
    rmsd = assess(placed, truth).ca_rmsd_in_place
    gain = correlation(placed, density) - correlation(truth, density)
    return {
        "seed": seed,
        "rmsd": rmsd,
        "gain": gain,
        "right": rmsd < case.within if case.within is not None else gain >= 0,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": _cpu_seconds() - used,
    }


def _cpu_seconds() -> float:
    """Of programs that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _best(program: str, density: Path, resolution: float, model: Path, chains: str, out: Path, threads: int) -> Model:
    """The model where PowerFit's first solution puts it; with ``chains`` only these."""
    arguments = [program, str(density), f"{resolution:.3f}", str(model), "-d", str(out), "-n", "1", "-p", str(threads)]
    subprocess.run([*arguments, *(["-c", chains] if chains else [])], check=True, capture_output=True)
    (solution,) = out.glob("fit_1.*")
    return read_model(solution)


def _with_chains_of(model: Model, found: Model) -> Model:
    """A model whose atoms are moved to where they are in another one that has them."""
    places = {key: row for row, key in enumerate(_names(found))}
    positions = model.positions.copy()
    for row, key in enumerate(_names(model)):
        if key in places:
            positions[row] = found.positions[places[key]]
    return model.moved_to(positions)


def _names(model: Model) -> list[tuple]:
    residues = [(key.chain, key.number, key.insertion_code) for key in model.residues]
    return [(*residues[row], name) for row, name in zip(model.residue_of_atom, model.atom_names.tolist())]


def _row(name: str, case: Case, runs: list[dict]) -> str:
    worst = max(run["rmsd"] for run in runs) if case.within is not None else min(run["gain"] for run in runs)
    seconds = [run["seconds"] for run in runs]
    cells = [
        name,
        str(len(runs)),
        str(sum(run["right"] for run in runs)),
        str(sum(run["rmsd"] < FOUND_WITHIN_ANGSTROM for run in runs)),
        f"{worst:.2f}" if case.within is not None else f"{worst:+.3f}",
        f"{statistics.median(seconds):.0f} / {max(seconds):.0f}",
        f"{statistics.median(run['cpu_seconds'] for run in runs):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table; all figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="PowerFit's command")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--starts", type=int, default=30, help="random starts of each case, seeds 0 ... N-1")
    parser.add_argument("--case", action="append", choices=_UNMIRRORED, help="only these cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("bench_runs/powerfit.json"), help="all figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- " * len(HEADINGS) + "|")
    figures: dict[str, list[dict]] = {}
    for name in options.case or _UNMIRRORED:
        case = CASES[name]
        figures[name] = [
            run_case(options.program, case, options.data, seed, options.threads) for seed in range(options.starts)
        ]
        options.json.write_text(json.dumps(figures, indent=1))
        print(_row(name, case, figures[name]), flush=True)


if __name__ == "__main__":
    main()
