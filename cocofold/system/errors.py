"""Input that cannot be used: its one exception, and a check."""


class InputError(Exception):
    """Input that cannot be used; its message says what was found, what is allowed and what to do.

    The command line prints the message and exits with status 2, without a traceback.
    """


def require_within(option: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside a range, in the words of the command line.

    Raises
    ------
    InputError
    """
    if not least <= value <= most:
        raise InputError(f"{option} {value:g}: must be from {least:g} to {most:g}")
