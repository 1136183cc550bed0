"""One module a verb of the ``cocofold`` command: options, help, calls, files written."""
