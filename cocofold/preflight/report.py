"""What the check found: a verdict for each question, in words and as figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

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
class Verdict:
    """The answer to one question.

    Attributes
    ----------
    question : str
    verdict : str
        ``agrees``, ``wrong`` or ``undecided``.
    line : str
        For people.
    advice : str
        What to do; empty where nothing is to be done.
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
        return f"{self.question}: {self.line}" + (f"; {self.advice}" if self.advice else "")

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
                    "error": _number(one.error, 5),
                    "fine_score": round(one.fine, 5),
                    "margin_standard_errors": _number(one.margin, 2),
                }
                for one in self.alternatives
            ],
            **self.figures,
        }


@dataclass(frozen=True)
class Report:
    """All verdicts of a check.

    Attributes
    ----------
    verdicts : tuple of Verdict
    facts : dict
        What was looked at: particles, resolutions, seed.
    """

    verdicts: tuple[Verdict, ...]
    facts: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        """One verdict a line."""
        return [str(verdict) for verdict in self.verdicts]

    @property
    def contradictions(self) -> list[str]:
        """Lines of what is clearly wrong."""
        return [str(verdict) for verdict in self.verdicts if verdict.verdict == WRONG]

    def __getitem__(self, question: str) -> Verdict:
        return next(verdict for verdict in self.verdicts if verdict.question == question)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.facts,
            "contradictions": self.contradictions,
            "questions": [verdict.as_dict() for verdict in self.verdicts],
        }


def _number(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
