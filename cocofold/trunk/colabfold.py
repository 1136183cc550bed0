"""A prediction from a ColabFold output folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.errors import InputError
from cocofold.trunk.chains import read_a3m_chains
from cocofold.trunk.checking import Found, assemble, ca_of_model
from cocofold.trunk.colabfold_files import FLAGS, ModelFiles, choose_model
from cocofold.trunk.pickles import load_arrays
from cocofold.trunk.prediction import PAIR_WIDTH, Origin
from cocofold.trunk.weights import find_weights, single_representation

MSA_WIDTH = 256


def from_colabfold(
    folder: Path,
    weights: Path | None = None,
    job: str | None = None,
    rank: int | None = None,
    model_number: int | None = None,
    max_deviation_angstrom: float = 0.5,
) -> Found:
    """Read one model of a ColabFold run and make sure that the weights give its atoms again.

    Parameters
    ----------
    folder : Path
        Output of ``colabfold_batch`` with single and pair representations, of the multimer v3 model.
    weights : Path, optional
        AlphaFold's weight file of the same model number, or a folder with it.
    job : str, optional
        Needed if the folder holds several.
    rank, model_number : int, optional
        By default the best.
    max_deviation_angstrom : float
        Largest CA RMSD from the folder's own PDB; float16 and bfloat16 cost up to 0.1 Å.

    Raises
    ------
    InputError
        If files are missing, damaged or of different runs, or the atoms are not those of the folder's PDB.
    """
    files = choose_model(folder, job, rank, model_number)
    _require_complete(files)
    weight_file = find_weights(weights, files.model_number)
    chains = read_a3m_chains(files.msa)
    first_row, pair = _representations(files, len(chains))
    plddt, pae = _scores(files, len(chains))
    origin = Origin(
        program="ColabFold",
        program_version=_config(folder).get("version"),
        job=files.job,
        model_number=files.model_number,
        rank=files.rank,
        seed=files.seed,
        recycles=_recycles(files),
        files={"folder": str(folder), "weights": str(weight_file), "model": files.paths["unrelaxed"].name},
    )
    return assemble(
        chains,
        single_representation(first_row, weight_file),
        pair,
        weight_file,
        origin,
        ca_of_model(files.paths["unrelaxed"], chains),
        max_deviation_angstrom,
        plddt,
        pae,
    )


def _require_complete(files: ModelFiles) -> None:
    missing = [kind for kind in ("single_repr", "pair_repr") if kind not in files.paths]
    if missing and "all" not in files.paths:
        raise InputError(
            f"--colabfold {files.folder}: rank {files.rank} of {files.job} has no {' and no '.join(missing)} file; "
            f"run colabfold_batch again with {FLAGS}"
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


def _representations(files: ModelFiles, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First row of the MSA, (n, 256), and pair, (n, n, 128); ColabFold leaves padding at the end."""
    if {"single_repr", "pair_repr"} <= set(files.paths):
        single, pair = (_load(files.paths[kind]) for kind in ("single_repr", "pair_repr"))
        source = files.paths["pair_repr"]
    else:
        source = files.paths["all"]
        kept = load_arrays(source).get("representations", {})
        single, pair = (np.asarray(kept.get(name, ())) for name in ("single", "pair"))
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


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not readable as a numpy array ({error}); copy it again") from error
    if array.dtype not in (np.float16, np.float32):
        raise InputError(f"{path}: its numbers are {array.dtype}; ColabFold writes float16")
    return array


def _scores(files: ModelFiles, n: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if "scores" not in files.paths:
        return None, None
    scores = _json(files.paths["scores"])
    found: list[torch.Tensor | None] = []
    for name, shape in (("plddt", (n,)), ("pae", (n, n))):
        values = scores.get(name)
        if values is None:
            found.append(None)
            continue
        try:
            array = np.asarray(values, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise InputError(f"{files.paths['scores']}: {name} is not a table of numbers ({error})") from error
        if array.shape != shape:
            raise InputError(f"{files.paths['scores']}: {name} is {array.shape}; for {n} residues it must be {shape}")
        found.append(torch.from_numpy(array))
    return found[0], found[1]


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; needed is the JSON object that ColabFold writes")
    return content


def _recycles(files: ModelFiles) -> int | None:
    """Recycles that the log tells for the model, or else those asked for."""
    log = files.folder / "log.txt"
    found = None
    if log.is_file():
        job = ""
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            query = re.search(r"Query \d+/\d+: (\S+) \(length", line)
            ended = re.search(rf"{re.escape(files.tag)} took \S+ \((\d+) recycles\)", line)
            job = query[1] if query else job
            found = int(ended[1]) if ended and job == files.job else found
    if found is None:
        asked = _config(files.folder).get("num_recycles")
        found = asked if isinstance(asked, int) else None
    return found
