"""TM-score against TM-align (tmtools), and its parts."""

from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cocofold.assessment.matching import ca_traces, match_residues
from cocofold.assessment.tm_score import StructuralAlignment, align_by_score, align_structures, tm_score_d0_angstrom
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow

LADDER = ["start_closed", "start_closed_moved", *(f"trajectory/dims_{n:03d}" for n in (0, 8, 17, 26, 35, 44, 61, 97))]


def _align(model: Model, reference: Model) -> StructuralAlignment:
    traces, others = ca_traces(model), ca_traces(reference)
    return align_structures(match_residues(traces, others).superposed, traces, others)


@pytest.mark.parametrize("name", LADDER)
def test_single_chains_score_as_in_tm_align(shared_data: Path, adk_open: Model, name: str) -> None:
    tmtools = pytest.importorskip("tmtools")
    model = read_model(shared_data / "adk" / f"{name}.cif")
    (trace,), (other,) = ca_traces(model), ca_traces(adk_open)
    theirs = tmtools.tm_align(trace.positions, other.positions, trace.sequence, other.sequence)
    ours = _align(model, adk_open)
    assert ours.tm_score == pytest.approx(theirs.tm_norm_chain2, abs=0.002)
    # Where several alignments score alike, these figures depend on the one that is found.
    assert ours.rmsd == pytest.approx(theirs.rmsd, abs=0.3)
    aligned = sum(a != "-" and b != "-" for a, b in zip(theirs.seqxA, theirs.seqyA))
    assert ours.coverage == pytest.approx(aligned / 214, abs=0.03)


def test_a_part_is_normalised_by_the_reference(shared_data: Path, adk_open: Model) -> None:
    tmtools = pytest.importorskip("tmtools")
    (trace,) = ca_traces(read_model(shared_data / "adk" / "trajectory" / "dims_061.cif"))
    (whole,) = ca_traces(adk_open)
    part = replace(
        trace,
        residues=trace.residues[:120],
        numbers=trace.numbers[:120],
        sequence=trace.sequence[:120],
        positions=trace.positions[:120],
    )
    ours = align_structures(match_residues([part], [whole]).superposed, [part], [whole])
    theirs = tmtools.tm_align(part.positions, whole.positions, part.sequence, whole.sequence)
    assert ours.tm_score == pytest.approx(theirs.tm_norm_chain2, abs=0.002)
    assert ours.coverage == pytest.approx(120 / 214)
    ours = align_structures(match_residues([whole], [part]).superposed, [whole], [part])
    assert ours.tm_score == pytest.approx(theirs.tm_norm_chain1, abs=0.002)


def test_a_wrong_register_of_the_matching_is_repaired(adk_open: Model) -> None:
    (trace,) = ca_traces(adk_open)
    (match,) = match_residues([trace], [trace]).superposed
    shifted = replace(match, pairs=np.column_stack([np.arange(210), np.arange(4, 214)]))
    assert align_structures([shifted], [trace], [trace]).tm_score == pytest.approx(1)


def test_the_model_itself_scores_one_wherever_it_lies(adk_open: Model) -> None:
    turned = adk_open.moved_to(adk_open.positions[:, [1, 2, 0]] + [300.0, 0, -50])
    result = _align(turned, adk_open)
    assert (result.tm_score, result.coverage, result.sequence_identity) == pytest.approx((1, 1, 1))
    assert result.rmsd == pytest.approx(0, abs=1e-4)


def test_chains_are_not_aligned_across(adk_open: Model, ring_of_copies: Callable[..., Model]) -> None:
    reference = ring_of_copies(adk_open, "AB")
    traces = ca_traces(reference)
    matching = match_residues(traces, traces)
    crossed = [replace(matching.superposed[0], reference=1)]
    # The model's chain A may lie on the reference's B only, though A of the reference is there too.
    result = align_structures(crossed, traces, traces)
    assert result.coverage == pytest.approx(0.5)
    assert result.reference_residues == 428


def test_a_complex_scores_by_its_joined_chains(shared_data: Path, tcr: Model) -> None:
    tmtools = pytest.importorskip("tmtools")
    model = read_model(shared_data / "tcr" / "start_tcr_displaced.cif")
    joined = [
        (np.concatenate([t.positions for t in traces]), "".join(t.sequence for t in traces))
        for traces in (ca_traces(model), ca_traces(tcr))
    ]
    theirs = tmtools.tm_align(joined[0][0], joined[1][0], joined[0][1], joined[1][1])
    ours = _align(model, tcr)
    # Joined chains in the same order leave little to align across them.
    assert ours.tm_score == pytest.approx(theirs.tm_norm_chain2, abs=0.002)
    assert ours.rmsd == pytest.approx(theirs.rmsd, abs=0.1)


def test_scale_of_the_score() -> None:
    assert tm_score_d0_angstrom(214) == pytest.approx(1.24 * 199 ** (1 / 3) - 1.8)
    assert tm_score_d0_angstrom(21) == tm_score_d0_angstrom(10) == 0.5
    assert tm_score_d0_angstrom(22) == pytest.approx(1.24 * 7 ** (1 / 3) - 1.8)


def test_dynamic_programming_finds_the_best_alignment() -> None:
    random = np.random.default_rng(3)

    def value(pairs: list, scores: np.ndarray, gap: float) -> float:
        jumps = sum(b != (a[0] + 1, a[1] + 1) for a, b in zip(pairs, pairs[1:]))
        return sum(scores[pair] for pair in pairs) - gap * jumps

    def every_alignment(n: int, m: int, row: int = 0, column: int = 0) -> list:
        found: list = [[]]
        for i in range(row, n):
            for j in range(column, m):
                found += [[(i, j), *rest] for rest in every_alignment(n, m, i + 1, j + 1)]
        return found

    for shape in ((4, 5), (5, 3), (1, 4)):
        for gap in (0.0, 0.3, 0.6) * 5:
            scores = random.random(shape)
            best = max(value(pairs, scores, gap) for pairs in every_alignment(*shape))
            ours = [(int(i), int(j)) for i, j in align_by_score(scores, gap)]
            assert value(ours, scores, gap) == pytest.approx(best)
