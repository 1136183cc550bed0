"""Pictures of the documents: what needs neither a browser nor an X server."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from benchmarks import windows

DOCS = windows.ROOT / "docs"
# Bytes
_LARGEST = 150_000


def test_without_xvfb_one_line_says_so_and_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    windows.take_windows(tmp_path / "demo")
    assert capsys.readouterr().out.splitlines() == [
        "no Xvfb, or no Scipion: pictures of Scipion's windows are not taken"
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_x_server_that_does_not_start_is_told(tmp_path, monkeypatch):
    (tmp_path / "Xvfb").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "Xvfb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="Xvfb did not start"), windows.x_server():
        pass


def test_plots_of_a_viewer_lie_below_each_other():
    red, blue = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 3), "blue")
    whole = windows.below_each_other([red, blue])
    assert whole.size == (4, 5)
    colours = [whole.getpixel(place) for place in ((1, 0), (1, 4), (0, 2))]
    assert colours == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]


def test_pictures_are_saved_with_a_palette(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "PICTURES", tmp_path)
    windows.save_small(Image.new("RGBA", (3, 3), "green"), "one.png")
    with Image.open(tmp_path / "one.png") as saved:
        assert (saved.mode, saved.convert("RGB").getpixel((1, 1))) == ("P", (0, 128, 0))


def test_pages_show_all_pictures_of_windows_and_these_are_small():
    pages = [page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")]
    shown = set(re.findall(r"pictures/(scipion_\w+\.png)", "\n".join(pages)))
    there = {path.name for path in windows.PICTURES.glob("scipion_*.png")}
    assert shown == there
    assert all((windows.PICTURES / name).stat().st_size <= _LARGEST for name in there)
