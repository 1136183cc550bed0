"""Weights of the structure module, in and out of files, in AlphaFold's names and layout.

A file is AlphaFold's (``.npz``) or a checkpoint of OpenFold's (``.pt``), which has the same numbers under other names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cocofold.alphafold.structure_network import FoldingOptions, StructureModule
from cocofold.alphafold.weight_layout import (
    MODULE_ARRAYS,
    MODULE_SCOPES,
    OPENFOLD_SCOPES,
    SCOPE,
    SINGLE_ACTIVATIONS,
    WEIGHT_FILE_ADVICE,
    WeightArray,
    check_arrays,
    check_module_arrays,
)
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import MOST_ARRAY_BYTES, InputError, refuse_damaged, refuse_large
from cocofold.system.hardware import is_out_of_memory

# An array that only AlphaFold's monomer models have: their key and value share a projection.
_ALPHAFOLD_MONOMER_KEY = f"{SCOPE}structure_module/fold_iteration/invariant_point_attention/kv_scalar//weights"


def load_structure_module(
    source: str | os.PathLike[str] | Mapping[str, torch.Tensor], options: FoldingOptions = FoldingOptions()
) -> StructureModule:
    """The structure module with its heads, float32, from a weight file or from what ``read_weights`` gave.

    Parameters
    ----------
    source
        ``params_model_K_multimer_v3.npz``, a checkpoint of OpenFold's (``.pt``), or arrays in AlphaFold's names and
        layout.
    options : FoldingOptions

    Raises
    ------
    InputError
        If the file is missing or damaged, or if arrays, which are named, are missing, unknown, of other shapes or not
        finite.
    """
    weights = check_module_arrays(source) if isinstance(source, Mapping) else read_weights(source)
    # Initial weights, which are replaced below, leave the caller's random numbers as they were.
    with torch.random.fork_rng(devices=[]):
        module = StructureModule(options)
    module.load_state_dict({array.module_key: array.to_torch(weights[array.alphafold_key]) for array in MODULE_ARRAYS})
    return module


def load_single_activations(path: str | os.PathLike[str]) -> nn.Linear:
    """AlphaFold's projection of the first row of the alignment's representation (256) to the single one (384).

    Raises
    ------
    InputError
        As ``load_structure_module``.
    """
    weights = _read_arrays(Path(path), SINGLE_ACTIVATIONS, scopes=(), openfold_scopes=())
    weight, bias = (array.to_torch(weights[array.alphafold_key]) for array in SINGLE_ACTIVATIONS)
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The 56 arrays of the structure module and its heads, float32, in AlphaFold's names and layout.

    Raises
    ------
    InputError
        As ``load_structure_module``.
    """
    return _read_arrays(Path(path), MODULE_ARRAYS, MODULE_SCOPES, OPENFOLD_SCOPES)


def official_weights(module: StructureModule) -> dict[str, torch.Tensor]:
    """Copies of the 56 arrays of a module, float32, in AlphaFold's names and layout, without the adapter."""
    state = module.state_dict()
    return {array.alphafold_key: array.from_torch(state[array.module_key]).float().clone() for array in MODULE_ARRAYS}


def save_weights(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Write arrays as AlphaFold's file has them; the file appears whole."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def _read_arrays(
    path: Path, wanted: Sequence[WeightArray], scopes: tuple[str, ...], openfold_scopes: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The wanted arrays of a file, checked; the scopes may have no others."""
    if not path.is_file():
        raise InputError(f"{path}: no such weight file; {WEIGHT_FILE_ADVICE}")
    if is_openfold_checkpoint(path):
        shapes = {array.openfold_key: array.torch_shape for array in wanted}
        state = check_arrays(read_openfold_checkpoint(path), shapes, openfold_scopes, str(path))
        return {array.alphafold_key: array.from_torch(state[array.openfold_key]) for array in wanted}
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path}: a weight file must be .npz (AlphaFold's) or .pt (OpenFold's); {WEIGHT_FILE_ADVICE}")
    shapes = {array.alphafold_key: array.shape for array in wanted}
    return check_arrays(_read_npz(path, (*shapes, *scopes)), shapes, scopes, str(path))


def _read_npz(path: Path, beginnings: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Arrays whose names have one of these beginnings; the others, which are far more, are not read."""
    damaged = refuse_damaged(path, WEIGHT_FILE_ADVICE, "a file of arrays")
    with damaged, open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        # What the archive says of itself: more than that is not unpacked of any of its files.
        wanted = [one for one in file.zip.infolist() if one.filename.startswith(beginnings)]
        refuse_large(path, sum(one.file_size for one in wanted), MOST_ARRAY_BYTES)
        if _ALPHAFOLD_MONOMER_KEY in file.files:
            raise InputError(f"{path}: these are weights of an AlphaFold monomer model; {WEIGHT_FILE_ADVICE}")
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files if name.startswith(beginnings)}


_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt")
# Beginnings of names that wrappers such as torch's DistributedDataParallel add.
_WRAPPER_PREFIXES = ("module.", "model.")
# A tensor that only OpenFold's monomer models have.
_OPENFOLD_MONOMER_KEY = "structure_module.ipa.linear_kv.weight"
_CHECKPOINT_ADVICE = (
    "give a checkpoint of a model_K_multimer_v3 of OpenFold's, or AlphaFold's params_model_K_multimer_v3.npz"
)


def is_openfold_checkpoint(path: Path) -> bool:
    """Whether the file's name is one of a torch checkpoint."""
    return path.suffix.lower() in _CHECKPOINT_SUFFIXES


def read_openfold_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by OpenFold's names.

    Raises
    ------
    InputError
        If the file cannot be read as tensors alone, or is of a monomer model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged archive or pickle may fail in any way.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: damaged, or holds more than tensors ({reason}); {_CHECKPOINT_ADVICE}") from error
    state = _tensors_of_checkpoint(content)
    if _OPENFOLD_MONOMER_KEY in state:
        raise InputError(f"{path}: these are weights of a monomer model; {_CHECKPOINT_ADVICE}")
    return state


def _tensors_of_checkpoint(content: Any) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by OpenFold's names, in any of the layouts that training programs write."""
    if isinstance(content, Mapping):
        # OpenFold predicts with the running average ("ema"); "state_dict" is Lightning's key, "module" DeepSpeed's.
        for path in (("ema", "params"), ("state_dict",), ("module",)):
            inner: Any = content
            for key in path:
                inner = inner.get(key) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping):
                return _tensors_of_checkpoint(inner)
        return {
            _without_wrapper_prefixes(str(name)): tensor
            for name, tensor in content.items()
            if isinstance(tensor, torch.Tensor)
        }
    return {}


def _without_wrapper_prefixes(name: str) -> str:
    for prefix in _WRAPPER_PREFIXES:
        if name.startswith(prefix):
            return _without_wrapper_prefixes(name.removeprefix(prefix))
    return name


_WEIGHT_FILE_PATTERN = re.compile(r"params_(?P<model>model_\d\w*)\.npz")


def weight_file_name(model_number: int) -> str:
    """File name of the weights of an AlphaFold-Multimer v2.3 model."""
    return f"params_model_{model_number}_multimer_v3.npz"


def colabfold_weights_folder() -> Path:
    """Folder in which ColabFold keeps the weights that it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "colabfold" / "params"


def weight_file_in(folder: Path, model_number: int) -> Path | None:
    """The weight file of a model in a folder or in its subfolder ``params``, or None if neither has it."""
    name = weight_file_name(model_number)
    return next((path for path in (folder / name, folder / "params" / name) if path.is_file()), None)


def find_weights(given: Path | None, model_number: int) -> Path:
    """The weight file of a model.

    Parameters
    ----------
    given : Path, optional
        The file, a folder with it, or a folder whose subfolder ``params`` has it; by default ColabFold's folder.
    model_number : int
        Number, 1 to 5, of the model that made the representations.

    Raises
    ------
    InputError
        If there is no such file, or its name says that it is of another model.
    """
    name = weight_file_name(model_number)
    if given is None or given.is_dir():
        folder = given or colabfold_weights_folder()
        path = weight_file_in(folder, model_number)
        if path is not None:
            return path
        option = f"--weights {given}" if given else f"no --weights given, and {folder}"
        raise InputError(
            f"{option}: holds no {name}; the representations are of model {model_number}, give AlphaFold-Multimer's "
            "weight file of that model (alphafold_params_2022-12-06.tar of DeepMind; ColabFold downloads it too)"
        )
    if not given.is_file():
        raise InputError(f"--weights {given}: no such file; give {name}, or the folder with it")
    match = _WEIGHT_FILE_PATTERN.fullmatch(given.name)
    if match is not None and given.name != name:
        raise InputError(
            f"--weights {given}: these are of {match['model']}, but the representations are of "
            f"model_{model_number}_multimer_v3; give {name}"
        )
    return given


def project_single_representation(first_row: torch.Tensor, path: Path) -> torch.Tensor:
    """The single representation, a linear function of the alignment's first row (Jumper et al. 2021, suppl. alg. 6).

    ColabFold computes it in bfloat16 by default. Where all numbers of the first row are bfloat16, this function rounds
    as ColabFold does: the product to bfloat16, to which the bias is added in float32.

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
