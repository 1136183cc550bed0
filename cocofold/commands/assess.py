"""``cocofold assess``: figures of a model against a reference, against particles and by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import typer

from cocofold import __version__
from cocofold.commands import echo
from cocofold.system.atomic_files import check_writable, refuse_unwritable, write_json
from cocofold.system.errors import SKIP_HELP, SKIP_OPTION, InputError, escape_unprintable

if TYPE_CHECKING:
    from rich.table import Table

    from cocofold.assessment.backbone_geometry import BackboneGeometry
    from cocofold.assessment.comparison import Assessment, NucleicAcids
    from cocofold.assessment.what_changed import WhatChanged
    from cocofold.likelihood.residue_support import ParticlesOfModel, ResidueSupport
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
    ignore_aberrations: bool = typer.Option(
        False, "--ignore-aberrations", help="Leave out aberrations of CryoSPARC that cannot be applied."
    ),
    max_particles: int = typer.Option(2000, help="Use so many of the particles at most, drawn at random."),
    skip_bad_images: bool = typer.Option(False, SKIP_OPTION, help=SKIP_HELP),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for all figures, also of each residue."),
    plot: Optional[Path] = typer.Option(None, help="PNG file: displacement and support of each residue, by chain."),
    device: str = typer.Option("auto", help="With --particles: auto, cpu, cuda or cuda:N."),
) -> None:
    """Judge a model: against a reference, against particles, by its own geometry.

    With --reference: CA RMSD of all matched residues (without any protein C1'), superposed and in place; coverage,
    RMSD, TM-score and sequence identity as MM-align defines them; RMSD of each chain. Residues are matched by chain and
    number where these agree in sequence, otherwise by aligning the sequences, so that chains may have other names. With
    --particles: how well the model agrees with images, with poses, CTFs and atoms as they are, and what each residue
    adds to that; residues unlikely to be ordered are left out. Always the geometry of the backbone; of nucleic acids
    base pairs and sugar puckers, and against a reference RMSD of C1' and P. What changed from the start, and from the
    reference, to the model: bodies that moved as they are, about which axis and by which angle, and their hinges.
    """
    for option, path in (("--json", json_file), ("--plot", plot)):
        check_writable(option, path)
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"--plot {plot}: only PNG is written; give a name that ends in .png")
    if reference is None and particles is None:
        raise InputError("nothing to compare the model with; give --reference, --particles, or both")

    from cocofold.assessment.backbone_geometry import measure_geometry
    from cocofold.assessment.comparison import assess as compare
    from cocofold.assessment.comparison import assess_nucleic_acids, plot_residues
    from cocofold.likelihood.residue_support import ParticlesOfModel
    from cocofold.structure.read_model import read_model

    assessed, before, true = (None if path is None else read_model(path) for path in (model, start, reference))
    assert assessed is not None
    images = None
    if particles is not None:
        images = ParticlesOfModel(particles, particles_dir, max_particles, ignore_aberrations, skip_bad_images)
    support, left_out = (None, None) if images is None else _residue_support(assessed, images, device)
    findings = _Findings(
        comparison=None if true is None else compare(assessed, true),
        nucleic_acids=assess_nucleic_acids(assessed, true),
        support=support,
        images_left_out=left_out,
        geometry=measure_geometry(assessed, before),
        geometry_of_start=None if before is None else measure_geometry(before),
        changed=_changes(assessed, before, true),
    )
    with refuse_unwritable(json_file or plot):
        if json_file is not None:
            files = {"model": model, "reference": reference, "start": start}
            write_json(json_file, findings.as_dict(assessed, files))
        if plot is not None:
            plot_residues(plot, findings.comparison, findings.support_rows(assessed))
    _print_findings(findings)


@dataclass(frozen=True)
class _Findings:
    """What was found of a model: against a reference, against particles, and by its geometry."""

    comparison: Assessment | None
    nucleic_acids: NucleicAcids | None
    support: ResidueSupport | None
    images_left_out: str | None
    geometry: BackboneGeometry
    geometry_of_start: BackboneGeometry | None
    changed: dict[str, WhatChanged]

    def support_rows(self, model: Model) -> list[dict[str, Any]]:
        """Support of each residue by the particles; empty without particles."""
        return [] if self.support is None else self.support.rows(model)

    def as_dict(self, model: Model, files: dict[str, Optional[Path]]) -> dict[str, Any]:
        """Content of ``--json``; ``files`` are the models' by the option that gave them."""
        return {
            "version": __version__,
            **{option: None if path is None else str(path) for option, path in files.items()},
            **({} if self.comparison is None else self.comparison.as_dict()),
            "nucleic_acids": None if self.nucleic_acids is None else asdict(self.nucleic_acids),
            "geometry": asdict(self.geometry),
            "geometry_of_start": None if self.geometry_of_start is None else asdict(self.geometry_of_start),
            **{f"changed_from_{name}": changed.as_dict() for name, changed in self.changed.items()},
            "views": None if self.support is None else self.support.views.as_dict(),
            "frc": None if self.support is None else self.support.correlation,
            "images_left_out": self.images_left_out,
            "support": self.support_rows(model),
            "against": [] if self.support is None else [str(stretch) for stretch in self.support.against],
        }


def _changes(assessed: Model, start: Model | None, reference: Model | None) -> dict[str, WhatChanged]:
    """What changed to the model from those that were given, by their options."""
    from cocofold.assessment.what_changed import what_changed

    found = {}
    for name, other in (("start", start), ("reference", reference)):
        # A start of another molecule serves the geometry alone.
        with contextlib.suppress(InputError):
            found.update({} if other is None else {name: what_changed(other, assessed)})
    return found


def _residue_support(model: Model, particles: ParticlesOfModel, device: str) -> tuple[ResidueSupport, Optional[str]]:
    """Support of the model by the particles, and which images were left out, in words."""
    from cocofold.likelihood.residue_support import ImageAgreement
    from cocofold.structure.confidence import read_order

    model, _ = read_order(model)
    with ImageAgreement.read(model, particles, device) as images:
        return images.support(model), images.left_out


def _print_findings(findings: _Findings) -> None:
    from rich.console import Console

    console = Console()
    if findings.comparison is not None:
        console.print(_comparison_table(findings.comparison))
        console.print(_chain_table(findings.comparison))
    if findings.nucleic_acids is not None:
        console.print(_nucleic_table(findings.nucleic_acids))
    console.print(_geometry_table(findings.geometry, findings.geometry_of_start))
    for name, changed in findings.changed.items():
        echo(f"From {name} to model:", *(f"  {line}" for line in changed.sentences()), "")
    support = findings.support
    if support is not None:
        if findings.images_left_out is not None:
            echo(findings.images_left_out)
        echo(f"Fourier ring correlation with the particles, mean over rings and images: {support.correlation:.4f}")
        echo(f"Views: {support.views.sentence() or support.views}")
        echo(f"Residues that the images speak against: {', '.join(map(str, support.against)) or 'none'}")


def _comparison_table(found: Assessment) -> Table:
    from rich.table import Table

    alignment = found.alignment
    whole = Table(title="Model against reference", title_justify="left")
    whole.add_column("figure")
    whole.add_column("value", justify="right")
    whole.add_row("matched residues (model, reference)", _matched_counts(found))
    whole.add_row(f"{found.trace_atom} RMSD, superposed (Å)", f"{found.ca_rmsd:.3f}")
    whole.add_row(f"{found.trace_atom} RMSD, in place (Å)", f"{found.ca_rmsd_in_place:.3f}")
    whole.add_row("TM-score (MM-align)", f"{alignment.tm_score:.4f}")
    whole.add_row("coverage (MM-align)", f"{alignment.coverage:.4f}")
    whole.add_row("RMSD of aligned residues (MM-align, Å)", f"{alignment.rmsd:.3f}")
    whole.add_row("sequence identity (MM-align)", f"{alignment.sequence_identity:.4f}")
    return whole


def _chain_table(found: Assessment) -> Table:
    from rich.table import Table
    from rich.text import Text

    chains = Table(title=f"{found.trace_atom} RMSD of chains (Å)", title_justify="left")
    for heading in ("chain", "reference", "residues", "matched by", "superposed alone", "with the whole", "in place"):
        chains.add_column(heading, justify="left" if heading in ("chain", "reference", "matched by") else "right")
    for row in found.chains:
        partner = row.reference_chain
        if row.reference_chain_in_place not in (None, partner):
            partner += f" (in place {row.reference_chain_in_place})"
        chains.add_row(
            # Text, since names may have what marks up strings
            *(Text(escape_unprintable(name)) for name in (row.chain, partner)),
            str(row.matched_residues),
            row.matched_by,
            f"{row.ca_rmsd:.3f}",
            f"{row.ca_rmsd_together:.3f}",
            "-" if row.ca_rmsd_in_place is None else f"{row.ca_rmsd_in_place:.3f}",
        )
    return chains


def _nucleic_table(found: NucleicAcids) -> Table:
    from rich.table import Table

    table = Table(title="Nucleic acids", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("nucleotides, base pairs", f"{found.nucleotides}, {found.base_pairs}")
    table.add_row("sugars C3'-endo, C2'-endo, other", f"{found.c3_endo}, {found.c2_endo}, {found.other_puckers}")
    if found.matched_nucleotides is not None:
        for name, value in (
            ("C1' RMSD, superposed (Å)", found.c1_rmsd),
            ("C1' RMSD, in place (Å)", found.c1_rmsd_in_place),
            ("P RMSD, in place (Å)", found.p_rmsd_in_place),
        ):
            table.add_row(name, "-" if value is None else f"{value:.3f}")
        table.add_row("base pairs of the reference kept", f"{found.kept_base_pairs} of {found.reference_base_pairs}")
        table.add_row("sugars puckered as in the reference", f"{found.same_puckers} of {found.matched_nucleotides}")
    return table


def _geometry_table(geometry: BackboneGeometry, before: BackboneGeometry | None) -> Table:
    """Figures of the model, and with a start those of the start and the number of faults that are new."""
    from rich.table import Table

    table = Table(title="Geometry", title_justify="left")
    table.add_column("figure")
    for heading in ("model",) if before is None else ("model", "start", "new"):
        table.add_column(heading, justify="right")
    for row in _GEOMETRY_ROWS:
        cells = [row.value(geometry)]
        if before is not None:
            new = None if row.new is None else row.new(geometry)
            cells += [row.value(before), "" if new is None else str(len(new))]
        table.add_row(row.label, *cells)
    return table


class _GeometryRow(NamedTuple):
    """A row of the table of geometry: its label, how the value is written, and which faults are new since a start."""

    label: str
    value: Callable[[BackboneGeometry], str]
    new: Callable[[BackboneGeometry], tuple[str, ...] | None] | None = None


_GEOMETRY_ROWS = (
    _GeometryRow("C-N within 0.1 Å of 1.33 Å", lambda found: _share(found.bonds_within_tolerance, found.peptides)),
    _GeometryRow(
        "C-N, largest deviation (Å)",
        lambda found: f"{found.bond_deviation_worst_angstrom:.3f}" if found.peptides else "no peptides",
    ),
    _GeometryRow(
        "D-amino acids",
        lambda found: f"{len(found.d_residues)} of {found.chiral_residues}",
        lambda found: found.new_d,
    ),
    _GeometryRow(
        "cis peptides (before Pro, others)",
        lambda found: f"{found.n_cis} ({len(found.cis_proline)}, {len(found.cis_other)})",
        lambda found: found.new_cis,
    ),
    _GeometryRow("twisted peptides", lambda found: str(len(found.twisted)), lambda found: found.new_twisted),
    _GeometryRow(
        "CA-CA below 3 Å, not bonded", lambda found: str(len(found.close_alphas)), lambda found: found.new_close_alphas
    ),
    _GeometryRow(
        "Ramachandran favoured", lambda found: _share(found.ramachandran_favoured, found.ramachandran_residues)
    ),
    _GeometryRow(
        "Ramachandran outliers",
        lambda found: str(len(found.ramachandran_outliers)),
        lambda found: found.new_ramachandran_outliers,
    ),
)


def _share(share: float, count: int) -> str:
    return f"{share:.2%} of {count}" if count else "none to judge"


def _matched_counts(found: Assessment) -> str:
    return f"{found.matched_residues} ({found.model_residues}, {found.reference_residues})"
