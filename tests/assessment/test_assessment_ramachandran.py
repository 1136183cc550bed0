"""Ramachandran figures against the plot's well-known places and gemmi's torsions."""

from importlib.resources import files

import gemmi
import numpy as np
import pytest

from cocofold.assessment.backbone_geometry import classify_torsions, measure_geometry, ramachandran_kinds
from cocofold.structure.model import Model


@pytest.mark.parametrize(
    ("kind", "phi", "psi", "favoured", "outlier"),
    [
        ("general", -62, -42, True, False),  # alpha helix
        ("general", -120, 130, True, False),  # beta sheet
        ("general", -70, 145, True, False),  # polyproline II
        ("general", 57, 40, True, False),  # left-handed helix
        ("general", 120, -60, False, True),
        ("general", 0, 0, False, True),
        ("general", 80, -170, False, True),
        ("glycine", 80, -170, True, False),  # a place that glycine alone has
        ("glycine", -80, 170, True, False),
        ("proline", -62, -40, True, False),
        ("proline", -65, 145, True, False),
        ("proline", -140, 145, False, True),  # phi is fixed by the ring
        ("proline", 60, 40, False, True),
        ("preproline", -70, 145, True, False),
        ("preproline", -62, -42, True, False),
        ("general", -100, 60, False, False),
    ],
)
def test_known_places(kind: str, phi: float, psi: float, favoured: bool, outlier: bool) -> None:
    found = classify_torsions(np.array([phi, phi + 360.0]), np.array([psi, psi - 360.0]), np.array([kind, kind]))
    assert [row.tolist() for row in found] == [[favoured] * 2, [outlier] * 2]


@pytest.mark.parametrize(
    ("kind", "residues", "total", "most", "helix", "below_outlier", "favoured"),
    [
        # Values of the published tables: at phi -63 and psi -43 degrees, and numbers of bins beyond the contours
        ("general", 81234, 84900604, 81231, 0.9999630696506389, 19114, 5377),
        ("glycine", 15410, 37159355, 15410, 0.9939000648929267, 11858, 12580),
        ("proline", 4415, 1613739, 4415, 0.29920724801812004, 28839, 2038),
        ("preproline", 4014, 3988547, 4014, 0.5585450921773791, 26233, 3516),
    ],
)
def test_tables_are_the_published_ones(
    kind: str, residues: int, total: int, most: int, helix: float, below_outlier: int, favoured: int
) -> None:
    with (files("cocofold.assessment") / "ramachandran_top500.npz").open("rb") as file, np.load(file) as tables:
        counts, behind = tables[kind], int(tables[f"{kind}_residues"])
    assert counts.shape == (180, 180)
    assert (behind, int(counts.sum()), int(counts.max())) == (residues, total, most)
    assert counts[58, 68] / behind == helix
    centres = np.arange(-179.0, 180, 2)
    phi, psi = (angles.ravel() for angles in np.meshgrid(centres, centres, indexing="ij"))
    good, bad = classify_torsions(phi, psi, np.full(len(phi), kind))
    assert (int(bad.sum()), int(good.sum())) == (below_outlier, favoured)


def test_glycine_is_symmetric_about_its_centre() -> None:
    """It has no hand, so that most of its plot is its own mirror image."""
    phi, psi = (angles.ravel() for angles in np.meshgrid(np.arange(-179.0, 180, 2), np.arange(-179.0, 180, 2)))
    kinds = np.full(len(phi), "glycine")
    assert (classify_torsions(phi, psi, kinds)[1] == classify_torsions(-phi, -psi, kinds)[1]).mean() > 0.97
    general = np.full(len(phi), "general")
    assert (classify_torsions(phi, psi, general)[1] == classify_torsions(-phi, -psi, general)[1]).mean() < 0.9


def test_what_precedes_proline_has_its_own_plot() -> None:
    names, followers = np.array(["ALA", "ALA", "GLY", "PRO", "PRO"]), np.array(["GLY", "PRO", "PRO", "ALA", "PRO"])
    assert ramachandran_kinds(names, followers).tolist() == ["general", "preproline", "glycine", "proline", "proline"]


def test_torsions_are_gemmis(tcr: Model) -> None:
    favoured, outliers, judged = 0, [], 0
    for chain in tcr.structure[0]:
        residues = list(chain)
        for before, residue, after in zip(residues, residues[1:], residues[2:]):
            if any(
                left.find_atom("C", "*").pos.dist(right.find_atom("N", "*").pos) > 2.5
                for left, right in ((before, residue), (residue, after))
            ):
                continue
            phi, psi = (np.degrees([angle]) for angle in gemmi.calculate_phi_psi(before, residue, after))
            good, bad = classify_torsions(
                phi, psi, ramachandran_kinds(np.array([residue.name]), np.array([after.name]))
            )
            judged += 1
            favoured += int(good[0])
            if bad[0]:
                outliers.append(f"{chain.name} {residue.seqid} {residue.name}")
    figures = measure_geometry(tcr)
    assert figures.ramachandran_residues == judged
    assert figures.ramachandran_favoured == pytest.approx(favoured / judged)
    assert sorted(figures.ramachandran_outliers) == sorted(outliers)
    assert 0 < len(outliers) < 15


def test_new_outliers_are_those_that_the_start_has_not(adk_open: Model) -> None:
    assert measure_geometry(adk_open, adk_open).new_ramachandran_outliers == ()
    mirrored = adk_open.moved_to(adk_open.positions * [1, 1, -1])
    known = set(measure_geometry(adk_open).ramachandran_outliers)
    figures = measure_geometry(mirrored, adk_open)
    # A mirrored protein has right angles for few of its residues
    assert len(figures.ramachandran_outliers) > 60
    assert set(figures.new_ramachandran_outliers or ()) == set(figures.ramachandran_outliers) - known
