"""A prediction in one file: the trunk's representations, and the weights that turn them into atoms.

This module has the data, their file and their checks; ``rebuild`` runs the structure module on them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cocofold import __version__
from cocofold.alphafold.sequences import UNKNOWN_RESIDUE, Chains
from cocofold.alphafold.weight_layout import PAIR_WIDTH, SINGLE_WIDTH, check_module_arrays
from cocofold.system.atomic_files import atomic_path, check_new_folder
from cocofold.system.errors import InputError, refuse_damaged

FILE_NAME, MODEL_NAME = "prediction.safetensors", "model.cif"
FORMAT = "cocofold prediction 1"
PROGRAM_FOLDERS = ("colabfold", "openfold")
"""Folders beside a prediction in which the program that made it ran."""

# Rows of a tensor that are checked for finite numbers at a time, and names of a folder's files that a message lists.
_ROWS_AT_ONCE = 256
_MAX_LISTED_FILES = 4

_PAIR_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WEIGHT_KEY_PREFIX = "weights/"


@dataclass(frozen=True)
class Provenance:
    """Where a prediction came from.

    Attributes
    ----------
    program, program_version : str
        "ColabFold" or "OpenFold", and its version where it says so.
    job : str
        The program's name of the prediction.
    model_number : int
        Which of the five AlphaFold-Multimer models.
    rank, seed, recycles : int, optional
    files : dict
        Paths of the files that were read, by kind.
    ca_rmsd_to_program, ca_max_to_program : float, optional
        Deviation of the prediction's CA atoms from the program's own, without superposition, Å.
    cocofold_version : str
    """

    program: str
    program_version: str | None
    job: str
    model_number: int
    rank: int | None = None
    seed: int | None = None
    recycles: int | None = None
    files: dict[str, str] = field(default_factory=dict)
    ca_rmsd_to_program: float | None = None
    ca_max_to_program: float | None = None
    cocofold_version: str = __version__


@dataclass(frozen=True)
class Prediction:
    """Representations after the last recycle, and the weights that turn them into atoms.

    Attributes
    ----------
    single : (n, 384) float32
    pair : (n, n, 128) float16, bfloat16 or float32
        In the type in which the program wrote it.
    aatype : (n,) int64
        AlphaFold's numbers of amino acids, 20 for X.
    mask : (n,) bool
        Residues that are modelled.
    chain_index, residue_numbers : (n,) int64
        Row of the residue's chain in ``chains``, and its number in the files.
    chains : Chains
    weights : dict of str to Tensor
        Structure module and confidence heads, in AlphaFold's names and layout.
    origin : Provenance
    plddt : (n,) float32, optional
        The program's own confidence, 0 to 100.
    pae : (n, n) float32, optional
        The program's own aligned error, Å.
    """

    single: torch.Tensor
    pair: torch.Tensor
    aatype: torch.Tensor
    mask: torch.Tensor
    chain_index: torch.Tensor
    residue_numbers: torch.Tensor
    chains: Chains
    weights: Mapping[str, torch.Tensor]
    origin: Provenance
    plddt: torch.Tensor | None = None
    pae: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.aatype)

    def write_bundle(self, path: Path, mode_of: Path) -> None:
        """Write the bundle into one file that appears whole, with the access mode of another file."""
        tensors = {_WEIGHT_KEY_PREFIX + name: tensor for name, tensor in self.weights.items()}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                tensors[item.name] = value
        facts = {"format": FORMAT, "chains": asdict(self.chains), "origin": asdict(self.origin)}
        with atomic_path(path) as partial:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                str(partial),
                metadata={"facts": json.dumps(facts)},
            )
            # safetensors writes files that only their owner may read.
            shutil.copymode(mode_of, partial)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Prediction:
        """Read the bundle in a folder that ``cocofold predict`` wrote.

        Raises
        ------
        InputError
            If there is none, or it is damaged: parts missing, of other shapes or types, or not finite.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder}: holds no {FILE_NAME}; give the folder that cocofold predict wrote")
        with refuse_damaged(path, "write it anew with cocofold predict"):
            tensors, facts = _read_tensors_and_facts(path)
            if facts["format"] != FORMAT:
                raise InputError(
                    f"{path}: its format is {facts['format']!r} and this version reads {FORMAT!r}; "
                    "write it anew with cocofold predict"
                )
            chains = Chains(**{name: tuple(value) for name, value in facts["chains"].items()})
            prediction = _prediction_from_tensors(tensors, chains, Provenance(**facts["origin"]))
            prediction.check(str(path))
        return prediction

    def check(self, where: str) -> None:
        """Refuse parts that do not fit together.

        Raises
        ------
        InputError
            Starting with ``where``, and naming the part.
        """
        n = len(self.chains)
        whole, real = (torch.int64,), (torch.float32,)
        expected: dict[str, tuple[tuple[int, ...], tuple[torch.dtype, ...]]] = {
            "single": ((n, SINGLE_WIDTH), real),
            "pair": ((n, n, PAIR_WIDTH), _PAIR_DTYPES),
            "aatype": ((n,), whole),
            "mask": ((n,), (torch.bool,)),
            "chain_index": ((n,), whole),
            "residue_numbers": ((n,), whole),
            "plddt": ((n,), real),
            "pae": ((n, n), real),
        }
        for name, (shape, kinds) in expected.items():
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape or tensor.dtype not in kinds:
                allowed = " or ".join(_dtype_name(kind) for kind in kinds)
                raise InputError(
                    f"{where}: {name} is {tuple(tensor.shape)} {_dtype_name(tensor.dtype)}; for chains of {n} residues "
                    f"it must be {shape} {allowed}"
                )
            if tensor.is_floating_point() and not _is_finite(tensor):
                raise InputError(f"{where}: {name} holds numbers that are not finite; predict again")
        self._check_chains(where)
        check_module_arrays(self.weights, f"{where}: weights")

    def _check_chains(self, where: str) -> None:
        names = self.chains.names
        if not names or len(names) != len(self.chains.sequences) or len(set(names)) != len(names):
            raise InputError(f"{where}: {len(names)} chain names for {len(self.chains.sequences)} sequences")
        agree = (
            self.aatype.tolist() == self.chains.aatype().tolist()
            and self.chain_index.tolist() == self.chains.chain_index().tolist()
        )
        if not agree or not bool(((self.aatype >= 0) & (self.aatype <= UNKNOWN_RESIDUE)).all()):
            raise InputError(f"{where}: the residues are not those of the sequences; write it anew")
        same_chain = self.chain_index.diff() == 0
        if not bool((self.residue_numbers.diff()[same_chain] > 0).all()):
            raise InputError(f"{where}: the residue numbers of a chain do not rise; write it anew")


def _read_tensors_and_facts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(str(path), framework="pt") as file:
        # The file stays mapped as long as one of its tensors lives. All but the pair, which is nearly all of it, are
        # copied, so that the mapping ends with the pair.
        tensors = {
            name: file.get_tensor(name) if name == "pair" else file.get_tensor(name).clone()
            for name in file.keys()  # noqa: SIM118
        }
        return tensors, json.loads((file.metadata() or {})["facts"])


def _prediction_from_tensors(tensors: dict[str, torch.Tensor], chains: Chains, origin: Provenance) -> Prediction:
    weights = {
        name.removeprefix(_WEIGHT_KEY_PREFIX): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_WEIGHT_KEY_PREFIX)
    }
    parts: dict[str, Any] = dict(tensors)
    return Prediction(chains=chains, weights=weights, origin=origin, **parts)


def _dtype_name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite; a few rows at a time, since a mask of the whole pair takes half its memory."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.split(_ROWS_AT_ONCE))


def refuse_occupied_folder(folder: Path) -> None:
    """Refuse a folder that a prediction cannot be written into: a file, or one that holds anything but its program's.

    Raises
    ------
    InputError
    """
    check_new_folder("--out", folder, PROGRAM_FOLDERS)
