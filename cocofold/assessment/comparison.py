"""All figures of a model against a reference, and their plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cocofold.assessment.matching import (
    CaTrace,
    ChainMatch,
    Matching,
    match_residues,
    matched_positions,
    nucleotide_traces,
    traces_of_both,
)
from cocofold.assessment.tm_score import StructuralAlignment, align_structures
from cocofold.structure.geometry import find_superposition, rmsd, root_mean_square, superpose_onto, torsion_radians
from cocofold.structure.model import Model
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ChainComparison:
    """One chain of the model and the reference's chain that it stands for.

    Attributes
    ----------
    chain, reference_chain : str
    reference_chain_in_place : str or None
        The partner as the models lie; another than ``reference_chain`` only among copies of one chain.
    matched_residues, identical_residues : int
    matched_by : str
        ``"number"`` or ``"sequence"``.
    ca_rmsd : float
        Å, after a superposition of this chain alone.
    ca_rmsd_together : float
        Å, after the superposition of the whole model.
    ca_rmsd_in_place : float or None
        Å, as the models lie.
    """

    chain: str
    reference_chain: str
    reference_chain_in_place: str | None
    matched_residues: int
    identical_residues: int
    matched_by: str
    ca_rmsd: float
    ca_rmsd_together: float
    ca_rmsd_in_place: float | None


@dataclass(frozen=True)
class ResidueDisplacement:
    """How far the CA of a residue of the model is from that of the reference.

    Attributes
    ----------
    chain, number, insertion_code, name
        The residue in the model.
    reference_chain : str
    reference_number : int
    superposed_angstrom : float
        Distance after one superposition of all matched residues.
    in_place_angstrom : float or None
        Distance as the models lie; None if the residue has no partner there.
    """

    chain: str
    number: int
    insertion_code: str
    name: str
    reference_chain: str
    reference_number: int
    superposed_angstrom: float
    in_place_angstrom: float | None


@dataclass(frozen=True)
class Assessment:
    """Figures of a model against a reference; where either has no protein, of C1' atoms in place of CA.

    Attributes
    ----------
    trace_atom : str
        CA, or C1'.
    ca_rmsd : float
        CA RMSD (Å) of all matched residues after one superposition.
    ca_rmsd_in_place : float
        The same without any.
    alignment : StructuralAlignment
        What MM-align reports.
    matched_residues, model_residues, reference_residues : int
        Residues with CA.
    chains : tuple of ChainComparison
    residues : tuple of ResidueDisplacement
    """

    trace_atom: str
    ca_rmsd: float
    ca_rmsd_in_place: float
    alignment: StructuralAlignment
    matched_residues: int
    model_residues: int
    reference_residues: int
    chains: tuple[ChainComparison, ...]
    residues: tuple[ResidueDisplacement, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the alignment's figures stand at the top, beside the RMSDs."""
        content = asdict(self)
        return {**content.pop("alignment"), **content}


def assess(model: Model, reference: Model) -> Assessment:
    """Compare a model with a reference.

    Parameters
    ----------
    model, reference : Model

    Raises
    ------
    InputError
        If the models have fewer than three residues in common.
    """
    trace_atom, traces, reference_traces = traces_of_both(model, reference)
    matching = match_residues(traces, reference_traces)
    moving, fixed = matched_positions(matching.superposed, traces, reference_traces)
    rotation, translation = find_superposition(moving, fixed)
    together = [trace.moved_to(trace.positions @ rotation.T + translation) for trace in traces]
    compared = _ComparedTraces(traces, together, reference_traces)
    in_place = {match.model: match for match in matching.in_place}
    return Assessment(
        trace_atom=trace_atom,
        ca_rmsd=rmsd(superpose_onto(moving, fixed), fixed),
        ca_rmsd_in_place=rmsd(*matched_positions(matching.in_place, traces, reference_traces)),
        alignment=align_structures(matching.superposed, traces, reference_traces),
        matched_residues=len(moving),
        model_residues=sum(map(len, traces)),
        reference_residues=sum(map(len, reference_traces)),
        chains=tuple(_chain_figures(match, in_place.get(match.model), compared) for match in matching.superposed),
        residues=tuple(
            row
            for match in matching.superposed
            for row in _displacements(match, in_place.get(match.model), compared, model)
        ),
    )


@dataclass(frozen=True)
class _ComparedTraces:
    """Chains of the model as they lie and after the superposition of the whole, and those of the reference."""

    in_place: Sequence[CaTrace]
    superposed: Sequence[CaTrace]
    reference: Sequence[CaTrace]

    def distances_in_place(self, match: ChainMatch) -> np.ndarray:
        """Distances of matched CA atoms as the models lie, (n,) Å."""
        return _distances(match, self.in_place, self.reference)

    def distances_superposed(self, match: ChainMatch) -> np.ndarray:
        """Distances of matched CA atoms after the superposition of the whole, (n,) Å."""
        return _distances(match, self.superposed, self.reference)


def _distances(match: ChainMatch, model: Sequence[CaTrace], reference: Sequence[CaTrace]) -> np.ndarray:
    moving, fixed = matched_positions([match], model, reference)
    return np.linalg.norm(moving - fixed, axis=1)


def _chain_figures(match: ChainMatch, in_place: ChainMatch | None, compared: _ComparedTraces) -> ChainComparison:
    moving, fixed = matched_positions([match], compared.in_place, compared.reference)
    partner = None if in_place is None else compared.reference[in_place.reference].name
    return ChainComparison(
        chain=compared.in_place[match.model].name,
        reference_chain=compared.reference[match.reference].name,
        reference_chain_in_place=partner,
        matched_residues=len(match.pairs),
        identical_residues=match.identical,
        matched_by="number" if match.by_number else "sequence",
        ca_rmsd=rmsd(superpose_onto(moving, fixed), fixed),
        ca_rmsd_together=root_mean_square(compared.distances_superposed(match)),
        ca_rmsd_in_place=None if in_place is None else root_mean_square(compared.distances_in_place(in_place)),
    )


def _displacements(
    match: ChainMatch, in_place: ChainMatch | None, compared: _ComparedTraces, model: Model
) -> list[ResidueDisplacement]:
    trace, other = compared.in_place[match.model], compared.reference[match.reference]
    as_they_lie: dict[int, float] = {}
    if in_place is not None:
        as_they_lie = dict(zip(in_place.pairs[:, 0].tolist(), compared.distances_in_place(in_place).tolist()))
    rows = []
    for (place, other_place), distance in zip(match.pairs.tolist(), compared.distances_superposed(match).tolist()):
        key = model.residues[trace.residues[place]]
        other_number, _ = other.numbers[other_place]
        rows.append(
            ResidueDisplacement(
                chain=key.chain,
                number=key.number,
                insertion_code=key.insertion_code,
                name=key.name,
                reference_chain=other.name,
                reference_number=other_number,
                superposed_angstrom=distance,
                in_place_angstrom=as_they_lie.get(place),
            )
        )
    return rows


# Pseudorotation phases (degrees) of Altona & Sundaralingam (J. Am. Chem. Soc. 94, 8205, 1972): C3'-endo sugars, as in
# RNA and A-DNA, and C2'-endo ones, as in B-DNA. A phase within half of the wheel's tenth of a turn is the same pucker.
_C3_ENDO_DEGREES, _C2_ENDO_DEGREES = (0.0, 36.0), (144.0, 190.0)
_SAME_PUCKER_DEGREES = 36.0
# Torsions of the ring, nu 0 to nu 4.
_RING = ("C4'", "O4'", "C1'", "C2'", "C3'")


@dataclass(frozen=True)
class NucleicAcids:
    """Figures of a model's DNA and RNA, by itself and against a reference.

    Attributes
    ----------
    nucleotides, base_pairs : int
        Nucleotides with a sugar, and pairs of bases (``restraints.find_base_pairs``).
    c3_endo, c2_endo, other_puckers : int
        Sugars by the phase of their pucker: 0 to 36 degrees, 144 to 190 degrees, and the rest.
    matched_nucleotides : int, optional
        Those that have a partner in the reference; None without one, as all that follow.
    c1_rmsd, c1_rmsd_in_place, p_rmsd_in_place : float, optional
        RMSD (Å) of C1' after the superposition of all of them, and of C1' and P as the models lie.
    reference_base_pairs, kept_base_pairs : int, optional
        Pairs of the reference whose residues are matched, and those of them that the model has.
    same_puckers : int, optional
        Sugars whose phase is within 36 degrees of the reference's.
    """

    nucleotides: int
    base_pairs: int
    c3_endo: int
    c2_endo: int
    other_puckers: int
    matched_nucleotides: int | None = None
    c1_rmsd: float | None = None
    c1_rmsd_in_place: float | None = None
    p_rmsd_in_place: float | None = None
    reference_base_pairs: int | None = None
    kept_base_pairs: int | None = None
    same_puckers: int | None = None


def assess_nucleic_acids(model: Model, reference: Model | None = None) -> NucleicAcids | None:
    """Figures of a model's nucleic acids; None if it has none, and none of a reference without any in common."""
    rows = model.nucleotides()[0]
    if not len(rows):
        return None
    from cocofold.structure.restraints import find_base_pairs  # it loads torch, which most models do not need

    pairs, phases = find_base_pairs(model), sugar_phases(model)
    known = phases[rows][np.isfinite(phases[rows])]
    north, south = ((known >= low) & (known < high) for low, high in (_C3_ENDO_DEGREES, _C2_ENDO_DEGREES))
    counts = (len(rows), len(pairs), int(north.sum()), int(south.sum()), int((~north & ~south).sum()))
    traces, others = nucleotide_traces(model), [] if reference is None else nucleotide_traces(reference)
    try:
        matching = match_residues(traces, others) if others else None
    except InputError:
        matching = None
    if reference is None or matching is None:
        return NucleicAcids(*counts)
    moving, fixed = matched_positions(matching.superposed, traces, others)
    partner = _partners(matching, traces, others)
    expected = [(partner[one], partner[other]) for one, other in pairs.tolist() if {one, other} <= partner.keys()]
    in_reference = {pair for pair in map(tuple, find_base_pairs(reference).tolist()) if {*pair} <= {*partner.values()}}
    mine, theirs = (np.array(list(part), dtype=int) for part in (partner.keys(), partner.values()))
    turned = np.abs((phases[mine] - sugar_phases(reference)[theirs] + 180) % 360 - 180)
    phosphates, partners = model.atoms_named("P")[mine], reference.atoms_named("P")[theirs]
    with_both = (phosphates >= 0) & (partners >= 0)
    apart = model.positions[phosphates[with_both]], reference.positions[partners[with_both]]
    return NucleicAcids(
        *counts,
        matched_nucleotides=len(mine),
        c1_rmsd=rmsd(superpose_onto(moving, fixed), fixed),
        c1_rmsd_in_place=rmsd(*matched_positions(matching.in_place, traces, others)),
        p_rmsd_in_place=rmsd(*apart) if with_both.any() else None,
        reference_base_pairs=len(in_reference),
        kept_base_pairs=len(in_reference & {(min(pair), max(pair)) for pair in expected}),
        same_puckers=int((turned <= _SAME_PUCKER_DEGREES).sum()),
    )


def _partners(matching: Matching, traces: Sequence[CaTrace], others: Sequence[CaTrace]) -> dict[int, int]:
    """Residue of the reference for each residue of the model that has one as they lie, by rows in ``residues``."""
    return {
        int(traces[match.model].residues[place]): int(others[match.reference].residues[other])
        for match in matching.in_place
        for place, other in match.pairs.tolist()
    }


def sugar_phases(model: Model) -> np.ndarray:
    """Phase of pseudorotation of each residue's sugar, (n_residues,) degrees from 0 to 360; NaN without a ring."""
    ring = np.stack([model.atoms_named(name) for name in _RING], axis=1)
    whole = (ring >= 0).all(1)
    four = [np.roll(ring[whole], -place, axis=1)[:, :4] for place in range(len(_RING))]
    torsions = np.degrees(torsion_radians(model.positions[np.array(four)]))
    sine = (torsions[4] + torsions[1]) - (torsions[3] + torsions[0])
    cosine = 2 * torsions[2] * (np.sin(np.radians(36)) + np.sin(np.radians(72)))
    phases = np.full(len(model.residues), np.nan)
    phases[whole] = np.degrees(np.arctan2(sine, cosine)) % 360
    return phases


# Size of the plot: width of a column, height of legend and axis title, height of a chain's row
_WIDTH_INCHES, _HEAD_INCHES, _CHAIN_INCHES = 8.0, 0.9, 1.9


def plot_residues(
    path: str | os.PathLike[str], assessment: Assessment | None, support: Sequence[dict[str, Any]]
) -> None:
    """Write a PNG with a row of panels for each chain, which appears whole or not at all.

    Parameters
    ----------
    assessment : Assessment, optional
        Source of the displacements; without it there is no column of these.
    support : sequence of dict
        Residues with chain, number, support and standard_error; empty without particles.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chains = list(dict.fromkeys(row["chain"] for row in support))
    if assessment is not None:
        chains = list(dict.fromkeys([*(figures.chain for figures in assessment.chains), *chains]))
    columns = (assessment is not None) + bool(support)
    figure = Figure(figsize=(_WIDTH_INCHES * columns, _HEAD_INCHES + _CHAIN_INCHES * len(chains)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(chains), columns, squeeze=False, sharey="col")
    for row, chain in zip(panels, chains):
        if assessment is not None:
            _draw_displacements(row[0], chain, [one for one in assessment.residues if one.chain == chain])
        if support:
            _draw_support(row[-1], chain, [one for one in support if one["chain"] == chain])
    for panel in panels[-1]:
        panel.set_xlabel("residue number")
    if assessment is not None:
        # Last, for it ends the scaling to the curves; the panels share their scale.
        panels[0, 0].set_ylim(bottom=0)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=2)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _draw_displacements(panel: Axes, chain: str, rows: Sequence[ResidueDisplacement]) -> None:
    in_place = [float("nan") if row.in_place_angstrom is None else row.in_place_angstrom for row in rows]
    numbers = [row.number for row in rows]
    panel.plot(numbers, in_place, color="0.6", linewidth=1, label="in place")
    panel.plot(numbers, [row.superposed_angstrom for row in rows], color="C0", linewidth=1.3, label="superposed")
    panel.set_ylabel(f"chain {chain}\nCA shift (Å)")
    panel.margins(x=0.01)


def _draw_support(panel: Axes, chain: str, rows: Sequence[dict[str, Any]]) -> None:
    numbers = [row["number"] for row in rows]
    value = np.array([row["smoothed_support"] for row in rows])
    error = np.array([row["smoothed_standard_error"] for row in rows])
    panel.plot(numbers, [row["support"] for row in rows], ".", color="0.6", markersize=2)
    panel.axhline(0, color="0.6", linewidth=0.8)
    if np.isfinite(error).all():
        panel.fill_between(numbers, value - 2 * error, value + 2 * error, color="C1", alpha=0.3, linewidth=0)
    panel.plot(numbers, value, color="C1", linewidth=1.3)
    panel.set_ylabel(f"chain {chain}\nsupport (FRC)")
    panel.margins(x=0.01)
