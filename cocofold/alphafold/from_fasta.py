"""A prediction from sequences, by running ColabFold or OpenFold."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cocofold.alphafold.chains import read_fasta
from cocofold.alphafold.colabfold import read_colabfold_prediction
from cocofold.alphafold.openfold import read_openfold_prediction
from cocofold.alphafold.rebuild import VerifiedPrediction
from cocofold.alphafold.run_programs import (
    COLABFOLD_VARIABLE,
    OPENFOLD_HOME_VARIABLE,
    ColabFoldSettings,
    OpenFoldSettings,
    find_colabfold,
    find_openfold,
    run_colabfold,
    run_openfold,
    sanitized_job_name,
)
from cocofold.alphafold.weights import find_weights
from cocofold.system.errors import InputError

PROGRAMS = ("auto", "colabfold", "openfold")


@dataclass(frozen=True)
class PredictionRequest:
    """What is to be predicted, and by which program.

    Attributes
    ----------
    fasta : Path
        Chains of one complex.
    program : str
        colabfold, openfold, or auto for what is there, ColabFold first.
    colabfold_command : str, optional
        ``colabfold_batch``, or the folder of its environment.
    weights : Path, optional
        Folder of weight files.
    rank, model_number : int, optional
        Which of ColabFold's models is taken; by default the best.
    max_deviation_angstrom : float
        As for ``read_colabfold_prediction``.
    colabfold : ColabFoldSettings
    openfold : OpenFoldSettings
    """

    fasta: Path
    program: str = "auto"
    colabfold_command: str | None = None
    weights: Path | None = None
    rank: int | None = None
    model_number: int | None = None
    max_deviation_angstrom: float = 0.5
    colabfold: ColabFoldSettings = field(default_factory=ColabFoldSettings)
    openfold: OpenFoldSettings = field(default_factory=OpenFoldSettings)

    def __post_init__(self) -> None:
        if self.program not in PROGRAMS:
            raise InputError(f"--program {self.program}: must be one of {', '.join(PROGRAMS)}")


def predict_fasta(request: PredictionRequest, folder: Path, say: Callable[[str], None]) -> VerifiedPrediction:
    """Run the program and read what it wrote.

    Parameters
    ----------
    request : PredictionRequest
    folder : Path
        Gets a subfolder ``colabfold`` or ``openfold`` with the program's input, output and log.
    say : callable
        Called with each line that the program prints.

    Raises
    ------
    InputError
        If no program is there, it fails, or its output cannot be used.
    """
    wanted = read_fasta(request.fasta).with_copies_together()
    colabfold = find_colabfold(request.colabfold_command) if request.program != "openfold" else None
    openfold = find_openfold() if request.program != "colabfold" and colabfold is None else None
    if colabfold is not None:
        found = _predict_with_colabfold(colabfold, request, folder / "colabfold", say)
    elif openfold is not None:
        found = _predict_with_openfold(openfold, request, folder / "openfold", say)
    else:
        raise InputError(_installation_advice(request.program))
    if found.prediction.chains != wanted:
        raise InputError(
            f"--fasta {request.fasta}: has chains {wanted}, but {found.prediction.origin.program} predicted "
            f"{found.prediction.chains}; give another --out"
        )
    return found


def _predict_with_colabfold(
    program: str, request: PredictionRequest, folder: Path, say: Callable[[str], None]
) -> VerifiedPrediction:
    results = run_colabfold(program, request.fasta, folder, request.colabfold, request.weights, say)
    return read_colabfold_prediction(
        results,
        request.weights,
        sanitized_job_name(request.fasta),
        request.rank,
        request.model_number,
        request.max_deviation_angstrom,
    )


def _predict_with_openfold(
    script: Path, request: PredictionRequest, folder: Path, say: Callable[[str], None]
) -> VerifiedPrediction:
    weights = find_weights(request.weights, request.openfold.model_number)
    outputs = run_openfold(script, request.fasta, folder, request.openfold, weights, say)
    return read_openfold_prediction(
        outputs, weights, request.fasta, request.openfold.model_number, request.max_deviation_angstrom
    )


def _installation_advice(program: str) -> str:
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
