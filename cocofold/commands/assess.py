"""``cocofold assess``: figures of a model against a reference, against particles and by itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from cocofold import __version__
from cocofold.system.atomic_files import check_writable
from cocofold.system.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from cocofold.assessment.backbone_geometry import BackboneGeometry
    from cocofold.assessment.comparison import Assessment
    from cocofold.likelihood.residue_support import ResidueSupport
    from cocofold.structure.model import Model


def assess(
    model: Path = typer.Option(..., help="Model to assess: mmCIF or PDB."),
    reference: Optional[Path] = typer.Option(
        None, help="Structure taken as true, of the same protein: mmCIF or PDB. This or --particles is needed."
    ),
    start: Optional[Path] = typer.Option(
        None,
        help="Model before fine-tuning: tells which faults of the geometry are new, and where the chain was broken.",
    ),
    particles: Optional[Path] = typer.Option(
        None,
        help="Particles in whose map the model lies, RELION .star or CryoSPARC .cs: how well it agrees with them, and "
        "what each residue adds to that.",
    ),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    max_particles: int = typer.Option(2000, help="Use so many of the particles at most, drawn at random."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for all figures, also of each residue."),
    plot: Optional[Path] = typer.Option(None, help="PNG file: displacement and support of each residue, by chain."),
    device: str = typer.Option("auto", help="With --particles: auto, cpu, cuda or cuda:N."),
) -> None:
    """Judge a model: against a reference, against particles, by its own geometry.

    With --reference: CA RMSD of all matched residues, superposed and in place; coverage, RMSD, TM-score and sequence
    identity as MM-align defines them; RMSD of each chain. Residues are matched by chain and number where these agree in
    sequence, otherwise by aligning the sequences, so that chains may have other names. With --particles: how well the
    model agrees with images, with poses, CTFs and atoms as they are, and what each residue adds to that. Always the
    geometry of the backbone.
    """
    for option, path in (("--json", json_file), ("--plot", plot)):
        check_writable(option, path)
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"--plot {plot}: only PNG is written; give a name that ends in .png")
    if reference is None and particles is None:
        raise InputError("nothing to compare the model with; give --reference, --particles, or both")

    from cocofold.assessment.backbone_geometry import measure_geometry
    from cocofold.assessment.comparison import assess as compare
    from cocofold.structure.read_model import read_model
    from cocofold.system.atomic_files import write_atomically

    assessed, before = read_model(model), None if start is None else read_model(start)
    found = None if reference is None else compare(assessed, read_model(reference))
    support = (
        None
        if particles is None
        else _residue_support(assessed, model, particles, particles_dir, max_particles, device)
    )
    geometry = measure_geometry(assessed, before)
    geometry_before = None if before is None else measure_geometry(before)
    try:
        if json_file is not None:
            content = {
                "version": __version__,
                "model": str(model),
                "reference": None if reference is None else str(reference),
                "start": None if start is None else str(start),
                **({} if found is None else found.as_dict()),
                "geometry": asdict(geometry),
                "geometry_of_start": None if geometry_before is None else asdict(geometry_before),
                "frc": None if support is None else support.correlation,
                "support": [] if support is None else support.rows(assessed),
                "against": [] if support is None else [str(stretch) for stretch in support.against],
            }
            write_atomically(json_file, json.dumps(content, indent=1) + "\n")
        if plot is not None:
            from cocofold.assessment.comparison import plot_residues

            plot_residues(plot, found, [] if support is None else support.rows(assessed))
    except OSError as error:
        raise InputError(
            f"{error.filename or json_file or plot}: not written ({error.strerror}); give another file"
        ) from error
    _print_tables(found, geometry, geometry_before)
    if support is not None:
        _print_support(support)


def _residue_support(
    model: Model, path: Path, particles: Path, particles_dir: Optional[Path], most: int, device: str
) -> ResidueSupport:
    from cocofold.likelihood.residue_support import ImageAgreement
    from cocofold.mapfit.placement_file import MIRRORED
    from cocofold.structure.read_model import read_map_placement

    mirrored = read_map_placement(path).get("hand") == MIRRORED
    with ImageAgreement.read(model, particles, particles_dir, mirrored, most, device) as images:
        return images.support(model)


def _print_support(support: ResidueSupport) -> None:
    typer.echo(f"Fourier ring correlation with the particles, mean over rings and images: {support.correlation:.4f}")
    typer.echo(f"Residues that the images speak against: {', '.join(map(str, support.against)) or 'none'}")


def _print_tables(found: Assessment | None, geometry: BackboneGeometry, before: BackboneGeometry | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if found is not None:
        _print_comparison(console, found)
    table = Table(title="Geometry", title_justify="left")
    table.add_column("figure")
    columns = [_GEOMETRY_ROWS, _geometry_column(geometry)]
    headings = ["model"]
    if before is not None:
        columns += [_geometry_column(before), _new_column(geometry)]
        headings += ["start", "new"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for cells in zip(*columns):
        table.add_row(*cells)
    console.print(table)


def _print_comparison(console: Console, found: Assessment) -> None:
    from rich.table import Table

    alignment = found.alignment
    whole = Table(title="Model against reference", title_justify="left")
    whole.add_column("figure")
    whole.add_column("value", justify="right")
    whole.add_row("matched residues (model, reference)", _matched_counts(found))
    whole.add_row("CA RMSD, superposed (Å)", f"{found.ca_rmsd:.3f}")
    whole.add_row("CA RMSD, in place (Å)", f"{found.ca_rmsd_in_place:.3f}")
    whole.add_row("TM-score (MM-align)", f"{alignment.tm_score:.4f}")
    whole.add_row("coverage (MM-align)", f"{alignment.coverage:.4f}")
    whole.add_row("RMSD of aligned residues (MM-align, Å)", f"{alignment.rmsd:.3f}")
    whole.add_row("sequence identity (MM-align)", f"{alignment.sequence_identity:.4f}")
    console.print(whole)

    chains = Table(title="CA RMSD of chains (Å)", title_justify="left")
    for heading in ("chain", "reference", "residues", "matched by", "superposed alone", "with the whole", "in place"):
        chains.add_column(heading, justify="left" if heading in ("chain", "reference", "matched by") else "right")
    for row in found.chains:
        partner = row.reference_chain
        if row.reference_chain_in_place not in (None, partner):
            partner += f" (in place {row.reference_chain_in_place})"
        chains.add_row(
            row.chain,
            partner,
            str(row.matched_residues),
            row.matched_by,
            f"{row.ca_rmsd:.3f}",
            f"{row.ca_rmsd_together:.3f}",
            "-" if row.ca_rmsd_in_place is None else f"{row.ca_rmsd_in_place:.3f}",
        )
    console.print(chains)


_GEOMETRY_ROWS = [
    "C-N within 0.1 Å of 1.33 Å",
    "C-N, largest deviation (Å)",
    "D-amino acids",
    "cis peptides (before Pro, others)",
    "twisted peptides",
    "CA-CA below 3 Å, not bonded",
    "Ramachandran favoured",
    "Ramachandran outliers",
]


def _geometry_column(figures: BackboneGeometry) -> list[str]:
    return [
        f"{figures.bonds_within_tolerance:.2%} of {figures.peptides}",
        f"{figures.bond_deviation_worst_angstrom:.3f}",
        f"{len(figures.d_residues)} of {figures.chiral_residues}",
        f"{figures.n_cis} ({len(figures.cis_proline)}, {len(figures.cis_other)})",
        str(len(figures.twisted)),
        str(len(figures.close_alphas)),
        f"{figures.ramachandran_favoured:.2%} of {figures.ramachandran_residues}",
        str(len(figures.ramachandran_outliers)),
    ]


def _new_column(figures: BackboneGeometry) -> list[str]:
    new = (figures.new_d, figures.new_cis, figures.new_twisted, figures.new_close_alphas)
    outliers = figures.new_ramachandran_outliers
    return ["", "", *(str(len(residues or ())) for residues in new), "", str(len(outliers or ()))]


def _matched_counts(found: Assessment) -> str:
    return f"{found.matched_residues} ({found.model_residues}, {found.reference_residues})"
