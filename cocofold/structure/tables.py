"""Categories of mmCIF as tables of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Dict, List

import gemmi

# Categories of a file: lists of values by category and item, where False stands for "." and None for "?".
Categories = Dict[str, Dict[str, List]]


def add_table(block: gemmi.cif.Block, category: str, items: str, rows: Iterable[Sequence[object]]) -> None:
    """Add a category, or none if there are no rows; ``items`` are their names with spaces between.

    None stands for what is unknown, an empty string for what does not apply.
    """
    values = [[_text(value) for value in row] for row in rows]
    if not values:
        return
    loop = block.init_mmcif_loop(category, items.split())
    for row in values:
        loop.add_row(row)


def _text(value: object) -> str:
    if value is None:
        return "?"
    return gemmi.cif.quote(str(value)) if str(value) else "."


def rows_by(categories: Categories, category: str, key: str) -> dict[str, dict[str, str]]:
    """Rows of a category by one of its items, without the values that are unknown or do not apply."""
    items = categories.get(category, {})
    rows = (dict(zip(items, values)) for values in zip(*items.values()))
    return {row[key]: {name: value for name, value in row.items() if value} for row in rows if row.get(key)}
