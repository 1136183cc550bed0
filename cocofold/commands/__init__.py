"""Verbs of the ``cocofold`` command: options, help, calls, files written. Here is what all verbs share."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, get_type_hints

import typer
from typer.models import OptionInfo

from cocofold.system.errors import InputError, escape_unprintable
from cocofold.system.hardware import OVERSUBSCRIBE_HELP, OVERSUBSCRIBE_OPTION, require_threads

# Groups of options in the help, by names of parameters; what is in none of them is what the verb does
_GROUPS = {
    "Input": (
        "particles particles_dir passthrough model prediction map_file map_pixel_size mask half1 half2 pixel_size "
        "reference start colabfold openfold fasta weights relaxed contrast b_factors"
    ),
    "Output": "out json_file picture plot title half_maps",
    "Optics": "defocus astigmatism voltage cs amplitude_contrast phase_shift",
    "What disturbs images": ("life_like pose_noise shift_noise defocus_noise bfactor ice solvent belt neighbours junk"),
    "Computation": "device seed threads oversubscribe",
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names.split()}
_THREADS_HELP = "Number of processor threads; by default that of the cores, or OMP_NUM_THREADS. The result is the same."


_SHARED = ("threads", "oversubscribe")


def verb(command: Callable[..., None], examples: str = "") -> dict[str, Any]:
    """Arguments of typer's ``command`` for a verb: help that wraps at any width, and examples below it."""
    whole = inspect.cleandoc(command.__doc__ or "")
    paragraphs = [re.sub(r"\s*\n\s*", " ", one) for one in whole.split("\n\n")]
    return {"help": "\n\n".join(paragraphs), "epilog": examples and f"Example: {examples}"}


def _flag_of(parameter: inspect.Parameter) -> str:
    """What the user calls a parameter: its first option, or its name."""
    declared = getattr(parameter.default, "param_decls", None) or ()
    return str(next(iter(declared), "--" + parameter.name.replace("_", "-")))


def echo(*lines: str) -> None:
    """Print lines of a verb; names in them send nothing to a terminal but letters, and end no line."""
    for line in lines:
        typer.echo(escape_unprintable(line))


def own_command() -> str:
    """The command, for lines that name the next one: by its path, as a shell reads it, where no PATH leads to it."""
    called = sys.argv[0]  # as text: a path would lose the "./" without which a shell looks elsewhere
    return "cocofold" if Path(called).name != "cocofold" or shutil.which("cocofold") else shlex.quote(called)


# Parameters that name files which a verb writes, and endings of data that no figures are written over
_WRITTEN = ("out", "json_file", "picture", "plot")
_DATA_ENDINGS = (
    *(".mrc", ".mrcs", ".map", ".ccp4", ".star", ".cs", ".npz", ".pkl"),
    *(".cif", ".mmcif", ".pdb", ".ent", ".safetensors", ".fasta"),
)


def _refuse_lost_files(given: dict[str, Any], flags: dict[str, str]) -> None:
    """Refuse to write a file over one that is read, over another that is written, or figures over data.

    Parameters
    ----------
    given : dict
        Values by the names of a verb's parameters.
    flags : dict
        What the user calls them.

    Raises
    ------
    InputError
    """
    files = [
        (name, path)
        for name, value in given.items()
        for path in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(path, Path)
    ]
    for row, (name, path) in enumerate(files):
        if name not in _WRITTEN:
            continue
        if name == "json_file" and path.is_file() and path.suffix.lower() in _DATA_ENDINGS:
            raise InputError(f"{flags[name]} {path}: is there already, and no JSON by its name; give another file")
        for other, taken in files[:row] + files[row + 1 :]:
            if os.path.realpath(taken) == os.path.realpath(path):
                raise InputError(
                    f"{flags[name]} {path}: {flags[other]} names this file too, which would be lost; give another file"
                )


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb ``--threads`` and ``--oversubscribe``, unless it has them, and its options groups in the help."""
    signature, types = inspect.signature(command), get_type_hints(command, include_extras=True)
    parameters = [one.replace(annotation=types.get(one.name, one.annotation)) for one in signature.parameters.values()]
    own, kind = {one.name for one in parameters}, inspect.Parameter.KEYWORD_ONLY
    if "threads" not in own:
        option = typer.Option(None, help=_THREADS_HELP)
        parameters.append(inspect.Parameter("threads", kind, default=option, annotation=Optional[int]))
    if "oversubscribe" not in own:
        option = typer.Option(False, OVERSUBSCRIBE_OPTION, help=OVERSUBSCRIBE_HELP)
        parameters.append(inspect.Parameter("oversubscribe", kind, default=option, annotation=bool))
    # The options of a run have groups of their own
    is_run = any(getattr(one.default, "rich_help_panel", None) == "Run" for one in parameters)
    for one in parameters:
        if isinstance(one.default, OptionInfo) and one.default.rich_help_panel is None:
            one.default.rich_help_panel = "Run" if is_run else _GROUP_OF.get(one.name)

    flags = {one.name: _flag_of(one) for one in parameters}

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        threads, more = named.get("threads"), named.get("oversubscribe", False)
        named = {name: value for name, value in named.items() if name in own or name not in _SHARED}
        if threads is not None:
            require_threads(threads, more)
            # Libraries read it when they are imported, which the verbs do when they run
            os.environ["OMP_NUM_THREADS"] = str(threads)
        _refuse_lost_files(named, flags)
        command(*given, **named)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
