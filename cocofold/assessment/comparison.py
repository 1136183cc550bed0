"""All figures of a model against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cocofold.assessment.matching import ChainMatch, match_residues, matched_positions
from cocofold.assessment.superposition import rmsd, superpose, superposed
from cocofold.assessment.tm_score import StructuralAlignment, align_structures
from cocofold.assessment.traces import Trace, traces_of
from cocofold.structure import Model


@dataclass(frozen=True)
class ChainFigures:
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
        After one superposition of all matched residues.
    in_place_angstrom : float or None
        As the models lie; None if the residue has no partner there.
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
    chains : tuple of ChainFigures
    residues : tuple of ResidueDisplacement
    """

    ca_rmsd: float
    ca_rmsd_in_place: float
    alignment: StructuralAlignment
    matched_residues: int
    model_residues: int
    reference_residues: int
    chains: tuple[ChainFigures, ...]
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
    traces, reference_traces = traces_of(model), traces_of(reference)
    matching = match_residues(traces, reference_traces)
    moving, fixed = matched_positions(matching.superposed, traces, reference_traces)
    rotation, translation = superpose(moving, fixed)
    together = [trace.moved_to(trace.positions @ rotation.T + translation) for trace in traces]
    in_place = {match.model: match for match in matching.in_place}
    return Assessment(
        ca_rmsd=rmsd(superposed(moving, fixed), fixed),
        ca_rmsd_in_place=rmsd(*matched_positions(matching.in_place, traces, reference_traces)),
        alignment=align_structures(matching.superposed, traces, reference_traces),
        matched_residues=len(moving),
        model_residues=sum(map(len, traces)),
        reference_residues=sum(map(len, reference_traces)),
        chains=tuple(
            _chain_figures(match, in_place.get(match.model), traces, together, reference_traces)
            for match in matching.superposed
        ),
        residues=tuple(
            row
            for match in matching.superposed
            for row in _displacements(match, in_place.get(match.model), model, traces, together, reference_traces)
        ),
    )


def _distances(match: ChainMatch, model: Sequence[Trace], reference: Sequence[Trace]) -> np.ndarray:
    moving, fixed = matched_positions([match], model, reference)
    return np.linalg.norm(moving - fixed, axis=1)


def _root_mean_square(distances: np.ndarray) -> float:
    return float(np.sqrt((distances**2).mean()))


def _chain_figures(
    match: ChainMatch,
    in_place: ChainMatch | None,
    traces: Sequence[Trace],
    together: Sequence[Trace],
    reference: Sequence[Trace],
) -> ChainFigures:
    moving, fixed = matched_positions([match], traces, reference)
    return ChainFigures(
        chain=traces[match.model].name,
        reference_chain=reference[match.reference].name,
        reference_chain_in_place=None if in_place is None else reference[in_place.reference].name,
        matched_residues=len(match.pairs),
        identical_residues=match.identical,
        matched_by="number" if match.by_number else "sequence",
        ca_rmsd=rmsd(superposed(moving, fixed), fixed),
        ca_rmsd_together=_root_mean_square(_distances(match, together, reference)),
        ca_rmsd_in_place=None if in_place is None else _root_mean_square(_distances(in_place, traces, reference)),
    )


def _displacements(
    match: ChainMatch,
    in_place: ChainMatch | None,
    model: Model,
    traces: Sequence[Trace],
    together: Sequence[Trace],
    reference: Sequence[Trace],
) -> list[ResidueDisplacement]:
    trace, other = traces[match.model], reference[match.reference]
    as_they_lie: dict[int, float] = {}
    if in_place is not None:
        as_they_lie = dict(zip(in_place.pairs[:, 0].tolist(), _distances(in_place, traces, reference).tolist()))
    rows = []
    for (place, other_place), distance in zip(match.pairs.tolist(), _distances(match, together, reference).tolist()):
        key = model.residues[trace.residues[place]]
        rows.append(
            ResidueDisplacement(
                chain=key.chain,
                number=key.number,
                insertion_code=key.insertion_code,
                name=key.name,
                reference_chain=other.name,
                reference_number=other.numbers[other_place][0],
                superposed_angstrom=distance,
                in_place_angstrom=as_they_lie.get(place),
            )
        )
    return rows
