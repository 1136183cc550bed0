"""Running ColabFold's ``colabfold_batch`` on sequences."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cocofold.alphafold.chains import Chains, first_record_covers_all_chains, read_a3m_chains, read_fasta
from cocofold.alphafold.colabfold import COLABFOLD_MODEL_TYPE
from cocofold.alphafold.weights import weight_file_name
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError, require_within

COLABFOLD_VARIABLE = "COCOFOLD_COLABFOLD"
SERVER_MSA, SINGLE_SEQUENCE_MSA = "server", "single-sequence"

# ColabFold takes weights for complete, and downloads nothing, where this file lies beside them.
_DOWNLOAD_FINISHED_MARKER = "download_complexes_multimer_v3_finished.txt"
_MODEL_NUMBERS = (1, 2, 3, 4, 5)


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

    msa: str = SERVER_MSA
    num_models: int = 5
    num_recycle: int | None = None
    seed: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_within("--num-models", self.num_models, 1, 5)
        require_within("--num-recycle", self.num_recycle or 0, 0, 100)
        if self.msa not in (SERVER_MSA, SINGLE_SEQUENCE_MSA) and Path(self.msa).suffix != ".a3m":
            raise InputError(
                f"--msa {self.msa}: must be {SERVER_MSA}, {SINGLE_SEQUENCE_MSA}, or the name of an .a3m file"
            )


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
    for source, wanted in (("--colabfold-command", given), (COLABFOLD_VARIABLE, os.environ.get(COLABFOLD_VARIABLE))):
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


def sanitized_job_name(fasta: Path) -> str:
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
    job = sanitized_job_name(fasta)
    (folder / "input").mkdir(parents=True, exist_ok=True)
    query = _write_colabfold_query(chains, settings.msa, folder / "input" / job)
    data = None if weights is None else _link_weight_files(weights, folder / "weights")
    results, log = folder / "results", folder / "colabfold.log"
    command = _colabfold_command(program, query, results, settings, data)
    run_program([*command, *_overwrite_flags(folder / "request.json", [query.read_text(), *command])], log, say)
    if not (results / f"{job}.done.txt").is_file():
        raise InputError(f"{Path(program).name} ended without a prediction of {job}; {last_log_lines(log)}")
    return results


def _colabfold_command(
    program: str, query: Path, results: Path, settings: ColabFoldSettings, data: Path | None
) -> list[str]:
    mode = "single_sequence" if settings.msa == SINGLE_SEQUENCE_MSA else "mmseqs2_uniref_env"
    command = [program, str(query), str(results), "--model-type", COLABFOLD_MODEL_TYPE, "--msa-mode", mode]
    command += ["--num-models", str(settings.num_models), "--random-seed", str(settings.seed)]
    command += ["--save-single-representations", "--save-pair-representations"]
    if settings.num_recycle is not None:
        command += ["--num-recycle", str(settings.num_recycle)]
    if data is not None:
        command += ["--data", str(data)]
    return [*command, *settings.extra]


def _overwrite_flags(record: Path, request: list[str]) -> list[str]:
    """The flag that makes ColabFold predict anew what it has done, if it was asked for something else."""
    text = json.dumps(request)
    changed = record.is_file() and record.read_text() != text
    write_atomically(record, text)
    return ["--overwrite-existing-results"] if changed else []


def _write_colabfold_query(chains: Chains, msa: str, stem: Path) -> Path:
    """What ColabFold is given: all chains as one record, or the user's own alignment."""
    if msa in (SERVER_MSA, SINGLE_SEQUENCE_MSA):
        path = stem.with_name(stem.name + ".fasta")
        write_atomically(path, f">{stem.name}\n{':'.join(chains.sequences)}\n")
        return path
    found, wanted = read_a3m_chains(Path(msa)), chains.with_copies_together()
    if found.sequences != wanted.sequences:
        raise InputError(
            f"--msa {msa}: its first sequence is of chains {found}, and --fasta has {wanted}; they must be the same, "
            "copies next to each other, with a first line '#lengths<tab>copies' for several chains"
        )
    if not first_record_covers_all_chains(Path(msa)):
        raise InputError(
            f"--msa {msa}: its first sequence has gaps; ColabFold wants all chains in it, one after the other"
        )
    path = stem.with_name(stem.name + ".a3m")
    shutil.copyfile(msa, path)
    return path


def _link_weight_files(weights: Path, folder: Path) -> Path:
    """A data folder as ColabFold wants it, of links to the weight files, whatever their folder is called."""
    sources = [_find_weight_file(weights, number) for number in _MODEL_NUMBERS]
    params = folder / "params"
    params.mkdir(parents=True, exist_ok=True)
    for source in sources:
        link = params / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    (params / _DOWNLOAD_FINISHED_MARKER).touch()
    return folder


def _find_weight_file(weights: Path, number: int) -> Path:
    names: Sequence[Path] = (weights / weight_file_name(number), weights / "params" / weight_file_name(number))
    for path in names:
        if path.is_file():
            return path
    raise InputError(
        f"--weights {weights}: holds no {weight_file_name(number)}; to run ColabFold give the folder of all five "
        "weight "
        "files, or leave --weights out: ColabFold then downloads them"
    )


OPENFOLD_HOME_VARIABLE, OPENFOLD_PYTHON_VARIABLE = "OPENFOLD_HOME", "OPENFOLD_PYTHON"
_OPENFOLD_SCRIPT = "run_pretrained_openfold.py"


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
    home = os.environ.get(OPENFOLD_HOME_VARIABLE)
    if not home:
        return None
    script = Path(home) / _OPENFOLD_SCRIPT
    if not script.is_file():
        raise InputError(
            f"{OPENFOLD_HOME_VARIABLE} {home}: holds no {_OPENFOLD_SCRIPT}; set it to the folder of OpenFold's "
            "repository"
        )
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
    python = os.environ.get(OPENFOLD_PYTHON_VARIABLE) or shutil.which("python3") or "python3"
    name = re.sub(r"[^A-Za-z0-9.-]", "_", fasta.stem)
    chains = read_fasta(fasta)
    sequences = folder / "input" / name
    sequences.mkdir(parents=True, exist_ok=True)
    records = [f">{name}_{chain}\n{sequence}\n" for chain, sequence in zip(chains.names, chains.sequences)]
    write_atomically(sequences / f"{name}.fasta", "".join(records))
    results, log = folder / "results", folder / "openfold.log"
    command = [python, script.name, str(sequences.resolve()), str(settings.templates.resolve())]
    command += ["--output_dir", str(results.resolve()), "--config_preset", f"model_{settings.model_number}_multimer_v3"]
    command += [_openfold_weight_option(weights), str(weights.resolve()), "--data_random_seed", str(settings.seed)]
    command += ["--save_outputs", "--skip_relaxation"]
    command += ["--model_device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    if settings.alignments is not None:
        command += ["--use_precomputed_alignments", str(settings.alignments.resolve())]
    run_program([*command, *settings.extra], log, say, folder=script.parent)
    found = sorted(results.rglob("*_output_dict.pkl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{_OPENFOLD_SCRIPT} ended without a prediction of {name}; {last_log_lines(log)}")
    return found[-1]


def _openfold_weight_option(weights: Path) -> str:
    return "--jax_param_path" if weights.suffix == ".npz" else "--openfold_checkpoint_path"


_MAX_LOG_LINES_SHOWN = 12


def run_program(command: Sequence[str], log: Path, say: Callable[[str], None], folder: Path | None = None) -> None:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str
        Program and arguments, handed over without a shell.
    log : Path
        What it prints is added there, after a line with the command.
    say : callable
        Called with each line that it prints.
    folder : Path, optional
        Where it runs.

    Raises
    ------
    InputError
        If it cannot be started, or ends with an error; the message has its last lines.
    """
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise InputError(f"{command[0]}: cannot be started ({error.strerror})") from error
        assert process.stdout is not None
        with process, process.stdout:
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    say(line.rstrip("\n"))
            except BaseException:
                process.terminate()
                raise
    if process.returncode != 0:
        ended = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise InputError(f"{Path(command[0]).name} failed ({ended}); {last_log_lines(log)}")


def last_log_lines(log: Path) -> str:
    """The last lines of a log, for a message."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = deque((line.rstrip() for line in file if line.strip()), maxlen=_MAX_LOG_LINES_SHOWN)
    return "\n  ".join([f"the end of {log}:", *lines])
