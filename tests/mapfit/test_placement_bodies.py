"""Selections of bodies, and placement.json."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.mapfit.bodies import apply_placement, format_selection, parse_bodies, select_residues, selection_of_all
from cocofold.mapfit.map_files import PlacedBody, Placement
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError


@pytest.fixture(scope="module")
def tcr(shared_data: Path) -> Model:
    """Five chains."""
    return read_model(shared_data / "tcr" / "truth.cif")


def test_chains_and_ranges(tcr: Model) -> None:
    assert selection_of_all(tcr) == "A,B,C,D,E"
    assert parse_bodies(tcr, "A, B,C ;D,E") == ["A,B,C", "D,E"]
    assert parse_bodies(tcr, "auto") == ["A", "B", "C", "D", "E"]
    parts = parse_bodies(tcr, "A:-100-120,B;A:121-1000,C,D,E")
    chosen = np.array([select_residues(tcr, part) for part in parts])
    assert (chosen.sum(0) == 1).all()
    expected = [residue.chain == "B" or (residue.chain == "A" and residue.number <= 120) for residue in tcr.residues]
    assert np.array_equal(chosen[0], expected)


def test_any_selection_is_described_so_that_it_is_found_again(kinase: Model) -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.95):
        chosen = rng.uniform(size=len(kinase.residues)) < share
        assert np.array_equal(select_residues(kinase, format_selection(kinase, chosen)), chosen)


def test_what_is_no_protein_follows_the_nearest_body(kinase: Model) -> None:
    # Two calcium ions at the two ends of the chain, in a chain of their own.
    structure = kinase.structure.clone()
    chain = structure[0][0].clone()
    chain.name = "I"
    ends = [chain[0].clone(), chain[len(chain) - 1].clone()]
    while len(chain):
        del chain[0]
    for number, residue in enumerate(ends, start=1):
        residue.name, residue.seqid.num = "CA", number
        while len(residue) > 1:
            del residue[1]
        chain.add_residue(residue)
    structure[0].add_chain(chain)
    model = Model.of(structure)
    name = kinase.residues[0].chain
    assert parse_bodies(model, f"{name}:1-100;{name}:101-214") == [f"{name}:1-100,I:1-1", f"{name}:101-214,I:2-2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A;Z", "no chain Z.*its chains are A"),
        ("A:1-100;A:90-214", "in two bodies, 'A:1-100' and 'A:90-214'"),
        ("A:1-100", "LEU|[A-Z]{3} 101 of chain A.*in no body"),
        ("A:1-100;A:500-600", "no residue in A:500-600; chain A goes from 1 to 214"),
        ("A:1-", "'A:1-' is neither; give chains .* or ranges"),
        ("A;", "'' is neither; give chains"),
    ],
)
def test_bodies_that_cannot_be(kinase: Model, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_bodies(kinase, text)


def _placement() -> Placement:
    turns = Rotation.from_rotvec([[0.1, 2, 0.4], [0, 0, -1.0]]).as_matrix()
    shifts = np.array([[1.5, -30, 7], [0, 2, 90.0]])
    bodies = (PlacedBody("A:1-100", turns[0], shifts[0], 0.8, 0.3), PlacedBody("A:101-214", turns[1], shifts[1], 0.7))
    scores = {"as-is": 0.3, "mirrored": 0.8, "verdict": "mirrored"}
    return Placement("mirrored", scores, bodies, {"resolution_angstrom": 5.0})


def test_a_placement_is_read_as_it_was_written_and_moves_each_body(kinase: Model, tmp_path: Path) -> None:
    written = _placement()
    written.write(tmp_path / "placement.json")
    content = json.loads((tmp_path / "placement.json").read_text())
    assert content["mirror_axis"] == "z"
    found = Placement.read(tmp_path / "placement.json")
    assert found.hand_scores == written.hand_scores
    assert found.facts == written.facts
    moved = apply_placement(kinase, found)
    for body, stated in zip(written.bodies, content["bodies"]):
        atoms = select_residues(kinase, stated["selection"])[kinase.residue_of_atom]
        expected = [
            np.array(stated["rotation"]) @ position + stated["translation_angstrom"]
            for position in kinase.positions[atoms]
        ]
        assert np.allclose(moved.positions[atoms], expected)
        assert stated["runner_up"] == body.runner_up


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hand", "left", "must be 'as-is' or 'mirrored'"),
        ("mirror_axis", None, "must be 'z'"),
        ("bodies", [], "no bodies"),
        ("bodies", [{"selection": "A", "rotation": np.diag([1, 1, -1]).tolist()}], "no rotation matrix"),
        ("bodies", [{"selection": "A", "rotation": np.eye(3).tolist()}], "translation_angstrom is missing"),
        ("bodies", [{"rotation": np.eye(3).tolist()}], "selection is None"),
        ("bodies", [{"selection": "A", "rotation": [[1, 0], [0, 1]]}], "must be 3 x 3 finite numbers"),
        ("hand_scores", 3, "must be an object"),
    ],
)
def test_placements_that_cannot_be(tmp_path: Path, key: str, value: object, said: str) -> None:
    path = tmp_path / "placement.json"
    _placement().write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=said):
        Placement.read(path)


def test_a_placement_of_another_model_is_refused(kinase: Model, tmp_path: Path) -> None:
    whole = _placement()
    half = Placement(whole.hand, whole.hand_scores, whole.bodies[:1])
    with pytest.raises(InputError, match="101 of chain A is in no body"):
        apply_placement(kinase, half)
    twice = Placement(whole.hand, whole.hand_scores, whole.bodies + whole.bodies[:1])
    with pytest.raises(InputError, match="1 of chain A is in two bodies"):
        apply_placement(kinase, twice)
    for content in ("{", "[1]"):
        (tmp_path / "placement.json").write_text(content)
        with pytest.raises(InputError, match=r"cannot be read as JSON|holds a list and no JSON object"):
            Placement.read(tmp_path / "placement.json")
