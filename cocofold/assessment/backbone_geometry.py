"""Figures of a model's backbone geometry: bonds, chirality, peptide planes, contacts, Ramachandran plot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import gemmi
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model, ResidueKey
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError

# C-N of the peptide: 1.336 Å in Engh & Huber (2001), 1.329 Å in their set of 1991
PEPTIDE_BOND_ANGSTROM = 1.33
# About four of Engh & Huber's standard deviations (0.023 Å): with less, good crystal structures would have bad bonds
BOND_TOLERANCE_ANGSTROM = 0.1
# Peptides within 30 degrees of planar are cis or trans, as MolProbity has it; what lies between is twisted
CIS_BELOW_DEGREES = 30.0
TRANS_ABOVE_DEGREES = 150.0
# CA atoms of residues that a trans peptide joins are 3.8 Å apart, of a cis peptide 2.9 Å; others are farther apart
CLOSEST_ALPHA_ANGSTROM = 3.0
# With a smaller share a model of another protein, or with other chain names, would pass for the start
_LEAST_SHARED_FRACTION = 0.5
# Contours of Lovell et al. (2003): 98 % of the residues are favoured
FAVOURED_DENSITY = 0.02
# 99.95 % are allowed in the general case, and 99.8 % of glycines, prolines and what precedes proline
OUTLIER_DENSITIES = {"general": 0.0005, "glycine": 0.002, "proline": 0.002, "preproline": 0.002}
_BIN_DEGREES = 2.0  # width of the bins of their tables


@dataclass(frozen=True)
class BackboneGeometry:
    """Backbone geometry of a model; residues are named as "chain number name".

    A peptide is a link between two amino acids that follow each other in a chain. With a start, those that the start
    joins (C-N below 2.3 Å) are counted, however far they are apart in the model; without one, and for residues that
    the start does not have, those that follow each other in the sequence or have C-N below 2.3 Å. So a bond that was
    torn counts as a bad bond, while a gap in the chain does not. Ligands and other molecules are never counted,
    whatever their atoms are called.

    Attributes
    ----------
    peptides : int
    bonds_within_tolerance : float
        Share of peptides with ``|C-N - 1.33 Å| <= 0.1 Å``; 1 if there are none.
    bond_deviation_rms_angstrom, bond_deviation_worst_angstrom : float
        Deviation of C-N from 1.33 Å; 0 if there are no peptides.
    bad_bonds : tuple of str
        The residue after each bond out of tolerance.
    chiral_residues : int
        Residues with N, CA, C and CB.
    d_residues : tuple of str
        Those with ``(N - CA) · ((C - CA) × (CB - CA)) < 0``, the chirality of D-amino acids.
    cis_proline, cis_other : tuple of str
        The residue after each peptide with ``|omega| < 30°``.
    twisted : tuple of str
        The residue after each peptide with ``30° <= |omega| <= 150°``.
    close_alphas : tuple of str
        Pairs of CA closer than 3 Å in residues that no peptide joins.
    ramachandran_residues : int
        Number of residues with a peptide on both sides.
    ramachandran_favoured : float
        Share of these; 1 if there are none.
    ramachandran_outliers : tuple of str
        By the contours of Lovell et al. (2003).
    new_d, new_cis, new_twisted, new_close_alphas, new_ramachandran_outliers : tuple of str, optional
        Those of the lists above that are not so in the start; None without a start.
    """

    peptides: int
    bonds_within_tolerance: float
    bond_deviation_rms_angstrom: float
    bond_deviation_worst_angstrom: float
    bad_bonds: tuple[str, ...]
    chiral_residues: int
    d_residues: tuple[str, ...]
    cis_proline: tuple[str, ...]
    cis_other: tuple[str, ...]
    twisted: tuple[str, ...]
    close_alphas: tuple[str, ...]
    ramachandran_residues: int
    ramachandran_favoured: float
    ramachandran_outliers: tuple[str, ...]
    new_d: tuple[str, ...] | None = None
    new_cis: tuple[str, ...] | None = None
    new_twisted: tuple[str, ...] | None = None
    new_close_alphas: tuple[str, ...] | None = None
    new_ramachandran_outliers: tuple[str, ...] | None = None

    @property
    def n_cis(self) -> int:
        """Number of cis peptides."""
        return len(self.cis_proline) + len(self.cis_other)


def measure_geometry(model: Model, start: Model | None = None) -> BackboneGeometry:
    """Figures of a model's geometry, and what is new in it since a start.

    Parameters
    ----------
    model : Model
    start : Model, optional
        The model before fine-tuning: the same chains, numbers and residue names; it may have more residues.

    Raises
    ------
    InputError
        If less than half of the model's residues are in the start.
    """
    backbone = _amino_acids(model)
    keys = _residue_keys(model, backbone)
    if not keys:
        none = [np.zeros(0, dtype=int)] * 6
        return _geometry_of(keys, _Measures(*none, *[none[0] > 0] * 2), {})
    first = _peptide_starts(model, backbone)
    if start is None:
        return _geometry_of(keys, _measure(model, backbone, first), {})
    origin = _amino_acids(start)
    in_start = _rows_in_start(keys, _residue_keys(start, origin))
    bonds_of_start = _peptide_bonds(start, origin)
    found = _measure(model, backbone, _peptides_joined_in_start(first, in_start, bonds_of_start))
    new = _new_faults(keys, found, _measure(start, origin, np.flatnonzero(bonds_of_start)), in_start)
    return _geometry_of(keys, found, new)


def _amino_acids(model: Model) -> Backbone:
    whole = Backbone.of(model)
    kept = np.flatnonzero(~whole.is_nucleotide)
    return replace(whole, residues=whole.residues[kept], atoms=whole.atoms[kept], linked=whole.linked[kept])


@dataclass(frozen=True)
class _Measures:
    """What is measured of one model; rows are those of its backbone.

    Attributes
    ----------
    first : (n_peptides,) int
        The residue before each peptide.
    bond_angstrom, omega_degrees : (n_peptides,) float
        C-N, and the size of the torsion about it, 0 to 180.
    chiral_volume : (n,) float
        See ``_chiral_volumes``.
    close : (n_pairs, 2) int
        See ``_close_ca_pairs``.
    inner : (n_inner,) int
        Residues with a peptide on both sides.
    favoured, outlier : (n_inner,) bool
        Their places in the Ramachandran plot.
    """

    first: np.ndarray
    bond_angstrom: np.ndarray
    omega_degrees: np.ndarray
    chiral_volume: np.ndarray
    close: np.ndarray
    inner: np.ndarray
    favoured: np.ndarray
    outlier: np.ndarray

    @property
    def cis(self) -> np.ndarray:
        """Peptides that are cis, (n_peptides,) bool."""
        return self.omega_degrees < CIS_BELOW_DEGREES

    @property
    def twisted(self) -> np.ndarray:
        """Peptides that are neither cis nor trans, (n_peptides,) bool."""
        return (self.omega_degrees >= CIS_BELOW_DEGREES) & (self.omega_degrees <= TRANS_ABOVE_DEGREES)

    @property
    def has_d_chirality(self) -> np.ndarray:
        """Residues with the chirality of D-amino acids, (n,) bool."""
        return self.chiral_volume < 0


def _measure(model: Model, backbone: Backbone, first: np.ndarray) -> _Measures:
    inner, favoured, outlier = _ramachandran(model, backbone, first)
    return _Measures(
        first=first,
        bond_angstrom=_bond_lengths(model, backbone, first),
        omega_degrees=np.abs(_omegas(model, backbone, first)),
        chiral_volume=_chiral_volumes(model, backbone),
        close=_close_ca_pairs(model, backbone, first),
        inner=inner,
        favoured=favoured,
        outlier=outlier,
    )


def _geometry_of(keys: list[ResidueKey], found: _Measures, new: dict[str, tuple[str, ...]]) -> BackboneGeometry:
    """Counts, shares and names of what was measured."""
    after = found.first + 1
    proline = np.array([key.name == "PRO" for key in keys], dtype=bool)[after]
    deviation = np.abs(found.bond_angstrom - PEPTIDE_BOND_ANGSTROM)
    bad = deviation > BOND_TOLERANCE_ANGSTROM
    n_peptides = max(len(after), 1)
    return BackboneGeometry(
        peptides=len(after),
        bonds_within_tolerance=1 - float(bad.sum()) / n_peptides,
        bond_deviation_rms_angstrom=float(np.sqrt((deviation**2).sum() / n_peptides)),
        bond_deviation_worst_angstrom=float(deviation.max(initial=0)),
        bad_bonds=_names(keys, after[bad]),
        chiral_residues=int(np.isfinite(found.chiral_volume).sum()),
        d_residues=_names(keys, np.flatnonzero(found.has_d_chirality)),
        cis_proline=_names(keys, after[found.cis & proline]),
        cis_other=_names(keys, after[found.cis & ~proline]),
        twisted=_names(keys, after[found.twisted]),
        close_alphas=_pair_names(keys, found.close.tolist()),
        ramachandran_residues=len(found.inner),
        ramachandran_favoured=float(found.favoured.mean()) if len(found.inner) else 1.0,
        ramachandran_outliers=_names(keys, found.inner[found.outlier]),
        **new,
    )


def _new_faults(
    keys: list[ResidueKey], found: _Measures, before: _Measures, in_start: np.ndarray
) -> dict[str, tuple[str, ...]]:
    """Faults of a model that its start does not have; ``in_start`` is the start's row of each residue, or -1."""
    known = in_start >= 0
    omega_before = np.full(len(before.chiral_volume), np.nan)
    omega_before[before.first] = before.omega_degrees
    was = np.where(known[found.first], omega_before[in_start[found.first]], np.nan)
    was_cis = was < CIS_BELOW_DEGREES
    was_twisted = (was >= CIS_BELOW_DEGREES) & (was <= TRANS_ABOVE_DEGREES)
    was_d = known & before.has_d_chirality[in_start]
    was_outlier = np.isin(in_start[found.inner], before.inner[before.outlier])
    was_close = {tuple(sorted(pair)) for pair in before.close.tolist()}
    newly_close = [pair for pair in found.close.tolist() if tuple(sorted(in_start[pair].tolist())) not in was_close]
    return {
        "new_d": _names(keys, np.flatnonzero(found.has_d_chirality & ~was_d)),
        "new_cis": _names(keys, found.first[found.cis & ~was_cis] + 1),
        "new_twisted": _names(keys, found.first[found.twisted & ~was_twisted] + 1),
        "new_close_alphas": _pair_names(keys, newly_close),
        "new_ramachandran_outliers": _names(keys, found.inner[found.outlier & ~was_outlier]),
    }


def _residue_keys(model: Model, backbone: Backbone) -> list[ResidueKey]:
    return [model.residues[row] for row in backbone.residues]


def _rows_in_start(keys: list[ResidueKey], start_keys: list[ResidueKey]) -> np.ndarray:
    """For each residue its row among those of the start, or -1; (n,) int."""
    place = {key: row for row, key in enumerate(start_keys)}
    in_start = np.array([place.get(key, -1) for key in keys])
    if (in_start >= 0).mean() < _LEAST_SHARED_FRACTION:
        raise InputError(
            f"the start shares {int((in_start >= 0).sum())} of the model's {len(keys)} residues (chain, number and "
            "name); at least half are needed: give the model from which this one was made"
        )
    return in_start


def _names(keys: list[ResidueKey], rows: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{keys[row].chain} {keys[row].number}{keys[row].insertion_code} {keys[row].name}" for row in rows)


def _pair_names(keys: list[ResidueKey], pairs: list[list[int]]) -> tuple[str, ...]:
    return tuple(" - ".join(_names(keys, np.array(pair))) for pair in pairs)


def _peptide_starts(model: Model, backbone: Backbone) -> np.ndarray:
    """The first residue of each peptide, judged by the model alone; (n_peptides,) int."""
    residues = _gemmi_residues(model, backbone)
    keys = _residue_keys(model, backbone)
    follows = [
        _is_amino_acid(one) and _is_amino_acid(other) and _follows(one, other, key, next_key)
        for one, other, key, next_key in zip(residues, residues[1:], keys, keys[1:])
    ]
    return np.flatnonzero(_peptide_bonds(model, backbone) | np.array([*follows, False]))


def _peptide_bonds(model: Model, backbone: Backbone) -> np.ndarray:
    """Whether C-N below 2.3 Å joins a residue to the next one, and both are amino acids; (n,) bool."""
    amino_acid = np.array([_is_amino_acid(residue) for residue in _gemmi_residues(model, backbone)])
    # Frames of passengers come after those of residues and are never linked.
    return backbone.linked[: len(backbone.residues)] & amino_acid & np.append(amino_acid[1:], False)


def _gemmi_residues(model: Model, backbone: Backbone) -> list[gemmi.Residue]:
    residues = [residue for chain in model.structure[0] for residue in chain]
    return [residues[row] for row in backbone.residues]


def _is_amino_acid(residue: gemmi.Residue) -> bool:
    """Whether a residue with N, CA and C is part of a protein, not a ligand that has atoms of these names."""
    known = gemmi.find_tabulated_residue(residue.name)
    is_polymer = residue.entity_type == gemmi.EntityType.Polymer
    return is_polymer if residue.entity_type != gemmi.EntityType.Unknown else known.is_amino_acid() or not known.found()


def _follows(one: gemmi.Residue, other: gemmi.Residue, key: ResidueKey, next_key: ResidueKey) -> bool:
    """Whether a residue is the next one in the sequence of its chain, or by the author's numbers if that is unknown."""
    if key.chain != next_key.chain or one.subchain != other.subchain:
        return False
    if one.label_seq is not None and other.label_seq is not None:
        return other.label_seq == one.label_seq + 1
    inserted = next_key.number == key.number and next_key.insertion_code != key.insertion_code
    return inserted or next_key.number == key.number + 1


def _peptides_joined_in_start(first: np.ndarray, in_start: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Peptides that the start joins, and those with a residue that it does not have."""
    unknown = (in_start[first] < 0) | (in_start[first + 1] < 0)
    here = np.flatnonzero((in_start[:-1] >= 0) & (in_start[1:] == in_start[:-1] + 1))
    return np.union1d(first[unknown], here[bonds[in_start[here]]])


def _bond_lengths(model: Model, backbone: Backbone, first: np.ndarray) -> np.ndarray:
    carbon, nitrogen = backbone.atoms[first, 2], backbone.atoms[first + 1, 0]
    return np.linalg.norm(model.positions[carbon] - model.positions[nitrogen], axis=1)


def _omegas(model: Model, backbone: Backbone, first: np.ndarray) -> np.ndarray:
    """Torsions CA-C-N-CA in degrees, -180 to 180."""
    atoms = backbone.atoms
    return _torsions(model, atoms[first, 1], atoms[first, 2], atoms[first + 1, 0], atoms[first + 1, 1])


def _ramachandran(model: Model, backbone: Backbone, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residues between two peptides, and which of them are favoured and which are outliers."""
    inner = np.intersect1d(first, first + 1)
    atoms, names = backbone.atoms, np.array([model.residues[row].name for row in backbone.residues])
    phi = _torsions(model, atoms[inner - 1, 2], *atoms[inner].T)
    psi = _torsions(model, *atoms[inner].T, atoms[inner + 1, 0])
    return inner, *classify_torsions(phi, psi, ramachandran_kinds(names[inner], names[inner + 1]))


def _torsions(model: Model, *rows: np.ndarray) -> np.ndarray:
    """Torsions of atoms in four arrays of rows, in degrees from -180 to 180."""
    return np.degrees(torsion_radians(model.positions[np.stack(rows, axis=1)]))


def _chiral_volumes(model: Model, backbone: Backbone) -> np.ndarray:
    """Triple product N, C, CB about CA (Å³), positive for L-amino acids; NaN without CB."""
    beta = model.atoms_named("CB")[backbone.residues]
    nitrogen, alpha, carbon = model.positions[backbone.atoms].transpose(1, 0, 2)
    triple = ((nitrogen - alpha) * np.cross(carbon - alpha, model.positions[beta] - alpha)).sum(1)
    return np.where(beta >= 0, triple, np.nan)


def _close_ca_pairs(model: Model, backbone: Backbone, first: np.ndarray) -> np.ndarray:
    """Pairs of residues with CA closer than 3 Å that no peptide joins, (n_pairs, 2) int, sorted."""
    tree = cKDTree(model.positions[backbone.atoms[:, 1]])
    pairs = np.sort(tree.query_pairs(CLOSEST_ALPHA_ANGSTROM, output_type="ndarray"), axis=1)
    joined = (pairs[:, 1] == pairs[:, 0] + 1) & np.isin(pairs[:, 0], first)
    pairs = pairs[~joined]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def ramachandran_kinds(names: np.ndarray, next_names: np.ndarray) -> np.ndarray:
    """Which of the four plots each residue belongs to, by its name and that of the next one; (n,) str."""
    kinds = np.where(next_names == "PRO", "preproline", "general")
    kinds = np.where(names == "PRO", "proline", kinds)
    return np.where(names == "GLY", "glycine", kinds)


def classify_torsions(phi: np.ndarray, psi: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which torsions are favoured and which are outliers; what is neither is allowed.

    Contours of Lovell et al., Proteins 50, 437 (2003): favoured are the 98 % of their 500 structures' residues that lie
    densest, outliers those beyond 99.95 % (glycine, proline and what precedes proline: 99.8 %). Between the bins of
    their tables values are interpolated linearly.

    Parameters
    ----------
    phi, psi : (n,) float
        Degrees.
    kinds : (n,) str
        Names of plots, from ``ramachandran_kinds``.

    Returns
    -------
    favoured, outlier : (n,) bool
    """
    level = np.zeros(len(phi))
    for kind in OUTLIER_DENSITIES:
        rows = kinds == kind
        place = (np.stack([phi[rows], psi[rows]]) + 180) / _BIN_DEGREES - 0.5
        level[rows] = map_coordinates(_density_table(kind), place, order=1, mode="grid-wrap")
    return level >= FAVOURED_DENSITY, level < np.array([OUTLIER_DENSITIES[kind] for kind in kinds.tolist()])


@cache
def _density_table(kind: str) -> np.ndarray:
    """Share of the 500 structures' residues at places no denser than each bin, by phi and psi; (180, 180) float64.

    Bins are 2 degrees wide; the first is centred at -179 degrees. Source and layout of the file are told by
    ``ramachandran_top500.txt`` beside it.
    """
    with (files("cocofold.assessment") / "ramachandran_top500.npz").open("rb") as file, np.load(file) as tables:
        return tables[kind] / tables[f"{kind}_residues"]
