"""Figures of a model's backbone geometry: bonds, hands, peptide planes, contacts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model, ResidueKey
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError

PEPTIDE_BOND_ANGSTROM = 1.33
BOND_TOLERANCE_ANGSTROM = 0.1
CIS_BELOW_DEGREES = 30.0
TRANS_ABOVE_DEGREES = 150.0
CLOSEST_ALPHA_ANGSTROM = 3.0
_LEAST_SHARED_FRACTION = 0.5


@dataclass(frozen=True)
class BackboneGeometry:
    """Backbone geometry of a model; residues are named as "chain number name".

    A peptide is a link between two residues that follow each other in a chain. With a start, those that the start
    joins (C-N below 2.3 Å) are counted, however far they are apart in the model; without one, and for residues that
    the start does not have, those with consecutive numbers or with C-N below 2.3 Å. So a bond that was torn counts
    as a bad bond, while a gap in the chain does not.

    Attributes
    ----------
    peptides : int
    bonds_within_tolerance : float
        Share of peptides with ``|C-N - 1.33 Å| <= 0.1 Å``; 1 if there are none.
    bond_deviation_rms_angstrom, bond_deviation_worst_angstrom : float
        Of C-N from 1.33 Å.
    bad_bonds : tuple of str
        The residue after each bond out of tolerance.
    chiral_residues : int
        Residues with N, CA, C and CB.
    d_residues : tuple of str
        Those with ``(N - CA) · ((C - CA) × (CB - CA)) < 0``, the hand of D-amino acids.
    cis_proline, cis_other : tuple of str
        The residue after each peptide with ``|omega| < 30°``.
    twisted : tuple of str
        The residue after each peptide with ``30° <= |omega| <= 150°``.
    close_alphas : tuple of str
        Pairs of CA closer than 3 Å in residues that no peptide joins.
    ramachandran_residues : int
        Those with a peptide on both sides.
    ramachandran_favoured : float
        Share of these; 1 if there are none.
    ramachandran_outliers : tuple of str
        By the contours of Lovell et al. (2003).
    new_d, new_cis, new_twisted, new_close_alphas, new_ramachandran_outliers : tuple of str, optional
        Those of the above that are not so in the start; None without a start.
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
    backbone = Backbone.of(model)
    keys = [model.residues[row] for row in backbone.residues]
    first = _peptide_starts(model, backbone)
    if start is not None:
        origin = Backbone.of(start)
        place = {start.residues[row]: number for number, row in enumerate(origin.residues)}
        in_start = np.array([place.get(key, -1) for key in keys])
        if (in_start >= 0).mean() < _LEAST_SHARED_FRACTION:
            raise InputError(
                f"the start shares {int((in_start >= 0).sum())} of the model's {len(keys)} residues (chain, number and "
                "name); at least half are needed: give the model from which this one was made"
            )
        first = _peptides_joined_in_start(first, in_start, origin.linked)
    bond = _bond_lengths(model, backbone, first)
    omega = np.abs(_omegas(model, backbone, first))
    cis, twisted = omega < CIS_BELOW_DEGREES, (omega >= CIS_BELOW_DEGREES) & (omega <= TRANS_ABOVE_DEGREES)
    proline = np.array([key.name == "PRO" for key in keys])[first + 1]
    hand = _chiral_volumes(model, backbone)
    d = np.flatnonzero(hand < 0)
    close = _close_ca_pairs(model, backbone, first)
    inner, favoured, outlier = _ramachandran(model, backbone, first)
    deviation = np.abs(bond - PEPTIDE_BOND_ANGSTROM)
    bad = deviation > BOND_TOLERANCE_ANGSTROM
    n_peptides = max(len(first), 1)
    new: dict[str, tuple[str, ...]] = {}
    if start is not None:
        before = np.flatnonzero(origin.linked)
        omega_before = np.full(len(origin), np.nan)
        omega_before[before] = np.abs(_omegas(start, origin, before))
        was = np.where(in_start[first] >= 0, omega_before[in_start[first]], np.nan)
        was_twisted = (was >= CIS_BELOW_DEGREES) & (was <= TRANS_ABOVE_DEGREES)
        was_d = (in_start >= 0) & (_chiral_volumes(start, origin)[in_start] < 0)
        before_inner, _, before_outlier = _ramachandran(start, origin, before)
        was_outlier = np.isin(in_start[inner], before_inner[before_outlier])
        was_close = {tuple(sorted(pair)) for pair in _close_ca_pairs(start, origin, before).tolist()}
        new = {
            "new_d": _names(keys, d[~was_d[d]]),
            "new_cis": _names(keys, first[cis & ~(was < CIS_BELOW_DEGREES)] + 1),
            "new_twisted": _names(keys, first[twisted & ~was_twisted] + 1),
            "new_close_alphas": _pair_names(
                keys, [pair for pair in close.tolist() if tuple(sorted(in_start[pair].tolist())) not in was_close]
            ),
            "new_ramachandran_outliers": _names(keys, inner[outlier & ~was_outlier]),
        }
    return BackboneGeometry(
        peptides=len(first),
        bonds_within_tolerance=1 - float(bad.sum()) / n_peptides,
        bond_deviation_rms_angstrom=float(np.sqrt((deviation**2).sum() / n_peptides)),
        bond_deviation_worst_angstrom=float(deviation.max(initial=0)),
        bad_bonds=_names(keys, first[bad] + 1),
        chiral_residues=int(np.isfinite(hand).sum()),
        d_residues=_names(keys, d),
        cis_proline=_names(keys, first[cis & proline] + 1),
        cis_other=_names(keys, first[cis & ~proline] + 1),
        twisted=_names(keys, first[twisted] + 1),
        close_alphas=_pair_names(keys, close.tolist()),
        ramachandran_residues=len(inner),
        ramachandran_favoured=float(favoured.mean()) if len(inner) else 1.0,
        ramachandran_outliers=_names(keys, inner[outlier]),
        **new,
    )


def _names(keys: list[ResidueKey], rows: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{keys[row].chain} {keys[row].number}{keys[row].insertion_code} {keys[row].name}" for row in rows)


def _pair_names(keys: list[ResidueKey], pairs: list[list[int]]) -> tuple[str, ...]:
    return tuple(" - ".join(_names(keys, np.array(pair))) for pair in pairs)


def _peptide_starts(model: Model, backbone: Backbone) -> np.ndarray:
    """The first residue of each peptide, judged by the model alone; (n_peptides,) int."""
    keys = [model.residues[row] for row in backbone.residues]
    follows = [
        one.chain == next_one.chain
        and (next_one.number == one.number + 1 or (next_one.number == one.number and next_one[:3] != one[:3]))
        for one, next_one in zip(keys, keys[1:])
    ]
    return np.flatnonzero(backbone.linked | np.array([*follows, False]))


def _peptides_joined_in_start(first: np.ndarray, in_start: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Peptides that the start joins, and those with a residue that it does not have."""
    unknown = (in_start[first] < 0) | (in_start[first + 1] < 0)
    here = np.flatnonzero((in_start[:-1] >= 0) & (in_start[1:] == in_start[:-1] + 1))
    return np.union1d(first[unknown], here[linked[in_start[here]]])


def _bond_lengths(model: Model, backbone: Backbone, first: np.ndarray) -> np.ndarray:
    carbon, nitrogen = backbone.atoms[first, 2], backbone.atoms[first + 1, 0]
    return np.linalg.norm(model.positions[carbon] - model.positions[nitrogen], axis=1)


def _omegas(model: Model, backbone: Backbone, first: np.ndarray) -> np.ndarray:
    """Torsions CA-C-N-CA in degrees, -180 to 180."""
    atoms = backbone.atoms
    return _torsions(model, atoms[first, 1], atoms[first, 2], atoms[first + 1, 0], atoms[first + 1, 1])


def _ramachandran(model: Model, backbone: Backbone, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames between two peptides, and which of them are favoured and which are outliers."""
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


FAVOURED_DENSITY = 0.02
# The general case, and glycine, proline and what precedes proline
OUTLIER_DENSITIES = {"general": 0.0005, "glycine": 0.002, "proline": 0.002, "preproline": 0.002}
_KINDS = tuple(OUTLIER_DENSITIES)
_BIN_DEGREES = 2.0


def ramachandran_kinds(names: np.ndarray, followers: np.ndarray) -> np.ndarray:
    """Which of the four plots each residue belongs to, by its name and that of the next one; (n,) str."""
    kinds = np.where(followers == "PRO", "preproline", "general")
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
        As ``ramachandran_kinds`` gives them.

    Returns
    -------
    favoured, outlier : (n,) bool
    """
    level = np.zeros(len(phi))
    for kind in _KINDS:
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
