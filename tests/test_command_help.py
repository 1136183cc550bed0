"""Help of the command: readable in 80 columns, options in groups, examples that are right; commands that docs show."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cocofold.__main__ import app
from cocofold.system.errors import InputError

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
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


def commands_of(page: Path) -> list[list[str]]:
    """Command lines of cocofold in the page's blocks of shell text, as words from the verb on."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.split(r"\n|&&|\|\|", block.replace("\\\n", " ")):
            words = shlex.split(line, comments=True)
            names = [place for place, word in enumerate(words) if re.fullmatch(r"(\S*/)?cocofold", word)]
            if names and len(words) > names[0] + 1 and words[names[0] + 1] in VERBS:
                end = next((at for at, word in enumerate(words) if word in (">", "|", ";", "&")), len(words))
                found.append([word for word in words[names[0] + 1 : end] if not word.startswith("$")])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_documents_are_understood(page: Path) -> None:
    for words in commands_of(page):
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"{page.name}: cocofold {' '.join(words)}: {error}") from error


def test_the_documents_show_commands() -> None:
    shown = {words[0] for page in PAGES for words in commands_of(page)}
    assert shown >= {"fit", "finetune", "relax", "report", "predict", "reconstruct"}
