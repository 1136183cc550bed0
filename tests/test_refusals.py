"""All refusals of the engine: the options that they name exist, and each says what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer.main

from cocofold.__main__ import app

ENGINE = Path(__file__).parents[1] / "cocofold"
PLUGIN = Path(__file__).parents[1] / "scipion-em-cocofold" / "scipion_cocofold"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# Programs of others are run by these, with options of their own, which tests of alphafold/ look at.
OF_OTHERS = ("alphafold/", "commands/predict.py")
NAMED_OF_OTHERS = {"--combine"}  # relion_star_handler
# Options of ColabFold, OpenFold and pip that messages of these modules and of the plugin name; --save stands for
# OpenFold's --save_outputs, whose second word the pattern leaves out.
IN_MESSAGES_OF_OTHERS = {
    "--extra",
    "--model-type",
    "--msa",
    "--save",
    "--save-pair-representations",
    "--save-single-representations",
    "--zip",
}
# Where each message of an option says of which verb it is: a module of one verb names that verb's options only.
VERBS_OF_MODULES = {
    "finetuning/options.py": "finetune",
    "preflight/check_inputs.py": "check",
    "selection.py": "select",
    "simulation/simulation_settings.py": "simulate",
    "simulation/particle_simulation.py": "simulate",
    "relaxation/minimization.py": "relax",
}


def options_of_verbs() -> dict[str, set[str]]:
    """Options of each verb of the command, those that switch off too."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        for name, command in commands.items()
    }


OPTIONS = options_of_verbs()
BEFORE_THE_VERB = {option for one in typer.main.get_command(app).params for option in one.opts}
EVERY = set().union(*OPTIONS.values()) | BEFORE_THE_VERB | NAMED_OF_OTHERS | {"--help"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Modules of the engine by their paths."""
    for path in sorted(ENGINE.rglob("*.py")):
        yield str(path.relative_to(ENGINE)), ast.parse(path.read_text(encoding="utf-8"))


def words_of(node: ast.AST) -> str:
    """Words that stand in an expression, with a stand-in for each value that is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "VALUE" for one in node.values)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return "VALUE"


def test_every_option_that_is_named_exists() -> None:
    named = []
    for path, tree in sources():
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
                named += [(path, node.lineno, option) for option in OPTION.findall(node.value)]
    named = [one for one in named if not one[0].startswith(OF_OTHERS)]
    assert len({option for *_, option in named}) > 50
    wrong = [one for one in named if one[2] not in OPTIONS.get(VERBS_OF_MODULES.get(one[0], ""), EVERY)]
    assert not wrong, wrong


def raised(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and words of all refusals of a module, also of those whose words are put together before."""
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "id", "")
        if isinstance(node, ast.Call) and (name == "InputError" or name.startswith("require_")):
            yield node.lineno, " ".join(words_of(one) for one in node.args)


def test_every_package_that_refuses_is_looked_at() -> None:
    """Options that refusals name exist in every package, in those too that run programs of others."""
    packages: dict[str, int] = {}
    wrong = []
    for path, tree in sources():
        for line, words in raised(tree):
            package = path.split("/")[0]
            packages[package] = packages.get(package, 0) + 1
            known = OPTIONS.get(VERBS_OF_MODULES.get(path, ""), EVERY) | (
                IN_MESSAGES_OF_OTHERS if path.startswith(OF_OTHERS) else set()
            )
            wrong += [(path, line, option) for option in OPTION.findall(words) if option not in known]
    refusing = {
        path.relative_to(ENGINE).parts[0]
        for path in ENGINE.rglob("*.py")
        if "raise InputError" in path.read_text(encoding="utf-8")
    }
    assert packages.keys() >= refusing
    assert len(refusing) > 12
    assert not wrong, wrong


def test_options_that_the_plugin_names_exist() -> None:
    """The plugin runs verbs of the engine, and names their options and its own in messages and help."""
    named, own = [], set()
    # The first module installs the engine, by options of conda, curl and tar.
    for path in sorted(one for one in PLUGIN.rglob("*.py") if one != PLUGIN / "__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                own |= {one.value for one in node.args if isinstance(one, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named += [(path.name, node.lineno, option) for option in OPTION.findall(node.value)]
    assert len({option for *_, option in named}) > 30
    wrong = [one for one in named if one[2] not in EVERY | own | IN_MESSAGES_OF_OTHERS]
    assert not wrong, wrong


def test_every_refusal_says_what_to_do() -> None:
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError" and node.args:
                words = words_of(node.args[0])
                # What is put together elsewhere is looked at there.
                if words.replace("VALUE", "").strip(" :;"):
                    found.append((path, node.lineno, words))
    assert len(found) > 150
    # What was found comes first; a colon, semicolon or comma goes before what is allowed or to be done.
    silent = [one for one in found if not re.search(r"[;:,] \w|VALUE$", one[2])]
    assert not silent, silent
