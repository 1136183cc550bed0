"""Files in a ColabFold output folder: which job, rank and model each belongs to, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cocofold.errors import InputError
from cocofold.trunk.foreign import advice_on_folder

MODEL_TYPE = "alphafold2_multimer_v3"
FLAGS = f"--model-type {MODEL_TYPE} --save-single-representations --save-pair-representations"

_NAME = re.compile(
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
    def tag(self) -> str:
        """The model's name in ColabFold's log."""
        return f"{self.model_type}_model_{self.model_number}_seed_{self.seed:03d}"


def choose_model(folder: Path, job: str | None, rank: int | None, model_number: int | None) -> ModelFiles:
    """The files of the model that is asked for; by default the best of the only job.

    Raises
    ------
    InputError
        If the folder is not a finished ColabFold run, has several jobs and none is named, or has no such model.
    """
    if not folder.is_dir():
        raise InputError(f"--colabfold {folder}: no such folder; give ColabFold's output folder")
    models = _find_models(folder)
    if not models:
        raise InputError(f"--colabfold {folder}: {_why_none(folder)}")
    models = _of_job(folder, models, job)
    kinds = {model.model_type for model in models}
    if kinds != {MODEL_TYPE}:
        raise InputError(
            f"--colabfold {folder}: predicted by {' and '.join(sorted(kinds))}, whose structure module has another "
            f"layout or other weights; run colabfold_batch again with {FLAGS} (for a single chain too), or start from "
            "the model: cocofold finetune --model MODEL.pdb"
        )
    fitting = [
        model
        for model in models
        if (rank is None or model.rank == rank) and (model_number is None or model.model_number == model_number)
    ]
    if not fitting:
        asked = [f"--rank {rank}"] * (rank is not None) + [f"--model-number {model_number}"] * (
            model_number is not None
        )
        there = ", ".join(f"rank {model.rank} (model {model.model_number}, seed {model.seed})" for model in models)
        raise InputError(f"--colabfold {folder}: no model of {' and '.join(asked)}; there are {there}")
    return fitting[0]


def _find_models(folder: Path) -> list[ModelFiles]:
    found: dict[tuple[str, int], ModelFiles] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or match["rank"] is None:
            continue
        key = (match["job"], int(match["rank"]))
        if key not in found:
            numbers = (int(match["model_number"]), int(match["seed"]))
            found[key] = ModelFiles(folder, *key, match["model_type"], *numbers, {})
        model = found[key]
        if (model.model_number, model.seed) != (int(match["model_number"]), int(match["seed"])):
            raise InputError(
                f"--colabfold {folder}: two models claim rank {key[1]} of {key[0]}: {model.tag} and {path.name}; "
                "the folder holds files of several runs, give one with the files of one"
            )
        model.paths[match["kind"]] = path
    return [found[key] for key in sorted(found)]


def _of_job(folder: Path, models: Iterable[ModelFiles], job: str | None) -> list[ModelFiles]:
    jobs = sorted({model.job for model in models})
    if job is None and len(jobs) > 1:
        raise InputError(f"--colabfold {folder}: holds {len(jobs)} jobs; choose one with --job: {', '.join(jobs)}")
    if job is not None and job not in jobs:
        raise InputError(f"--colabfold {folder}: no job {job!r}; there are {', '.join(jobs)}")
    return [model for model in models if job in (None, model.job)]


def _why_none(folder: Path) -> str:
    names = [path.name for path in folder.iterdir()]
    if any(_NAME.fullmatch(name) for name in names):
        return "ColabFold has not come to its end there: its models have no rank yet; let it finish"
    if any(name.endswith(".result.zip") for name in names):
        return "ColabFold's results are packed (--zip); unpack the .result.zip there"
    advice = advice_on_folder(folder)
    if advice is not None:
        return advice
    if any(re.search(r"_(un)?relaxed_rank_\d+_model_\d+", name) for name in names):
        return f"these are files of a ColabFold before 1.5; run a newer colabfold_batch with {FLAGS}"
    return f"holds no models of ColabFold; give the output folder of colabfold_batch {FLAGS}"
