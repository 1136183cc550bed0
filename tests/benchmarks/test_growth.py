"""The model of growth: it finds the terms that times are made of, and counts steps, images and reading."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.growth import BOXES, TEN, Growth, Terms, fit, image_terms, network_terms
from benchmarks.step import CASES, Case

IMAGE, MODULE, READ = (1e-4, 6e-9, 9e-9), (0.05, 1e-3, 8e-7), (1e-4, 2e-8)


def seconds(factors: tuple[float, ...], terms: list[float]) -> float:
    return float(np.dot(factors, terms))


@pytest.fixture
def measured() -> dict:
    """Times that are such sums, but for those of MSP-1, which must not count."""
    atoms = [(n, box) for n in (1700, 6500, 20_700) for box in BOXES]
    cases = {f"{n} {box}": Case(n / Case.ATOMS_PER_RESIDUE, box, 1.073) for n, box in atoms}
    found = {
        "image": {name: {"seconds": seconds(IMAGE, image_terms(case)), "gb": 0.3} for name, case in cases.items()},
        "network": {
            str(n): {"seconds": seconds(MODULE, network_terms(n)), "gb": 0.2 + 1e-6 * n**2}
            for n in (214, 500, 1000, 2600)
        },
        "read": {str(box): {"seconds": seconds(READ, [1.0, box**2]), "gb": 0.3} for box in BOXES},
    }
    found["image"]["13397 288"] = {"seconds": 1e3, "gb": 1e3}
    found["network"]["1683"] = {"seconds": 1e3, "gb": 1e3}
    return found


def test_the_fit_finds_the_terms(measured: dict) -> None:
    growth, worst = fit(measured)
    assert growth.image.factors == pytest.approx(IMAGE, rel=1e-6)
    assert growth.network.factors == pytest.approx(MODULE, rel=1e-6)
    assert growth.network_gb.factors == pytest.approx((0.2, 0.0, 1e-6), rel=1e-6, abs=1e-9)
    assert max(worst.values()) < 1e-6


def test_a_measurement_off_the_terms_shows_in_the_error(measured: dict) -> None:
    measured["network"]["1000"]["seconds"] *= 2
    assert fit(measured)[1]["network"] > 0.2


def test_a_protocol_is_its_steps_images_and_reading(measured: dict) -> None:
    growth, case = fit(measured)[0], CASES["msp1"]
    module, image = seconds(MODULE, network_terms(1683)), seconds(IMAGE, image_terms(case))
    read = seconds(READ, [1.0, 288**2])
    assert growth.minutes(case, 3000) == pytest.approx((2 * 94 * module + 6000 * image + 3000 * read) / 60)
    # Of a million not all are kept: the others are read in each epoch.
    kept = growth.kept(case)
    assert 3000 < kept < 1_000_000
    expected = 2 * 31_250 * module + 2e6 * image + (1e6 + 1e6 - kept) * read
    assert growth.minutes(case, 1_000_000) == pytest.approx(expected / 60)
    assert growth.gigabytes(case, 1_000_000) == growth.gigabytes(case, kept)


def test_ten_sizes_rise_in_time_and_memory(measured: dict) -> None:
    growth = fit(measured)[0]
    cases = [Case(residues, box, 1.073) for residues, box in TEN]
    assert len(cases) == 10
    for values in ([growth.minutes(case, 3000) for case in cases], [growth.gigabytes(case, 3000) for case in cases]):
        assert values == sorted(values)


def test_terms_are_never_negative() -> None:
    fitted = Terms.fitted([[1.0, n] for n in (1.0, 2.0, 3.0)], [3.0, 2.0, 1.0])
    assert (fitted.factors >= 0).all()
    assert isinstance(Growth(fitted, fitted, fitted, fitted).kept(CASES["msp1"]), int)
