"""TM-score of two complexes, by a structural alignment that keeps to paired chains.

Definitions and constants of TM-align (Zhang & Skolnick 2005) and MM-align (Mukherjee & Zhang 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from cocofold.assessment.matching import CaTrace, ChainMatch
from cocofold.structure.geometry import (
    find_superposition,
    pair_moments,
    rmsd,
    squared_distance_weights,
    superpose_from_moments,
    superpose_onto,
)

# A superposition of fewer pairs is not unique.
_FEWEST_PAIRS = 3
# Search as in TM-align: fragments of all pairs, half, a quarter and so on down to four residues, up to twenty rounds of
# refinement for each, thirty rounds of alignment, gap penalties 0.6 and 0; every fortieth fragment until the alignment
# is final, then every one
_SHORTEST_FRAGMENT = 4
_N_FRAGMENT_LENGTHS = 6  # all pairs, four halvings and the shortest
_MOST_REFINEMENTS = 20
_MOST_ALIGNMENTS = 30
_GAP_PENALTIES = (0.6, 0.0)
_COARSE_STEP = 40
# Parts of the model whose superpositions start further alignments, in place of TM-align's starts by secondary structure
# and by threading: quarters of the matched residues, overlapping by half. More parts find smaller domains and take
# longer; parts of fewer residues say little of where a domain lies.
_N_WINDOWS = 4
_SHORTEST_WINDOW = 12
# Bounds memory to some tens of MiB; results do not depend on it.
_MOST_DISTANCES_AT_ONCE = 2_000_000
# Pairs are close within d0 of the search, kept in these limits, and 1 Å less at first and 1 Å more later (TM-align)
_REACH_LIMITS_ANGSTROM = (4.5, 8.0)
_REACH_STEP_ANGSTROM = 1.0
# By how much the reach grows at a time where fewer than three pairs are close
_WIDENING_ANGSTROM = 0.5


@dataclass(frozen=True)
class StructuralAlignment:
    """What MM-align reports of a model against a reference.

    Attributes
    ----------
    tm_score : float
        Sum of ``1 / (1 + (d / d0)²)`` over aligned pairs, divided by the reference's residues, under the superposition
        that makes it largest; ``d0 = 1.24 (L - 15)^(1/3) - 1.8`` Å, at least 0.5 Å, L the reference's residues.
    coverage : float
        Aligned pairs divided by the reference's residues.
    rmsd : float
        CA RMSD (Å) of the aligned pairs after their own superposition.
    sequence_identity : float
        Share of aligned pairs with the same amino acid.
    aligned_residues, reference_residues : int
        Aligned are pairs of the alignment that lie within ``d8 = 1.5 L^0.3 + 3.5`` Å, L the residues of the smaller
        of the two.
    """

    tm_score: float
    coverage: float
    rmsd: float
    sequence_identity: float
    aligned_residues: int
    reference_residues: int


def align_structures(
    matches: Sequence[ChainMatch], model: Sequence[CaTrace], reference: Sequence[CaTrace]
) -> StructuralAlignment:
    """Align a model to a reference, residues of a chain only to those of the chain it is paired with.

    The search starts from the matched residues. As in TM-align, superpositions of fragments are refined on the pairs
    that come close, dynamic programming under the best one gives a new alignment, and so on until it stays the same.

    Parameters
    ----------
    matches
        Paired chains with at least three matched residues in all.
    model, reference
        All protein chains; those without a partner count in the lengths only.
    """
    n_model, n_reference = sum(map(len, model)), sum(map(len, reference))
    d8 = 1.5 * min(n_model, n_reference) ** 0.3 + 3.5
    search = _AlignmentSearch(matches, model, reference, _search_d0_angstrom(min(n_model, n_reference)), d8)
    pairs, score = search.final_score(search.best_alignment(), step=1)
    moving, fixed = search.positions(pairs)
    return StructuralAlignment(
        tm_score=score / n_reference,
        coverage=len(pairs) / n_reference,
        rmsd=rmsd(superpose_onto(moving, fixed), fixed),
        sequence_identity=search.count_identical(pairs) / len(pairs),
        aligned_residues=len(pairs),
        reference_residues=n_reference,
    )


def tm_score_d0_angstrom(n_residues: int) -> float:
    """TM-score's d0 (Å) for a reference of ``n_residues`` residues."""
    return max(0.5, 1.24 * np.cbrt(n_residues - 15) - 1.8) if n_residues > 21 else 0.5


def _search_d0_angstrom(n_residues: int) -> float:
    """The wider d0 (Å) with which TM-align searches."""
    return (0.168 if n_residues <= 19 else 1.24 * np.cbrt(n_residues - 15) - 1.8) + 0.8


class _AlignmentSearch:
    """Alternates between superpositions and alignments of paired chains, joined end to end."""

    def __init__(
        self,
        matches: Sequence[ChainMatch],
        model: Sequence[CaTrace],
        reference: Sequence[CaTrace],
        search_d0: float,
        d8: float,
    ) -> None:
        chains, others = [model[m.model] for m in matches], [reference[m.reference] for m in matches]
        self._search_d0 = search_d0
        self._d8 = d8
        self._final_d0 = tm_score_d0_angstrom(sum(map(len, reference)))
        self._model = np.concatenate([chain.positions for chain in chains])
        self._reference = np.concatenate([other.positions for other in others])
        self._sequences = "".join(c.sequence for c in chains), "".join(o.sequence for o in others)
        ends = np.cumsum([[len(c), len(o)] for c, o in zip(chains, others)], axis=0)
        self._blocks = list(zip(np.vstack([[0, 0], ends[:-1]]), ends))
        self._matched = np.concatenate([m.pairs + start for m, (start, _) in zip(matches, self._blocks)])

    def positions(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._model[pairs[:, 0]], self._reference[pairs[:, 1]]

    def count_identical(self, pairs: np.ndarray) -> int:
        first, second = self._sequences
        return sum(first[i] == second[j] for i, j in pairs)

    def best_alignment(self) -> np.ndarray:
        """Pairs of residues, (n, 2) int, whose best superposition scores most."""
        best, most = self._matched, -1.0
        seen: set[bytes] = set()
        for gap_penalty in _GAP_PENALTIES:
            for pairs in (self._matched, *self._alignments_from_windows(gap_penalty)):
                for _ in range(_MOST_ALIGNMENTS):
                    key = bytes([gap_penalty > 0]) + pairs.tobytes()
                    if len(pairs) < _FEWEST_PAIRS or key in seen:
                        break
                    seen.add(key)
                    superposition, _ = _best_superposition(
                        *self.positions(pairs), self._search_d0, self._d8, _COARSE_STEP
                    )
                    score = self._score_within_d8(pairs, superposition, _COARSE_STEP)[1]
                    if score > most:
                        best, most = pairs, score
                    pairs = self._align(*superposition, gap_penalty)
        return best

    def final_score(self, pairs: np.ndarray, step: int) -> tuple[np.ndarray, float]:
        """Pairs that lie within d8 under the best superposition, and their unnormalised TM-score."""
        superposition, _ = _best_superposition(*self.positions(pairs), self._search_d0, self._d8, step)
        return self._score_within_d8(pairs, superposition, step)

    def _score_within_d8(
        self, pairs: np.ndarray, superposition: tuple[np.ndarray, np.ndarray], step: int
    ) -> tuple[np.ndarray, float]:
        rotation, translation = superposition
        moving, fixed = self.positions(pairs)
        near = ((moving @ rotation.T + translation - fixed) ** 2).sum(1) <= self._d8**2
        if near.sum() < _FEWEST_PAIRS:
            return pairs[near], 0.0
        return pairs[near], _best_superposition(moving[near], fixed[near], self._final_d0, None, step)[1]

    def _alignments_from_windows(self, gap_penalty: float) -> Iterator[np.ndarray]:
        """Alignments under the superposition of parts of the model, so that each domain has its turn."""
        length = len(self._matched) // _N_WINDOWS
        if length < _SHORTEST_WINDOW:
            return
        for first in range(0, len(self._matched) - length + 1, length // 2):
            window = self._matched[first : first + length]
            yield self._align(*find_superposition(*self.positions(window)), gap_penalty)

    def _align(self, rotation: np.ndarray, translation: np.ndarray, gap_penalty: float) -> np.ndarray:
        moved = self._model @ rotation.T + translation
        pairs = []
        for (row, column), (row_end, column_end) in self._blocks:
            distance = cdist(moved[row:row_end], self._reference[column:column_end], "sqeuclidean")
            pairs.append(align_by_score(1 / (1 + distance / self._search_d0**2), gap_penalty) + np.array([row, column]))
        return np.concatenate(pairs)


def _best_superposition(
    moving: np.ndarray, fixed: np.ndarray, scale: float, cutoff: float | None, step: int
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Superposition of paired residues with the largest sum of ``1 / (1 + (d / scale)²)``, and this sum.

    Fragments of six lengths, from all pairs down to four, are superposed; each superposition is then repeated on the
    pairs that it brings close until these stay the same.

    Parameters
    ----------
    moving, fixed : (n, 3) float
        CA positions, Å.
    scale : float
        d0, Å.
    cutoff : float, optional
        Pairs farther apart (Å) do not count.
    step : int
        A fragment starts at every pair whose number is a multiple of this.
    """
    if len(moving) < _FEWEST_PAIRS:
        raise ValueError(f"{len(moving)} pairs cannot be superposed")
    centre_moving, centre_fixed = moving.mean(0), fixed.mean(0)
    products = pair_moments(moving - centre_moving, fixed - centre_fixed)
    reach = float(np.clip(scale, *_REACH_LIMITS_ANGSTROM))
    best, most = products.sum(0), -1.0
    for sums in _fragments(products, step):
        close = reach - _REACH_STEP_ANGSTROM
        active = None
        for _ in range(1 + _MOST_REFINEMENTS):
            weights = squared_distance_weights(*superpose_from_moments(sums))
            squares = np.maximum(weights @ products.T, 0)
            scores = _tm_sums(squares, scale, cutoff)
            if scores.max() > most:
                most = float(scores.max())
                best = sums[scores.argmax()]
            selected = _close_pairs(squares, close)
            if active is not None:
                changed = (selected != active).any(1)
                selected = selected[changed]
                if not len(selected):
                    break
            active, close = selected, reach + _REACH_STEP_ANGSTROM
            sums = selected @ products
    rotation, shift = superpose_from_moments(best)
    return (rotation, shift + centre_fixed - rotation @ centre_moving), most


def _tm_sums(squares: np.ndarray, scale: float, cutoff: float | None) -> np.ndarray:
    """Sum of ``1 / (1 + (d / scale)²)`` over the pairs of each set that are within the cutoff, (n_sets,) float."""
    terms = 1 / (1 + squares / scale**2)
    if cutoff is not None:
        terms[squares > cutoff**2] = 0
    return terms.sum(1)


def _fragments(products: np.ndarray, step: int) -> Iterator[np.ndarray]:
    """Summed moments of fragments, a batch at a time, (n_fragments, 17)."""
    n_pairs = len(products)
    running = np.vstack([np.zeros(products.shape[1]), np.cumsum(products, axis=0)])
    lengths = [max(n_pairs >> halvings, _SHORTEST_FRAGMENT) for halvings in range(_N_FRAGMENT_LENGTHS - 1)]
    batch = max(1, _MOST_DISTANCES_AT_ONCE // n_pairs)
    for length in sorted({*lengths, _SHORTEST_FRAGMENT}, reverse=True):
        length = min(length, n_pairs)
        last = n_pairs - length
        starts = np.unique(np.append(np.arange(0, last, step), last))
        for first in range(0, len(starts), batch):
            some = starts[first : first + batch]
            yield running[some + length] - running[some]


def _close_pairs(squares: np.ndarray, close: float) -> np.ndarray:
    """Pairs within ``close`` Å, widened by half Ångströms until there are three; (n_sets, n_pairs) bool."""
    selected = squares < close**2
    few = selected.sum(1) < _FEWEST_PAIRS
    if few.any():
        third = np.sqrt(np.partition(squares[few], _FEWEST_PAIRS - 1, axis=1)[:, _FEWEST_PAIRS - 1])
        wider = close + _WIDENING_ANGSTROM * (np.floor((third - close) / _WIDENING_ANGSTROM) + 1)
        selected[few] = squares[few] < wider[:, None] ** 2
    return selected


def align_by_score(scores: np.ndarray, gap_penalty: float) -> np.ndarray:
    """The alignment of two chains with the largest sum of scores, by dynamic programming.

    Parameters
    ----------
    scores : (n, m) float
        Score of each pair, above zero.
    gap_penalty : float
        Taken off wherever residues of either chain are skipped between two pairs, however many; ends are free.

    Returns
    -------
    (n_pairs, 2) int
        Ascending in both columns.
    """
    n_rows, n_columns = scores.shape
    columns = np.arange(n_columns)
    before = np.full((n_rows, n_columns), -1)
    # Of alignments that end in the last row: in each column, and the best in this row or above, up to each column.
    ending = np.full(n_columns, -np.inf)
    reached = np.full(n_columns, -np.inf)
    reached_at = np.full(n_columns, -1)
    for row in range(n_rows):
        following = np.append(-np.inf, ending[:-1])
        skipping = np.append(-np.inf, reached[:-1]) - gap_penalty
        from_pair = (row - 1) * n_columns + columns - 1
        come_from = np.where(following >= skipping, from_pair, np.append(-1, reached_at[:-1]))
        gained = np.maximum(following, skipping)
        before[row] = np.where(gained > 0, come_from, -1)
        ending = scores[row] + np.maximum(gained, 0)
        better = ending > reached
        reached = np.where(better, ending, reached)
        reached_at = np.where(better, row * n_columns + columns, reached_at)
        running = np.maximum.accumulate(reached)
        holder = np.maximum.accumulate(np.where(reached == running, columns, 0))
        reached, reached_at = running, reached_at[holder]
    place = int(reached_at[-1])
    pairs = []
    while place >= 0:
        row, column = divmod(place, n_columns)
        pairs.append((row, column))
        place = int(before[row, column])
    return np.array(pairs[::-1], dtype=int).reshape(-1, 2)
