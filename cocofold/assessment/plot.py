"""A figure of how far each residue lies from the reference."""

from __future__ import annotations

import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cocofold.assessment.comparison import Assessment
from cocofold.files import appearing_whole


def plot_displacements(path: str | os.PathLike[str], assessment: Assessment) -> None:
    """Write a PNG with the displacement of each residue, one panel a chain, which appears whole or not at all."""
    chains = [figures.chain for figures in assessment.chains]
    figure = Figure(figsize=(8, 0.9 + 1.9 * len(chains)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(chains), 1, squeeze=False, sharey=True)[:, 0]
    for panel, chain in zip(panels, chains):
        rows = [row for row in assessment.residues if row.chain == chain]
        in_place = [float("nan") if row.in_place_angstrom is None else row.in_place_angstrom for row in rows]
        numbers = [row.number for row in rows]
        panel.plot(numbers, in_place, color="0.6", linewidth=1, label="in place")
        panel.plot(numbers, [row.superposed_angstrom for row in rows], color="C0", linewidth=1.3, label="superposed")
        panel.set_ylabel(f"chain {chain}\nCA shift (Å)")
        panel.margins(x=0.01)
    # Last, for it ends the scaling to the curves; the panels share their scale.
    panels[0].set_ylim(bottom=0)
    panels[-1].set_xlabel("residue number")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=2)
    with appearing_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
