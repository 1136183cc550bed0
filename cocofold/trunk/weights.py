"""Weight files: found by model number, and never taken for another model's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from cocofold.errors import InputError
from cocofold.network import load_single_activations

_OFFICIAL = re.compile(r"params_model_(\d)(\w*)\.npz")


def official_name(model_number: int) -> str:
    """Name of the file in which AlphaFold-Multimer v2.3 comes."""
    return f"params_model_{model_number}_multimer_v3.npz"


def default_folder() -> Path:
    """Where ColabFold keeps the weights that it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "colabfold" / "params"


def find_weights(given: Path | None, model_number: int) -> Path:
    """The weight file of a model.

    Parameters
    ----------
    given : Path, optional
        The file, a folder with it, or a folder whose subfolder ``params`` has it; by default where ColabFold keeps it.
    model_number : int
        Which of the five models made the representations.

    Raises
    ------
    InputError
        If there is no such file, or its name says that it is of another model.
    """
    name = official_name(model_number)
    if given is None or given.is_dir():
        folder = given or default_folder()
        for path in (folder / name, folder / "params" / name):
            if path.is_file():
                return path
        option = f"--weights {given}" if given else f"no --weights given, and {folder}"
        raise InputError(
            f"{option}: holds no {name}; the representations are of model {model_number}, give AlphaFold-Multimer's "
            "weight file of that model (alphafold_params_2022-12-06.tar of DeepMind; ColabFold downloads it too)"
        )
    if not given.is_file():
        raise InputError(f"--weights {given}: no such file; give {name}, or the folder with it")
    match = _OFFICIAL.fullmatch(given.name)
    if match is not None and given.name != name:
        raise InputError(
            f"--weights {given}: these are of {given.stem.replace('params_', '')}, but the representations are of "
            f"model_{model_number}_multimer_v3; give {name}"
        )
    return given


def single_representation(first_row: torch.Tensor, path: Path) -> torch.Tensor:
    """The single representation, a linear function of the MSA's first row (Jumper et al. 2021, suppl. alg. 6).

    ColabFold computes it in bfloat16 by default. Where the first row is in bfloat16, this rounds as it does: products
    to bfloat16, then the bias added in float32.

    Parameters
    ----------
    first_row : (n, 256) float16 or float32
    path : Path
        The weight file.

    Returns
    -------
    (n, 384) float32

    Raises
    ------
    InputError
        If the file cannot be read or does not have the function's weights.
    """
    layer = load_single_activations(path)
    row = first_row.float()
    with torch.no_grad():
        if not torch.equal(row, row.bfloat16().float()):
            return layer(row)
        product = row @ layer.weight.bfloat16().float().T
        return product.bfloat16().float() + layer.bias.bfloat16().float()
