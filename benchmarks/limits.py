"""Where the time goes and what the hardware allows: ``python -m benchmarks.limits [--case msp1] [--threads 2]``.

Measures in one run how fast memory is read and matrices are multiplied, then both halves of a step. A half cannot be
faster than its arithmetic at the matrix peak, nor than the bytes that it must read and write at the memory's rate; of
the module these are the pair, once for each pass of each of eight iterations, and the logits' bias. Prints both limits
and the ratio of the time to the larger one, then each half's profile.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import CASES, Case, image_parts, network_step, timed
from cocofold.alphafold.pair_representation import choose_pair_dtypes
from cocofold.alphafold.structure_network import ITERATIONS
from cocofold.alphafold.weight_layout import ATTENTION_HEADS, PAIR_WIDTH
from cocofold.imaging.projection import atom_window_pixels

_LONG, _MATRIX, _OPERATIONS_SHOWN = 1 << 28, 3000, 9


def memory_rate() -> float:
    """Bytes read a second."""
    values = torch.ones(_LONG)
    return values.nbytes / timed(lambda: (values.sum(), None)[1], 5)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a matrix product."""
    matrix = torch.randn(_MATRIX, _MATRIX).to(dtype)
    return 2 * _MATRIX**3 / timed(lambda: (torch.mm(matrix, matrix), None)[1], 5)


def operations_of(part: Callable[[], None]) -> float:
    """Of matrix products."""
    with FlopCounterMode(display=False) as counter:
        part()
    return float(counter.get_total_flops())


def bytes_of_module(residues: int) -> float:
    """Least that forward and backward read and write: the pair, and the bias with its gradient."""
    forward, backward = (torch.empty(0, dtype=kind).element_size() for kind in choose_pair_dtypes("auto", residues))
    pair = residues**2 * PAIR_WIDTH * (ITERATIONS * (forward + backward) + 2 * forward)
    bias = residues**2 * ATTENTION_HEADS * 4 * ITERATIONS * (2 + 2)
    return float(pair + bias)


def share_of_operations(part: Callable[[], None]) -> list[tuple[str, float]]:
    """Kinds of operation and their share of the time, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        part()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / total) for event in events[:_OPERATIONS_SHOWN]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), default="msp1")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case: Case = CASES[options.case]
    rates = {"memory": memory_rate(), "float32": matrix_rate(torch.float32), "bfloat16": matrix_rate(torch.bfloat16)}
    print(
        f"{options.case}, {options.threads} threads: memory {rates['memory'] / 1e9:.1f} GB/s; matrix products "
        f"{rates['float32'] / 1e9:.0f} GFLOP/s in float32, {rates['bfloat16'] / 1e9:.0f} in bfloat16\n"
    )
    at_once, parts = image_parts(case)
    image = parts["image"]
    module = network_step(case, backward=True)
    transforms = 2 * 2.5 * case.grid**2 * math.log2(case.grid**2)
    across = atom_window_pixels(case.rendered_width_pixels)
    # An atom's square is a product, forward, and two, backward; its profiles along x and y are written and read again.
    operations = transforms + 3 * 2.0 * case.atoms * across**2
    moved = 4.0 * (2 * case.atoms * 2 * across + 2 * 3 * case.grid**2)
    needed = {
        "image": (timed(image, 5) / at_once, operations, moved),
        "module": (timed(module, 3), operations_of(module), bytes_of_module(int(case.residues))),
    }
    print(
        "| half | time | arithmetic at the peak | bytes at the memory's rate | time over the larger |\n"
        + "| --- " * 5
        + "|"
    )
    for name, (seconds, operations, bytes_) in needed.items():
        limits = operations / rates["float32"], bytes_ / rates["memory"]
        print(
            f"| {name} | {1000 * seconds:.1f} ms | {1000 * limits[0]:.1f} ms ({operations / 1e9:.2f} GFLOP) | "
            f"{1000 * limits[1]:.1f} ms ({bytes_ / 1e9:.2f} GB) | {seconds / max(limits):.1f} |"
        )
    for name, part in (("image", image), ("module", module)):
        print(f"\n{name}: " + ", ".join(f"{key} {100 * share:.0f} %" for key, share in share_of_operations(part)))


if __name__ == "__main__":
    main()
