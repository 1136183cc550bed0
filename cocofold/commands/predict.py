"""``cocofold predict``: the frozen half of an AlphaFold-Multimer prediction, for fine-tuning its structure module."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from cocofold.system.errors import InputError, require_within

if TYPE_CHECKING:
    from cocofold.alphafold.prediction import Provenance
    from cocofold.alphafold.rebuild import VerifiedPrediction, write_prediction


def predict(
    out: Path = typer.Option(..., help="Folder for prediction.safetensors and model.cif."),
    colabfold: Optional[Path] = typer.Option(
        None,
        help="Output folder of colabfold_batch --model-type alphafold2_multimer_v3 --save-single-representations "
        "--save-pair-representations.",
    ),
    openfold: Optional[Path] = typer.Option(
        None, help="NAME_model_K_multimer_v3_output_dict.pkl of OpenFold's run_pretrained_openfold.py --save_outputs."
    ),
    fasta: Optional[Path] = typer.Option(
        None,
        help="Chains of one complex (records, or separated by ':'): predicted with ColabFold or OpenFold. With "
        "--openfold: the sequences of its pickle.",
    ),
    weights: Optional[Path] = typer.Option(
        None,
        help="params_model_K_multimer_v3.npz of the model that made the representations, or the folder with the weight "
        "files; by default where ColabFold keeps them.",
    ),
    job: Optional[str] = typer.Option(None, help="Which job, if the ColabFold folder holds several."),
    rank: Optional[int] = typer.Option(None, help="Which of the job's models; default: the best, 1."),
    model_number: Optional[int] = typer.Option(
        None, help="Which of the five AlphaFold-Multimer models, 1 to 5; default: the best. OpenFold runs this one."
    ),
    max_deviation: float = typer.Option(
        0.5, help="Largest CA RMSD (Å) between the atoms given again and the program's own; 0.01 to 0.1 is usual."
    ),
    program: str = typer.Option("auto", help="What predicts --fasta: colabfold, openfold, or auto for what is there."),
    colabfold_command: Optional[str] = typer.Option(
        None,
        help="colabfold_batch, or the environment that has it; default: COCOFOLD_COLABFOLD, or the one on PATH.",
    ),
    msa: str = typer.Option(
        "server",
        help="For ColabFold: server (sends the sequences to the public MSA server of ColabFold), single-sequence, or "
        "an a3m file of your own.",
    ),
    num_models: int = typer.Option(5, help="For ColabFold: how many of the five models, 1 to 5; the best is taken."),
    num_recycle: Optional[int] = typer.Option(None, help="For ColabFold: recycles; default: ColabFold's own."),
    templates: Optional[Path] = typer.Option(None, help="For OpenFold: folder of template mmCIF files; may be empty."),
    alignments: Optional[Path] = typer.Option(
        None, help="For OpenFold: folder of alignments made before; without it name databases with --extra."
    ),
    seed: int = typer.Option(0, help="For the program."),
    extra: str = typer.Option("", help='Further arguments for the program, such as --extra "--max-msa 64:128".'),
) -> None:
    """Take over an AlphaFold-Multimer prediction, or make one with ColabFold or OpenFold.

    Writes the representations after the last recycle and the weights of the structure module into the folder --out,
    as prediction.safetensors, and the atoms that they give as model.cif. These must be the atoms that the program
    wrote: weights of another model are refused. Predictions of AlphaFold 3, Boltz or Chai have no such
    representations: start from their model with cocofold finetune --model.
    """
    _check_sources(colabfold, openfold, fasta)
    if rank is not None:
        require_within("--rank", rank, 1, 10_000)
    if model_number is not None:
        require_within("--model-number", model_number, 1, 5)
    from cocofold.alphafold.colabfold import read_colabfold_prediction
    from cocofold.alphafold.from_fasta import PredictionRequest, predict_fasta
    from cocofold.alphafold.openfold import read_openfold_prediction
    from cocofold.alphafold.prediction import refuse_occupied_folder
    from cocofold.alphafold.run_programs import ColabFoldSettings, OpenFoldSettings

    refuse_occupied_folder(out)
    if colabfold is not None:
        found = read_colabfold_prediction(colabfold, weights, job, rank, model_number, max_deviation)
    elif openfold is not None:
        found = read_openfold_prediction(openfold, weights, fasta, model_number, max_deviation)
    else:
        assert fasta is not None
        further = _split_arguments(extra)
        request = PredictionRequest(
            fasta=fasta,
            program=program,
            colabfold_command=colabfold_command,
            weights=weights,
            rank=rank,
            model_number=model_number,
            max_deviation_angstrom=max_deviation,
            colabfold=ColabFoldSettings(msa, num_models, num_recycle, seed, further),
            openfold=OpenFoldSettings(templates, alignments, model_number or 1, seed, further),
        )
        found = predict_fasta(request, out, typer.echo)
    write_prediction(found.prediction, out, found.atoms)
    _print_summary(found, out)


def _check_sources(colabfold: Path | None, openfold: Path | None, fasta: Path | None) -> None:
    given = {"--colabfold": colabfold, "--openfold": openfold, "--fasta": fasta}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1 and names != ["--openfold", "--fasta"]:
        found = " and ".join(names) or "no input"
        raise InputError(
            f"{found} given; give one of --colabfold, --openfold (with --fasta, if it does not have the sequences) and "
            "--fasta"
        )


def _split_arguments(extra: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(extra))
    except ValueError as error:
        raise InputError(f"--extra {extra}: {error}; write arguments as in a shell") from error


def _print_summary(found: VerifiedPrediction, out: Path) -> None:
    prediction, origin = found.prediction, found.prediction.origin
    typer.echo(f"prediction  {_describe_provenance(origin)}")
    typer.echo(f"chains      {prediction.chains}; {len(prediction)} residues")
    typer.echo(f"atoms       CA RMSD {origin.ca_rmsd_to_program:.3f} Å, at most {origin.ca_max_to_program:.3f} Å, from "
               f"{origin.program}'s own")  # fmt: skip
    ours = float(found.atoms.plddt.mean())
    theirs = "" if prediction.plddt is None else f" ({origin.program}: {float(prediction.plddt.mean()):.1f})"
    typer.echo(f"mean pLDDT  {ours:.1f}{theirs}")
    typer.echo(f"written     {out / 'prediction.safetensors'}, {out / 'model.cif'}")


def _describe_provenance(origin: Provenance) -> str:
    version = f" {origin.program_version}" if origin.program_version else ""
    parts = [f"{origin.program}{version}: {origin.job}"]
    parts += [f"rank {origin.rank}"] * (origin.rank is not None)
    parts += [f"model {origin.model_number}"]
    parts += [f"seed {origin.seed}"] * (origin.seed is not None)
    parts += [f"{origin.recycles} recycles"] * (origin.recycles is not None)
    return ", ".join(parts)
