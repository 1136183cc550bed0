"""A prediction's frozen half: all that AlphaFold's structure module needs to give the atoms again, in one file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cocofold import __version__
from cocofold.alphafold.chains import Chains
from cocofold.alphafold.residue_constants import UNKNOWN_RESIDUE
from cocofold.alphafold.weight_layout import PAIR_WIDTH, SINGLE_WIDTH, check_module_arrays
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError

FILE_NAME, MODEL_NAME = "prediction.safetensors", "model.cif"
FORMAT = "cocofold prediction 1"
PROGRAM_FOLDERS = ("colabfold", "openfold")

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
        Paths of what was read, by what it is.
    ca_rmsd_to_program, ca_max_to_program : float, optional
        Deviation of the atoms given again from the program's own, CA, in place, Å.
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
        As the program gave it.
    aatype : (n,) int64
        AlphaFold's numbers of amino acids, 20 for X.
    mask : (n,) bool
        Residues that count.
    chain_index, residue_numbers : (n,) int64
        Row of the residue's chain in ``chains``, and its number in the files.
    chains : Chains
    weights : dict of str to Tensor
        Structure module and confidence heads, in the official names and layout.
    origin : Provenance
    plddt : (n,) float32, optional
        The program's own.
    pae : (n, n) float32, optional
        The program's own, Å.
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
            # safetensors lets nobody else read its files.
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
        try:
            with safe_open(str(path), framework="pt") as file:
                # A file stays in memory as long as a tensor of it does; the pair, nearly all of it, is let go of first.
                tensors = {
                    name: file.get_tensor(name) if name == "pair" else file.get_tensor(name).clone()
                    for name in file.keys()  # noqa: SIM118
                }
                facts = json.loads((file.metadata() or {})["facts"])
            if facts["format"] != FORMAT:
                raise InputError(
                    f"{path}: its format is {facts['format']!r} and this version reads {FORMAT!r}; "
                    "write it anew with cocofold predict"
                )
            chains = Chains(**{name: tuple(value) for name, value in facts["chains"].items()})
            prediction = _prediction_from_tensors(tensors, chains, Provenance(**facts["origin"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); write it anew with cocofold predict") from error
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


def _prediction_from_tensors(tensors: dict[str, torch.Tensor], chains: Chains, origin: Provenance) -> Prediction:
    weights = {
        name[len(_WEIGHT_KEY_PREFIX) :]: tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_WEIGHT_KEY_PREFIX)
    }
    parts: dict[str, Any] = dict(tensors)
    return Prediction(chains=chains, weights=weights, origin=origin, **parts)


def _dtype_name(kind: torch.dtype) -> str:
    return str(kind).replace("torch.", "")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all is finite, a slice at a time: a mask of a whole pair takes half its memory."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.split(256))


def refuse_occupied_folder(folder: Path) -> None:
    """Refuse a folder that a prediction cannot be written into: a file, or one that holds anything but its program's.

    Raises
    ------
    InputError
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; give a folder")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in held if name not in PROGRAM_FOLDERS]
    if foreign:
        raise InputError(f"--out {folder}: the folder holds {', '.join(foreign[:4])}; give another one")


START_FROM_MODEL_ADVICE = (
    "start from its model instead: cocofold finetune --model MODEL.cif (no weights and no GPU needed)"
)

_ALPHAFOLD_2_ADVICE = (
    "DeepMind's AlphaFold does not write the single and pair representations. Predict again with ColabFold "
    "(cocofold predict --fasta) or OpenFold (--save_outputs), or start from the model: cocofold finetune --model MODEL"
)


def _other_network_advice(program: str) -> str:
    return (
        f"these are files of {program}, whose network has no structure module of AlphaFold-Multimer; "
        f"{START_FROM_MODEL_ADVICE}"
    )


# The first pattern that a name of the folder fits decides.
_ADVICE_BY_FILE_PATTERN: tuple[tuple[str, str], ...] = (
    ("ranking_scores.csv", _other_network_advice("AlphaFold 3")),
    ("*_ranking_scores.csv", _other_network_advice("AlphaFold 3")),
    ("fold_*_full_data_*.json", _other_network_advice("the AlphaFold server (AlphaFold 3)")),
    ("*_summary_confidences*.json", _other_network_advice("AlphaFold 3")),
    ("*_data.json", _other_network_advice("AlphaFold 3")),
    ("boltz_results_*", _other_network_advice("Boltz")),
    ("plddt_*_model_*.npz", _other_network_advice("Boltz")),
    ("confidence_*_model_*.json", _other_network_advice("Boltz")),
    ("pred.model_idx_*.cif", _other_network_advice("Chai")),
    ("scores.model_idx_*.npz", _other_network_advice("Chai")),
    ("result_model_*.pkl", _ALPHAFOLD_2_ADVICE),
    ("ranking_debug.json", _ALPHAFOLD_2_ADVICE),
)

_ALPHAFOLD_2_OUTPUT_KEYS = {"structure_module", "distogram", "predicted_lddt", "masked_msa"}


def advice_on_folder(folder: Path) -> str | None:
    """What to do with the output of another program, or None if the folder does not look like one."""
    names = [entry.name for entry in folder.iterdir()]
    return _advice_for_names([folder.name, *names])


def advice_on_file(path: Path) -> str | None:
    """What to do with a file of another program, or None if its name does not look like one."""
    if path.suffix in (".cif", ".pdb", ".mmcif"):
        return f"this is a model, without representations; {START_FROM_MODEL_ADVICE}"
    return _advice_for_names([path.name, path.parent.name])


def advice_on_pickle_keys(names: Collection[str]) -> str | None:
    """What to do with a pickle that has these entries, or None if they are not AlphaFold's."""
    return _ALPHAFOLD_2_ADVICE if _ALPHAFOLD_2_OUTPUT_KEYS & set(names) else None


def _advice_for_names(names: list[str]) -> str | None:
    for pattern, advice in _ADVICE_BY_FILE_PATTERN:
        if any(fnmatch(name, pattern) for name in names):
            return advice
    return None
