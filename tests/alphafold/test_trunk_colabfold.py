"""Predictions from ColabFold's output folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from trunk_files import ColabFoldFolder, DeepMind

from cocofold.alphafold.colabfold import read_colabfold_prediction
from cocofold.alphafold.prediction import Prediction
from cocofold.alphafold.rebuild import write_prediction
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

SINGLE = "job_single_repr_rank_001_alphafold2_multimer_v3_model_1_seed_000.npy"
PAIR = SINGLE.replace("single", "pair")
PDB = "job_unrelaxed_rank_001_alphafold2_multimer_v3_model_1_seed_000.pdb"
SCORES = "job_scores_rank_001_alphafold2_multimer_v3_model_1_seed_000.json"


@pytest.fixture
def monomer(colabfold: ColabFoldFolder, deepmind: DeepMind) -> Path:
    return colabfold.write([deepmind.sequence])


@pytest.mark.independent
def test_a_monomer_gives_deepminds_atoms(monomer: Path, deepmind: DeepMind, weights: Path) -> None:
    found = read_colabfold_prediction(monomer, weights)
    prediction, origin = found.prediction, found.prediction.origin
    assert prediction.chains.sequences == (deepmind.sequence,)
    assert prediction.single.dtype == torch.float32
    assert prediction.pair.dtype == torch.float16
    # float16 representations, and a PDB with three decimals.
    np.testing.assert_allclose(prediction.single, deepmind.single, atol=5e-5)
    np.testing.assert_allclose(found.atoms.positions[:, 1], deepmind.atom37[:, 1], atol=0.1)
    assert 0 < origin.ca_rmsd_to_program < 0.05
    assert origin.ca_rmsd_to_program <= origin.ca_max_to_program < 0.1
    np.testing.assert_allclose(found.atoms.plddt, deepmind.plddt, atol=0.2)
    np.testing.assert_allclose(prediction.plddt, deepmind.plddt, atol=0.006)
    np.testing.assert_allclose(prediction.pae, deepmind.pae, atol=0.006)
    assert (origin.program, origin.program_version, origin.job) == ("ColabFold", "1.6.3", "job")
    assert (origin.rank, origin.model_number, origin.seed, origin.recycles) == (1, 1, 0, 3)


@pytest.mark.parametrize("cuts", [(22,), (9,), (5, 14)], ids=["one", "two", "three"])
@pytest.mark.parametrize("padding", [0, 10])
def test_chains_and_padding_do_not_move_atoms(
    cuts: tuple[int, ...], padding: int, colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path
) -> None:
    chains = [part for part in ("".join(p) for p in np.split(list(deepmind.sequence), cuts)) if part]
    found = read_colabfold_prediction(colabfold.write(chains, padding=padding), weights)
    assert found.prediction.chains.sequences == tuple(chains)
    assert found.prediction.chains.names == tuple("ABC"[: len(chains)])
    np.testing.assert_allclose(found.atoms.positions[:, 1], deepmind.atom37[:, 1], atol=0.1)


def test_a_homo_oligomer_and_unknown_residues(colabfold: ColabFoldFolder, weights: Path, tmp_path: Path) -> None:
    chains = ["MKTAYIXKQR", "MKTAYIXKQR", "GS"]
    found = read_colabfold_prediction(colabfold.write(chains), weights)
    assert found.prediction.chains.sequences == tuple(chains)
    assert found.prediction.chain_index.tolist() == [0] * 10 + [1] * 10 + [2] * 2
    write_prediction(found.prediction, tmp_path / "out", found.atoms)
    model = read_model(tmp_path / "out" / "model.cif")
    numbers = [(key.chain, key.number, key.name) for key in model.residues]
    assert numbers[:3] == [("A", 1, "MET"), ("A", 2, "LYS"), ("A", 3, "THR")]
    assert ("B", 1, "MET") in numbers
    # AlphaFold gives X no atoms.
    assert [number for number in numbers if number[1] == 7] == []
    assert len(numbers) == 20
    block = gemmi.cif.read(str(tmp_path / "out" / "model.cif")).sole_block()
    entities = [list(row) for row in block.find("_struct_asym.", ["id", "entity_id"])]
    assert entities[0][1] == entities[1][1] != entities[2][1]
    monomers = [row[0] for row in block.find("_entity_poly_seq.", ["mon_id"])]
    assert monomers == ["MET", "LYS", "THR", "ALA", "TYR", "ILE", "UNK", "LYS", "GLN", "ARG", "GLY", "SER"]


def test_the_model_that_is_asked_for(colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path) -> None:
    chains = [deepmind.sequence]
    colabfold.write(chains, rank=1, model=1, seed=1)
    colabfold.write(chains, rank=2, model=1, seed=0)
    folder = colabfold.write(chains, rank=3, model=2)

    def origin(**asked: int) -> tuple[int | None, int, int | None]:
        found = read_colabfold_prediction(folder, weights, **asked).prediction.origin
        return found.rank, found.model_number, found.seed

    assert origin() == (1, 1, 1)
    assert origin(rank=2) == (2, 1, 0)
    assert origin(model_number=1) == (1, 1, 1)
    with pytest.raises(InputError, match=r"no model of --rank 4; there are rank 1 \(model 1, seed 1\), rank 2"):
        read_colabfold_prediction(folder, weights, rank=4)
    with pytest.raises(InputError, match="no model of --rank 1 and --model-number 2"):
        read_colabfold_prediction(folder, weights, rank=1, model_number=2)


def test_weights_of_another_model_are_refused_by_name(monomer: Path, weights: Path) -> None:
    with pytest.raises(InputError, match=r"these are of model_2_multimer_v3, but the representations are of model_1"):
        read_colabfold_prediction(monomer, weights / "params_model_2_multimer_v3.npz")
    with pytest.raises(InputError, match=r"holds no params_model_1_multimer_v3.npz"):
        read_colabfold_prediction(monomer, monomer)
    with pytest.raises(InputError, match="no such file"):
        read_colabfold_prediction(monomer, monomer / "missing.npz")


def test_weights_of_another_model_are_refused_by_their_atoms(monomer: Path, weights: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "params_model_1_multimer_v3.npz"
    shutil.copyfile(weights / "params_model_2_multimer_v3.npz", renamed)
    with pytest.raises(InputError, match=r"the weights are not those of this prediction: they give CA atoms that are"):
        read_colabfold_prediction(monomer, renamed)
    # The largest deviation is the user's to choose.
    assert (
        read_colabfold_prediction(monomer, renamed, max_deviation_angstrom=1e3).prediction.origin.ca_rmsd_to_program
        > 0.5
    )


def test_weights_are_found_where_colabfold_keeps_them(
    monomer: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"no --weights given, and .*cache/colabfold/params: holds no params_model_1"):
        read_colabfold_prediction(monomer)
    shutil.copytree(weights, tmp_path / "cache" / "colabfold" / "params")
    assert read_colabfold_prediction(monomer).prediction.origin.model_number == 1


def test_jobs_are_listed_and_chosen(colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path) -> None:
    colabfold.write([deepmind.sequence], job="first_all")
    folder = colabfold.write([deepmind.sequence], job="second")
    with pytest.raises(InputError, match="holds 2 jobs; choose one with --job: first_all, second"):
        read_colabfold_prediction(folder, weights)
    assert read_colabfold_prediction(folder, weights, job="first_all").prediction.origin.job == "first_all"
    with pytest.raises(InputError, match="no job 'third'; there are first_all, second"):
        read_colabfold_prediction(folder, weights, job="third")


def test_recycles_are_those_of_the_job(colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path) -> None:
    folder = colabfold.write([deepmind.sequence])
    with open(folder / "log.txt", "a") as log:
        log.write("Query 2/2: other (length 22)\nalphafold2_multimer_v3_model_1_seed_000 took 2s (9 recycles)\n")
    assert read_colabfold_prediction(folder, weights).prediction.origin.recycles == 3
    (folder / "log.txt").unlink()
    (folder / "config.json").write_text('{"num_recycles": 12}')
    assert read_colabfold_prediction(folder, weights).prediction.origin.recycles == 12
    (folder / "config.json").unlink()
    assert read_colabfold_prediction(folder, weights).prediction.origin.recycles is None


@pytest.mark.parametrize("kind", ["alphafold2_ptm", "alphafold2", "alphafold2_multimer_v2", "deepfold_v1"])
def test_other_kinds_of_model_are_refused(
    kind: str, colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path
) -> None:
    folder = colabfold.write([deepmind.sequence], model_type=kind)
    message = f"predicted by {kind}, .* again with --model-type alphafold2_multimer_v3 .*finetune --model"
    with pytest.raises(InputError, match=message):
        read_colabfold_prediction(folder, weights)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("single_repr", "has no single_repr file; run colabfold_batch again with"),
        ("pair_repr", "has no pair_repr file; run colabfold_batch again with"),
        ("unrelaxed", "the unrelaxed PDB of rank 1 of job is missing"),
    ],
)
def test_files_that_are_missing(
    kind: str, message: str, colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_colabfold_prediction(colabfold.write([deepmind.sequence], without=(kind,)), weights)


def test_a_missing_alignment_is_named_and_missing_scores_are_allowed(
    colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path
) -> None:
    folder = colabfold.write([deepmind.sequence], without=("scores",))
    assert read_colabfold_prediction(folder, weights).prediction.pae is None
    (folder / "job.a3m").unlink()
    with pytest.raises(InputError, match=r"job.a3m is missing"):
        read_colabfold_prediction(folder, weights)


def test_pickles_of_save_all_hold_the_same(colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path) -> None:
    folder = colabfold.write([deepmind.sequence])
    kept = {"single": np.load(folder / SINGLE), "pair": np.load(folder / PAIR)}
    (folder / SINGLE).unlink()
    pickled = folder / SINGLE.replace("single_repr", "all").replace(".npy", ".pickle")
    pickled.write_bytes(pickle.dumps({"representations": kept, "plddt": np.ones(22, np.float16)}))
    assert read_colabfold_prediction(folder, weights).prediction.origin.ca_rmsd_to_program < 0.05
    pickled.write_bytes(pickle.dumps({"plddt": np.ones(22, np.float16)}))
    with pytest.raises(InputError, match="the single representation is"):
        read_colabfold_prediction(folder, weights)


def _saved(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _scores(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _extra_residue(path: Path) -> None:
    line = "ATOM    999  CA  GLY B  99       0.000   0.000   0.000  1.00 50.00           C\n"
    path.write_text(path.read_text().replace("TER\n", line + "TER\n", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _truncate(f / PAIR), "cannot be read as a numpy array"),
        (lambda f: (f / SINGLE).write_bytes(b""), "cannot be read as a numpy array"),
        (lambda f: np.save(f / SINGLE, np.array([None]), allow_pickle=True), "cannot be read as a numpy array"),
        (lambda f: _saved(f / PAIR, lambda a: a.astype(np.int8)), "its numbers are int8"),
        (lambda f: _saved(f / PAIR, lambda a: a * np.float16(np.inf)), "pair holds numbers that are not finite"),
        (lambda f: _saved(f / PAIR, lambda a: a[:20, :20]), r"the pair representation is \(20, 20, 128\)"),
        (lambda f: _saved(f / SINGLE, lambda a: a[:20]), r"the single representation is \(20, 256\); for 22 residues"),
        (lambda f: _saved(f / SINGLE, lambda a: np.repeat(a, 2, 1)), r"the single representation is \(22, 512\)"),
        (lambda f: _scores(f / SCORES, plddt=[1.0]), r"plddt is \(1,\); for 22 residues"),
        (lambda f: _scores(f / SCORES, pae=[[1.0], [1.0, 2.0]]), "pae is not a table of numbers"),
        (lambda f: _truncate(f / SCORES), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
        (lambda f: (f / PDB).write_text("END\n"), "neither mmCIF .* nor PDB"),
        (lambda f: (f / "job.a3m").write_text("#22\t1\n>101\n" + "A" * 22), "residue 1 of chain A is"),
        (lambda f: _extra_residue(f / PDB), "residue 99 of chain B is in none of the sequences"),
        (lambda f: (f / "job.a3m").write_text(">101\n" + (f / "job.a3m").read_text()[-22:] + "A"), "single represent"),
    ],
)  # fmt: skip
def test_damaged_folders_are_refused(
    damage: Callable[[Path], None], message: str, monomer: Path, weights: Path
) -> None:
    damage(monomer)
    with pytest.raises(InputError, match=message):
        read_colabfold_prediction(monomer, weights)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no models of ColabFold"),
        (["notes.txt"], "holds no models of ColabFold"),
        (["x_unrelaxed_alphafold2_multimer_v3_model_1_seed_000.pdb"], "has not come to its end"),
        (["x.result.zip"], "unpack the .result.zip"),
        (["x_unrelaxed_rank_1_model_3.pdb"], "a ColabFold before 1.5"),
        (["fold_x_full_data_0.json", "fold_x_model_0.cif"], "AlphaFold server.*cocofold finetune --model"),
        (["x_data.json", "ranking_scores.csv", "x_model.cif"], "AlphaFold 3.*cocofold finetune --model"),
        (["boltz_results_x"], "Boltz.*cocofold finetune --model"),
        (["plddt_x_model_0.npz", "x_model_0.cif"], "Boltz.*cocofold finetune --model"),
        (["pred.model_idx_0.cif", "scores.model_idx_0.npz"], "Chai.*cocofold finetune --model"),
        (["result_model_1_multimer_v3_pred_0.pkl", "ranked_0.pdb"], "does not write the single and pair"),
    ],
)
def test_folders_of_other_programs_are_recognised(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        read_colabfold_prediction(tmp_path)


def test_files_of_two_runs_in_one_folder_are_refused(
    colabfold: ColabFoldFolder, deepmind: DeepMind, weights: Path
) -> None:
    colabfold.write([deepmind.sequence], model=1)
    with pytest.raises(InputError, match="two models claim rank 1 of job"):
        read_colabfold_prediction(colabfold.write([deepmind.sequence], model=2), weights)
    with pytest.raises(InputError, match="no such folder"):
        read_colabfold_prediction(colabfold.folder / "missing")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PK\x03\x04", "is packed, and no folder; unpack it and give ColabFold's output folder"),
        (b"\x1f\x8b\x08", "is packed"),
        (b"BZh9", "is packed"),
        (b"7z\xbc\xaf\x27\x1c", "is packed"),
        (b"data_x", "is a file, and no folder; give ColabFold's output folder"),
    ],
)
def test_a_file_in_place_of_the_folder_is_said_to_be_one(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.zip").write_bytes(start + bytes(100))
    with pytest.raises(InputError, match=f"--colabfold .*results.zip: {said}"):
        read_colabfold_prediction(tmp_path / "results.zip")


def test_the_command_says_what_it_found(
    monomer: Path, weights: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    said = command("--colabfold", monomer, "--weights", weights, "--out", out)
    assert "ColabFold 1.6.3: job, rank 1, model 1, seed 0, 3 recycles" in said
    assert "A (22); 22 residues" in said
    assert "CA RMSD 0.0" in said
    assert "mean pLDDT" in said
    assert sorted(path.name for path in out.iterdir()) == ["model.cif", "prediction.safetensors"]
    assert Prediction.read(out).origin.files["weights"].endswith("params_model_1_multimer_v3.npz")
    with pytest.raises(InputError, match=r"the folder holds model.cif, prediction.safetensors; give another"):
        command("--colabfold", monomer, "--weights", weights, "--out", out)


def test_a_refused_prediction_leaves_nothing_behind(
    monomer: Path, weights: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    (monomer / PDB).unlink()
    with pytest.raises(InputError, match="is missing"):
        command("--colabfold", monomer, "--weights", weights, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input given; give one of"),
        (["--colabfold", "x", "--openfold", "y"], "--colabfold and --openfold given; give one of"),
        (["--colabfold", "x", "--fasta", "y"], "--colabfold and --fasta given; give one of"),
        (["--colabfold", "x", "--rank", "0"], "--rank 0: must be from 1"),
        (["--colabfold", "x", "--model-number", "6"], "--model-number 6: must be from 1 to 5"),
        (["--fasta", "y", "--extra", "'"], "--extra ': "),
        (["--fasta", "y", "--program", "boltz"], "--program boltz"),
        (["--fasta", "y", "--msa", "mmseqs"], "--msa mmseqs: must be"),
    ],
)
def test_options_that_are_refused(
    arguments: list[str], message: str, tmp_path: Path, command: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match=message):
        command(*arguments, "--out", tmp_path / "out")
