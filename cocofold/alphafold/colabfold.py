"""A prediction from a ColabFold output folder: choosing a model's files, and reading them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.alphafold.external_programs import advice_on_folder, load_pickled_arrays
from cocofold.alphafold.prediction import Provenance
from cocofold.alphafold.rebuild import (
    MAX_DEVIATION_ANGSTROM,
    ProgramOutput,
    VerifiedPrediction,
    build_verified_prediction,
    read_ca_positions,
)
from cocofold.alphafold.run_programs import COLABFOLD_FLAGS, COLABFOLD_MODEL_TYPE
from cocofold.alphafold.sequences import read_a3m_chains
from cocofold.alphafold.weight_layout import MSA_WIDTH, PAIR_WIDTH
from cocofold.alphafold.weights import find_weights, project_single_representation
from cocofold.system.atomic_files import read_json
from cocofold.system.errors import InputError, refuse_damaged, require_folder


def read_colabfold_prediction(
    folder: Path,
    weights: Path | None = None,
    *,
    job: str | None = None,
    rank: int | None = None,
    model_number: int | None = None,
    max_deviation_angstrom: float = MAX_DEVIATION_ANGSTROM,
) -> VerifiedPrediction:
    """Read one model of a ColabFold run and make sure that the weights give its atoms again.

    Parameters
    ----------
    folder : Path
        Output of ``colabfold_batch`` with single and pair representations, of the multimer v3 model.
    weights : Path, optional
        AlphaFold's weight file of the same model number, or a folder with it.
    job : str, optional
        Name of the job, needed if the folder holds several.
    rank, model_number : int, optional
        Which of the job's models; by default the best.
    max_deviation_angstrom : float
        Largest CA RMSD from the folder's own PDB; float16 and bfloat16 cost up to 0.1 Å.

    Raises
    ------
    InputError
        If files are missing, damaged or of different runs, or the atoms are not those of the folder's PDB.
    """
    files = choose_model_files(folder, job, rank, model_number)
    _require_complete(files)
    weight_file = find_weights(weights, files.model_number)
    # What is in its files may be of any kind.
    with refuse_damaged(f"--colabfold {folder}", "copy its files again, as ColabFold wrote them"):
        chains = read_a3m_chains(files.msa)
        n = len(chains)
        first_row, pair = _read_representations(files, n)
        scores = {} if "scores" not in files.paths else _read_json(files.paths["scores"])
        output = ProgramOutput(
            chains=chains,
            single=project_single_representation(first_row, weight_file),
            pair=pair,
            origin=_provenance(files, weight_file),
            ca_positions=read_ca_positions(files.paths["unrelaxed"], chains),
            plddt=_score(scores, "plddt", (n,), files),
            pae=_score(scores, "pae", (n, n), files),
        )
    return build_verified_prediction(output, weight_file, max_deviation_angstrom)


def _provenance(files: ModelFiles, weight_file: Path) -> Provenance:
    config = _read_config(files.folder)
    return Provenance(
        program="ColabFold",
        program_version=config.get("version"),
        job=files.job,
        model_number=files.model_number,
        rank=files.rank,
        seed=files.seed,
        recycles=_read_recycles(files, config),
        files={"folder": str(files.folder), "weights": str(weight_file), "model": files.paths["unrelaxed"].name},
    )


def _require_complete(files: ModelFiles) -> None:
    missing = [kind for kind in ("single_repr", "pair_repr") if kind not in files.paths]
    if missing and "all" not in files.paths:
        raise InputError(
            f"--colabfold {files.folder}: rank {files.rank} of {files.job} has no {' and no '.join(missing)} file; "
            f"run colabfold_batch again with {COLABFOLD_FLAGS}"
        )
    if "unrelaxed" not in files.paths:
        raise InputError(
            f"--colabfold {files.folder}: the unrelaxed PDB of rank {files.rank} of {files.job} is missing; it tells "
            "whether the weights are those of the prediction, copy it there"
        )
    if not files.msa.is_file():
        raise InputError(
            f"--colabfold {files.folder}: {files.msa.name} is missing; it has the sequences, copy it there"
        )


def _read_representations(files: ModelFiles, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First row of the alignment's representation, (n, 256), and pair, (n, n, 128), without padding at the end."""
    if {"single_repr", "pair_repr"} <= set(files.paths):
        source = files.paths["pair_repr"]
        single, pair = _load_npy(files.paths["single_repr"]), _load_npy(source)
    else:
        source = files.paths["all"]
        pickled = load_pickled_arrays(source).get("representations", {})
        single, pair = (np.asarray(pickled.get(name, ())) for name in ("single", "pair"))
    if single.ndim != 2 or single.shape[1] != MSA_WIDTH or len(single) < n:
        raise InputError(
            f"{files.folder}: the single representation is {single.shape}; for {n} residues it must be ({n} or more, "
            f"{MSA_WIDTH}), are the files of one run?"
        )
    if pair.shape != (len(single), len(single), PAIR_WIDTH):
        raise InputError(
            f"{source}: the pair representation is {pair.shape}; beside a single of {single.shape} it must be "
            f"({len(single)}, {len(single)}, {PAIR_WIDTH}), are the files of one run?"
        )
    return torch.from_numpy(np.array(single[:n])), torch.from_numpy(np.array(pair[:n, :n]))


def _load_npy(path: Path) -> np.ndarray:
    with refuse_damaged(path, "copy it again", "a numpy array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32):
        raise InputError(f"{path}: its numbers are {array.dtype}; ColabFold writes float16")
    return array


def _score(scores: dict[str, Any], name: str, shape: tuple[int, ...], files: ModelFiles) -> torch.Tensor | None:
    """One of ColabFold's scores, float32, or None if it wrote none."""
    values, path = scores.get(name), files.paths.get("scores")
    if values is None:
        return None
    try:
        array = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {name} is not a table of numbers ({error})") from error
    if array.shape != shape:
        raise InputError(f"{path}: {name} is {array.shape}; for {shape[0]} residues it must be {shape}")
    return torch.from_numpy(array)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, path, "copy it again, as ColabFold wrote it")
    return content


def _read_recycles(files: ModelFiles, config: dict[str, Any]) -> int | None:
    """Number of recycles of the model in ColabFold's log, or else the number in its settings."""
    log = files.folder / "log.txt"
    found = None
    if log.is_file():
        job = ""
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            query = re.search(r"Query \d+/\d+: (\S+) \(length", line)
            ended = re.search(rf"{re.escape(files.log_name)} took \S+ \((\d+) recycles\)", line)
            job = query[1] if query else job
            found = int(ended[1]) if ended and job == files.job else found
    if found is None:
        asked = config.get("num_recycles")
        found = asked if isinstance(asked, int) else None
    return found


_FILE_NAME_PATTERN = re.compile(
    r"(?P<job>.+)_(?P<kind>unrelaxed|relaxed|scores|single_repr|pair_repr|all)(?:_rank_(?P<rank>\d+))?"
    r"_(?P<model_type>[A-Za-z]\w*?)_model_(?P<model_number>\d+)_seed_(?P<seed>\d+)\.(?:pdb|json|npy|pickle)"
)


@dataclass(frozen=True)
class ModelFiles:
    """Files of one predicted model.

    Attributes
    ----------
    folder : Path
    job, model_type : str
    rank, model_number, seed : int
    paths : dict of str to Path
        By kind: unrelaxed, relaxed, scores, single_repr, pair_repr, all.
    """

    folder: Path
    job: str
    rank: int
    model_type: str
    model_number: int
    seed: int
    paths: dict[str, Path]

    @property
    def msa(self) -> Path:
        """The a3m file of the job."""
        return self.folder / f"{self.job}.a3m"

    @property
    def log_name(self) -> str:
        """Name of the model in ColabFold's log."""
        return f"{self.model_type}_model_{self.model_number}_seed_{self.seed:03d}"


def choose_model_files(folder: Path, job: str | None, rank: int | None, model_number: int | None) -> ModelFiles:
    """The files of the model that is asked for; by default the best of the only job.

    Raises
    ------
    InputError
        If the folder is not a finished ColabFold run, has several jobs and none is named, or has no such model.
    """
    require_folder(f"--colabfold {folder}", folder, "give ColabFold's output folder")
    models = _find_models(folder)
    if not models:
        raise InputError(f"--colabfold {folder}: {_explain_no_models(folder)}")
    models = _models_of_job(folder, models, job)
    kinds = {model.model_type for model in models}
    if kinds != {COLABFOLD_MODEL_TYPE}:
        raise InputError(
            f"--colabfold {folder}: predicted by {' and '.join(sorted(kinds))}, whose structure module has another "
            f"layout or other weights; run colabfold_batch again with {COLABFOLD_FLAGS} (for a single chain too), or "
            "start from the model: cocofold finetune --model MODEL.pdb"
        )
    fitting = [
        model
        for model in models
        if (rank is None or model.rank == rank) and (model_number is None or model.model_number == model_number)
    ]
    if not fitting:
        options = (("--rank", rank), ("--model-number", model_number))
        asked = [f"{option} {value}" for option, value in options if value is not None]
        there = ", ".join(f"rank {model.rank} (model {model.model_number}, seed {model.seed})" for model in models)
        raise InputError(f"--colabfold {folder}: no model of {' and '.join(asked)}; there are {there}")
    return fitting[0]


def _find_models(folder: Path) -> list[ModelFiles]:
    found: dict[tuple[str, int], ModelFiles] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE_NAME_PATTERN.fullmatch(path.name)
        if match is None or match["rank"] is None:
            continue
        key = (match["job"], int(match["rank"]))
        if key not in found:
            numbers = (int(match["model_number"]), int(match["seed"]))
            found[key] = ModelFiles(folder, *key, match["model_type"], *numbers, {})
        model = found[key]
        if (model.model_number, model.seed) != (int(match["model_number"]), int(match["seed"])):
            raise InputError(
                f"--colabfold {folder}: two models claim rank {key[1]} of {key[0]}: {model.log_name} and {path.name}; "
                "the folder holds files of several runs, give one with the files of one"
            )
        model.paths[match["kind"]] = path
    return [found[key] for key in sorted(found)]


def _models_of_job(folder: Path, models: Iterable[ModelFiles], job: str | None) -> list[ModelFiles]:
    jobs = sorted({model.job for model in models})
    if job is None and len(jobs) > 1:
        raise InputError(f"--colabfold {folder}: holds {len(jobs)} jobs; choose one with --job: {', '.join(jobs)}")
    if job is not None and job not in jobs:
        raise InputError(f"--colabfold {folder}: no job {job!r}; there are {', '.join(jobs)}")
    return [model for model in models if job in (None, model.job)]


def _explain_no_models(folder: Path) -> str:
    names = [path.name for path in folder.iterdir()]
    if any(_FILE_NAME_PATTERN.fullmatch(name) for name in names):
        return "ColabFold has not come to its end there: its models have no rank yet; let it finish"
    if any(name.endswith(".result.zip") for name in names):
        return "ColabFold's results are packed (--zip); unpack the .result.zip there"
    advice = advice_on_folder(folder)
    if advice is not None:
        return advice
    if any(re.search(r"_(un)?relaxed_rank_\d+_model_\d+", name) for name in names):
        return f"these are files of a ColabFold before 1.5; run a newer colabfold_batch with {COLABFOLD_FLAGS}"
    return f"holds no models of ColabFold; give the output folder of colabfold_batch {COLABFOLD_FLAGS}"
