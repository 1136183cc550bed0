"""All figures of a model against a reference, and their plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cocofold.assessment.matching import CaTrace, ChainMatch, ca_traces, match_residues, matched_positions
from cocofold.assessment.tm_score import StructuralAlignment, align_structures
from cocofold.structure.geometry import find_superposition, rmsd, root_mean_square, superpose_onto
from cocofold.structure.model import Model
from cocofold.system.atomic_files import atomic_path

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
    """Figures of a model against a reference.

    Attributes
    ----------
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
    traces, reference_traces = ca_traces(model), ca_traces(reference)
    matching = match_residues(traces, reference_traces)
    moving, fixed = matched_positions(matching.superposed, traces, reference_traces)
    rotation, translation = find_superposition(moving, fixed)
    together = [trace.moved_to(trace.positions @ rotation.T + translation) for trace in traces]
    compared = _ComparedTraces(traces, together, reference_traces)
    in_place = {match.model: match for match in matching.in_place}
    return Assessment(
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
    value = np.array([row["support"] for row in rows])
    error = np.array([row["standard_error"] for row in rows])
    panel.axhline(0, color="0.6", linewidth=0.8)
    if np.isfinite(error).all():
        panel.fill_between(numbers, value - 2 * error, value + 2 * error, color="C1", alpha=0.3, linewidth=0)
    panel.plot(numbers, value, color="C1", linewidth=1.3)
    panel.set_ylabel(f"chain {chain}\nsupport (FRC)")
    panel.margins(x=0.01)
