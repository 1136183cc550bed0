"""Commands that the documents show, in blocks and in sentences: each verb, option, target and file is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import typer

from cocofold.__main__ import app

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "scipion-em-cocofold" / "scipion_cocofold"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GROUP = typer.main.get_command(app)
VERBS = GROUP.commands
PROGRAMS = ("cocofold", "make", "python", "scipion", "sh", "torchrun", "pip")
# A name in a sentence that stands for any verb, folder, ...
_STANDS_FOR = re.compile(r"[A-Z]+|\.\.\.|…|<.*>")
HAS_SCIPION = importlib.util.find_spec("scipion") is not None
# Files of Scipion that read the options of a mode
_INSTALLER = "install/install_plugin.py"
_SCIPIONS_OPTIONS = {
    "installp": _INSTALLER,
    "uninstallp": _INSTALLER,
    "installb": _INSTALLER,
    "template": "scripts/kickoff.py",
    "config": "scripts/config.py",
}
Words = list[str]


def program_of(word: str) -> str:
    """Name of a program without folder and version, as in ``~/cocofold/bin/pip``, ``python3`` or ``scipion3``."""
    return re.sub(r"3(\.\d+)?$", "", word.rpartition("/")[2])


def split(text: str) -> list[Words]:
    """Commands of shell text, each as its words from the program on; what is no command of ours is left out."""
    found = []
    whole = re.sub(r"<[^>\n]*>", "PLACE", text.replace("\\\n", " "))
    for line in re.split(r"\n|&&|\|\||[;|](?=\s)", re.sub(r"(^|\s)#.*", "", whole)):
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        start = next((at for at, word in enumerate(words) if program_of(word) in PROGRAMS), None)
        # Variables and other programs may stand before, but nothing that is text
        if start is None or not all("=" in word or word == "srun" for word in words[:start]):
            continue
        end = next((at for at, word in enumerate(words) if word in (">", "&")), len(words))
        kept = [word for word in words[start + 1 : end] if not word.startswith("$")]
        # Options of a usage line, in brackets
        kept = [
            word.strip("[]") if word.startswith("[") or word.count("]") > word.count("[") else word for word in kept
        ]
        found.append([program_of(words[start]), *kept])
    return found


def blocks_of(page: Path) -> list[Words]:
    """Commands of the page's blocks of shell text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    return [words for language, block in blocks if language in ("", "bash") for words in split(block)]


def spans_of(page: Path) -> list[Words]:
    """Commands in the page's sentences and tables."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"`([^`]+)`", text)]
    return [words for span in spans for words in split(span) if len(words) > 1]


def complain(words: Words, whole: bool) -> str:
    """What is wrong with a command, nothing if it is right; ``whole`` if it must have all that it needs."""
    program, *rest = words
    if program == "torchrun":
        rest, program = rest[rest.index("-m") :], "python"
    return globals()[f"of_{program}"](rest, whole) or ""


def of_cocofold(rest: Words, whole: bool) -> str | None:
    given = rest
    while given and given[0].startswith("--"):
        known = {name: option for option in GROUP.params for name in option.opts}
        if given[0] not in {*known, "--help"}:
            return f"no option {given[0]} before the verb"
        takes_value = given[0] in known and not known[given[0]].is_flag
        given = given[2 if takes_value else 1 :]
    if not given or _STANDS_FOR.fullmatch(given[0]):
        return None
    if given[0] not in VERBS:
        return f"no verb {given[0]}"
    if whole:
        try:
            VERBS[given[0]].make_context(given[0], given[1:])
        except Exception as error:
            return str(error) or repr(error)
    known = {name for one in VERBS[given[0]].params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in given[1:] if re.match(r"--[a-z]", word) and word not in known]
    return f"{given[0]} has no {', '.join(unknown)}" if unknown else None


def of_make(rest: Words, whole: bool) -> str | None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in rest:
        name, sets, _ = word.partition("=")
        if not re.search(rf"^{name}\s*[?:]?=" if sets else rf"^{re.escape(name)}:", text, re.MULTILINE):
            return f"the Makefile has no {name}"
    return None


def of_python(rest: Words, whole: bool) -> str | None:
    if rest[:1] != ["-m"]:
        return None
    module, *given = rest[1:]
    if module == "cocofold":
        return of_cocofold(given, whole)
    if _STANDS_FOR.fullmatch(module.rpartition(".")[2]):
        return None
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"no module {module}"
    if module == "pytest":
        gone = [word for word in given if "/" in word and not (ROOT / word).exists()]
        return f"no {', '.join(gone)}" if gone else None
    if module.split(".")[0] not in ("benchmarks", "scipion_cocofold"):
        return None
    source = Path(spec.origin).read_text(encoding="utf-8")
    unknown = [word for word in given if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source]
    return f"{module} has no {', '.join(unknown)}" if unknown else None


def of_pip(rest: Words, whole: bool) -> str | None:
    named = [re.fullmatch(r"(?:\.|scipion-em-cocofold)\[(.*)\].*", word) for word in rest]
    known = re.findall(r'"(\w+)": [A-Z]+\b', (ROOT / "setup.py").read_text(encoding="utf-8"))
    unknown = [extra for found in named if found for extra in found[1].split(",") if extra not in known]
    return f"no extra {', '.join(unknown)}" if unknown else None


def of_sh(rest: Words, whole: bool) -> str | None:
    return None if (ROOT / rest[0]).is_file() else f"no {rest[0]}"


def of_scipion(rest: Words, whole: bool) -> str | None:
    if not HAS_SCIPION:
        return None
    from scipion import constants

    named = [value for name, value in vars(constants).items() if name.startswith("MODE_")]
    modes = {mode for value in named for mode in ([value] if isinstance(value, str) else value)}
    mode, *given = rest
    if mode not in modes:
        return f"Scipion has no {mode}"
    if mode == "python":
        return of_python(given, whole)
    unknown = [word for word in given if word.startswith("-") and word not in options_of(_SCIPIONS_OPTIONS.get(mode))]
    if mode == "installb":
        unknown += [name for name in given if name not in packages_of_the_plugin()]
    if mode == "template":
        unknown += [name for name in given[:1] if name not in templates()]
    if mode == "tests":
        unknown += [name for name in given if importlib.util.find_spec(name) is None]
    return f"scipion {mode} has no {', '.join(unknown)}" if unknown else None


@lru_cache(None)
def options_of(path: str | None) -> frozenset[str]:
    """Options that a file of Scipion names; importing it would need a configured Scipion."""
    if path is None:
        return frozenset()
    folder = Path(str(importlib.util.find_spec("scipion").origin)).parent  # type: ignore[union-attr]
    return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z]\w*", (folder / path).read_text(encoding="utf-8")))


def packages_of_the_plugin() -> set[str]:
    """Names that the plugin's installer knows."""
    text = (PLUGIN / "constants.py").read_text(encoding="utf-8")
    lines = re.findall(r'^(?:COCOFOLD|COLABFOLD|WEIGHTS)\b.*?= "([^"]+)"', text, re.MULTILINE)
    assert len(lines) == 3
    return set(lines)


def templates() -> set[str]:
    """Names by which Scipion knows the plugin's templates."""
    return {"cocofold-" + path.name.partition(".")[0] for path in (PLUGIN / "templates").glob("*.json.template")}


def wrong_in(page: Path) -> Iterator[str]:
    for whole, commands in ((True, blocks_of(page)), (False, spans_of(page))):
        for words in commands:
            complaint = complain(words, whole)
            if complaint:
                yield f"{' '.join(words)}: {complaint}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_right(page: Path) -> None:
    assert list(wrong_in(page)) == []


def test_the_documents_show_commands() -> None:
    shown = [words for page in PAGES for words in (*blocks_of(page), *spans_of(page))]
    assert {words[0] for words in shown} == set(PROGRAMS)
    verbs = {words[1] for words in shown if words[0] == "cocofold"}
    assert verbs >= set(VERBS)
    assert {words[1] for words in shown if words[0] == "scipion"} >= {
        "installp",
        "uninstallp",
        "installb",
        "python",
        "tests",
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("cocofold finetune --particles p.star --modl m.cif --out RUN", "No such option"),
        ("cocofold fit --model m.cif --out PLACED", "Missing"),
        ("srun torchrun --nnodes=2 -m cocofold finetun --out RUN", "no verb finetun"),
        ("make tests", "the Makefile has no tests"),
        ("make torture HOUR=1", "the Makefile has no HOUR"),
        (".venv/bin/python -m benchmarks.steps", "no module benchmarks.steps"),
        ("python -m benchmarks.step --cases msp1", "benchmarks.step has no --cases"),
        ("python -m pytest tests/image", "no tests/image"),
        ("pip install '.[engin]'", "no extra engin"),
        ("sh benchmarks/gpus.sh", "no benchmarks/gpus.sh"),
        ("scipion3 installp -p scipion-em-cocofold --develop", "scipion installp has no --develop"),
        ("scipion3 installb cocofolds", "scipion installb has no cocofolds"),
        ("scipion3 instalp -p scipion-em-cocofold", "Scipion has no instalp"),
        ("scipion template cocofold-reliom --nogui", "scipion template has no cocofold-reliom"),
    ],
)
def test_what_is_wrong_is_found(line: str, complaint: str) -> None:
    (words,) = split(line)
    if words[0] == "scipion" and not HAS_SCIPION:
        pytest.skip("scipion-app is not installed (extra 'scipion')")
    assert complaint in complain(words, True)
