"""Programs that predict structures: how one is run, how a job is named, and files of those that cannot be used."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from cocofold.system.errors import InputError

# Lines of a program's log that the message of its failure shows: enough for the end of a traceback.
_MAX_LOG_LINES_SHOWN = 12
# Time that a program has to end after it was asked to, before it is killed.
_SECONDS_TO_TERMINATE = 10.0


def run_program(
    command: Sequence[str], log: Path, report_line: Callable[[str], None], folder: Path | None = None
) -> None:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str
        Program and arguments, which no shell interprets.
    log : Path
        A line with the command and the program's output are appended to it.
    report_line : callable
        Called with each line that the program prints. If it raises, the program is ended.
    folder : Path, optional
        Working folder of the program.

    Raises
    ------
    InputError
        If the program cannot be started, or ends with an error; the message has its last lines.
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
                    report_line(line.rstrip("\n"))
            except BaseException:
                _end(process)
                raise
    if process.returncode != 0:
        ended = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise InputError(f"{Path(command[0]).name} failed ({ended}); {last_log_lines(log)}")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_SECONDS_TO_TERMINATE)
    except subprocess.TimeoutExpired:
        process.kill()


def last_log_lines(log: Path) -> str:
    """The last lines of a log that are not blank, for a message."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = deque((line.rstrip() for line in file if line.strip()), maxlen=_MAX_LOG_LINES_SHOWN)
    return "\n  ".join([f"the end of {log}:", *lines])


def sanitized_job_name(fasta: Path) -> str:
    """Name of the prediction of a FASTA file, as ColabFold makes it: other characters become underscores."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", fasta.stem)


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


# Names of files by which other programs' output is recognised; of several patterns that fit, the first decides.
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

# Entries of AlphaFold 2's result pickles, which OpenFold's pickles do not have.
_ALPHAFOLD_2_OUTPUT_KEYS = {"structure_module", "distogram", "predicted_lddt", "masked_msa"}


def advice_on_folder(folder: Path) -> str | None:
    """Advice on a folder of another program's output, or None if it does not look like one."""
    names = [entry.name for entry in folder.iterdir()]
    return _advice_for_names([folder.name, *names])


def advice_on_file(path: Path) -> str | None:
    """Advice on a file of another program, or None if its name does not look like one."""
    if path.suffix in (".cif", ".pdb", ".mmcif"):
        return f"this is a model, without representations; {START_FROM_MODEL_ADVICE}"
    return _advice_for_names([path.name, path.parent.name])


def advice_on_pickle_keys(names: Collection[str]) -> str | None:
    """Advice on a pickle that has these entries, or None if they are not those of AlphaFold 2."""
    return _ALPHAFOLD_2_ADVICE if _ALPHAFOLD_2_OUTPUT_KEYS & set(names) else None


def _advice_for_names(names: list[str]) -> str | None:
    for pattern, advice in _ADVICE_BY_FILE_PATTERN:
        if any(fnmatch(name, pattern) for name in names):
            return advice
    return None
