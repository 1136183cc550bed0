"""Mutants fit the code and name tests that are there, so that the list cannot become empty words."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutants import MUTANTS, ROOT, Mutant, mutate

DOUBLED = Mutant("a limit is doubled", "code.py", "LIMIT = 2.0", "LIMIT = 4.0", ())


def test_a_text_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("# Å\nLIMIT = 2.0  # errors\n", encoding="utf-8")
    assert mutate(DOUBLED, tmp_path) == "# Å\nLIMIT = 4.0  # errors\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [("LIMIT = 3.0\n", "0 times"), ("LIMIT = 2.0\nMOST_LIMIT = 2.0\n", "2 times"), (None, "is no file")],
)
def test_code_that_has_changed_is_said(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "code.py").write_text(content)
    with pytest.raises(LookupError, match=f"code.py.* {words}.*the code has changed.*'a limit is doubled'"):
        mutate(DOUBLED, tmp_path)


def test_mutants_change_something_and_have_names_of_their_own() -> None:
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.text != mutant.replacement for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_the_list_fits_the_code_and_the_tests(mutant: Mutant) -> None:
    """Each text stands once in its file, with the change the file is Python still, and the tests are there."""
    compile(mutate(mutant, ROOT), mutant.file, "exec")
    assert mutant.tests
    for named in mutant.tests:
        file, _, test = named.partition("::")
        content = (ROOT / file).read_text(encoding="utf-8")
        assert (f"def {test}(" if test else "def test_") in content, named
