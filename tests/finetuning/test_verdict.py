"""The verdict's three questions, two groups of images, and parts that no image shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from maps_of_models import imaged, is_lid, whole_model

from cocofold.finetuning.run_result import put_back
from cocofold.finetuning.verdict import Evidence, gather_evidence, judge, share_below_zero, verdict_text
from cocofold.likelihood.explained_signal import ExplainedShare, ExplainedSignal, PartOccupancy, PlacementScore
from cocofold.likelihood.set_aside import LocalFit
from cocofold.mapfit.unexplained_density import UnexplainedDensity
from cocofold.structure.model import Model


@pytest.fixture(scope="module")
def whole() -> Model:
    return whole_model()


def evidence_of(model: Model, share: float = 0.98, error: float = 0.01, z: float | None = None, **others) -> Evidence:
    rows = np.array_split(np.arange(len(model.residues)), 18)
    occupancies = others.pop("occupancies", {})
    parts = tuple(PartOccupancy(one, *occupancies.get(row, (1.0, 0.03))) for row, one in enumerate(rows))
    placement = None if z is None else PlacementScore(0.1 + 0.02 * z, 0.1, 0.02, 0.15)
    explained = ExplainedShare(share, error, np.ones(5))
    return Evidence(7.0, placement, explained, explained, parts, others.pop("prefer_start", None), **others)


def missing(mass: float, error: float) -> UnexplainedDensity:
    return UnexplainedDensity(np.zeros((2, 2, 2)), mass, error, mass, 0.0, ())


@pytest.mark.parametrize(
    ("better", "found", "verdict"),
    [
        ("supported", {}, "supported"),
        ("supported", {"share": 0.85}, "supported in part"),
        ("supported", {"share": 0.85, "error": 0.03}, "supported"),
        ("supported", {"share": 0.93, "missing": missing(0.2, 0.02)}, "supported in part"),
        ("supported", {"share": 0.93, "missing": missing(0.2, 0.06)}, "supported"),
        ("supported", {"occupancies": {3: (0.2, 0.05)}}, "supported in part"),
        ("supported", {"occupancies": {3: (0.6, 0.03)}}, "supported in part"),
        ("supported", {"occupancies": {3: (0.6, 0.06)}}, "supported"),
        ("supported", {"occupancies": {3: (1.7, 0.05)}}, "supported in part"),
        ("supported", {"occupancies": {3: (1.4, 0.05)}}, "supported"),
        ("supported", {"prefer_start": 0.4}, "mixed"),
        ("not supported", {"prefer_start": 0.4}, "mixed"),
        ("supported", {"share": 0.3, "z": 2.0}, "does not belong"),
        ("supported", {"share": 0.3, "z": 8.0}, "supported in part"),
        ("undecided", {"share": 0.3, "z": 2.0}, "does not belong"),
        ("not supported", {}, "nothing to change"),
        ("undecided", {}, "nothing to change"),
        ("not supported", {"share": 0.5, "z": 9.0}, "not supported"),
        ("undecided", {"occupancies": {3: (0.2, 0.05)}}, "undecided"),
    ],
)
def test_verdicts(whole: Model, better: str, found: dict, verdict: str) -> None:
    word, reasons = judge(better, evidence_of(whole, **found), whole)
    assert word == verdict
    assert bool(reasons) == (verdict not in ("supported",))
    assert all(reason.endswith(".") for reason in reasons)
    assert verdict_text(word, 50, 0.2, 0.3, 4).headline.endswith(".")


def test_with_nothing_held_out_the_last_cycle_is_given_also_of_a_mixed_set(whole: Model) -> None:
    assert judge("undecided", evidence_of(whole, prefer_start=0.4), whole, held_out=False)[0] == "undecided"


def test_without_evidence_the_first_question_stands_alone(whole: Model) -> None:
    for better in ("supported", "undecided", "not supported"):
        word, reasons = judge(better, None, whole)
        assert word == better
        assert "cannot be told" in reasons[0]


def test_a_second_fit_is_asked_for_where_parts_are_missing_or_in_no_image(whole: Model) -> None:
    lacking, one, half = missing(0.2, 0.02), {3: (0.1, 0.05)}, dict.fromkeys(range(9), (0.1, 0.05))
    found = {
        (): evidence_of(whole),
        ("missing",): evidence_of(whole, missing=lacking),
        ("surplus",): evidence_of(whole, occupancies=one),
        ("missing", "surplus"): evidence_of(whole, missing=lacking, occupancies=half),
    }
    for asks, evidence in found.items():
        assert (evidence.lacks_much, evidence.has_surplus) == ("missing" in asks, "surplus" in asks)
        assert evidence.asks_for_second_fit == bool(asks)
    assert found["surplus",].why_again == "12 residues are in no image"
    assert found["missing", "surplus"].why_again.endswith("by no atom and 108 residues are in no image")
    # All parts, and parts of what is mixed or of another protein
    for other in (
        evidence_of(whole, occupancies=dict.fromkeys(range(18), (0.1, 0.05))),
        evidence_of(whole, occupancies=half, prefer_start=0.4),
        evidence_of(whole, occupancies=half, z=1.0),
    ):
        assert not other.asks_for_second_fit


def test_parts_are_named(whole: Model) -> None:
    evidence = evidence_of(whole, occupancies={0: (0.1, 0.05), 1: (0.2, 0.05), 17: (0.6, 0.02)})
    _, reasons = judge("supported", evidence, whole)
    assert reasons[0] == "No image shows A 1-24."
    assert "A 204-214" in reasons[1]
    assert evidence.as_dict(whole)["unseen"] == ["A 1-24"]
    assert evidence.occupancies()[:12].tolist() == [0.1] * 12
    assert evidence.occupancies()[30:].tolist() == [1.0] * (len(whole.residues) - 30)


def test_a_stretch_that_is_not_its_density_is_named(whole: Model) -> None:
    """Also at a start, of which there is then something to change; not where no image shows it."""
    wrong = np.zeros(len(whole.residues), dtype=bool)
    wrong[[3, 4, 5, 6, 100, 101]] = True
    local = LocalFit(np.where(wrong, 0.6, 0.0), 0.05, wrong)
    evidence = evidence_of(whole, occupancies={0: (0.1, 0.05)}, local=local)
    word, reasons = judge("supported", evidence, whole)
    assert word == "supported in part"
    assert evidence.as_dict(whole)["misplaced"] == ["A 101-102"]
    assert reasons[1].startswith("The density at A 101-102 is not that of these residues")
    assert judge("not supported", evidence_of(whole, local=local), whole)[0] == "not supported"
    assert judge("not supported", evidence_of(whole), whole)[0] == "nothing to change"


def test_evidence_says_where_a_helix_is_out_of_register(whole: Model) -> None:
    moved = whole.positions.copy()
    helix = np.arange(166, 182)
    places = whole.atoms_named("CA")
    shift = whole.positions[places[helix + 4]] - whole.positions[places[helix]]
    atoms = np.isin(whole.residue_of_atom, helix)
    moved[atoms] += shift[whole.residue_of_atom[atoms] - helix[0]]
    found = gather_evidence(
        ExplainedSignal(imaged(whole, noise=0.01)), whole, whole.moved_to(moved), lambda: np.ones(30)
    )
    assert found is not None
    assert found.misplaced()[helix].mean() > 0.6
    assert judge("supported", found, whole)[0] == "supported in part"


def test_a_second_fit_needs_missing_mass(whole: Model) -> None:
    assert evidence_of(whole, share=0.8, missing=missing(0.2, 0.02)).asks_for_second_fit
    assert not evidence_of(whole, share=0.8, missing=missing(0.2, 0.06)).asks_for_second_fit
    assert not evidence_of(whole, share=0.8).asks_for_second_fit
    assert not evidence_of(whole, share=0.8, missing=missing(0.2, 0.02), prefer_start=0.3).asks_for_second_fit
    assert not evidence_of(whole, share=0.2, z=1.0, missing=missing(0.6, 0.02)).asks_for_second_fit


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_two_groups_of_images_are_told_apart(share: float) -> None:
    random = np.random.default_rng(0)
    below = round(600 * share)
    gains = np.r_[random.normal(-0.04, 0.015, below), random.normal(0.055, 0.02, 600 - below)]
    assert share_below_zero(random.permutation(gains)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_one_group_is_one_however_noisy_or_skewed(seed: int) -> None:
    random = np.random.default_rng(seed)
    for gains in (
        random.normal(0.12, 0.03, 600),
        random.normal(0.01, 0.05, 600),
        random.gamma(2, 0.05, 600) - 0.03,
        # Images that show nothing beside those that prefer the answer
        np.r_[random.normal(0.1, 0.03, 500), random.normal(0, 0.01, 100)],
        random.normal(0.1, 0.03, 10),
        np.zeros(100),
    ):
        assert share_below_zero(gains) is None


def test_evidence_counts_seen_parts_only(whole: Model) -> None:
    """A second copy far away is no part of what explains the images."""
    lid = is_lid(whole)
    moved = whole.positions.copy()
    moved[lid[whole.residue_of_atom]] += [0.0, 30.0, 0.0]
    away = whole.moved_to(moved)
    signal = ExplainedSignal(imaged(whole.only(~lid), noise=0.002))
    found = gather_evidence(signal, whole, away, lambda: np.ones(30))
    assert found is not None
    assert lid[found.unseen()].all()
    assert found.unseen()[lid].mean() > 0.8
    assert found.answer.share == pytest.approx(1, abs=0.05)
    assert found.answer.share > signal.explained(away).share + 0.1
    assert gather_evidence(ExplainedSignal(imaged(whole, noise=2.0)), whole, whole, lambda: np.ones(30)) is None


def test_unseen_parts_are_put_back_beside_what_moved(whole: Model) -> None:
    """The end of a chain goes with the residues before it, at the geometry of the start; the rest stays."""
    unseen = np.zeros(len(whole.residues), dtype=bool)
    unseen[-30:] = True
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = whole.positions @ turn.T + [5.0, 0.0, 2.0]
    atoms = unseen[whole.residue_of_atom]
    torn = moved.copy()
    torn[atoms] += np.random.default_rng(0).normal(0, 5, (atoms.sum(), 3))
    occupancies = np.where(unseen, 0.12, 1.0)
    found = put_back(whole, whole.moved_to(torn), unseen, occupancies)
    np.testing.assert_allclose(found.positions, moved, atol=1e-6)
    written = [atom.occ for chain in found.structure[0] for residue in chain for atom in residue]
    assert set(np.array(written)[atoms]) == {np.float32(0.12)} or np.allclose(np.array(written)[atoms], 0.12)
    assert np.allclose(np.array(written)[~atoms], 1)


def test_an_unseen_loop_stays_between_its_ends(whole: Model) -> None:
    unseen = np.zeros(len(whole.residues), dtype=bool)
    unseen[50:70] = True
    moved = whole.moved_to(whole.positions + 3.0)
    assert np.array_equal(put_back(whole, moved, unseen, np.ones(len(unseen))).positions, moved.positions)


def test_an_unseen_chain_goes_with_its_neighbours(whole: Model) -> None:
    """Of two chains the second is not seen and was torn; the first moved rigidly."""
    structure = whole.structure.clone()
    second = structure[0][0].clone()
    second.name = "B"
    structure[0].add_chain(second)
    both = Model.of(structure)
    start = both.moved_to(np.r_[whole.positions, whole.positions + np.array([0.0, 45.0, 0.0])])
    unseen = np.array([key.chain == "B" for key in both.residues])
    shift = np.array([1.0, -2.0, 3.0])
    answer = start.positions + shift
    answer[len(whole) :] += np.random.default_rng(0).normal(0, 8, (len(whole), 3))
    found = put_back(start, replace(start, positions=answer), unseen, np.where(unseen, 0.0, 1.0))
    np.testing.assert_allclose(found.positions, start.positions + shift, atol=1e-5)
