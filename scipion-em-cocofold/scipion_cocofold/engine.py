"""The engine's command line and messages, short calls that are no job of a protocol, and files that appear whole."""

import os
import shlex
import subprocess
from contextlib import contextmanager

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.utils import cleanPath

from .constants import MESSAGE_START

# Lines of the log that are shown where the engine ended without a message of its own; more would not fit the window
_LOG_LINES_SHOWN = 5


def commandWords(options):
    """Return the words of a command line, quoted where needed, for options by name.

    None, "" and False leave an option out, True gives it without a value, and a list or tuple gives it several.
    """
    words = []
    for option, value in options.items():
        if value is True:
            words.append(option)
        elif isinstance(value, (list, tuple)):
            words += [option, *map(str, value)]
        elif value is not None and value is not False and value != "":
            words += [option, str(value)]
    return " ".join(map(shlex.quote, words))


def printable(text):
    """Return a text that sends nothing to a terminal but letters and ends of lines; others are written as by repr."""
    shown = (letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    return "".join(shown)


def lastMessage(text):
    """Return the engine's last message to the user in a text, or the text's last lines if there is none."""
    written = [printable(line.strip()) for line in text.splitlines() if line.strip()]
    messages = [line.partition(MESSAGE_START)[2] for line in written if line.startswith(MESSAGE_START)]
    return messages[-1] if messages else "\n".join(written[-_LOG_LINES_SHOWN:])


def callEngine(verb, options):
    """Run a verb of the engine that takes a second, outside of a protocol's jobs.

    Raises
    ------
    PyworkflowException
        If the engine fails, with its message.
    """
    from scipion_cocofold import Plugin

    command = f"{Plugin.getProgram(verb)} {commandWords(options)}"
    environ = Plugin.getEnviron()
    environ["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, shell=True, env=environ, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        message = lastMessage(done.stderr) or f"The engine ended with status {int(done.returncode)}."
        raise PyworkflowException(message)


@contextmanager
def wholeFile(path):
    """Open a text file for writing that appears whole or not at all."""
    partial = path + ".part"
    try:
        with open(partial, "w", encoding="utf-8") as written:
            yield written
        os.replace(partial, path)
    finally:
        cleanPath(partial)
