"""Running ColabFold's ``colabfold_batch`` on sequences."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocofold.errors import InputError, require_within
from cocofold.files import write_atomically
from cocofold.trunk.chains import Chains, has_whole_query, read_a3m_chains, read_fasta
from cocofold.trunk.colabfold_files import MODEL_TYPE
from cocofold.trunk.programs import last_words, run_program
from cocofold.trunk.weights import official_name

VARIABLE = "COCOFOLD_COLABFOLD"
SERVER, SINGLE_SEQUENCE = "server", "single-sequence"

# ColabFold takes weights for complete, and downloads nothing, where this file lies beside them.
_DOWNLOADED = "download_complexes_multimer_v3_finished.txt"
_MODELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class ColabFoldSettings:
    """How ColabFold predicts.

    Attributes
    ----------
    msa : str
        ``server`` for the MSA server, ``single-sequence``, or the path of an a3m file.
    num_models : int
        1 to 5.
    num_recycle : int, optional
        By default ColabFold's.
    seed : int
    extra : tuple of str
        Further arguments for ``colabfold_batch``.
    """

    msa: str = SERVER
    num_models: int = 5
    num_recycle: int | None = None
    seed: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_within("--num-models", self.num_models, 1, 5)
        require_within("--num-recycle", self.num_recycle or 0, 0, 100)
        if self.msa not in (SERVER, SINGLE_SEQUENCE) and Path(self.msa).suffix != ".a3m":
            raise InputError(f"--msa {self.msa}: must be {SERVER}, {SINGLE_SEQUENCE}, or the name of an .a3m file")


def find_colabfold(given: str | None = None) -> str | None:
    """The ``colabfold_batch`` to run: the one given, the one of ``COCOFOLD_COLABFOLD``, or the one on PATH.

    Parameters
    ----------
    given : str, optional
        The program, or the folder of the environment that has it.

    Raises
    ------
    InputError
        If a program is named that is not there.
    """
    for source, wanted in (("--colabfold-command", given), (VARIABLE, os.environ.get(VARIABLE))):
        if not wanted:
            continue
        for candidate in (str(Path(wanted) / "bin" / "colabfold_batch"), wanted):
            found = shutil.which(candidate)
            if found is not None:
                return found
        raise InputError(
            f"{source} {wanted}: no program there; give the path of colabfold_batch, or of the environment that has it"
        )
    return shutil.which("colabfold_batch")


def job_name(fasta: Path) -> str:
    """ColabFold's name for the prediction of a FASTA file."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", fasta.stem)


def run_colabfold(
    program: str,
    fasta: Path,
    folder: Path,
    settings: ColabFoldSettings,
    weights: Path | None,
    say: Callable[[str], None],
) -> Path:
    """Predict the chains of a FASTA file; a run that was interrupted goes on.

    Parameters
    ----------
    program : str
        ``colabfold_batch``.
    fasta : Path
        Chains of one complex.
    folder : Path
        Made if need be; input, output and log lie there.
    settings : ColabFoldSettings
    weights : Path, optional
        Folder of the five weight files; by default ColabFold's own, which it downloads where they are missing.
    say : callable
        Called with each line that ColabFold prints.

    Returns
    -------
    Path
        ColabFold's output folder.

    Raises
    ------
    InputError
        If the input cannot be used, or ColabFold fails.
    """
    chains = read_fasta(fasta)
    job = job_name(fasta)
    (folder / "input").mkdir(parents=True, exist_ok=True)
    query = _write_query(chains, settings.msa, folder / "input" / job)
    data = None if weights is None else _stage_weights(weights, folder / "weights")
    results, log = folder / "results", folder / "colabfold.log"
    command = _command(program, query, results, settings, data)
    run_program([*command, *_overwriting(folder / "request.json", [query.read_text(), *command])], log, say)
    if not (results / f"{job}.done.txt").is_file():
        raise InputError(f"{Path(program).name} ended without a prediction of {job}; {last_words(log)}")
    return results


def _command(program: str, query: Path, results: Path, settings: ColabFoldSettings, data: Path | None) -> list[str]:
    mode = "single_sequence" if settings.msa == SINGLE_SEQUENCE else "mmseqs2_uniref_env"
    command = [program, str(query), str(results), "--model-type", MODEL_TYPE, "--msa-mode", mode]
    command += ["--num-models", str(settings.num_models), "--random-seed", str(settings.seed)]
    command += ["--save-single-representations", "--save-pair-representations"]
    if settings.num_recycle is not None:
        command += ["--num-recycle", str(settings.num_recycle)]
    if data is not None:
        command += ["--data", str(data)]
    return [*command, *settings.extra]


def _overwriting(record: Path, request: list[str]) -> list[str]:
    """The flag that makes ColabFold predict anew what it has done, if it was asked for something else."""
    text = json.dumps(request)
    changed = record.is_file() and record.read_text() != text
    write_atomically(record, text)
    return ["--overwrite-existing-results"] if changed else []


def _write_query(chains: Chains, msa: str, stem: Path) -> Path:
    """What ColabFold is given: all chains as one record, or the user's own alignment."""
    if msa in (SERVER, SINGLE_SEQUENCE):
        path = stem.with_name(stem.name + ".fasta")
        write_atomically(path, f">{stem.name}\n{':'.join(chains.sequences)}\n")
        return path
    found, wanted = read_a3m_chains(Path(msa)), chains.with_copies_together()
    if found.sequences != wanted.sequences:
        raise InputError(
            f"--msa {msa}: its first sequence is of chains {found}, and --fasta has {wanted}; they must be the same, "
            "copies next to each other, with a first line '#lengths<tab>copies' for several chains"
        )
    if not has_whole_query(Path(msa)):
        raise InputError(
            f"--msa {msa}: its first sequence has gaps; ColabFold wants all chains in it, one after the other"
        )
    path = stem.with_name(stem.name + ".a3m")
    shutil.copyfile(msa, path)
    return path


def _stage_weights(weights: Path, folder: Path) -> Path:
    """A data folder as ColabFold wants it, of links to the weight files, whatever their folder is called."""
    sources = [_weight_file(weights, number) for number in _MODELS]
    params = folder / "params"
    params.mkdir(parents=True, exist_ok=True)
    for source in sources:
        link = params / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    (params / _DOWNLOADED).touch()
    return folder


def _weight_file(weights: Path, number: int) -> Path:
    names: Sequence[Path] = (weights / official_name(number), weights / "params" / official_name(number))
    for path in names:
        if path.is_file():
            return path
    raise InputError(
        f"--weights {weights}: holds no {official_name(number)}; to run ColabFold give the folder of all five weight "
        "files, or leave --weights out: ColabFold then downloads them"
    )
