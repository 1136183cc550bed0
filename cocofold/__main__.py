"""``python -m cocofold`` is the ``cocofold`` command."""

from cocofold.commands.main import main

main()
