"""What is done with a model alone: ``cocofold fit`` and ``relax``, and ``move`` by a vector, for other programs."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Tuple

import typer

from cocofold.commands import echo, own_command
from cocofold.system.atomic_files import check_new_folder, check_writable, refuse_unwritable, write_json
from cocofold.system.errors import SKIP_HELP, SKIP_OPTION, InputError, require_within

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from cocofold.assessment.comparison import Assessment
    from cocofold.relaxation.minimization import RelaxedModel
    from cocofold.structure.model import Model

_CARBON = 6
# Beyond any map; farther ones lose the decimals of a model's coordinates.
_FARTHEST_SHIFT_ANGSTROM = 1e5


def fit(
    model: Optional[Path] = typer.Option(None, help="Model to place, from anywhere: mmCIF or PDB."),
    prediction: Optional[Path] = typer.Option(None, help="Folder of cocofold predict, in place of --model."),
    map_file: Path = typer.Option(..., "--map", help="Map of the particles: MRC or CCP4, may be gzip-compressed."),
    out: Path = typer.Option(..., help="Folder for placed.cif and placement.json, made anew."),
    bodies: Optional[str] = typer.Option(
        None,
        help='Parts that are placed one after the other after the whole: "A,B;C" or "A:1-120;A:121-214,B"; auto: each '
        "chain. Ligands and nucleic acids that are not named follow the nearest body.",
    ),
    mask: Optional[Path] = typer.Option(None, help="Map of 0 to 1 on the same grid: where the model may be."),
    half1: Optional[Path] = typer.Option(None, help="First half map; with --half2 it tells the resolution."),
    half2: Optional[Path] = typer.Option(None, help="Second half map."),
    resolution: Optional[float] = typer.Option(
        None, help="Of the map, Å: finer detail is not compared. By default from half maps, or else from the map."
    ),
    pixel_size: Optional[float] = typer.Option(None, help="Å; in place of that in the headers."),
    hand: str = typer.Option(
        "auto", help="auto: compare the map with its mirror image. as-is, mirrored: take the one or the other."
    ),
    symmetry: Optional[str] = typer.Option(
        None,
        help="Point group of the map, of which the model is one subunit: C3, D2, T, O, I, ... with axes as in RELION; "
        "auto to find it.",
    ),
    b_factors: str = typer.Option(
        "auto",
        help="What the model's B factors are: plddt, experimental, or auto to find out. Residues of a pLDDT below 50 "
        "in stretches, or that touch nothing, are carried along and not compared with the map.",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
) -> None:
    """Place a model in a map.

    The whole model is sought in all orientations and positions, whatever its start, in the map and in its mirror
    image. Writes placed.cif in the frame of the map's box (voxel (0, 0, 0) at 0 Å), placement.json, placement.png, and
    mirrored.mrc where the map has the wrong hand. With --symmetry placed.cif holds all copies, and subunit.cif one.
    """
    if (model is None) == (prediction is None):
        raise InputError("give either --model, or --prediction with a folder of cocofold predict")
    check_new_folder("--out", out)
    from cocofold.mapfit.workflow import MapFiles, place_and_write
    from cocofold.structure.confidence import read_order
    from cocofold.system.hardware import prepare_short_work
    from cocofold.system.progress import share_progress_bar

    files = MapFiles(map_file, mask, half1, half2, resolution, pixel_size)
    chosen_device = prepare_short_work(device)
    read, bodies, plddt = _read_start(model, prediction, bodies)
    marked, order = read_order(read, b_factors, plddt, str(model))
    order.tell(echo)
    with share_progress_bar() as progress:
        _, lines = place_and_write(marked, files, out, bodies, hand, symmetry, chosen_device, progress)
    for line in lines:
        echo(line)
    given = (
        f"--model {shlex.quote(str(model))}" if prediction is None else f"--prediction {shlex.quote(str(prediction))}"
    )
    placement = shlex.quote(str(out / "placement.json"))
    echo(
        f"{out / 'placed.cif'}: the placed model. Next: {own_command()} finetune {given} --placement {placement} "
        "--particles PARTICLES --out RUN"
    )


def _read_start(
    model: Path | None, prediction: Path | None, bodies: str | None
) -> tuple[Model, str | None, np.ndarray | None]:
    """The model to place, its bodies and the pLDDT of a prediction, whose bodies are by default what it is sure of."""
    if model is not None:
        from cocofold.structure.read_model import read_model

        return read_model(model), bodies, None
    from cocofold.alphafold.prediction import Prediction
    from cocofold.alphafold.rebuild import model_from_prediction, predict_aligned_error, predict_atoms
    from cocofold.mapfit.bodies import bodies_from_pae
    from cocofold.mapfit.fit_model import AUTO

    known = Prediction.read(str(prediction))
    read, plddt = model_from_prediction(known, predict_atoms(known))
    chosen = bodies_from_pae(read, predict_aligned_error(known)) if bodies == AUTO else bodies
    return read, chosen, plddt


def move(
    model: Path = typer.Option(..., help="Model to read: mmCIF or PDB."),
    shift: Tuple[float, float, float] = typer.Option((0.0, 0.0, 0.0), help="Vector in Å that is added to all atoms."),
    out: Optional[Path] = typer.Option(None, help="mmCIF file for the moved model."),
    json_file: Optional[Path] = typer.Option(
        None, "--json", help="File for its atoms and residues, where they lie after the move."
    ),
) -> None:
    """Read a model as every command does, move it by a vector, and say what its atoms and residues are.

    For programs that show models in another frame, such as the Scipion plugin, which has no reader of its own.
    """
    for option, path in (("--out", out), ("--json", json_file)):
        check_writable(option, path)
    for value in shift:
        require_within("--shift", value, -_FARTHEST_SHIFT_ANGSTROM, _FARTHEST_SHIFT_ANGSTROM)
    from cocofold.structure.read_model import read_model, write_moved_model

    with refuse_unwritable(out or json_file):
        if out is not None:
            moved = write_moved_model(model, out, shift)
        else:
            read = read_model(model)
            moved = read.moved_to(read.positions + shift)
        if json_file is not None:
            write_json(json_file, _facts_of_model(moved, model))
    for note in moved.notes:
        echo(note)


def _facts_of_model(model: Model, path: Path) -> dict[str, Any]:
    """Content of ``--json`` of ``move``: positions and lengths in Å."""
    from cocofold.structure.read_model import read_gaussian_widths

    alphas = model.atoms_named("CA")
    is_carbon = (alphas >= 0) & (model.atomic_numbers[alphas] == _CARBON)
    return {
        "positions": model.positions.round(4).tolist(),
        "residues": [
            {
                "chain": key.chain,
                "number": f"{key.number}{key.insertion_code}",
                "name": key.name,
                "alpha_carbon": model.positions[row].round(4).tolist() if has_alpha else None,
            }
            for key, row, has_alpha in zip(model.residues, alphas, is_carbon)
        ],
        "widths_angstrom": read_gaussian_widths(path),
        "placed": model.placed_as,
    }


def relax(
    model: Path = typer.Option(..., help="Model to relax: mmCIF or PDB."),
    out: Path = typer.Option(..., help="mmCIF file to write."),
    particles: Optional[Path] = typer.Option(
        None, help="Particles of the model, RELION .star or CryoSPARC .cs: their images pull while it is relaxed."
    ),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    ignore_aberrations: bool = typer.Option(
        False, "--ignore-aberrations", help="Leave out aberrations of CryoSPARC that cannot be applied."
    ),
    max_particles: int = typer.Option(2000, help="Use so many of the particles at most, drawn at random."),
    skip_bad_images: bool = typer.Option(False, SKIP_OPTION, help=SKIP_HELP),
    hydrogens: bool = typer.Option(False, "--hydrogens", help="Write the hydrogens too."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for all figures."),
    threads: Optional[int] = typer.Option(None, help="Number of processor threads; by default all."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N, as OpenMM has them."),
) -> None:
    """Relax a model: hydrogens and missing atoms are built, clashes and strained bonds taken out.

    Amber14 in implicit solvent is minimised by OpenMM, with restraints to the positions given that fade: proteins, DNA
    and RNA move. Peptides stay cis or trans and residues keep their chirality. What the force field does not know,
    such as ligands, sugars and modified nucleotides, stays where it is, and is named. Prints clashes, bonds, angles
    and the Ramachandran plot's figures before and after.
    """
    for option, path in (("--out", out), ("--json", json_file)):
        check_writable(option, path)
    if out.suffix.lower() not in (".cif", ".mmcif"):
        raise InputError(f"--out {out}: mmCIF is written; give a name that ends in .cif")
    from cocofold.assessment.comparison import assess, assess_nucleic_acids
    from cocofold.likelihood.residue_support import ParticlesOfModel
    from cocofold.relaxation.minimization import RelaxSettings, relax_with_particles
    from cocofold.structure.read_model import read_model
    from cocofold.system.progress import share_progress_bar

    began = time.monotonic()
    settings = RelaxSettings(hydrogens=hydrogens, device=device, threads=threads)
    pulling = None
    if particles is not None:
        pulling = ParticlesOfModel(particles, particles_dir, max_particles, ignore_aberrations, skip_bad_images)
    start = read_model(model)
    _refuse_too_short(start, model)
    with share_progress_bar() as tell:
        found = relax_with_particles(start, out, settings, pulling, tell)
    compared = assess(found.model, start)
    nucleic = assess_nucleic_acids(found.model, start)
    facts = {
        "model": str(model),
        **found.as_dict(),
        "trace_atom": compared.trace_atom,
        "ca_rmsd": compared.ca_rmsd,
        "tm_score": compared.alignment.tm_score,
        "geometry": _geometry_before_and_after(found.model, start),
        "nucleic_acids": None if nucleic is None else asdict(nucleic),
        "seconds": round(time.monotonic() - began, 1),
    }
    if json_file is not None:
        with refuse_unwritable(json_file):
            write_json(json_file, facts)
    _print_table(found, compared, facts)
    next_step = f"{own_command()} assess --model {shlex.quote(str(out))} --reference REFERENCE.cif"
    echo(f"written {out}. Next: {next_step}")


def _refuse_too_short(start: Model, path: Path) -> None:
    """Refuse a model whose relaxed one could not be compared with it, before anything is written."""
    from cocofold.assessment.matching import match_residues, traces_of_both

    _, traces, same = traces_of_both(start, start)
    try:
        match_residues(traces, same)
    except InputError as error:
        raise InputError(
            f"model {path}: has no chain of three residues or more with their backbone, which it takes to compare it "
            "before and after; give a larger model"
        ) from error


def _geometry_before_and_after(after: Model, before: Model) -> dict[str, Any]:
    from cocofold.assessment.backbone_geometry import measure_geometry

    found, was = measure_geometry(after, before), measure_geometry(before)
    return {
        "new_d": list(found.new_d or ()),
        "new_cis": list(found.new_cis or ()),
        "twisted": [len(was.twisted), len(found.twisted)],
        "ramachandran_favoured": [was.ramachandran_favoured, found.ramachandran_favoured],
        "ramachandran_outliers": [list(was.ramachandran_outliers), list(found.ramachandran_outliers)],
    }


def _print_table(found: RelaxedModel, compared: Assessment, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from cocofold.relaxation.clash_figures import CLASH_OVERLAP_ANGSTROM

    table = Table()
    for heading in ("figure", "before", "after"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    before, after = found.before, found.after
    table.add_row(
        f"clashes (overlap of {CLASH_OVERLAP_ANGSTROM} Å or more)", str(len(before.clashes)), str(len(after.clashes))
    )
    if compared.trace_atom == "CA":
        _add_protein_rows(table, found, facts["geometry"])
    nucleic = facts["nucleic_acids"]
    if nucleic is not None and nucleic["kept_base_pairs"] is not None:
        kept = f"{nucleic['kept_base_pairs']} kept, {nucleic['base_pairs'] - nucleic['kept_base_pairs']} new"
        table.add_row("base pairs", str(nucleic["reference_base_pairs"]), kept)
        if compared.trace_atom == "CA":
            table.add_row("C1' RMSD to the start (Å)", "", f"{nucleic['c1_rmsd']:.2f}")
    table.add_row(f"{compared.trace_atom} RMSD to the start (Å)", "", f"{compared.ca_rmsd:.2f}")
    table.add_row("TM-score with the start", "", f"{compared.alignment.tm_score:.4f}")
    if found.frc is not None:
        table.add_row("FRC with the particles", f"{found.frc['before']:.4f}", f"{found.frc['after']:.4f}")
    Console(highlight=False).print(table)
    for note in (
        *found.notes,
        f"{found.added_atoms} missing heavy atoms built; {facts['seconds']} s on {found.platform}",
    ):
        echo(note)


def _add_protein_rows(table: Table, found: RelaxedModel, geometry: dict[str, Any]) -> None:
    from cocofold.relaxation.clash_figures import OUTLIER_SIGMAS

    before, after = found.before, found.after
    table.add_row(
        f"backbone bonds and angles beyond {OUTLIER_SIGMAS:g}σ, of {after.backbone_values}",
        str(len(before.outliers)),
        str(len(after.outliers)),
    )
    table.add_row("worst of these (σ)", f"{before.worst_sigmas:.1f}", f"{after.worst_sigmas:.1f}")
    table.add_row("twisted peptides", *(str(count) for count in geometry["twisted"]))
    table.add_row("Ramachandran favoured", *(f"{share:.1%}" for share in geometry["ramachandran_favoured"]))
    table.add_row("Ramachandran outliers", *(str(len(names)) for names in geometry["ramachandran_outliers"]))
    table.add_row("new D-amino acids, new cis peptides", "", f"{len(geometry['new_d'])}, {len(geometry['new_cis'])}")
