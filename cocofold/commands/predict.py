"""``cocofold predict``: what fine-tuning needs of an AlphaFold-Multimer prediction, which it imports or makes.

These are the trunk's representations and the weights of the structure module, which turn them into atoms.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cocofold.commands import echo
from cocofold.system.errors import InputError, require_within

if TYPE_CHECKING:
    from cocofold.alphafold.prediction import Provenance
    from cocofold.alphafold.rebuild import VerifiedPrediction
    from cocofold.alphafold.run_programs import ColabFoldSettings, OpenFoldSettings

PROGRAMS = ("auto", "colabfold", "openfold")

# Default of --max-deviation, in Å: that of the readers (``MAX_DEVIATION_ANGSTROM`` in alphafold/rebuild.py), which the
# command line does not import for its help, since that would import torch.
_MAX_DEVIATION_ANGSTROM = 0.5

# Options of the command, in the order of its help.
_Out = Annotated[Path, typer.Option(help="Folder for prediction.safetensors and model.cif.")]
_ColabFold = Annotated[
    Optional[Path],
    typer.Option(
        help="Output folder of colabfold_batch --model-type alphafold2_multimer_v3 --save-single-representations "
        "--save-pair-representations.",
    ),
]
_OpenFold = Annotated[
    Optional[Path],
    typer.Option(
        help="NAME_model_K_multimer_v3_output_dict.pkl of OpenFold's run_pretrained_openfold.py --save_outputs."
    ),
]
_Fasta = Annotated[
    Optional[Path],
    typer.Option(
        help="Chains of one complex (records, or separated by ':'): predicted with ColabFold or OpenFold. With "
        "--openfold: the sequences of its pickle.",
    ),
]
_Weights = Annotated[
    Optional[Path],
    typer.Option(
        help="params_model_K_multimer_v3.npz of the model that made the representations, or the folder with the weight "
        "files; by default where ColabFold keeps them.",
    ),
]
_Job = Annotated[Optional[str], typer.Option(help="Which job, if the ColabFold folder holds several.")]
_Rank = Annotated[Optional[int], typer.Option(help="Which of the job's models; default: the best, 1.")]
_ModelNumber = Annotated[
    Optional[int],
    typer.Option(
        help="Which of the five AlphaFold-Multimer models, 1 to 5; default: the best. OpenFold runs this one."
    ),
]
_MaxDeviation = Annotated[
    float,
    typer.Option(help="Largest CA RMSD (Å) between the atoms given again and the program's own; 0.01 to 0.1 is usual."),
]
_Program = Annotated[str, typer.Option(help="What predicts --fasta: colabfold, openfold, or auto for what is there.")]
_ColabFoldCommand = Annotated[
    Optional[str],
    typer.Option(
        help="colabfold_batch, or the environment that has it; default: COCOFOLD_COLABFOLD, or the one on PATH.",
    ),
]
_Msa = Annotated[
    str,
    typer.Option(
        help="For ColabFold: server (sends the sequences to the public MSA server of ColabFold), single-sequence, or "
        "an a3m file of your own.",
    ),
]
_NumModels = Annotated[int, typer.Option(help="For ColabFold: how many of the five models, 1 to 5; the best is taken.")]
_NumRecycle = Annotated[Optional[int], typer.Option(help="For ColabFold: recycles; default: ColabFold's own.")]
_Templates = Annotated[Optional[Path], typer.Option(help="For OpenFold: folder of template mmCIF files; may be empty.")]
_Alignments = Annotated[
    Optional[Path],
    typer.Option(help="For OpenFold: folder of alignments made before; without it name databases with --extra."),
]
_Seed = Annotated[int, typer.Option(help="For the program.")]
_Extra = Annotated[str, typer.Option(help='Further arguments for the program, such as --extra "--max-msa 64:128".')]


def predict(
    out: _Out,
    colabfold: _ColabFold = None,
    openfold: _OpenFold = None,
    fasta: _Fasta = None,
    weights: _Weights = None,
    job: _Job = None,
    rank: _Rank = None,
    model_number: _ModelNumber = None,
    max_deviation: _MaxDeviation = _MAX_DEVIATION_ANGSTROM,
    program: _Program = "auto",
    colabfold_command: _ColabFoldCommand = None,
    msa: _Msa = "server",
    num_models: _NumModels = 5,
    num_recycle: _NumRecycle = None,
    templates: _Templates = None,
    alignments: _Alignments = None,
    seed: _Seed = 0,
    extra: _Extra = "",
) -> None:
    """Import an AlphaFold-Multimer prediction, or make one with ColabFold or OpenFold.

    Writes the representations after the last recycle and the weights of the structure module into the folder --out,
    as prediction.safetensors, and the atoms that they give as model.cif. These must be the atoms that the program
    wrote: weights of another model are refused. Predictions of AlphaFold 3, Boltz or Chai have no such
    representations: start from their model with cocofold finetune --model.
    """
    _check_sources(colabfold, openfold, fasta)
    _check_numbers(rank, model_number)
    from cocofold.alphafold.colabfold import read_colabfold_prediction
    from cocofold.alphafold.openfold import read_openfold_prediction
    from cocofold.alphafold.prediction import refuse_occupied_folder
    from cocofold.alphafold.rebuild import write_prediction
    from cocofold.alphafold.run_programs import ColabFoldSettings, OpenFoldSettings

    refuse_occupied_folder(out)
    chosen: dict[str, Any] = {"model_number": model_number, "max_deviation_angstrom": max_deviation}
    if colabfold is not None:
        found = read_colabfold_prediction(colabfold, weights, job=job, rank=rank, **chosen)
    elif openfold is not None:
        found = read_openfold_prediction(openfold, weights, fasta, **chosen)
    else:
        assert fasta is not None
        further = _split_arguments(extra)
        by_colabfold = ColabFoldSettings(msa, num_models, num_recycle, seed, further)
        by_openfold = OpenFoldSettings(templates, alignments, model_number or 1, seed, further)
        request = PredictionRequest(
            fasta, by_colabfold, by_openfold, program, colabfold_command, weights, rank, **chosen
        )
        found = predict_fasta(request, out, echo)
    write_prediction(found.prediction, out, found.atoms)
    _print_summary(found, out)


@dataclass(frozen=True)
class PredictionRequest:
    """What is to be predicted, and by which program.

    Attributes
    ----------
    fasta : Path
        Chains of one complex.
    colabfold : ColabFoldSettings
    openfold : OpenFoldSettings
    program : str
        colabfold, openfold, or auto for the one that is installed, ColabFold first.
    colabfold_command : str, optional
        ``colabfold_batch``, or the folder of its environment.
    weights : Path, optional
        Folder of weight files.
    rank, model_number : int, optional
        Which of ColabFold's models is imported; by default the best.
    max_deviation_angstrom : float
        Largest CA RMSD from the program's own atoms, Å.
    """

    fasta: Path
    colabfold: ColabFoldSettings
    openfold: OpenFoldSettings
    program: str = "auto"
    colabfold_command: str | None = None
    weights: Path | None = None
    rank: int | None = None
    model_number: int | None = None
    max_deviation_angstrom: float = _MAX_DEVIATION_ANGSTROM

    def __post_init__(self) -> None:
        if self.program not in PROGRAMS:
            raise InputError(f"--program {self.program}: must be one of {', '.join(PROGRAMS)}")


def predict_fasta(request: PredictionRequest, folder: Path, report_line: Callable[[str], None]) -> VerifiedPrediction:
    """Run the program and read what it wrote.

    Parameters
    ----------
    request : PredictionRequest
    folder : Path
        Gets a subfolder ``colabfold`` or ``openfold`` with the program's input, output and log.
    report_line : callable
        Called with each line that the program prints.

    Raises
    ------
    InputError
        If no program is there, it fails, or its output cannot be used.
    """
    from cocofold.alphafold.run_programs import find_colabfold, find_openfold, installation_advice
    from cocofold.alphafold.sequences import read_fasta

    wanted = read_fasta(request.fasta).with_copies_together()
    colabfold = find_colabfold(request.colabfold_command) if request.program != "openfold" else None
    openfold = find_openfold() if request.program != "colabfold" and colabfold is None else None
    if colabfold is not None:
        found = _predict_with_colabfold(colabfold, request, folder / "colabfold", report_line)
    elif openfold is not None:
        found = _predict_with_openfold(openfold, request, folder / "openfold", report_line)
    else:
        raise InputError(installation_advice(request.program))
    if found.prediction.chains != wanted:
        raise InputError(
            f"--fasta {request.fasta}: has chains {wanted}, but {found.prediction.origin.program} predicted "
            f"{found.prediction.chains}; give another --out"
        )
    return found


def _predict_with_colabfold(
    program: str, request: PredictionRequest, folder: Path, report_line: Callable[[str], None]
) -> VerifiedPrediction:
    from cocofold.alphafold.colabfold import read_colabfold_prediction
    from cocofold.alphafold.external_programs import sanitized_job_name
    from cocofold.alphafold.run_programs import run_colabfold

    results = run_colabfold(program, request.fasta, folder, request.colabfold, request.weights, report_line)
    return read_colabfold_prediction(
        results,
        request.weights,
        job=sanitized_job_name(request.fasta),
        rank=request.rank,
        model_number=request.model_number,
        max_deviation_angstrom=request.max_deviation_angstrom,
    )


def _predict_with_openfold(
    script: Path, request: PredictionRequest, folder: Path, report_line: Callable[[str], None]
) -> VerifiedPrediction:
    from cocofold.alphafold.openfold import read_openfold_prediction
    from cocofold.alphafold.run_programs import run_openfold
    from cocofold.alphafold.weights import find_weights

    number = request.openfold.model_number
    weights = find_weights(request.weights, number)
    outputs = run_openfold(script, request.fasta, folder, request.openfold, weights, report_line)
    return read_openfold_prediction(
        outputs,
        weights,
        request.fasta,
        model_number=number,
        max_deviation_angstrom=request.max_deviation_angstrom,
    )


def _check_sources(colabfold: Path | None, openfold: Path | None, fasta: Path | None) -> None:
    given = {"--colabfold": colabfold, "--openfold": openfold, "--fasta": fasta}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1 and names != ["--openfold", "--fasta"]:
        found = " and ".join(names) or "no input"
        raise InputError(
            f"{found} given; give one of --colabfold, --openfold (with --fasta, if it does not have the sequences) and "
            "--fasta"
        )


def _check_numbers(rank: int | None, model_number: int | None) -> None:
    if rank is not None:
        require_within("--rank", rank, 1, 10_000)
    if model_number is not None:
        require_within("--model-number", model_number, 1, 5)


def _split_arguments(extra: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(extra))
    except ValueError as error:
        raise InputError(f"--extra {extra}: {error}; write arguments as in a shell") from error


def _print_summary(found: VerifiedPrediction, out: Path) -> None:
    from cocofold.alphafold.prediction import FILE_NAME, MODEL_NAME

    prediction, origin = found.prediction, found.prediction.origin
    echo(f"prediction  {_describe_provenance(origin)}")
    echo(f"chains      {prediction.chains}; {len(prediction)} residues")
    deviation = f"CA RMSD {origin.ca_rmsd_to_program:.3f} Å, at most {origin.ca_max_to_program:.3f} Å"
    echo(f"atoms       {deviation}, from {origin.program}'s own")
    ours = float(found.atoms.plddt.mean())
    theirs = "" if prediction.plddt is None else f" ({origin.program}: {float(prediction.plddt.mean()):.1f})"
    echo(f"mean pLDDT  {ours:.1f}{theirs}")
    echo(f"written     {out / FILE_NAME}, {out / MODEL_NAME}")


def _describe_provenance(origin: Provenance) -> str:
    version = f" {origin.program_version}" if origin.program_version else ""
    parts = [f"{origin.program}{version}: {origin.job}"]
    if origin.rank is not None:
        parts.append(f"rank {origin.rank}")
    parts.append(f"model {origin.model_number}")
    if origin.seed is not None:
        parts.append(f"seed {origin.seed}")
    if origin.recycles is not None:
        parts.append(f"{origin.recycles} recycles")
    return ", ".join(parts)
