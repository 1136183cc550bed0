"""A prediction from the pickle of outputs that OpenFold writes with ``--save_outputs``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.alphafold.external_programs import advice_on_file, advice_on_pickle_keys, load_pickled_arrays
from cocofold.alphafold.prediction import Provenance
from cocofold.alphafold.rebuild import (
    CA_COLUMN,
    MAX_DEVIATION_ANGSTROM,
    ProgramOutput,
    VerifiedPrediction,
    build_verified_prediction,
    read_model_chains,
)
from cocofold.alphafold.run_programs import OPENFOLD_OUTPUT_SUFFIX
from cocofold.alphafold.sequences import ATOM14_NAMES, ONE_LETTER_CODES, Chains, read_fasta
from cocofold.alphafold.weight_layout import PAIR_WIDTH, SINGLE_WIDTH
from cocofold.alphafold.weights import find_weights
from cocofold.system.errors import InputError, refuse_damaged

_OUTPUT_NAME_PATTERN = re.compile(r"(?P<job>.+)_model_(?P<number>[1-5])(?P<kind>_ptm|_multimer(?:_v[23])?)?(?:_.+)?")
# AlphaFold's order of atoms in arrays of 37 (``atom_types`` of its residue_constants.py).
_ATOM37 = tuple(
    name
    for names in (
        "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD",
        "CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 NH1 NH2 OH CZ CZ2 CZ3 NZ OXT",
    )
    for name in names.split(" ")
)
_PAE = "predicted_aligned_error"
# Entries of a foreign pickle that a message lists.
_MAX_LISTED_ENTRIES = 12
_OPENFOLD_FLAGS = "--config_preset model_1_multimer_v3 --save_outputs"


def read_openfold_prediction(
    path: Path,
    weights: Path | None = None,
    fasta: Path | None = None,
    *,
    model_number: int | None = None,
    max_deviation_angstrom: float = MAX_DEVIATION_ANGSTROM,
) -> VerifiedPrediction:
    """Read OpenFold's outputs and make sure that the weights give its atoms again.

    Parameters
    ----------
    path : Path
        ``NAME_model_K_multimer_v3_output_dict.pkl``.
    weights : Path, optional
        The weight file of the same model, or a folder with it.
    fasta : Path, optional
        The sequences; by default those of the pickle, or of the model beside it.
    model_number : int, optional
        Needed if the file's name does not tell.
    max_deviation_angstrom : float
        Largest CA RMSD from the atoms in the pickle.

    Raises
    ------
    InputError
        If something is missing, damaged, of another program or another kind of model, or does not fit together.
    """
    _require_outputs_of_openfold(path)
    job, number = _job_and_model(path, model_number)
    weight_file = find_weights(weights, number)
    outputs = load_pickled_arrays(path)
    # What is in the pickle may be of any kind.
    with refuse_damaged(f"--openfold {path}", "give OpenFold's outputs as it wrote them"):
        single, pair = _representations(outputs, path)
        chains, source = _chains(path, outputs, fasta, len(single))
        n = len(chains)
        recycles = outputs.get("num_recycles")
        output = ProgramOutput(
            chains=chains,
            single=_float32(single[:n]),
            pair=torch.from_numpy(np.array(pair[:n, :n])),
            origin=Provenance(
                program="OpenFold",
                program_version=None,
                job=job,
                model_number=number,
                recycles=None if recycles is None else int(recycles),
                files={"outputs": str(path), "weights": str(weight_file), "sequences": source},
            ),
            ca_positions=_ca_positions(outputs, path, chains, source, len(single)),
            plddt=_float32(outputs["plddt"][:n]) if outputs.get("plddt") is not None else None,
            pae=_float32(outputs[_PAE][:n, :n]) if outputs.get(_PAE) is not None else None,
        )
    return build_verified_prediction(output, weight_file, max_deviation_angstrom)


def _float32(array: np.ndarray) -> torch.Tensor:
    """A copy as float32."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _require_outputs_of_openfold(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"--openfold {path}: no such file; give OpenFold's NAME{OPENFOLD_OUTPUT_SUFFIX}")
    advice = advice_on_file(path)
    if advice is not None:
        raise InputError(f"--openfold {path}: {advice}")


def _ca_positions(outputs: dict[str, Any], path: Path, chains: Chains, source: str, length: int) -> np.ndarray:
    """CA atoms of the chains, (n, 3) Å, NaN where a residue has none.

    Raises
    ------
    InputError
        If the outputs have no atoms, or atoms of other residues.
    """
    positions, mask = (_require_array(outputs, name, path) for name in ("final_atom_positions", "final_atom_mask"))
    if positions.shape != (length, len(_ATOM37), 3) or mask.shape != (length, len(_ATOM37)):
        raise InputError(f"--openfold {path}: atoms are {positions.shape}, for {length} residues; it is damaged")
    # The mask has the numbers 0 and 1, of whatever type.
    exist = mask > 0.5
    _require_same_residues(chains, exist, outputs.get("asym_id"), path, source)
    n = len(chains)
    return np.where(exist[:n, CA_COLUMN, None], positions[:n, CA_COLUMN], np.nan)


def _output_name(path: Path) -> str:
    """OpenFold's name of a prediction: the pickle's name without its end."""
    suffix = OPENFOLD_OUTPUT_SUFFIX
    return path.name.removesuffix(suffix) if path.name.endswith(suffix) else path.stem


def _job_and_model(path: Path, model_number: int | None) -> tuple[str, int]:
    name = _output_name(path)
    preset = _OUTPUT_NAME_PATTERN.fullmatch(name)
    if preset is None:
        if model_number is None:
            raise InputError(
                f"--openfold {path}: its name does not tell the model; give --model-number, 1 to 5, or the name that "
                f"OpenFold gave it, such as NAME_model_1_multimer_v3{OPENFOLD_OUTPUT_SUFFIX}"
            )
        return name, model_number
    number = int(preset["number"])
    if preset["kind"] != "_multimer_v3":
        raise InputError(
            f"--openfold {path}: predicted with model_{number}{preset['kind'] or ''}, whose structure module has "
            f"another layout or other weights; run OpenFold again with {_OPENFOLD_FLAGS} (for a single chain too)"
        )
    if model_number not in (None, number):
        raise InputError(f"--openfold {path}: --model-number {model_number}, but its name says model {number}")
    return preset["job"], number


def _representations(outputs: dict[str, Any], path: Path) -> tuple[np.ndarray, np.ndarray]:
    if "single" not in outputs or "pair" not in outputs:
        advice = advice_on_pickle_keys(outputs)
        found = ", ".join(sorted(map(str, outputs))[:_MAX_LISTED_ENTRIES])
        missing = f"holds no single and pair representation (it has {found}); run OpenFold with {_OPENFOLD_FLAGS}"
        raise InputError(f"--openfold {path}: {advice or missing}")
    single, pair = (_require_array(outputs, name, path) for name in ("single", "pair"))
    if single.ndim != 2 or single.shape[1] != SINGLE_WIDTH or pair.shape != (len(single), len(single), PAIR_WIDTH):
        raise InputError(
            f"--openfold {path}: single is {single.shape} and pair {pair.shape}; they must be (n, {SINGLE_WIDTH}) and "
            f"(n, n, {PAIR_WIDTH})"
        )
    return single, pair


def _require_array(outputs: dict[str, Any], name: str, path: Path) -> np.ndarray:
    array = outputs.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise InputError(f"--openfold {path}: has no array of numbers {name!r}; run OpenFold with {_OPENFOLD_FLAGS}")
    return array


def _chains(path: Path, outputs: dict[str, Any], fasta: Path | None, length: int) -> tuple[Chains, str]:
    """The chains, and the place where they were found."""
    if fasta is not None:
        chains, source = read_fasta(fasta).with_copies_together(), str(fasta)
    elif "aatype" in outputs:
        aatype = _require_array(outputs, "aatype", path)
        asym_id = outputs.get("asym_id", np.zeros(len(aatype)))
        chains, source = _chains_from_aatype(aatype, np.asarray(asym_id)), f"aatype in {path}"
    else:
        models = [path.with_name(f"{_output_name(path)}_unrelaxed{suffix}") for suffix in (".pdb", ".cif")]
        there = [model for model in models if model.is_file()]
        if not there:
            raise InputError(f"--openfold {path}: the pickle does not hold the sequences; give them with --fasta")
        chains, source = read_model_chains(there[0]), str(there[0])
    if len(chains) > length:
        raise InputError(
            f"--openfold {path}: has representations of {length} residues, and {source} has {len(chains)}: chains "
            f"{chains}; give the FASTA file of this prediction"
        )
    return chains, source


def _chains_from_aatype(aatype: np.ndarray, asym_id: np.ndarray) -> Chains:
    letters = np.array([*ONE_LETTER_CODES, "X"])[np.clip(aatype.astype(int), 0, len(ONE_LETTER_CODES))]
    return Chains.of(tuple("".join(part) for part in np.split(letters, _chain_starts(asym_id))))


def _require_same_residues(chains: Chains, mask: np.ndarray, asym_id: Any, path: Path, source: str) -> None:
    """Refuse sequences that are not those of the outputs, by the side chains' atoms and the chains' numbers."""
    n = len(chains)
    expected = np.zeros(mask.shape, dtype=bool)
    for row, kind in enumerate(chains.aatype()):
        expected[row, [_ATOM37.index(name) for name in ATOM14_NAMES[kind]]] = True
    different = np.flatnonzero((expected != mask).any(1))
    wrong = None
    if len(different) and different[0] >= n:
        wrong = f"the pickle has atoms beyond these {n} residues"
    elif len(different):
        letter = "".join(chains.sequences)[different[0]]
        wrong = f"the pickle's atoms of residue {different[0] + 1} are not those of {letter}"
    elif isinstance(asym_id, np.ndarray) and not np.array_equal(
        _chain_starts(asym_id[:n]), _chain_starts(chains.chain_index())
    ):
        wrong = "the pickle's residues belong to other chains"
    if wrong:
        raise InputError(
            f"--openfold {path}: {source} has chains {chains}, and {wrong}; give the FASTA file of this prediction"
        )


def _chain_starts(chain_numbers: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(chain_numbers)) + 1
