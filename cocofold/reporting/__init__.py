"""Reports of finished runs: one HTML page, and a folder for ISOLDE.

Knows what a run's folder holds; nothing here changes a run.
"""
