"""``cocofold relax``: a fine-tuned model made fit for deposition by molecular mechanics."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from cocofold.system.atomic_files import check_writable, refuse_unwritable, write_json
from cocofold.system.errors import InputError

if TYPE_CHECKING:
    from cocofold.assessment.comparison import Assessment
    from cocofold.relaxation.minimization import RelaxedModel
    from cocofold.structure.model import Model


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
    hydrogens: bool = typer.Option(False, "--hydrogens", help="Write the hydrogens too."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for all figures."),
    threads: Optional[int] = typer.Option(None, help="Number of processor threads; by default all."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N, as OpenMM has them."),
) -> None:
    """Relax a model: hydrogens and missing atoms are built, clashes and strained bonds taken out.

    Amber14 in implicit solvent is minimised by OpenMM, with restraints to the positions given that fade. Peptides stay
    cis or trans and residues keep their chirality. What the force field does not know, such as ligands and nucleic
    acids, stays where it is. Prints clashes, bonds, angles and the Ramachandran plot's figures before and after.
    """
    for option, path in (("--out", out), ("--json", json_file)):
        check_writable(option, path)
    if out.suffix.lower() not in (".cif", ".mmcif"):
        raise InputError(f"--out {out}: mmCIF is written; give a name that ends in .cif")
    from cocofold.assessment.comparison import assess
    from cocofold.likelihood.residue_support import ParticlesOfModel
    from cocofold.relaxation.minimization import RelaxSettings, relax_with_particles
    from cocofold.structure.read_model import read_model
    from cocofold.system.progress import share_progress_bar

    began = time.monotonic()
    settings = RelaxSettings(hydrogens=hydrogens, device=device, threads=threads)
    pulling = (
        None if particles is None else ParticlesOfModel(particles, particles_dir, max_particles, ignore_aberrations)
    )
    start = read_model(model)
    with share_progress_bar() as tell:
        found = relax_with_particles(start, out, settings, pulling, tell)
    compared = assess(found.model, start)
    facts = {
        "model": str(model),
        **found.as_dict(),
        "ca_rmsd": compared.ca_rmsd,
        "tm_score": compared.alignment.tm_score,
        "geometry": _geometry_before_and_after(found.model, start),
        "seconds": round(time.monotonic() - began, 1),
    }
    if json_file is not None:
        with refuse_unwritable(json_file):
            write_json(json_file, facts)
    _print_table(found, compared, facts)
    typer.echo(f"written {out}. Next: cocofold assess --model {shlex.quote(str(out))} --reference REFERENCE.cif")


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

    from cocofold.relaxation.clash_figures import CLASH_OVERLAP_ANGSTROM, OUTLIER_SIGMAS

    table = Table()
    for heading in ("figure", "before", "after"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    before, after = found.before, found.after
    table.add_row(
        f"clashes (overlap of {CLASH_OVERLAP_ANGSTROM} Å or more)", str(len(before.clashes)), str(len(after.clashes))
    )
    table.add_row(
        f"backbone bonds and angles beyond {OUTLIER_SIGMAS:g}σ, of {after.backbone_values}",
        str(len(before.outliers)),
        str(len(after.outliers)),
    )
    table.add_row("worst of these (σ)", f"{before.worst_sigmas:.1f}", f"{after.worst_sigmas:.1f}")
    table.add_row("twisted peptides", *(str(count) for count in facts["geometry"]["twisted"]))
    table.add_row("Ramachandran favoured", *(f"{share:.1%}" for share in facts["geometry"]["ramachandran_favoured"]))
    table.add_row("Ramachandran outliers", *(str(len(names)) for names in facts["geometry"]["ramachandran_outliers"]))
    table.add_row("new D-amino acids, new cis peptides", "", _new_faults(facts["geometry"]))
    table.add_row("CA RMSD to the start (Å)", "", f"{compared.ca_rmsd:.2f}")
    table.add_row("TM-score with the start", "", f"{compared.alignment.tm_score:.4f}")
    if found.frc is not None:
        table.add_row("FRC with the particles", f"{found.frc['before']:.4f}", f"{found.frc['after']:.4f}")
    Console(highlight=False).print(table)
    for note in (
        *found.notes,
        f"{found.added_atoms} missing heavy atoms built; {facts['seconds']} s on {found.platform}",
    ):
        typer.echo(note)


def _new_faults(geometry: dict[str, Any]) -> str:
    return f"{len(geometry['new_d'])}, {len(geometry['new_cis'])}"
