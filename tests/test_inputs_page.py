"""What docs/inputs.md says of files is what tests show."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest
from inputs_table import PAGE, TABLES, names_of_tables, with_tables

TESTS = Path(__file__).parent
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]


@lru_cache(None)
def parts_of(path: Path) -> tuple[frozenset[str], frozenset[object]]:
    """Names of the functions of a file of tests, and what stands in it as constants."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    functions = frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))
    return functions, frozenset(node.value for node in nodes if isinstance(node, ast.Constant))


def test_the_page_has_these_tables_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python tests/inputs_table.py"
    assert names_of_tables(page) == list(TABLES)
    assert page.count("\n| ---") == len(TABLES)


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{name}: {row.cells[0][:40]}" for name, row in ROWS])
def test_each_row_has_tests(table: str, row: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    cells, tests = row
    assert len(cells) == len(TABLES[table].headings)
    assert tests
    for test in tests:
        found = re.fullmatch(r"([\w/]+\.py)::(test_\w+)(?:\[(.+)\])?", test)
        assert found is not None, test
        file, function, case = found.groups()
        functions, constants = parts_of(TESTS / file)
        assert function in functions, test
        assert case is None or case in constants, test
