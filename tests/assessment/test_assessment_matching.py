"""Residues and chains that stand for each other."""

import itertools
from dataclasses import replace
from typing import Callable

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.assessment.matching import ca_traces, match_residues, matched_positions
from cocofold.structure.geometry import rmsd, superpose_onto
from cocofold.structure.model import Model
from cocofold.system.errors import InputError


def _figures(model: Model, reference: Model) -> tuple:
    traces, others = ca_traces(model), ca_traces(reference)
    matching = match_residues(traces, others)
    moving, fixed = matched_positions(matching.superposed, traces, others)
    partners = {traces[m.model].name: others[m.reference].name for m in matching.superposed}
    in_place = rmsd(*matched_positions(matching.in_place, traces, others))
    return partners, len(moving), rmsd(superpose_onto(moving, fixed), fixed), in_place


def test_closed_against_open_as_published_with_the_data(adk_closed: Model, adk_open: Model) -> None:
    partners, count, together, in_place = _figures(adk_closed, adk_open)
    assert partners == {"A": "A"}
    assert count == 214
    assert together == pytest.approx(7.1307, abs=1e-3)
    assert in_place == pytest.approx(8.0940, abs=1e-3)


def test_other_numbers_and_names_change_nothing(
    adk_closed: Model, adk_open: Model, rewritten: Callable[..., Model]
) -> None:
    def renumber(structure: gemmi.Structure) -> None:
        structure[0][0].name = "X"
        for residue in structure[0][0]:
            residue.seqid.num += 37

    partners, count, together, in_place = _figures(rewritten(adk_closed, renumber), adk_open)
    assert partners == {"X": "A"}
    assert (count, together, in_place) == pytest.approx((214, 7.1307, 8.0940), abs=1e-3)


def test_missing_residues_are_left_out_under_other_numbers(adk_open: Model, rewritten: Callable[..., Model]) -> None:
    def cut(structure: gemmi.Structure) -> None:
        chain = structure[0][0]
        for place in [*range(150, 170), *range(40, 55), 0, 1]:
            chain[place].name = "DEL"
        for place in reversed(range(len(chain))):
            if chain[place].name == "DEL":
                del chain[place]
        for number, residue in enumerate(chain, start=1):
            residue.seqid.num = number

    _, count, together, in_place = _figures(rewritten(adk_open, cut), adk_open)
    assert count == 214 - 37
    # Every pair is a residue and itself.
    assert together == pytest.approx(0, abs=1e-6)
    assert in_place == pytest.approx(0, abs=1e-6)


def test_mutated_residues_keep_their_numbers(adk_open: Model, rewritten: Callable[..., Model]) -> None:
    def mutate(structure: gemmi.Structure) -> None:
        for place in [*range(16), 100]:
            structure[0][0][place].name = "TRP"

    traces, others = ca_traces(rewritten(adk_open, mutate)), ca_traces(adk_open)
    (match,) = match_residues(traces, others).superposed
    assert match.by_number
    assert (len(match.pairs), match.identical) == (214, 197)


def test_numbers_out_of_order_are_not_relied_on(adk_open: Model) -> None:
    (trace,) = ca_traces(adk_open)
    numbers = list(trace.numbers)
    numbers[50] = numbers[51]
    (match,) = match_residues([replace(trace, numbers=tuple(numbers))], [trace]).superposed
    assert not match.by_number
    np.testing.assert_array_equal(match.pairs, np.column_stack([np.arange(214)] * 2))


def test_a_peptide_needs_more_in_common(tcr: Model) -> None:
    (peptide,) = [trace for trace in ca_traces(tcr) if len(trace) == 9]
    others = [replace(peptide, sequence=peptide.sequence[:kept] + "W" * (9 - kept)) for kept in (4, 6)]
    with pytest.raises(InputError, match="no residues in common"):
        match_residues([peptide], others[:1])
    (match,) = match_residues([peptide], others).superposed
    assert match.reference == 1


def test_insertion_codes_tell_residues_apart(tcr: Model) -> None:
    traces = ca_traces(tcr)
    assert any(code for trace in traces for _, code in trace.numbers)
    for match in match_residues(traces, traces).superposed:
        assert match.by_number
        np.testing.assert_array_equal(match.pairs[:, 0], match.pairs[:, 1])


def test_chains_with_exchanged_names_find_their_partners(tcr: Model, rewritten: Callable[..., Model]) -> None:
    def exchange(structure: gemmi.Structure) -> None:
        for chain, name in zip(structure[0], "EDABC"):
            chain.name = name

    partners, count, together, _ = _figures(rewritten(tcr, exchange), tcr)
    assert partners == {"E": "A", "D": "B", "A": "C", "B": "D", "C": "E"}
    assert count == 815
    assert together == pytest.approx(0, abs=1e-6)


def test_copies_are_paired_by_place_not_by_name(adk_open: Model, ring_of_copies: Callable[..., Model]) -> None:
    reference = ring_of_copies(adk_open, "ABCD")
    partners, _, together, in_place = _figures(ring_of_copies(adk_open, "BDAC"), reference)
    assert partners == {"B": "A", "D": "B", "A": "C", "C": "D"}
    assert together == pytest.approx(0, abs=1e-6)
    assert in_place == pytest.approx(0, abs=1e-6)


def test_pairing_of_copies_is_the_best_of_all(adk_open: Model, ring_of_copies: Callable[..., Model]) -> None:
    reference = ring_of_copies(adk_open, "ABCD")
    random = np.random.default_rng(5)
    owner = np.array([key.chain for key in reference.residues])[reference.residue_of_atom]
    for _ in range(8):
        moved = reference.positions.copy()
        for name in "ABCD":
            moved[owner == name] += random.normal(size=3) * 25
        # Turned by a third about the diagonal, so that the best pairing is not the one in place.
        model = reference.moved_to(moved[:, [1, 2, 0]])
        traces, others = ca_traces(model), ca_traces(reference)
        moving = [trace.positions for trace in traces]
        values, lying = [], []
        for order in itertools.permutations(range(4)):
            fixed = np.concatenate([others[place].positions for place in order])
            values.append(rmsd(superpose_onto(np.concatenate(moving), fixed), fixed))
            lying.append(rmsd(np.concatenate(moving), fixed))
        _, _, together, in_place = _figures(model, reference)
        assert together == pytest.approx(min(values), abs=2e-3)
        assert in_place == pytest.approx(min(lying), abs=1e-6)


def test_pairing_of_copies_that_all_moved_is_the_best_of_all(adk_open: Model) -> None:
    (trace,) = ca_traces(adk_open)
    random = np.random.default_rng(0)

    def turned(positions: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return positions @ Rotation.from_rotvec(vector).as_matrix().T

    centred = trace.positions - trace.positions.mean(0)
    ring = [
        trace.moved_to(turned(centred + np.array([55.0, 0, 0]), np.array([0, 0, place * np.pi / 2])))
        for place in range(4)
    ]
    for _ in range(30):
        traces = [
            copy.moved_to(turned(copy.positions + random.normal(size=3) * 40, random.normal(size=3) * 2))
            for copy in ring
        ]
        moving = np.concatenate([copy.positions for copy in traces])
        values = []
        for order in itertools.permutations(ring):
            fixed = np.concatenate([copy.positions for copy in order])
            values.append(rmsd(superpose_onto(moving, fixed), fixed))
        moving, fixed = matched_positions(match_residues(traces, ring).superposed, traces, ring)
        assert rmsd(superpose_onto(moving, fixed), fixed) == pytest.approx(min(values), abs=2e-3)


def test_a_ring_shifted_along_its_axis_keeps_its_names(adk_open: Model, ring_of_copies: Callable[..., Model]) -> None:
    ring = ring_of_copies(adk_open, "ABC")
    partners, *_ = _figures(ring.moved_to(ring.positions + np.array([0, 0, 500.0])), ring)
    assert partners == {"A": "A", "B": "B", "C": "C"}


def test_a_surplus_chain_stays_alone(adk_open: Model, ring_of_copies: Callable[..., Model]) -> None:
    reference = ring_of_copies(adk_open, "AB")
    both = ca_traces(reference)
    matching = match_residues(both, both[1:])
    assert [both[m.model].name for m in matching.in_place] == ["B"]


def test_unrelated_proteins_have_nothing_in_common(adk_open: Model, tcr: Model) -> None:
    with pytest.raises(InputError, match="no residues in common"):
        match_residues(ca_traces(adk_open), ca_traces(tcr))
