"""A picture of the check: the scores of all alternatives, one panel a question."""

from __future__ import annotations

import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cocofold.files import appearing_whole
from cocofold.preflight.report import AGREES, WRONG, Report

_COLOURS = {AGREES: "#0072b2", WRONG: "#d55e00"}
_GREY = "0.65"
_ERRORS_SHOWN = 2.0


def draw_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write a PNG with the scores as bars and two standard errors; it appears whole or not at all."""
    verdicts = [verdict for verdict in report.verdicts if verdict.alternatives]
    heights = [len(verdict.alternatives) + 1.8 for verdict in verdicts]
    figure = Figure(figsize=(8, 0.8 + 0.21 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(verdicts), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for panel, verdict in zip(panels, verdicts):
        rows = verdict.alternatives
        given = _COLOURS.get(verdict.verdict, "0.35")
        panel.barh(
            range(len(rows)),
            [row.score for row in rows],
            xerr=[_ERRORS_SHOWN * row.error for row in rows],
            color=[given, *[_GREY] * (len(rows) - 1)],
            height=0.75,
        )
        panel.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        panel.invert_yaxis()
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_title(f"{verdict.question}: {verdict.verdict}", fontsize=9, loc="left")
    panels[-1].set_xlabel("mean ring correlation of images and model (bars: two standard errors)")
    with appearing_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
