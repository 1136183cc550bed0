"""Reports of finished runs: one HTML page, and a folder for ISOLDE.

Knows what a run's folder holds; nothing here changes a run.
"""

from cocofold.reporting.report import Report, write_report

__all__ = ["Report", "write_report"]
