"""Running OpenFold's ``run_pretrained_openfold.py`` on sequences."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cocofold.errors import InputError, require_within
from cocofold.files import write_atomically
from cocofold.trunk.chains import read_fasta
from cocofold.trunk.programs import last_words, run_program

HOME, PYTHON = "OPENFOLD_HOME", "OPENFOLD_PYTHON"
_SCRIPT = "run_pretrained_openfold.py"


@dataclass(frozen=True)
class OpenFoldSettings:
    """How OpenFold predicts.

    Attributes
    ----------
    templates : Path, optional
        Folder of mmCIF files, which OpenFold asks for; an empty one is allowed.
    alignments : Path, optional
        Folder of alignments made before, one subfolder a chain; without it OpenFold needs databases, named in
        ``extra``.
    model_number, seed : int
    extra : tuple of str
        Further arguments for the script.
    """

    templates: Path | None = None
    alignments: Path | None = None
    model_number: int = 1
    seed: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_within("--model-number", self.model_number, 1, 5)
        for option, folder in (("--templates", self.templates), ("--alignments", self.alignments)):
            if folder is not None and not folder.is_dir():
                raise InputError(f"{option} {folder}: no such folder")


def find_openfold() -> Path | None:
    """The script in ``OPENFOLD_HOME``, or None where that is not set.

    Raises
    ------
    InputError
        If the folder does not have it.
    """
    home = os.environ.get(HOME)
    if not home:
        return None
    script = Path(home) / _SCRIPT
    if not script.is_file():
        raise InputError(f"{HOME} {home}: holds no {_SCRIPT}; set it to the folder of OpenFold's repository")
    return script


def run_openfold(
    script: Path,
    fasta: Path,
    folder: Path,
    settings: OpenFoldSettings,
    weights: Path,
    say: Callable[[str], None],
) -> Path:
    """Predict the chains of a FASTA file.

    Parameters
    ----------
    script : Path
        ``run_pretrained_openfold.py``.
    fasta : Path
        Chains of one complex.
    folder : Path
        Made if need be; input, output and log lie there.
    settings : OpenFoldSettings
    weights : Path
        The model's weight file.
    say : callable
        Called with each line that OpenFold prints.

    Returns
    -------
    Path
        The pickle of outputs.

    Raises
    ------
    InputError
        If the input cannot be used, or OpenFold fails.
    """
    if settings.templates is None:
        raise InputError("--templates: OpenFold asks for a folder of template mmCIF files; give one, it may be empty")
    python = os.environ.get(PYTHON) or shutil.which("python3") or "python3"
    name = re.sub(r"[^A-Za-z0-9.-]", "_", fasta.stem)
    chains = read_fasta(fasta)
    sequences = folder / "input" / name
    sequences.mkdir(parents=True, exist_ok=True)
    records = [f">{name}_{chain}\n{sequence}\n" for chain, sequence in zip(chains.names, chains.sequences)]
    write_atomically(sequences / f"{name}.fasta", "".join(records))
    results, log = folder / "results", folder / "openfold.log"
    command = [python, script.name, str(sequences.resolve()), str(settings.templates.resolve())]
    command += ["--output_dir", str(results.resolve()), "--config_preset", f"model_{settings.model_number}_multimer_v3"]
    command += [_weight_option(weights), str(weights.resolve()), "--data_random_seed", str(settings.seed)]
    command += ["--save_outputs", "--skip_relaxation"]
    command += ["--model_device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    if settings.alignments is not None:
        command += ["--use_precomputed_alignments", str(settings.alignments.resolve())]
    run_program([*command, *settings.extra], log, say, folder=script.parent)
    found = sorted(results.rglob("*_output_dict.pkl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{_SCRIPT} ended without a prediction of {name}; {last_words(log)}")
    return found[-1]


def _weight_option(weights: Path) -> str:
    return "--jax_param_path" if weights.suffix == ".npz" else "--openfold_checkpoint_path"
