"""Whether particles, model and map belong together, before anything is fitted to anything."""

from cocofold.preflight.checking import Settings, check
from cocofold.preflight.report import AGREES, UNDECIDED, WRONG, Report, Verdict

__all__ = ["AGREES", "UNDECIDED", "WRONG", "Report", "Settings", "Verdict", "check"]
