"""Programs that predict structures: how one is run, how a job is named, and its files.

Pickles of numpy arrays, numbers, strings and plain containers are read without running code of the pickle.
"""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

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
        raise InputError(f"{Path(command[0]).name} failed ({ended}); the end of {log}:", last_log_lines(log))


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_SECONDS_TO_TERMINATE)
    except subprocess.TimeoutExpired:
        process.kill()


def last_log_lines(log: Path) -> list[str]:
    """The last lines of a log that are not blank, to stand below a message."""
    with open(log, encoding="utf-8", errors="replace") as file:
        return list(deque((line.rstrip() for line in file if line.strip()), maxlen=_MAX_LOG_LINES_SHOWN))


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


class _DtypeStandIn:
    """Stands for ``numpy.dtype``, which would accept any pickled state."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"[biufcSU]\d+", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}; numbers and strings are admitted")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        # Of the tuple that numpy.dtype pickles only the byte order concerns numbers and strings.
        _version, byte_order, *_ = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _ArrayStandIn:
    """Stands for an array whose content follows, as pickles below protocol 5 write them."""

    def __init__(self, kind: str, shape: tuple[int, ...], code: bytes) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        # The tuple that numpy.ndarray pickles.
        _version, shape, dtype, by_columns, content = state
        self.array = _array_of(content, dtype, shape, "F" if by_columns else "C")


def _array_of(content: bytes, dtype: _DtypeStandIn, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.frombuffer(content, dtype=dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _DtypeStandIn, content: bytes) -> Any:
    return _array_of(content, dtype, (1,), "C")[0]


def _bytes_of(text: str, encoding: str) -> bytes:
    """Bytes, as pickles of protocol 2 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


_ALLOWED_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _DtypeStandIn,
    "_codecs.encode": _bytes_of,
    # Names of numpy 1, and of numpy 2.
    "numpy.core.multiarray._reconstruct": _ArrayStandIn,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_of,
    "numpy._core.multiarray._reconstruct": _ArrayStandIn,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array_of,
}


class _GlobalNotAllowed(Exception):
    """A class or function that a pickle of arrays does not need."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED_GLOBALS:
            raise _GlobalNotAllowed(f"{module}.{name}")
        return _ALLOWED_GLOBALS[f"{module}.{name}"]


def load_pickled_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays.

    A pickle may name any function of any package, and Python's reader would call it. Here only the names that arrays
    need are allowed, and they lead to stand-ins that check their arguments.

    Raises
    ------
    InputError
        If the file is missing, no pickle, damaged, names any other class or function, or is no dictionary.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the pickle that OpenFold's --save_outputs wrote")
    try:
        with open(path, "rb") as file:
            content = _replace_stand_ins(_ArrayUnpickler(file).load())
    except _GlobalNotAllowed as error:
        raise InputError(
            f"{path}: the pickle asks for {error}; only numpy arrays, numbers, strings and plain containers are "
            "admitted, since a pickle can run code. Give a pickle that OpenFold's --save_outputs wrote"
        ) from error
    # A damaged pickle may fail in any way.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable pickle ({reason}); copy it again or write it anew") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; needed is OpenFold's dictionary of outputs")
    return content


def _replace_stand_ins(content: Any) -> Any:
    """The content with arrays in place of their stand-ins."""
    if isinstance(content, _ArrayStandIn):
        return content.array
    if isinstance(content, dict):
        return {name: _replace_stand_ins(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_replace_stand_ins, content))
    return content
