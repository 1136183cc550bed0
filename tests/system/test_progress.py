"""Progress of long work: on a terminal with the time that is left, elsewhere nothing."""

from __future__ import annotations

import re

import pytest

from cocofold.system.progress import EtaEstimator, TrainingProgressBar, image_progress_bar, share_progress_bar

TIME_LEFT = r"-?-?:\d?\d?|\d+:\d\d:\d\d"


def shown(capsys: pytest.CaptureFixture) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def work() -> None:
    with TrainingProgressBar(100, 0) as bar:
        bar.step(0.25, 40)
    with image_progress_bar("comparing images") as images:
        images(30, 120)
    with share_progress_bar() as share:
        share("searching", 0.5)


def test_a_terminal_shows_steps_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    work()
    text = shown(capsys)
    for words in ("FRC 0.250", "step 40/100", "left", "comparing images", "30/120", "searching", "50%"):
        assert words in text, words
    assert len(re.findall(TIME_LEFT, text)) >= 3


def test_a_file_gets_no_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    work()
    assert shown(capsys).strip() == ""


def test_time_left_is_that_of_the_steps_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("cocofold.system.progress.time.monotonic", lambda: now[0])
    estimate = EtaEstimator(20, 100, 1)
    assert estimate.seconds_left(20) == 0
    now[0] = 30.0
    # 40 steps took 20 s, and 40 are left; with a second pass 100 more
    assert estimate.seconds_left(60) == pytest.approx(20)
    now[0] = 10.0
    twice = EtaEstimator(20, 100, 2)
    now[0] = 30.0
    assert twice.seconds_left(60) == pytest.approx(70)
