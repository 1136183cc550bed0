"""Report of the check: a verdict for each question, in words, as figures and as a plot."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from cocofold.system.atomic_files import atomic_path

AGREES, WRONG, UNDECIDED = "agrees", "wrong", "undecided"


@dataclass(frozen=True)
class Alternative:
    """How well one answer explains the images, everything else being the same.

    Attributes
    ----------
    name : str
    score, error : float
        Mean ring correlation over images, and its standard error.
    fine : float
        Of the fine rings alone.
    margin : float
        By how many standard errors of the paired differences it is better than as given; negative if it is worse.
    """

    name: str
    score: float
    error: float
    fine: float
    margin: float


@dataclass(frozen=True)
class CheckVerdict:
    """The answer to one question.

    Attributes
    ----------
    question : str
    verdict : str
        ``agrees``, ``wrong`` or ``undecided``.
    line : str
        For people: a sentence of which the question is the subject, or whole ones.
    advice : str
        What to do, without a full stop; empty where nothing is to be done.
    alternatives : tuple of Alternative
        As given first.
    figures : dict
        Further numbers.
    """

    question: str
    verdict: str
    line: str
    advice: str = ""
    alternatives: tuple[Alternative, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.question}: {self.line}" + (f" What to do: {self.advice}." if self.advice else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "question": self.question,
            "verdict": self.verdict,
            "line": str(self),
            "advice": self.advice,
            "alternatives": [
                {
                    "name": one.name,
                    "score": round(one.score, 5),
                    "error": _rounded_or_none(one.error, 5),
                    "fine_score": round(one.fine, 5),
                    "margin_standard_errors": _rounded_or_none(one.margin, 2),
                }
                for one in self.alternatives
            ],
            **self.figures,
        }


@dataclass(frozen=True)
class CheckReport:
    """All verdicts of a check.

    Attributes
    ----------
    verdicts : tuple of CheckVerdict
    facts : dict
        What was looked at: particles, resolutions, seed.
    """

    verdicts: tuple[CheckVerdict, ...]
    facts: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        """One verdict a line; what is clearly wrong comes first."""
        return [*self.contradictions, *(str(verdict) for verdict in self.verdicts if verdict.verdict != WRONG)]

    @property
    def contradictions(self) -> list[str]:
        """Lines of what is clearly wrong, causes before what follows from them."""
        wrong = [verdict for verdict in self.verdicts if verdict.verdict == WRONG]
        return [str(verdict) for verdict in sorted(wrong, key=lambda verdict: verdict.question not in _CAUSES)]

    def __getitem__(self, question: str) -> CheckVerdict:
        """The verdict on a question; KeyError if it was not asked."""
        return {verdict.question: verdict for verdict in self.verdicts}[question]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.facts,
            "contradictions": self.contradictions,
            "questions": [verdict.as_dict() for verdict in self.verdicts],
        }


def _rounded_or_none(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


# A wrong pixel size, or another box, makes everything else look wrong too
_CAUSES = ("pixel size", "map")
_COLOURS = {AGREES: "#0072b2", WRONG: "#d55e00"}
_GREY = "0.65"
# Standard errors to either side that error bars show: 95 % of a normal distribution.
_ERRORS_SHOWN = 2.0


def plot_check(path: str | os.PathLike[str], report: CheckReport) -> None:
    """Write a PNG with the scores as bars and two standard errors; it appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
