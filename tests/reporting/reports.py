"""Reports as tests read them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from cocofold.reporting.run_contents import read_run
from cocofold.structure.modelcif import write_model

COUNT = 30


class Page(HTMLParser):
    """A report as a browser's parser sees it: elements with their attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open[-1:]):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    @property
    def text(self) -> str:
        """All that is read on the page."""
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, name: str) -> Any:
        """What a script element holds as JSON."""
        found = re.search(f'<script type="application/json" id="{name}">(.*?)</script>', self.source, re.DOTALL)
        assert found is not None
        return json.loads(found[1])

    def figure(self, name: str) -> str:
        """A number shown at the top of the page."""
        found = re.search(f'data-figure="{name}">([^<]*)<', self.source)
        assert found is not None
        return found[1]


def give_plddt(run: Path) -> np.ndarray:
    """Make the answer one that states pLDDT, as runs on predictions do."""
    found = read_run(run)
    plddt = np.linspace(20, 95, len(found.answer.residues)).round(2)
    write_model(run / "model.cif", found.answer, found.amplitudes, found.widths_angstrom, "told", plddt)
    return plddt
