"""Which residue of a model stands for which residue of a reference: traces of CA atoms, and their matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gemmi
import numpy as np
from scipy.optimize import linear_sum_assignment

from cocofold.structure.geometry import pair_moments, squared_distance_weights, superpose_from_moments
from cocofold.structure.model import Model
from cocofold.system.errors import InputError

# What makes two chains comparable. Homologues below 30 % identity are often no longer alike in fold; unrelated chains
# reach such shares only where they are short, which the numbers below rule out.
_LEAST_IDENTITY = 0.3
# Any two sequences of four letters share more: of strands of 20 nucleotides up to about 60 %, with gaps.
_LEAST_IDENTITY_OF_NUCLEOTIDES = 0.7
# Chains of up to 20 residues need this larger share, or this number of identical residues if that is fewer; smaller
# values would pair unrelated peptides.
_PEPTIDE_IDENTITY = 0.6
_FEWEST_IDENTICAL = 6
# A superposition of fewer points is not unique.
FEWEST_RESIDUES = 3
# Numbers are trusted if this share of the residues with a common number are the same amino acid. With more, a few
# mutations would lose them; with less, numbers shifted against each other could pass in repetitive sequences.
_LEAST_IDENTITY_BY_NUMBER = 0.9
# They must also find nearly as many identical residues as an alignment does, or a part is numbered differently.
_NEARLY_ALL = 0.95
# Chains are copies of each other if their identity is within a tenth of the best.
_COPY_IDENTITY = 0.9
# On BLOSUM62's scale, whose largest score of a pair is 11: a gap pays only if it brings several matches.
_GAP_OPENING = -12
# Each pair of seeds costs an assignment; above this number of them (about 100 pairs of chains) single ones must do.
_MOST_SEED_PAIRINGS = 5_000
# Pairings whose RMSD differs by less are equally good.
_ROUND_OFF_ANGSTROM = 1e-3
_CARBON = 6


@dataclass(frozen=True)
class CaTrace:
    """Residues of one chain that have a CA atom, in file order; or its nucleotides, with C1' in its place.

    Attributes
    ----------
    name : str
        Author's chain name.
    residues : (n,) int
        Rows in ``Model.residues``.
    numbers : tuple of (number, insertion code)
    sequence : str
        One letter a residue; modified residues as what they derive from, unknown ones X.
    positions : (n, 3) float
        CA or C1', Å.
    of_nucleotides : bool
    """

    name: str
    residues: np.ndarray
    numbers: tuple[tuple[int, str], ...]
    sequence: str
    positions: np.ndarray
    of_nucleotides: bool = False

    def __len__(self) -> int:
        return len(self.residues)

    def moved_to(self, positions: np.ndarray) -> CaTrace:
        """The same residues at other positions, (n, 3) Å."""
        return replace(self, positions=positions)


def ca_traces(model: Model) -> list[CaTrace]:
    """One trace for each chain with amino acids, in file order."""
    alpha = model.atoms_named("CA")
    complete = np.zeros(len(model.residues), bool)
    complete[model.backbone()[0]] = True
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(model.residues):
        # A calcium ion is called CA too; a ligand may have a carbon of that name.
        if alpha[row] < 0 or model.atomic_numbers[alpha[row]] != _CARBON:
            continue
        if complete[row] or gemmi.find_tabulated_residue(key.name).is_amino_acid():
            rows.setdefault(key.chain, []).append(row)
    return [_trace_of(model, name, chain, alpha) for name, chain in rows.items()]


def nucleotide_traces(model: Model) -> list[CaTrace]:
    """One trace of C1' atoms for each chain with nucleotides, in file order."""
    rows: dict[str, list[int]] = {}
    for row in model.nucleotides()[0].tolist():
        rows.setdefault(model.residues[row].chain, []).append(row)
    sugars = model.atoms_named("C1'")
    return [replace(_trace_of(model, name, chain, sugars), of_nucleotides=True) for name, chain in rows.items()]


def traces_of_both(model: Model, reference: Model) -> tuple[str, list[CaTrace], list[CaTrace]]:
    """The atom by which two models are compared, CA, or C1' where either has no protein; and the traces of both."""
    proteins, others = ca_traces(model), ca_traces(reference)
    if proteins and others:
        return "CA", proteins, others
    strands, other_strands = nucleotide_traces(model), nucleotide_traces(reference)
    return ("C1'", strands, other_strands) if strands and other_strands else ("CA", proteins, others)


def _trace_of(model: Model, name: str, rows: list[int], atoms: np.ndarray) -> CaTrace:
    """Trace of a chain's residues; ``atoms`` is the atom of each of the model's residues that stands for it."""
    return CaTrace(
        name,
        np.array(rows),
        tuple((model.residues[row].number, model.residues[row].insertion_code) for row in rows),
        "".join(_letter(model.residues[row].name) for row in rows),
        model.positions[atoms[rows]],
    )


def _letter(name: str) -> str:
    letter = gemmi.find_tabulated_residue(name).one_letter_code.upper()
    return letter if letter.isalpha() else "X"


@dataclass(frozen=True)
class ChainMatch:
    """Two chains and their matched residues.

    Attributes
    ----------
    model, reference : int
        The chains' places among the traces.
    pairs : (n, 2) int
        Places in the two traces, ascending in both.
    identical : int
        Pairs with the same amino acid.
    by_number : bool
        Matched by residue number and insertion code; otherwise by aligning the sequences.
    """

    model: int
    reference: int
    pairs: np.ndarray
    identical: int
    by_number: bool


@dataclass(frozen=True)
class Matching:
    """Matched chains, in the model's order, twice.

    They differ only if the model holds several copies of a chain: these may be paired in several ways.

    Attributes
    ----------
    superposed : tuple of ChainMatch
        The pairing with the least CA RMSD after superposition of the whole.
    in_place : tuple of ChainMatch
        The pairing with the least CA RMSD of the models as they lie.
    """

    superposed: tuple[ChainMatch, ...]
    in_place: tuple[ChainMatch, ...]


def match_residues(model: Sequence[CaTrace], reference: Sequence[CaTrace]) -> Matching:
    """Match the residues of two models; the traces of one kind, all of CA or all of C1'.

    Two chains are comparable if they share at least 30 % of the shorter sequence and six residues (peptides of less
    than ten residues 60 %, at least three; nucleic acids 70 %). Their residues are matched by number and insertion code
    if at least 90 % of those with a common number are alike, and at least 95 % as many as an alignment of the sequences
    finds; otherwise by that alignment. Chains are paired one to one so that the most residues are identical. Among
    copies of one chain (within 10 % of the best identity) the pairing with the least RMSD is taken; if several are
    equal, the least in place.

    Raises
    ------
    InputError
        If fewer than three residues can be matched.
    """
    matches = _comparable_chains(model, reference)
    if not matches:
        raise InputError(
            f"model and reference have no residues in common: no chain of the model ({_chain_lengths_text(model)}) "
            "shares "
            f"{_least_identity([*model, *reference][0]):.0%} of its sequence with one of the reference "
            f"({_chain_lengths_text(reference)}); give a reference of the same molecule"
        )
    by_sequence = _pair_chains(_identity_table(matches, len(model), len(reference)))
    allowed = _interchangeable_matches(matches, by_sequence, model, reference)
    return _pair_copies_by_rmsd(allowed, model, reference)


def matched_positions(
    matches: Sequence[ChainMatch], model: Sequence[CaTrace], reference: Sequence[CaTrace]
) -> tuple[np.ndarray, np.ndarray]:
    """CA positions of all matched residues in the model and in the reference, (n, 3) Å each."""
    return (
        np.concatenate([model[match.model].positions[match.pairs[:, 0]] for match in matches]),
        np.concatenate([reference[match.reference].positions[match.pairs[:, 1]] for match in matches]),
    )


def _chain_lengths_text(traces: Sequence[CaTrace]) -> str:
    return ", ".join(f"{trace.name}: {len(trace)} residues" for trace in traces)


def _comparable_chains(model: Sequence[CaTrace], reference: Sequence[CaTrace]) -> list[ChainMatch]:
    alignments: dict[tuple[str, str], np.ndarray] = {}
    matches = []
    for row, chain in enumerate(model):
        for column, other in enumerate(reference):
            sequences = chain.sequence, other.sequence
            if sequences not in alignments:
                alignments[sequences] = _align_sequences(*sequences)
            match = _match_chain(row, column, chain, other, alignments[sequences])
            if match.identical >= _fewest_identical(min(len(chain), len(other)), _least_identity(chain)):
                matches.append(match)
    return matches


def _least_identity(trace: CaTrace) -> float:
    return _LEAST_IDENTITY_OF_NUCLEOTIDES if trace.of_nucleotides else _LEAST_IDENTITY


def _fewest_identical(n_residues: int, least_identity: float) -> float:
    return max(least_identity * n_residues, min(_PEPTIDE_IDENTITY * n_residues, _FEWEST_IDENTICAL), FEWEST_RESIDUES)


def _match_chain(row: int, column: int, chain: CaTrace, other: CaTrace, aligned: np.ndarray) -> ChainMatch:
    places = {number: place for place, number in enumerate(other.numbers)}
    numbered = np.array(
        [(place, places[number]) for place, number in enumerate(chain.numbers) if number in places], dtype=int
    ).reshape(-1, 2)
    same_by_number, same_aligned = (_identical(pairs, chain, other) for pairs in (numbered, aligned))
    ascending = bool((np.diff(numbered[:, 1]) > 0).all())
    if ascending and same_by_number >= max(_LEAST_IDENTITY_BY_NUMBER * len(numbered), _NEARLY_ALL * same_aligned, 1):
        return ChainMatch(row, column, numbered, same_by_number, True)
    return ChainMatch(row, column, aligned, same_aligned, False)


def _identical(pairs: np.ndarray, chain: CaTrace, other: CaTrace) -> int:
    return sum(chain.sequence[first] == other.sequence[second] for first, second in pairs)


def _align_sequences(first: str, second: str) -> np.ndarray:
    """Places of aligned letters in two sequences, (n, 2) int; Needleman-Wunsch with BLOSUM62."""
    # Gaps cost the same at any length, as unresolved loops have any; so unrelated chains come out all but unaligned.
    scoring = gemmi.AlignmentScoring("b")
    scoring.gapo, scoring.gape = _GAP_OPENING, 0
    cigar = gemmi.align_string_sequences(list(first), list(second), [], scoring).cigar_str()
    pairs: list[tuple[int, int]] = []
    i = j = 0
    count = ""
    for symbol in cigar:
        if symbol.isdigit():
            count += symbol
            continue
        length, count = int(count), ""
        if symbol == "M":
            pairs.extend((i + step, j + step) for step in range(length))
        i += length if symbol in "MI" else 0
        j += length if symbol in "MD" else 0
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _identity_table(matches: Sequence[ChainMatch], n_model: int, n_reference: int) -> np.ndarray:
    scores = np.zeros((n_model, n_reference))
    for match in matches:
        scores[match.model, match.reference] = match.identical
    return scores


def _pair_chains(scores: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs of rows and columns with the largest sum of scores; pairs that score 0 are left out."""
    rows, columns = linear_sum_assignment(-scores)
    return [(int(row), int(column)) for row, column in zip(rows, columns) if scores[row, column] > 0]


def _interchangeable_matches(
    matches: Sequence[ChainMatch],
    paired: Sequence[tuple[int, int]],
    model: Sequence[CaTrace],
    reference: Sequence[CaTrace],
) -> list[ChainMatch]:
    """Matches of chains that are about as alike as the best match of either."""
    share = np.zeros((len(model), len(reference)))
    for match in matches:
        share[match.model, match.reference] = match.identical / min(
            len(model[match.model]), len(reference[match.reference])
        )
    alike = share >= _COPY_IDENTITY * np.maximum(share.max(1)[:, None], share.max(0)[None, :])
    return [m for m in matches if alike[m.model, m.reference] or (m.model, m.reference) in paired]


def _pair_copies_by_rmsd(allowed: list[ChainMatch], model: Sequence[CaTrace], reference: Sequence[CaTrace]) -> Matching:
    """Pair copies of chains by the least RMSD.

    Each superposition of one or two pairs of chains proposes a pairing; superposing its chains and pairing them anew
    by distance is repeated until a pairing comes up that was seen before.
    """
    centre_model = np.concatenate([trace.positions for trace in model]).mean(0)
    centre_reference = np.concatenate([trace.positions for trace in reference]).mean(0)
    sums = np.array(
        [
            pair_moments(
                model[match.model].positions[match.pairs[:, 0]] - centre_model,
                reference[match.reference].positions[match.pairs[:, 1]] - centre_reference,
            ).sum(0)
            for match in allowed
        ]
    )
    pairing = _ChainPairing(allowed, sums, model, reference)
    in_place = pairing.assign_by_distance(np.eye(3), centre_model - centre_reference)
    best, least = in_place, pairing.superposed_rmsd(in_place)
    seen = {in_place}
    for start in pairing.seed_choices():
        current = start
        while current not in seen:
            seen.add(current)
            value = pairing.superposed_rmsd(current)
            # The first pairing found is that in place: it stays unless another is better by more than round-off.
            if value < least - _ROUND_OFF_ANGSTROM:
                best, least = current, value
            current = pairing.assign_by_distance(*superpose_from_moments(sums[list(current)].sum(0)))
    return Matching(tuple(allowed[row] for row in best), tuple(allowed[row] for row in in_place))


class _ChainPairing:
    """One-to-one choices among comparable chains; a choice is a tuple of rows in ``allowed``."""

    def __init__(
        self, allowed: list[ChainMatch], sums: np.ndarray, model: Sequence[CaTrace], reference: Sequence[CaTrace]
    ) -> None:
        self._sums = sums
        self._chains = np.array([(match.model, match.reference) for match in allowed])
        self._shape = (len(model), len(reference))

    def superposed_rmsd(self, choice: tuple[int, ...]) -> float:
        total = self._sums[list(choice)].sum(0)
        squares = squared_distance_weights(*superpose_from_moments(total)) @ total
        return float(np.sqrt(max(squares, 0.0) / total[0]))

    def assign_by_distance(self, rotation: np.ndarray, translation: np.ndarray) -> tuple[int, ...]:
        """The choice of most chains with the least sum of squared distances after a given superposition."""
        cost = np.maximum(self._sums @ squared_distance_weights(rotation, translation), 0)
        # A forbidden pair costs more than all others together, so that it is used only where nothing else is left.
        forbidden = 1 + 2 * len(cost) * float(cost.max())
        table = np.full(self._shape, forbidden)
        table[tuple(self._chains.T)] = cost
        rows = np.full(self._shape, -1)
        rows[tuple(self._chains.T)] = np.arange(len(cost))
        chosen = rows[linear_sum_assignment(table)]
        return tuple(int(row) for row in chosen if row >= 0)

    def seed_choices(self) -> list[tuple[int, ...]]:
        """Choices nearest after the superposition of each pair of chains, and of each two pairs."""
        n_pairs = len(self._chains)
        if n_pairs == len(np.unique(self._chains[:, 0])) == len(np.unique(self._chains[:, 1])):
            return []
        seeds: list[tuple[int, ...]] = [(row,) for row in range(n_pairs)]
        if n_pairs * (n_pairs - 1) // 2 <= _MOST_SEED_PAIRINGS:
            seeds += [
                (first, second)
                for first in range(n_pairs)
                for second in range(first + 1, n_pairs)
                if (self._chains[first] != self._chains[second]).all()
            ]
        total = np.array([self._sums[list(seed)].sum(0) for seed in seeds])
        return [self.assign_by_distance(*superposition) for superposition in zip(*superpose_from_moments(total))]
