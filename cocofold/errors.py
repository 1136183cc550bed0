"""The one exception for input that cannot be used."""


class InputError(Exception):
    """Input that cannot be used; its message says what was found, what is allowed and what to do.

    The command line prints the message and exits with status 2, without a traceback.
    """
