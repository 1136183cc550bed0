"""Predictions from OpenFold's pickle of outputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from trunk_files import DeepMind, write_pdb

from cocofold.alphafold.openfold import read_openfold_prediction
from cocofold.system.errors import InputError

Pickle = Callable[..., Path]


@pytest.fixture
def fasta(tmp_path: Path, deepmind: DeepMind) -> Path:
    path = tmp_path / "x.fasta"
    path.write_text(f">x\n{deepmind.sequence}\n")
    return path


@pytest.mark.independent
def test_outputs_give_deepminds_atoms(openfold_pickle: Pickle, deepmind: DeepMind, weights: Path, fasta: Path) -> None:
    found = read_openfold_prediction(openfold_pickle(), weights, fasta)
    prediction, origin = found.prediction, found.prediction.origin
    assert prediction.pair.dtype == torch.float32
    np.testing.assert_array_equal(prediction.single, deepmind.single)
    np.testing.assert_allclose(found.atoms.positions[:, 1], deepmind.atom37[:, 1], atol=3e-4)
    np.testing.assert_allclose(found.atoms.plddt, deepmind.plddt, atol=0.01)
    assert origin.ca_max_to_program < 3e-4
    assert (origin.program, origin.job, origin.model_number, origin.recycles) == ("OpenFold", "job", 1, 3)
    np.testing.assert_allclose(prediction.pae, deepmind.pae)


def test_sequences_come_from_the_model_beside_or_from_aatype(
    openfold_pickle: Pickle, deepmind: DeepMind, weights: Path
) -> None:
    path = openfold_pickle(asym_id=np.repeat([1, 2], [12, 10]))
    with pytest.raises(InputError, match="the pickle does not hold the sequences; give them with --fasta"):
        read_openfold_prediction(path, weights)
    chains = [deepmind.sequence[:12], deepmind.sequence[12:]]
    beside = path.with_name("job_model_1_multimer_v3_unrelaxed.pdb")
    write_pdb(beside, chains, deepmind.atom37, deepmind.plddt)
    found = read_openfold_prediction(path, weights)
    assert found.prediction.chains.sequences == tuple(chains)
    assert found.prediction.origin.files["sequences"] == str(beside)
    beside.unlink()
    numbers = found.prediction.aatype.numpy()
    path = openfold_pickle(aatype=numbers, asym_id=np.repeat([1, 2], [12, 10]))
    assert read_openfold_prediction(path, weights).prediction.chains.sequences == tuple(chains)


def test_padding_is_cut_off(openfold_pickle: Pickle, deepmind: DeepMind, weights: Path, fasta: Path) -> None:
    pad = [(0, 28)]
    padded = {
        "single": np.pad(deepmind.single, [*pad, (0, 0)], constant_values=3),
        "pair": np.pad(deepmind.pair, [*pad, *pad, (0, 0)], constant_values=3),
        "final_atom_positions": np.pad(deepmind.atom37, [*pad, (0, 0), (0, 0)]),
        "final_atom_mask": np.pad(deepmind.atom37_mask, [*pad, (0, 0)]),
        "plddt": np.pad(deepmind.plddt, pad),
        "predicted_aligned_error": np.pad(deepmind.pae, [*pad, *pad]),
    }
    found = read_openfold_prediction(openfold_pickle(**padded), weights, fasta)
    assert len(found.prediction) == 22
    assert found.prediction.origin.ca_max_to_program < 3e-4


def test_copies_are_put_together_as_openfold_does(
    openfold_pickle: Pickle, deepmind: DeepMind, weights: Path, tmp_path: Path
) -> None:
    """The chains A, B, A of a FASTA file are A, A, B in the network."""
    first, other = deepmind.sequence[:6], deepmind.sequence[12:]
    mask = np.concatenate([deepmind.atom37_mask[:6], deepmind.atom37_mask[:6], deepmind.atom37_mask[12:]])
    (tmp_path / "x.fasta").write_text(f">a\n{first}\n>b\n{other}\n>c\n{first}\n")
    path = openfold_pickle(final_atom_mask=mask, asym_id=np.repeat([1, 2, 3], [6, 6, 10]))
    found = read_openfold_prediction(path, weights, tmp_path / "x.fasta")
    assert found.prediction.chains.sequences == (first, first, other)


def test_other_sequences_are_refused(
    openfold_pickle: Pickle, deepmind: DeepMind, weights: Path, tmp_path: Path
) -> None:
    fasta = tmp_path / "x.fasta"
    path = openfold_pickle()
    # CA atoms do not depend on the amino acid: only side chains tell.
    swapped = deepmind.sequence[1] + deepmind.sequence[0] + deepmind.sequence[2:]
    for sequence, message in (
        (swapped, "atoms of residue 1"),
        (deepmind.sequence + "A", "representations of 22 residues"),
        (deepmind.sequence[:-1], "atoms beyond"),
        (deepmind.sequence[:10] + ":" + deepmind.sequence[10:], "other chains"),
    ):
        fasta.write_text(f">x\n{sequence}\n")
        with pytest.raises(InputError, match=message):
            read_openfold_prediction(path, weights, fasta)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"single": None}, r"holds no single and pair representation \(it has .*--save_outputs"),
        ({"single": None, "structure_module": {}, "distogram": {}}, "DeepMind's AlphaFold does not write"),
        ({"single": np.zeros((22, 256), np.float32)}, r"single is \(22, 256\)"),
        ({"pair": np.zeros((20, 22, 128), np.float32)}, r"pair \(20, 22, 128\)"),
        ({"pair": np.full((22, 22, 128), np.nan, np.float32)}, "pair holds numbers that are not finite"),
        ({"pair": "x"}, "has no array of numbers 'pair'"),
        ({"final_atom_positions": None}, "has no array of numbers 'final_atom_positions'"),
        ({"final_atom_positions": np.zeros((22, 14, 3), np.float32)}, "it is damaged"),
        ({"final_atom_positions": np.zeros((22, 37, 3), np.float32)}, "the weights are not those of this prediction"),
        ({"run": os.system}, "asks for posix.system"),
        ({"single": torch.zeros(22, 384)}, "asks for torch"),
    ],
)
def test_pickles_that_are_refused(
    changes: dict, message: str, openfold_pickle: Pickle, weights: Path, fasta: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_openfold_prediction(openfold_pickle(**changes), weights, fasta)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("job_model_1_ptm_output_dict.pkl", "predicted with model_1_ptm, .*multimer_v3 --save_outputs"),
        ("job_model_3_output_dict.pkl", "predicted with model_3, "),
        ("job_model_1_multimer_v2_output_dict.pkl", "predicted with model_1_multimer_v2, "),
        ("job_output_dict.pkl", "its name does not tell the model; give --model-number"),
        ("job_model_2_multimer_v3_output_dict.pkl", "the weights are not those of this prediction"),
        ("result_model_1_multimer_v3_pred_0.pkl", "DeepMind's AlphaFold does not write"),
        ("fold_x_full_data_0.json", "the AlphaFold server.*cocofold finetune --model"),
        ("plddt_x_model_0.npz", "Boltz.*cocofold finetune --model"),
        ("scores.model_idx_0.npz", "Chai.*cocofold finetune --model"),
        ("x.cif", "this is a model, without representations; start from its model"),
    ],
)
def test_files_that_are_refused_by_name(
    name: str, message: str, openfold_pickle: Pickle, weights: Path, fasta: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_openfold_prediction(openfold_pickle(name), weights, fasta)


def test_names_that_say_more_or_less(openfold_pickle: Pickle, weights: Path, fasta: Path) -> None:
    found = read_openfold_prediction(
        openfold_pickle("a_model_b_model_1_multimer_v3_mine_output_dict.pkl"), weights, fasta
    )
    assert found.prediction.origin.job == "a_model_b"
    found = read_openfold_prediction(openfold_pickle("mine.pkl"), weights, fasta, model_number=1)
    assert (found.prediction.origin.job, found.prediction.origin.model_number) == ("mine", 1)
    with pytest.raises(InputError, match="--model-number 2, but its name says model 1"):
        read_openfold_prediction(openfold_pickle(), weights, fasta, model_number=2)
    with pytest.raises(InputError, match="no such file"):
        read_openfold_prediction(fasta.with_name("missing.pkl"), weights, fasta)


def test_the_command_reads_a_pickle(
    openfold_pickle: Pickle, weights: Path, fasta: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    said = command("--openfold", openfold_pickle(), "--fasta", fasta, "--weights", weights, "--out", tmp_path / "out")
    assert "OpenFold: job, model 1, 3 recycles" in said
    assert "CA RMSD 0.000 Å" in said
    assert (tmp_path / "out" / "prediction.safetensors").is_file()
