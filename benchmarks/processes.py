"""Speed of several processes against one: ``python -m benchmarks.processes [--processes 2] [--effort 1] [--box 256]``.

One thread each, on simulated images of the T-cell receptor complex (815 residues): those of box 64 that lie with the
test data, or with ``--box`` some of the same extent made for the purpose. Other options go to ``cocofold finetune``.
Prints a table and, last, one JSON object.

The exit status is 1 if a model differs from that of one process by a single bit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.accuracy import ROOT, cocofold

_EXTENT_A, _COUNT = 192.0, 300


def main() -> int:
    """Run one process, then more, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--particles", type=Path, default=ROOT.parent / "shared/data/tcr/particles.star")
    parser.add_argument("--model", type=Path, default=ROOT.parent / "shared/data/tcr/start_tcr_displaced.cif")
    parser.add_argument("--box", type=int, help="pixels of images that are simulated")
    options, more = parser.parse_known_args()
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.box:
            made = ["--box", options.box, "--pixel-size", _EXTENT_A / options.box, "--count", _COUNT, "--snr", 0.1]
            cocofold(["simulate", "--model", options.model, "--out", Path(folder) / "images", *made])
            options.particles = Path(folder) / "images" / "particles.star"
        for count in [1, *options.processes]:
            out = Path(folder) / str(count)
            command = [sys.executable, "-m", "cocofold", "finetune", "--particles", options.particles]
            command += ["--model", options.model, "--effort", options.effort, "--no-check", "--device", "cpu"]
            command += ["--processes", count, "--out", out, *more]
            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, env=environ)
            metrics = json.loads((out / "metrics.json").read_text())
            runs[count] = (metrics["seconds"], (out / "model.cif").read_bytes(), metrics["steps"])
    seconds, model, steps = runs[1]
    print(f"{steps} steps\n\n| processes | s | times as fast | the same model |\n| --- | --- | --- | --- |")
    for count, (took, found, _) in runs.items():
        print(f"| {count} | {took:.0f} | {seconds / took:.2f} | {'yes' if found == model else 'NO'} |")
    print(json.dumps({"steps": steps, "seconds": {count: took for count, (took, _, _) in runs.items()}}))
    return 0 if all(found == model for _, found, _ in runs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
