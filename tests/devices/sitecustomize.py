"""Python imports this file at its start where its folder is on the path."""

import pretend  # noqa: F401
