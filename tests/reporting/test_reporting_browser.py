"""The report in a real browser: it draws, its buttons work, and it asks nothing of the network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_browser, open_browser
from PIL import Image
from reports import give_plddt

from cocofold.reporting.run_report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def page(copy_of: Callable[..., Path]) -> Iterator[Page]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    run = copy_of()
    give_plddt(run)
    report = write_report(run).page
    with open_browser(program) as opened:
        opened.open(report)
        yield opened


def picture(page: Page, selector: str) -> np.ndarray:
    """Pixels of an element, (height, width, 3)."""
    with Image.open(io.BytesIO(page.picture(selector))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def inked(pixels: np.ndarray) -> float:
    """Share of pixels that are not white."""
    return float((pixels.min(-1) < 230).mean())


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels that are clearly of another colour."""
    return float((np.abs(before - after).max(-1) > 25).mean())


def test_report_draws_and_answers_and_stays_offline(page: Page) -> None:
    plots = page.evaluate("[...document.querySelectorAll('[data-plot]')].map((one) => one.dataset.plot)")
    assert {"correlation", "cycles", "chain-0", "orientations"} <= set(plots)
    for name in plots:
        assert inked(picture(page, f'[data-plot="{name}"] .main-svg')) > 0.003, name

    assert page.evaluate("document.querySelectorAll('#viewer canvas').length") == 1
    moved = picture(page, "#viewer")
    assert 0.02 < inked(moved) < 0.5
    colours = {}
    for name in ("chain", "plddt", "moved"):
        page.click(f'[data-colour="{name}"]')
        colours[name] = picture(page, "#viewer")
        pressed = page.evaluate("document.querySelector('[data-colour][aria-pressed=true]').dataset.colour")
        assert pressed == name
    assert changed(colours["chain"], colours["plddt"]) > 0.01
    assert changed(colours["plddt"], colours["moved"]) > 0.01
    assert changed(colours["moved"], moved) < 0.001
    assert "Å and more" in page.evaluate("document.getElementById('legend').textContent")

    page.click("#show-start")
    without_start = picture(page, "#viewer")
    assert changed(moved, without_start) > 0.003
    page.click("#show-start")
    assert changed(moved, picture(page, "#viewer")) < 0.001

    page.click("#show-density")
    with_density = picture(page, "#viewer")
    assert (np.abs(with_density - moved).max(-1) > 5).mean() > 0.02
    page.click("#show-density")
    assert changed(moved, picture(page, "#viewer")) < 0.001

    page.click("#show-atoms")
    assert changed(moved, picture(page, "#viewer")) > 0.01
    page.click("#show-atoms")

    page.evaluate(
        "(() => { const m = document.getElementById('morph'); m.value = 0; m.dispatchEvent(new Event('input')); })()"
    )
    assert changed(moved, picture(page, "#viewer")) > 0.002

    page.click('[data-copy="methods-text"]')
    page.wait_for("document.querySelector('[data-copy=\"methods-text\"]').textContent === 'copied'")

    sizes = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == 18
    assert min(sizes) >= 100
    assert page.complaints == []
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert len(outside) == 1
    assert outside[0].endswith("report.html")


def test_the_browser_notices_what_this_page_must_not_do(page: Page) -> None:
    """The test above could not fail if these were not seen."""
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => null)")
    page.evaluate("console.error('told')")
    page.evaluate("setTimeout(() => { throw new Error('thrown'); }, 0)")
    page.wait_for("new Promise((done) => setTimeout(() => done(true), 200))")
    said = " ".join(page.complaints)
    assert "told" in said
    assert "thrown" in said
    # The page's own policy forbids it before the network is asked.
    assert "Content Security Policy" in said
