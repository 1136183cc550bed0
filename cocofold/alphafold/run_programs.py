"""Running the programs that predict from sequences: ColabFold's ``colabfold_batch``, and OpenFold's script."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cocofold.alphafold.external_programs import last_log_lines, run_program, sanitized_job_name
from cocofold.alphafold.sequences import Chains, first_record_covers_all_chains, read_a3m_chains, read_fasta
from cocofold.alphafold.weights import weight_file_in, weight_file_name
from cocofold.system.atomic_files import atomic_path, write_atomically
from cocofold.system.errors import InputError, require_folder, require_within

COLABFOLD_VARIABLE = "COCOFOLD_COLABFOLD"
"""Environment variable with ``colabfold_batch``, or the folder of its environment."""

COLABFOLD_MODEL_TYPE = "alphafold2_multimer_v3"
"""ColabFold's name of AlphaFold-Multimer v2.3, whose structure module ``StructureModule`` is."""

_REPRESENTATION_FLAGS = ("--save-single-representations", "--save-pair-representations")
COLABFOLD_FLAGS = " ".join(("--model-type", COLABFOLD_MODEL_TYPE, *_REPRESENTATION_FLAGS))
"""Arguments without which ColabFold's output cannot be used."""

SERVER_MSA, SINGLE_SEQUENCE_MSA = "server", "single-sequence"
_MSA_MODES = {SERVER_MSA: "mmseqs2_uniref_env", SINGLE_SEQUENCE_MSA: "single_sequence"}

# ColabFold believes that its weights are complete, and downloads nothing, where this file lies beside them.
_DOWNLOAD_FINISHED_MARKER = "download_complexes_multimer_v3_finished.txt"
# The five networks of AlphaFold-Multimer v2.3, whose files ColabFold expects beside each other
_MODEL_NUMBERS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class ColabFoldSettings:
    """How ColabFold predicts.

    Attributes
    ----------
    msa : str
        ``server`` for the MSA server, ``single-sequence``, or the path of an a3m file.
    num_models : int
        Number of models that predict, 1 to 5.
    num_recycle : int, optional
        Number of recycles; by default ColabFold's.
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
        if self.msa not in _MSA_MODES and Path(self.msa).suffix != ".a3m":
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


def run_colabfold(
    program: str,
    fasta: Path,
    folder: Path,
    settings: ColabFoldSettings,
    weights: Path | None,
    report_line: Callable[[str], None],
) -> Path:
    """Predict the chains of a FASTA file; a run that was interrupted is continued.

    Parameters
    ----------
    program : str
        ``colabfold_batch``.
    fasta : Path
        Chains of one complex.
    folder : Path
        Made if need be; holds ColabFold's input, output and log.
    settings : ColabFoldSettings
    weights : Path, optional
        Folder of the five weight files; by default ColabFold's own, which it downloads where they are missing.
    report_line : callable
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
    run_program([*command, *_overwrite_flags(folder / "request.json", [query.read_text(), *command])], log, report_line)
    if not (results / f"{job}.done.txt").is_file():
        raise InputError(
            f"{Path(program).name} ended without a prediction of {job}; the end of {log}:", last_log_lines(log)
        )
    return results


def _colabfold_command(
    program: str, query: Path, results: Path, settings: ColabFoldSettings, data: Path | None
) -> list[str]:
    mode = _MSA_MODES.get(settings.msa, _MSA_MODES[SERVER_MSA])
    command = [program, str(query), str(results), "--model-type", COLABFOLD_MODEL_TYPE, "--msa-mode", mode]
    command += ["--num-models", str(settings.num_models), "--random-seed", str(settings.seed)]
    command += _REPRESENTATION_FLAGS
    if settings.num_recycle is not None:
        command += ["--num-recycle", str(settings.num_recycle)]
    if data is not None:
        command += ["--data", str(data)]
    return [*command, *settings.extra]


def _overwrite_flags(record: Path, request: list[str]) -> list[str]:
    """The flag that makes ColabFold replace earlier results, if these are of another request."""
    text = json.dumps(request)
    changed = record.is_file() and record.read_text(encoding="utf-8") != text
    write_atomically(record, text)
    return ["--overwrite-existing-results"] if changed else []


def _write_colabfold_query(chains: Chains, msa: str, stem: Path) -> Path:
    """ColabFold's input file: all chains as one record, or the user's own alignment."""
    if msa in _MSA_MODES:
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
    with atomic_path(path) as partial:
        shutil.copyfile(msa, partial)
    return path


def _link_weight_files(weights: Path, folder: Path) -> Path:
    """A data folder in ColabFold's layout, with links to the five weight files."""
    found = {weight_file_name(number): weight_file_in(weights, number) for number in _MODEL_NUMBERS}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise InputError(
            f"--weights {weights}: holds no {missing[0]}; to run ColabFold give the folder of all five weight files, "
            "or leave --weights out: ColabFold then downloads them"
        )
    params = folder / "params"
    params.mkdir(parents=True, exist_ok=True)
    for source in filter(None, found.values()):
        link = params / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    (params / _DOWNLOAD_FINISHED_MARKER).touch()
    return folder


OPENFOLD_HOME_VARIABLE, OPENFOLD_PYTHON_VARIABLE = "OPENFOLD_HOME", "OPENFOLD_PYTHON"
"""Environment variables with the folder of OpenFold's repository, and the Python that has its packages."""

OPENFOLD_OUTPUT_SUFFIX = "_output_dict.pkl"
"""End of the names that OpenFold gives to its pickles of outputs."""

_OPENFOLD_SCRIPT = "run_pretrained_openfold.py"


@dataclass(frozen=True)
class OpenFoldSettings:
    """How OpenFold predicts.

    Attributes
    ----------
    templates : Path, optional
        Folder of mmCIF files, which OpenFold needs; it may be empty.
    alignments : Path, optional
        Folder of existing alignments, one subfolder a chain; without it OpenFold needs databases, named in ``extra``.
    model_number : int
        Number of the model that predicts, 1 to 5.
    seed : int
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

    def check_folders(self) -> None:
        """Refuse settings without a folder of templates, or with folders that are not there.

        Raises
        ------
        InputError
        """
        for option, folder in (("--templates", self.templates), ("--alignments", self.alignments)):
            if folder is not None:
                require_folder(f"{option} {folder}", folder, "give one that is there")
        if self.templates is None:
            raise InputError(
                "--templates: OpenFold asks for a folder of template mmCIF files; give one, it may be empty"
            )


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
    report_line: Callable[[str], None],
) -> Path:
    """Predict the chains of a FASTA file.

    Parameters
    ----------
    script : Path
        ``run_pretrained_openfold.py``.
    fasta : Path
        Chains of one complex.
    folder : Path
        Made if need be; holds OpenFold's input, output and log.
    settings : OpenFoldSettings
    weights : Path
        The model's weight file.
    report_line : callable
        Called with each line that OpenFold prints.

    Returns
    -------
    Path
        The pickle of outputs.

    Raises
    ------
    InputError
        If the input or the settings cannot be used, or OpenFold fails or writes no outputs.
    """
    settings.check_folders()
    job = sanitized_job_name(fasta)
    sequences = _write_openfold_sequences(read_fasta(fasta), job, folder / "input" / job)
    results, log = folder / "results", folder / "openfold.log"
    before = _output_times(results)
    run_program(_openfold_command(script, sequences, results, settings, weights), log, report_line, script.parent)
    # Outputs of an earlier run may be of other sequences or settings.
    written = {path: time for path, time in _output_times(results).items() if before.get(path) != time}
    if not written:
        raise InputError(
            f"{_OPENFOLD_SCRIPT} ended without a prediction of {job}; the end of {log}:", last_log_lines(log)
        )
    return max(written, key=lambda path: written[path])


def _write_openfold_sequences(chains: Chains, job: str, folder: Path) -> Path:
    """A folder with the FASTA file of the complex, one record a chain."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [f">{job}_{chain}\n{sequence}\n" for chain, sequence in zip(chains.names, chains.sequences)]
    write_atomically(folder / f"{job}.fasta", "".join(records))
    return folder


def _openfold_command(
    script: Path, sequences: Path, results: Path, settings: OpenFoldSettings, weights: Path
) -> list[str]:
    assert settings.templates is not None  # Refused by ``check_folders``.
    python = os.environ.get(OPENFOLD_PYTHON_VARIABLE) or shutil.which("python3") or "python3"
    command = [python, script.name, str(sequences.resolve()), str(settings.templates.resolve())]
    command += ["--output_dir", str(results.resolve()), "--config_preset", f"model_{settings.model_number}_multimer_v3"]
    command += [_openfold_weight_option(weights), str(weights.resolve()), "--data_random_seed", str(settings.seed)]
    command += ["--save_outputs", "--skip_relaxation"]
    command += ["--model_device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    if settings.alignments is not None:
        command += ["--use_precomputed_alignments", str(settings.alignments.resolve())]
    return [*command, *settings.extra]


def _output_times(results: Path) -> dict[Path, int]:
    """Times (ns) at which OpenFold's pickles below a folder were written."""
    return {path: path.stat().st_mtime_ns for path in sorted(results.rglob(f"*{OPENFOLD_OUTPUT_SUFFIX}"))}


def _openfold_weight_option(weights: Path) -> str:
    return "--jax_param_path" if weights.suffix == ".npz" else "--openfold_checkpoint_path"


def installation_advice(program: str) -> str:
    """How to get a program that predicts, where none was found.

    Parameters
    ----------
    program : str
        The program that was asked for: colabfold, openfold, or auto for either.
    """
    colabfold = (
        "ColabFold is not there: install it in an environment of its own (pip install 'colabfold[alphafold]', see "
        f"https://github.com/sokrypton/ColabFold) and put colabfold_batch on PATH, or set {COLABFOLD_VARIABLE} to the "
        "environment"
    )
    if os.environ.get(OPENFOLD_HOME_VARIABLE):
        openfold = "--program openfold runs OpenFold"
    else:
        openfold = (
            "OpenFold is not there: install https://github.com/aqlaboratory/openfold and set "
            f"{OPENFOLD_HOME_VARIABLE} to its folder"
        )
    reasons = {"colabfold": [colabfold], "openfold": [openfold], "auto": [colabfold, openfold]}[program]
    return (
        f"--fasta: needs a program that predicts. {'. '.join(reasons)}. Without either, start from a model of any "
        "program: cocofold finetune --model MODEL.cif"
    )
