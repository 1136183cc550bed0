"""Speed of several processes against one: ``python -m benchmarks.processes [--processes 2] [--case tcr|two|msp1]``.

One thread each. The cases: images of the T-cell receptor complex (815 residues, box 64) that lie with the test data;
two such complexes side by side (1,630 residues) in images of MSP-1's size, made for the purpose, in batches of 32; and
the paper's protocol on a prediction of MSP-1's size with random weights (see ``benchmarks.protocol``), made in
``--folder``. Other options go to ``cocofold finetune``. Prints a table and, last, one JSON object.

The exit status is 1 if anything that a run has learned, up to its last step, differs from that of one process by a
single bit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gemmi
from safetensors.numpy import load_file

from benchmarks.accuracy import ROOT, cocofold
from benchmarks.protocol import prepare
from benchmarks.step import CASES

DATA = ROOT.parent / "shared/data/tcr"
_APART_A = 60.0
_IMAGES = 300


def side_by_side(model: Path, written: Path) -> Path:
    """A model and a copy of it, in one file, around the middle of MSP-1's images."""
    structure = gemmi.read_structure(str(model))
    structure.setup_entities()
    middle = CASES["msp1"].box / 2 * CASES["msp1"].pixel_size_angstrom
    # The complex of the test data lies in the middle of images of 192 Å.
    shift = gemmi.Position(middle - 96, middle - 96 - _APART_A / 2, middle - 96)
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in {chain.name for chain in structure[0]}]
    for chain in list(structure[0]):
        copied = chain.clone()
        copied.name = free.pop(0)
        for residue in copied:
            residue.subchain = ""
            for atom in residue:
                atom.pos += gemmi.Position(0, _APART_A, 0)
        structure[0].add_chain(copied)
    for site in structure[0].all():
        site.atom.pos += shift
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(written))
    return written


def given(case: str, folder: Path) -> list[str]:
    """Options of ``cocofold finetune`` for a case; what is missing is made in a folder."""
    if case == "tcr":
        return ["--particles", str(DATA / "particles.star"), "--model", str(DATA / "start_tcr_displaced.cif")]
    if case == "msp1":
        return prepare(CASES["msp1"], _IMAGES, folder)
    truth = side_by_side(DATA / "truth.cif", folder / "truth.cif")
    start = side_by_side(DATA / "start_tcr_displaced.cif", folder / "start.cif")
    size = ["--box", CASES["msp1"].box, "--pixel-size", CASES["msp1"].pixel_size_angstrom]
    if not (folder / "images").exists():
        cocofold(["simulate", "--model", truth, "--out", folder / "images", *size, "--count", _IMAGES, "--snr", 0.1])
    return ["--particles", str(folder / "images" / "particles.star"), "--model", str(start), "--batch-size", "32"]


def run(count: int, options: Sequence[object], out: Path) -> dict:
    """Metrics of a run of so many processes."""
    command = [sys.executable, "-m", "cocofold", "finetune", *options, "--no-check", "--device", "cpu"]
    command += ["--processes", count, "--out", out]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, env=environ)
    return json.loads((out / "metrics.json").read_text())


def differ(first: Path, second: Path) -> list[str]:
    """Arrays of the last checkpoints of two runs that are not the same, bit by bit."""
    one, other = (load_file(out / "checkpoints" / "latest.safetensors") for out in (first, second))
    alone = sorted(one.keys() ^ other.keys())
    return alone + [name for name in one if name in other and one[name].tobytes() != other[name].tobytes()]


def main() -> int:
    """Run one process, then more, as often as asked, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--case", choices=("tcr", "two", "msp1"), default="tcr")
    parser.add_argument("--times", type=int, default=1, help="medians of so many runs, in turn")
    parser.add_argument("--folder", type=Path, help="where what is made stays; by default it is thrown away")
    options, more = parser.parse_known_args()
    seconds: dict[int, list[float]] = {count: [] for count in [1, *options.processes]}
    same, steps = dict.fromkeys(seconds, True), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        words = [*given(options.case, folder), *more]
        for number in range(options.times):
            outs = {count: Path(temporary) / f"{number}.{count}" for count in seconds}
            for count, out in outs.items():
                metrics = run(count, words, out)
                seconds[count].append(metrics["seconds"])
                steps = metrics["steps"]
                same[count] = same[count] and not differ(outs[1], out)
    middle = {count: statistics.median(found) for count, found in seconds.items()}
    print(f"{steps} steps\n\n| processes | s | times as fast | the same, bit by bit |\n| --- | --- | --- | --- |")
    for count, found in middle.items():
        print(f"| {count} | {found:.0f} | {middle[1] / found:.2f} | {'yes' if same[count] else 'NO'} |")
    print(json.dumps({"case": options.case, "steps": steps, "seconds": seconds}))
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
