"""A figure of how far each residue lies from the reference, and of how images support it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cocofold.assessment.comparison import Assessment, ResidueDisplacement
from cocofold.files import appearing_whole

_WIDTH_INCHES, _HEAD_INCHES, _CHAIN_INCHES = 8.0, 0.9, 1.9


def plot_residues(
    path: str | os.PathLike[str], assessment: Assessment | None, support: Sequence[dict[str, Any]]
) -> None:
    """Write a PNG, one row of panels a chain, which appears whole or not at all.

    Parameters
    ----------
    assessment : Assessment, optional
        For displacements.
    support : sequence of dict
        Residues with chain, number, support and standard_error; empty without particles.
    """
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
    with appearing_whole(path) as partial:
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
