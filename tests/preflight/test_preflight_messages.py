"""What the check says: names of options and of columns that exist, and the contrast as it was stated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_options import named_options, options_of, texts_of

import cocofold.particles
import cocofold.preflight
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.preflight.check_inputs import CheckSettings, check
from cocofold.preflight.check_report import CheckReport, CheckVerdict
from cocofold.structure.model import Model

_PACKAGE = Path(cocofold.preflight.__file__).parent


@pytest.mark.parametrize("module", sorted(path.name for path in _PACKAGE.glob("*.py")))
def test_advice_names_options_of_its_command(module: str) -> None:
    for option, text in named_options(_PACKAGE / module):
        if "cocofold fit" in text:
            assert option in options_of("fit"), text
        else:
            # Fine-tuning checks with its own options.
            assert option in options_of("check"), text
            if option != "--count":
                assert option in options_of("finetune"), text


def test_advice_names_columns_that_are_written(particles: ParticleSet, tmp_path: Path) -> None:
    write_star(tmp_path / "particles.star", particles)
    # Flags that no image of a set has are not written.
    written = (tmp_path / "particles.star").read_text() + (
        Path(cocofold.particles.__file__).parent / "star_write.py"
    ).read_text()
    named = {
        label
        for path in _PACKAGE.glob("*.py")
        for text in texts_of(path)
        for label in re.findall(r"rln[A-Z][A-Za-z0-9]+", text)
    }
    assert {"rlnCtfDataArePhaseFlipped", "rlnImagePixelSize"} <= named
    assert {label for label in named if label not in written} == set()


@pytest.mark.parametrize(
    ("stated", "dark", "verdict", "line", "advice"),
    [
        ("white", True, "wrong", "protein looks dark", "--contrast dark; if protein is white after all"),
        ("dark", False, "wrong", "protein looks white", "--contrast white; if protein is dark after all"),
        ("auto", True, "agrees", "protein is dark", ""),
        ("dark", True, "agrees", "agrees with the model", ""),
    ],
)
def test_contrast_is_told_as_it_was_stated(
    particles: ParticleSet, truth: Model, stated: str, dark: bool, verdict: str, line: str, advice: str
) -> None:
    some = particles.subset(np.arange(20))
    found = _contrast(replace(some, contrast=-some.contrast) if dark else some, truth, stated)
    assert found.verdict == verdict
    assert found.line.startswith(line)
    assert (advice in found.advice) if advice else (found.advice == "")


def _contrast(particles: ParticleSet, model: Model, stated: str) -> CheckVerdict:
    return check(particles, model, CheckSettings(contrast=stated))["contrast"]


def test_causes_come_before_what_follows_from_them() -> None:
    verdicts = [
        CheckVerdict("contrast", "agrees", "agrees."),
        CheckVerdict("poses", "wrong", "look wrong."),
        CheckVerdict("shifts", "undecided", "undecided."),
        CheckVerdict("pixel size", "wrong", "looks wrong."),
    ]
    report = CheckReport(tuple(verdicts), {})
    assert report.contradictions == ["pixel size: looks wrong.", "poses: look wrong."]
    assert report.lines == [*report.contradictions, "contrast: agrees.", "shifts: undecided."]
    # Files keep the order of the questions
    assert [one["question"] for one in report.as_dict()["questions"]] == ["contrast", "poses", "shifts", "pixel size"]
