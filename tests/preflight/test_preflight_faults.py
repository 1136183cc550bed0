"""Faults that are planted in particles are found, and nothing is where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from preflight_sets import simulated
from scipy.spatial.transform import Rotation

from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.poses import matrices_from_relion, relion_from_matrices
from cocofold.preflight.check_inputs import check
from cocofold.preflight.check_report import CheckReport
from cocofold.preflight.judging import HypothesisComparer, MeanWithError, looks_dark_at_low_resolution
from cocofold.preflight.scoring import Hypothesis, HypothesisScorer
from cocofold.structure.model import Model

pytestmark = pytest.mark.slow

Plant = Callable[[ParticleSet], ParticleSet]


def _wrong(report: CheckReport) -> set[str]:
    return {verdict.question for verdict in report.verdicts if verdict.verdict == "wrong"}


def _as_angles(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Change poses as RELION's angles."""

    def plant(particles: ParticleSet) -> ParticleSet:
        angles = change(relion_from_matrices(particles.rotations).T)
        return replace(particles, rotations=matrices_from_relion(*angles))

    return plant


def _of_optics(**changed: float) -> Plant:
    return lambda some: replace(some, optics=(replace(some.optics[0], **changed),))  # type: ignore[arg-type]


def _defoci(factor: float) -> Plant:
    return lambda some: replace(
        some,
        defocus_u_angstrom=factor * some.defocus_u_angstrom,
        defocus_v_angstrom=factor * some.defocus_v_angstrom,
    )


FAULTS: dict[str, tuple[Plant, set[str], str]] = {
    "dark": (lambda some: replace(some, contrast=-some.contrast), {"contrast"}, "--contrast dark"),
    "transposed": (_as_angles(lambda a: -a[::-1]), {"poses"}, "inverse"),
    # As angles these are RELION's poses of maps mirrored along z and along x.
    "mirrored along z": (_as_angles(lambda a: np.stack([a[0] + 180, a[1], a[2] + 180])), {"hand"}, "cocofold fit"),
    "mirrored along x": (_as_angles(lambda a: np.stack([-a[0], 180 - a[1], a[2]])), {"hand"}, "cocofold fit"),
    "shifts": (lambda some: replace(some, origins_angstrom=-some.origins_angstrom), {"shifts"}, "negate"),
    "defocus": (_defoci(-1), {"CTF"}, "underfocus is positive"),
    "flipped": (_of_optics(phase_flipped=True), {"CTF"}, "rlnCtfDataArePhaseFlipped"),
    "pixel": (_of_optics(pixel_size_angstrom=3.09), {"pixel size"}, "rlnImagePixelSize"),
    "double pixel": (_of_optics(pixel_size_angstrom=6.0), {"pixel size"}, "rlnImagePixelSize"),
    "dark, shifts": (
        lambda some: replace(some, contrast=-some.contrast, origins_angstrom=-some.origins_angstrom),
        {"contrast", "shifts"},
        "invert",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found_and_no_others(name: str, particles: ParticleSet, truth: Model) -> None:
    plant, wrong, remedy = FAULTS[name]
    report = check(plant(particles), truth)
    assert _wrong(report) == wrong
    assert remedy in " ".join(report.contradictions)
    if "pixel size" in wrong:
        assert report["pixel size"].figures["pixel_size_found_angstrom"] == pytest.approx(3.0, rel=0.005)


def test_wiped_defoci_are_found_and_how_they_were(particles: ParticleSet, truth: Model) -> None:
    report = check(_defoci(0.0)(particles), truth)
    assert _wrong(report) == {"CTF"}
    low, middle, high = report["CTF"].figures["defocus_shown_angstrom"]
    assert low < middle < high
    assert middle == pytest.approx(np.median(particles.defocus_u_angstrom), rel=0.15)


def test_a_correct_set_agrees(particles: ParticleSet, truth: Model) -> None:
    report = check(particles, truth)
    assert {verdict.verdict for verdict in report.verdicts} == {"agrees"}


def test_another_conformation_is_no_contradiction(particles: ParticleSet, closed: Model) -> None:
    assert check(particles, closed).contradictions == []


def test_a_misplaced_model_contradicts_nothing_but_its_place(particles: ParticleSet, truth: Model) -> None:
    turn = Rotation.from_rotvec(np.deg2rad(137) * np.array([0.36, -0.48, 0.8])).as_matrix()
    centre = truth.positions.mean(0)
    moved = truth.moved_to((truth.positions - centre) @ turn.T + centre + np.array([6.0, -4.5, 3.0]))
    report = check(particles, moved)
    assert [line.partition(":")[0] for line in report.contradictions] == ["identity"]
    assert "its place is wrong" in report.contradictions[0]
    assert report["hand"].verdict == "undecided"
    assert not report.facts["model_explains_fine_rings"]


def test_a_model_beside_the_particle_does_not_make_it_dark(particles: ParticleSet, truth: Model) -> None:
    """There images are darker than on average, for the CTF surrounds what is white with a dark fringe."""
    beside = HypothesisComparer(
        HypothesisScorer.read(particles, truth.moved_to(truth.positions - np.array([0, 40, 0])), 7.0)
    )
    assert MeanWithError.of(beside.scores(Hypothesis()).coarse).z_score < -3
    assert not looks_dark_at_low_resolution(beside, Hypothesis(), 3.0)
    dark = HypothesisComparer(HypothesisScorer.read(replace(particles, contrast=-particles.contrast), truth, 7.0))
    assert looks_dark_at_low_resolution(dark, Hypothesis())


def test_noise_is_undecided(truth: Model, tmp_path: Path) -> None:
    noise = read_particles(simulated(tmp_path / "noise", snr=1e-9).star)
    report = check(noise, truth)
    assert {verdict.verdict for verdict in report.verdicts} == {"undecided"}
    assert "nothing of the model" in report["poses"].line
