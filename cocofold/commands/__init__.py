"""Verbs of the ``cocofold`` command: options, help, calls, files written."""
