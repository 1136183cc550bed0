"""The Python API: loaded when it is used, paths of either kind, errors that name arguments, docs/python.md executed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import cocofold
from cocofold.commands.demo import closed_state, open_state

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"


def test_names_are_those_of_the_documents() -> None:
    assert set(cocofold.API) <= set(dir(cocofold))
    in_table = re.findall(r"^\| `(\w+)\(", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted([*in_table, "InputError"]) == sorted(cocofold.API)
    assert all(callable(getattr(cocofold, name)) for name in cocofold.API)
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        cocofold.fine_tune  # noqa: B018


def test_paths_may_be_text() -> None:
    by_text, by_path = cocofold.read_model(str(open_state())), cocofold.read_model(open_state())
    assert (by_text.positions == by_path.positions).all()
    # Of the same state, since to superpose another one takes seconds
    assert cocofold.assess(str(open_state()), by_path).ca_rmsd == pytest.approx(0, abs=1e-6)
    assert cocofold.assess(by_path, open_state()).matched_residues == 214


def test_errors_name_arguments(tmp_path: Path) -> None:
    """As Python has them, not as the command line has them."""
    with pytest.raises(cocofold.InputError, match=r"count 3: must be from 10") as error:
        cocofold.check(tmp_path / "none.star", open_state(), count=3)
    assert "--" not in str(error.value)
    with pytest.raises(cocofold.InputError, match=r"max_particles -1") as error:
        cocofold.finetune(tmp_path / "none.star", closed_state(), tmp_path / "run", max_particles=-1)
    assert "--" not in str(error.value)
    with pytest.raises(TypeError, match="unknown argument max_particle; known are"):
        cocofold.finetune(tmp_path / "none.star", closed_state(), tmp_path / "run", max_particle=1)
    with pytest.raises(cocofold.InputError, match=r"none\.star: no such file"):
        cocofold.read_particles(tmp_path / "none.star")


@pytest.mark.slow
def test_the_examples_of_the_document_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    """In an empty folder; what the run tells is logged, and only what the examples print is printed."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    with caplog.at_level(logging.INFO, logger="cocofold"):
        for block in blocks:
            exec(compile(block, str(DOCUMENT), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^supported 0\.\d+ 0\.\d+$", printed, flags=re.MULTILINE)
    assert re.search(r"verdict: supported\b", caplog.text)
    assert "cycle" in caplog.text
    assert "cycle" not in printed
