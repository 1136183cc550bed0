"""Options of the commands, and those that the texts of a module name."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import typer

from cocofold.__main__ import app as program


@lru_cache(None)
def options_of(command: str) -> frozenset[str]:
    """All options of a command, such as ``--map``."""
    app = typer.Typer()
    app.command()(next(one.callback for one in program.registered_commands if one.callback.__name__ == command))
    return frozenset(name for param in typer.main.get_command(app).params for name in param.opts)


def texts_of(path: Path) -> list[str]:
    """The strings of a module but for docstrings, those of an f-string as one."""
    tree = ast.parse(path.read_text())
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            texts.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            texts.append(node.value)
    return texts


def named_options(path: Path) -> list[tuple[str, str]]:
    """Options that texts of a module name, each with the text."""
    return [(option, text) for text in texts_of(path) for option in re.findall(r"--[a-z][a-z0-9-]*", text)]
