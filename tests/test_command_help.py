"""Help of the command: readable in 80 columns, options in groups, examples that are right."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cocofold.__main__ import app
from cocofold.commands import own_command
from cocofold.system.errors import InputError

GROUP = typer.main.get_command(app)
VERBS = sorted(GROUP.commands)


def help_of(verb: str) -> str:
    return CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "80"}).output


def parse(words: list[str]) -> None:
    """Parse a command line as the command does, without running it."""
    GROUP.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_readable_in_80_columns(verb: str) -> None:
    text = help_of(verb)
    assert max(map(len, text.splitlines())) <= 80
    shown = re.findall(r"(--[a-z0-9-]+)", text)
    named = {name for one in GROUP.commands[verb].params for name in one.opts if name.startswith("--")}
    # None is cut
    assert named <= set(shown)
    assert "--threads" in named or verb == "move"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "move"])
def test_options_are_in_groups_and_the_example_is_right(verb: str) -> None:
    text = help_of(verb)
    assert len(re.findall(r"^╭─ ", text, re.MULTILINE)) >= 2
    example = " ".join(text.split("Example: ")[1].split())
    assert example.startswith(f"cocofold {verb}")
    parse(shlex.split(example)[1:])


def test_threads_are_those_that_libraries_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    there = tmp_path / "there.star"
    there.touch()
    refused = ["select", "--particles", "a.star", "--count", "20", "--by", "random", "--out", str(there), "--threads"]
    found = CliRunner().invoke(app, [*refused, "3", "--oversubscribe"])
    assert isinstance(found.exception, InputError)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "--threads 0: must be from 1" in str(CliRunner().invoke(app, [*refused, "0"]).exception)


@pytest.mark.parametrize(
    ("called", "in_path", "named"),
    [
        (".venv/bin/cocofold", False, ".venv/bin/cocofold"),
        ("/a folder/bin/cocofold", False, "'/a folder/bin/cocofold'"),
        ("./cocofold", False, "./cocofold"),
        ("/bin/cocofold", True, "cocofold"),
        ("/lib/cocofold/__main__.py", False, "cocofold"),
    ],
)
def test_the_next_command_is_named_so_that_it_can_be_called(
    called: str, in_path: bool, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_path:
        (tmp_path / "cocofold").write_text("#!/bin/sh\n")
        (tmp_path / "cocofold").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [called, "finetune"])
    assert own_command() == named
