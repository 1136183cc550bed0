"""Time and memory of the structure module by size: ``python -m benchmarks.module [--residues N ...]``.

Forward and backward, float32, with respect to all that fine-tuning learns: weights, adapter, additions to the single
and pair representations. Random weights and representations: time does not depend on them. Each size is measured in a
process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from cocofold.alphafold.pair_representation import (
    SegmentPairAddition,
    choose_pair_dtypes,
    normalise_pair,
    split_into_segments,
)
from cocofold.alphafold.structure_network import StructureModule
from cocofold.finetuning.options import PAIR_PRECISIONS
from cocofold.sources.structure_module import TrainingRates

SIZES = (200, 500, 1000, 1683)
HEADINGS = ("residues", "forward (s)", "forward and backward (s)", "peak memory (GB)")


def measure(residues: int, precision: str, times: int) -> dict[str, float]:
    """Median seconds of a size, and the peak memory of this process."""
    generator = torch.Generator().manual_seed(0)
    pair = normalise_pair(
        torch.randn(residues, residues, 128, generator=generator, dtype=torch.float32),
        *choose_pair_dtypes(precision, residues),
    )
    added = SegmentPairAddition(
        split_into_segments(torch.zeros(residues, dtype=torch.long), TrainingRates().pair_segments)
    )
    pair = replace(pair, added=added)
    single = torch.randn(residues, 384, generator=generator).requires_grad_()
    aatype, mask = torch.randint(0, 20, (residues,), generator=generator), torch.ones(residues)
    module = StructureModule().with_adapter()
    forward, whole = [], []
    for _ in range(times):
        began = time.perf_counter()
        with torch.no_grad():
            module(single, pair, aatype, mask)
        forward.append(time.perf_counter() - began)
        began = time.perf_counter()
        module(single, pair, aatype, mask).atom14.square().mean().backward()
        whole.append(time.perf_counter() - began)
    return {
        "residues": residues,
        "forward_seconds": statistics.median(forward),
        "forward_backward_seconds": statistics.median(whole),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    """Measure each size in its own process and print the table; the figures go to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--residues", type=int, nargs="+", default=SIZES)
    parser.add_argument("--pair-precision", choices=PAIR_PRECISIONS, default="auto")
    parser.add_argument("--times", type=int, default=3, help="median of so many")
    parser.add_argument("--json", type=Path, default=Path("bench_runs/module.json"), help="all figures")
    parser.add_argument("--alone", action="store_true", help="measure in this process and print JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.residues[0], options.pair_precision, options.times)))
        return
    figures = []
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, pair in {options.pair_precision}\n")
    print("| " + " | ".join(HEADINGS) + " |\n" + "| --- " * len(HEADINGS) + "|")
    for residues in options.residues:
        command = [sys.executable, "-m", "benchmarks.module", "--alone", "--residues", str(residues)]
        command += ["--pair-precision", options.pair_precision, "--times", str(options.times)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        figures.append(found)
        cells = (f"{found[name]:.2f}" for name in ("forward_seconds", "forward_backward_seconds", "peak_memory_gb"))
        print(f"| {residues} | " + " | ".join(cells) + " |", flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
