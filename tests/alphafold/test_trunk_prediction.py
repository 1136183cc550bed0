"""The bundle: written whole, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from trunk_files import ColabFoldFolder, DeepMind

from cocofold.alphafold import load_structure_module
from cocofold.alphafold.colabfold import read_colabfold_prediction
from cocofold.alphafold.prediction import Prediction
from cocofold.alphafold.rebuild import (
    MAX_DEVIATION_ANGSTROM,
    VerifiedPrediction,
    predict_atoms,
    write_prediction,
)
from cocofold.alphafold.structure_network import StructureModule
from cocofold.commands.predict import PredictionRequest
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

NAME = "prediction.safetensors"


@pytest.fixture
def found(colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path) -> VerifiedPrediction:
    chains = [deepmind.sequence[:12], deepmind.sequence[12:]]
    return read_colabfold_prediction(colabfold.write(chains), weights)


@pytest.fixture
def bundle(found: VerifiedPrediction, tmp_path: Path) -> Path:
    write_prediction(found.prediction, tmp_path / "out", found.atoms)
    return tmp_path / "out"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_bundle_comes_back(kind: torch.dtype, found: VerifiedPrediction, tmp_path: Path) -> None:
    written = replace(found.prediction, pair=found.prediction.pair.to(kind))
    write_prediction(written, tmp_path / "out", found.atoms)
    again = Prediction.read(tmp_path / "out")
    for name in ("single", "pair", "aatype", "mask", "chain_index", "residue_numbers", "plddt", "pae"):
        assert torch.equal(getattr(again, name), getattr(written, name)), name
        assert getattr(again, name).dtype == getattr(written, name).dtype, name
    assert (again.chains, again.origin) == (written.chains, written.origin)
    assert sorted(again.weights) == sorted(written.weights)
    assert all(torch.equal(again.weights[name], written.weights[name]) for name in again.weights)


def test_what_the_program_did_not_give_stays_out(found: VerifiedPrediction, tmp_path: Path) -> None:
    write_prediction(replace(found.prediction, plddt=None, pae=None), tmp_path / "out", found.atoms)
    again = Prediction.read(tmp_path / "out")
    assert again.plddt is None
    assert again.pae is None


@pytest.mark.independent
def test_the_bundle_alone_gives_deepminds_atoms(bundle: Path, deepmind: DeepMind) -> None:
    atoms = predict_atoms(Prediction.read(bundle))
    there = deepmind.atom37_mask[:, 1] > 0
    np.testing.assert_allclose(atoms.positions[there, 1], deepmind.atom37[there, 1], atol=0.1)


def test_weights_have_the_official_names_and_layout(bundle: Path, deepmind: DeepMind) -> None:
    prediction = Prediction.read(bundle)
    expected = {name for name in deepmind.parameters if "/evoformer/" not in name and "distogram" not in name}
    assert set(prediction.weights) == expected
    for name in expected:
        np.testing.assert_array_equal(prediction.weights[name], deepmind.parameters[name])


def test_the_model_is_that_of_the_program(bundle: Path, found: VerifiedPrediction, deepmind: DeepMind) -> None:
    """All heavy atoms of DeepMind's, with chains, numbers and pLDDT."""
    model = read_model(bundle / "model.cif")
    order = "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 NH1 "
    names = [*order.split(), "NH2", "OH", "CZ", "CZ2", "CZ3", "NZ", "OXT"]
    expected = {(row, names[column]): deepmind.atom37[row, column] for row, column in np.argwhere(deepmind.atom37_mask)}
    assert len(model) == len(expected)
    for row, name, position in zip(model.residue_of_atom, model.atom_names, model.positions):
        np.testing.assert_allclose(position, expected[row, name], atol=0.15)
    assert [(key.chain, key.number) for key in model.residues] == [
        *(("A", number) for number in range(1, 13)),
        *(("B", number) for number in range(1, 11)),
    ]
    b_factors = [residue[0].b_iso for chain in model.structure[0] for residue in chain]
    np.testing.assert_allclose(b_factors, found.atoms.plddt, atol=0.006)
    block = gemmi.cif.read(str(bundle / "model.cif")).sole_block()
    assert len(block.find("_ma_qa_metric_local.", ["label_asym_id", "metric_value"])) == 22
    assert len(block.find("_entity_poly.", ["entity_id", "type"])) == 2
    assert [row[0] for row in block.find("_struct_asym.", ["id"])] == ["A", "B"]
    assert (bundle / NAME).stat().st_mode == (bundle / "model.cif").stat().st_mode


def test_a_bundle_is_written_beside_nothing_else(found: VerifiedPrediction, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds model.cif, prediction.safetensors; give another one"):
        write_prediction(found.prediction, bundle)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        write_prediction(found.prediction, tmp_path / "file")
    (tmp_path / "run" / "colabfold").mkdir(parents=True)
    write_prediction(found.prediction, tmp_path / "run", found.atoms)
    assert Prediction.read(tmp_path / "run").origin == found.prediction.origin


def test_nothing_is_left_of_a_bundle_that_cannot_be_written(found: VerifiedPrediction, tmp_path: Path) -> None:
    # safetensors cannot store this, and is asked to after the model is there.
    broken = replace(found.prediction, weights={"x": torch.zeros(2).to_sparse()})
    with pytest.raises((RuntimeError, ValueError)):
        write_prediction(broken, tmp_path / "out", found.atoms)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_prediction(found.prediction, tmp_path / "file" / "out", found.atoms)


def _rewrite(path: Path, tensors: Callable[[dict], Any] = lambda t: None, facts: Callable[[dict], Any] = dict) -> None:
    with safe_open(str(path), framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = json.loads(file.metadata()["facts"])
    tensors(kept)
    facts(told)
    save_file(kept, str(path), metadata={"facts": json.dumps(told)})


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "cannot be read"),
        (lambda p: p.write_bytes(b"x" * 100), "cannot be read"),
        (lambda p: save_file({"single": torch.zeros(2)}, str(p)), "cannot be read"),
        (lambda p: _rewrite(p, lambda t: t.pop("single")), "cannot be read .*single"),
        (lambda p: _rewrite(p, lambda t: t.update(extra=torch.zeros(1))), "cannot be read .*extra"),
        (lambda p: _rewrite(p, lambda t: t.update(single=t["single"][:20])), r"single is \(20, 384\) float32"),
        (lambda p: _rewrite(p, lambda t: t.update(single=t["single"].half())), r"\(22, 384\) float16; .* float32"),
        (lambda p: _rewrite(p, lambda t: t.update(pair=t["pair"].double())), "float64; .* float16 or bfloat16"),
        (lambda p: _rewrite(p, lambda t: t["pair"][3, 4].fill_(torch.nan)), "pair holds numbers that are not finite"),
        (lambda p: _rewrite(p, lambda t: t["aatype"].sub_(21)), "not those of the sequences"),
        (lambda p: _rewrite(p, lambda t: t["chain_index"].zero_()), "not those of the sequences"),
        (lambda p: _rewrite(p, lambda t: t["residue_numbers"].fill_(3)), "residue numbers of a chain do not rise"),
        (lambda p: _rewrite(p, lambda t: t.pop(_initial())), "missing: structure_module/initial_projection//weights"),
        (lambda p: _rewrite(p, lambda t: t.update({_initial(): torch.zeros(3)})), "initial_projection"),
        (lambda p: _rewrite(p, facts=lambda f: f.update(format="cocofold prediction 9")), "this version reads"),
        (lambda p: _rewrite(p, facts=lambda f: f.pop("origin")), "cannot be read"),
        (lambda p: _rewrite(p, facts=lambda f: f["origin"].update(colour="red")), "cannot be read .*colour"),
        (lambda p: _rewrite(p, facts=lambda f: f["chains"].update(names=["A", "A"])), "chain names"),
        (lambda p: _rewrite(p, facts=lambda f: f["chains"].update(sequences=["MK"])), "chain names|must be"),
    ],
)
def test_damaged_bundles_are_refused(damage: Callable[[Path], None], message: str, bundle: Path) -> None:
    damage(bundle / NAME)
    with pytest.raises(InputError, match=message):
        Prediction.read(bundle)


def _initial() -> str:
    return "weights/alphafold/alphafold_iteration/structure_module/initial_projection//weights"


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"holds no prediction.safetensors; give the folder that cocofold predict"):
            Prediction.read(folder)


def test_the_weight_file_and_the_bundle_are_one_module(bundle: Path, weights: Path) -> None:
    prediction = Prediction.read(bundle)
    module = load_structure_module(weights / "params_model_1_multimer_v3.npz")
    with torch.no_grad():
        out = module(prediction.single, prediction.pair, prediction.aatype, prediction.mask)
    np.testing.assert_allclose(predict_atoms(prediction).positions, out.atom14.numpy(), atol=1e-5)


def test_a_bundle_is_checked_without_a_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(StructureModule, "__init__", refuse)
    assert len(Prediction.read(bundle)) == 22
    _rewrite(bundle / NAME, lambda tensors: tensors.update({_initial(): torch.full((384, 384), torch.nan)}))
    with pytest.raises(InputError, match="weights: not finite: structure_module/initial_projection//weights"):
        Prediction.read(bundle)


def test_the_command_and_the_readers_allow_the_same_deviation() -> None:
    assert PredictionRequest.max_deviation_angstrom == MAX_DEVIATION_ANGSTROM
