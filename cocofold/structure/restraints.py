"""Geometry restraints on the atoms of a model: links of chains, base pairs, clashes, the start's neighbourhoods.

What is inside a residue needs none: the backbone of a residue moves as one rigid body and side chains turn about
bonds, so bonds, angles, planar groups, the hand of every CA and the pucker of every sugar stay as they were.
``find_base_pairs`` says which bases are paired. ``WeightedSums``, at the end, are the sums with fixed weights of which
restraints and motion fields are made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.nn.functional import embedding_bag

from cocofold.structure.geometry import find_superposition
from cocofold.structure.model import Model
from cocofold.structure.topology import Backbone, covalent_bonds

# Distances (Å) across a trans peptide bond that fix its length, its angles and its plane: from an atom of residue i
# to one of residue i + 1. Bonds and angles of Engh & Huber (International Tables for Crystallography F, 18.3).
_TRANS_LINK = {
    ("C", "N"): 1.329,
    ("CA", "N"): 2.425,
    ("C", "CA"): 2.435,
    ("CA", "CA"): 3.80,
    ("O", "N"): 2.250,
    ("O", "CA"): 2.775,
}
# Cis: only distances across the bond's torsion differ from those of trans.
_CIS_LINK = {**_TRANS_LINK, ("CA", "CA"): 2.94, ("O", "CA"): 3.57}
# The same across a phosphodiester. Bonds and angles of Clowney et al. (J. Am. Chem. Soc. 118, 509, 1996); those to OP1
# and OP2 as refinement programs have them, 107.4 and 108.3 degrees.
_PHOSPHATE_LINK = {
    ("O3'", "P"): 1.607,
    ("C3'", "P"): 2.622,
    ("O3'", "O5'"): 2.522,
    ("O3'", "OP1"): 2.493,
    ("O3'", "OP2"): 2.507,
}
# CA atoms across a peptide bond are 2.94 Å apart in cis and 3.80 Å in trans; this lies between.
_MAX_CIS_CA_CA_ANGSTROM = 3.3
# Weight of links beside clashes. A larger one keeps bonds closer to their lengths and slows down large motions.
_LINK_WEIGHT = 3

# Weight of a base pair beside clashes. A larger one keeps pairs that the images want broken.
_BASE_PAIR_WEIGHT = 0.2
# Atoms of a base's ring whose distances to those of its partner hold a pair as it is.
_RING_TRIANGLE = ("N1", "N3", "C5")
# CA pairs up to this distance in the start are kept; a larger reach makes the model stiffer over longer distances.
_NEIGHBOUR_REACH_ANGSTROM = 12.0
# Change of a pair's distance beyond which the restraint begins to let go (``Restraints``).
_NEIGHBOUR_SLACK_ANGSTROM = 0.3
# Pairs of atoms up to this distance are watched for clashes until contacts are searched for again: the largest of the
# three distances below, and 0.7 Å for what atoms move meanwhile.
_CLASH_SEARCH_ANGSTROM = 4.5
# Least distances of atoms other than hydrogen that are not bonded, just below what is usual in crystal structures: any
# two, two that may form a hydrogen bond, two CA atoms.
_MIN_CONTACT_ANGSTROM = 3.2
_MIN_POLAR_CONTACT_ANGSTROM = 2.6
_MIN_CA_CONTACT_ANGSTROM = 3.8
_POLAR = (7, 8, 16)  # nitrogen, oxygen, sulfur
# Added to squared lengths (Å²), so that the gradient of a length of 0 is finite.
_LENGTH_FLOOR_A2 = 1e-8


class Restraints:
    """Energy of a model's geometry, without units, of the order of one.

    Terms:

    - links: squared deviations (Å²) of six distances across each peptide bond, and five across each phosphate, summed
      over the distances and averaged over links, times three; a cis peptide of the start stays cis.
    - clashes: squared overlaps (Å²) of atoms of residues that no link joins, and of linked bases, summed and averaged
      over residues. Atoms closer than 3.2 Å overlap (polar pairs 2.6 Å, CA atoms 3.8 Å), or closer than they were in
      the start.
    - neighbours: ``mean log(1 + (d - d_start)^2 / (0.3 Å)^2)`` over pairs within 12 Å of each other in the start, of CA
      and of nucleotides C1' and the atom N1 or N3 at the pairing edge of the base: stiff against small changes, and all
      but free once a pair has come apart, as at a hinge or a domain's border.
    - base pairs: the same function of the nine distances between three ring atoms of either base, averaged over them,
      summed over the start's pairs (``find_base_pairs``) and averaged over residues, times 0.2.
    """

    def __init__(
        self, model: Model, backbone: Backbone, neighbour_weight: float, device: torch.device | str = "cpu"
    ) -> None:
        self._model = model
        self._backbone = backbone
        self._device = device
        self._neighbour_weight = neighbour_weight
        self._is_alpha = np.isin(np.arange(len(model)), backbone.atoms[~backbone.is_nucleotide, 1])
        self._is_polar = np.isin(model.atomic_numbers, _POLAR)
        self._is_base = _are_base_atoms(model, backbone)
        self._n_links = int(backbone.linked.sum())
        links, neighbours = _link_distances(model, backbone), _neighbour_distances(model, backbone)
        paired = _base_pair_distances(model)
        self._links = self._tensors(*links)
        self._n_kept = [len(links[1]), len(neighbours[1]), len(paired[1])]
        kept, self._kept_distances = self._tensors(*(np.concatenate(all_) for all_ in zip(links, neighbours, paired)))
        signs = torch.tensor([1.0, -1.0], device=device).expand(kept.shape[1], 2)
        self._kept_differences = WeightedSums(kept.T, signs, len(model))
        self._contacts = self._tensors(*self._find_contacts(model.positions))

    def _tensors(self, pairs: np.ndarray, distances: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.as_tensor(np.ascontiguousarray(pairs.T), device=self._device),
            torch.as_tensor(distances, dtype=torch.float32, device=self._device),
        )

    def refresh(self, positions: torch.Tensor) -> None:
        """Search again for atoms that may clash; ``positions`` (n_atoms, 3) Å."""
        self._contacts = self._tensors(*self._find_contacts(positions.detach().cpu().double().numpy()))

    def state(self) -> dict[str, torch.Tensor]:
        """Contacts that ``refresh`` found, for a checkpoint."""
        return {"pairs": self._contacts[0], "least": self._contacts[1]}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Set the contacts to those that ``state`` returned."""
        self._contacts = (state["pairs"].to(self._device), state["least"].to(self._device))

    def energy(self, positions: torch.Tensor, clashes: bool = True) -> torch.Tensor:
        """Weighted sum of the terms at ``positions``, (n_atoms, 3) Å, with or without clashes; differentiable."""
        change = _lengths(self._kept_differences(positions)) - self._kept_distances
        links, neighbours, paired = change.split(self._n_kept)
        energy = _LINK_WEIGHT * (links**2).sum() / max(self._n_links, 1)
        if clashes:
            energy = energy + (self._overlaps(positions) ** 2).sum() / len(self._backbone)
        if len(neighbours):
            loosened = torch.log1p((neighbours / _NEIGHBOUR_SLACK_ANGSTROM) ** 2)
            energy = energy + self._neighbour_weight * loosened.mean()
        if len(paired):
            loosened = torch.log1p((paired / _NEIGHBOUR_SLACK_ANGSTROM) ** 2)
            energy = energy + _BASE_PAIR_WEIGHT / len(_RING_TRIANGLE) ** 2 * loosened.sum() / len(self._backbone)
        return energy

    def _overlaps(self, positions: torch.Tensor) -> torch.Tensor:
        """How much nearer atoms are than they may be (Å), for the pairs that are too near."""
        pairs, least = self._contacts
        with torch.no_grad():
            near = torch.nonzero(self._deviations(positions, (pairs, least)) < 0)[:, 0]
        return -self._deviations(positions, (pairs.index_select(1, near), least.index_select(0, near)))

    def worst_link(self, positions: torch.Tensor) -> float:
        """Largest deviation (Å) of a bond of the chain, C-N or O3'-P, from its ideal length; 0 without links."""
        bonds = self._bond_deviations(positions)
        return float(bonds.abs().max()) if len(bonds) else 0.0

    def link_rms(self, positions: torch.Tensor) -> float:
        """Root mean square deviation (Å) of C-N and O3'-P bonds from their ideal length; 0 without links."""
        bonds = self._bond_deviations(positions)
        return float((bonds**2).mean().sqrt()) if len(bonds) else 0.0

    def _bond_deviations(self, positions: torch.Tensor) -> torch.Tensor:
        """Deviations of all C-N and O3'-P bonds from their ideal length, Å: the first of the link distances."""
        pairs, targets = self._links
        return self._deviations(positions, (pairs[:, : self._n_links], targets[: self._n_links]))

    @staticmethod
    def _deviations(positions: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        (first, second), targets = pairs
        difference = positions.index_select(0, first) - positions.index_select(0, second)
        return _lengths(difference) - targets

    def _find_contacts(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of atoms that are near and belong to residues that no link joins, and their least distances."""
        # A tree that is used once need not be balanced.
        tree = cKDTree(positions, compact_nodes=False, balanced_tree=False)
        pairs = tree.query_pairs(_CLASH_SEARCH_ANGSTROM, output_type="ndarray")
        first, second = self._backbone.frame_of_atom[pairs].T
        before, after = np.minimum(first, second), np.maximum(first, second)
        joined = (after == before + 1) & self._backbone.linked[before] & ~self._is_base[pairs].all(1)
        pairs = pairs[(before != after) & ~joined]
        pairs = pairs[(self._model.atomic_numbers[pairs] > 1).all(1)]
        least = np.where(self._is_polar[pairs].all(1), _MIN_POLAR_CONTACT_ANGSTROM, _MIN_CONTACT_ANGSTROM)
        least[self._is_alpha[pairs].all(1)] = _MIN_CA_CONTACT_ANGSTROM
        return pairs, np.minimum(least, _distances(self._model, pairs))


def _lengths(differences: torch.Tensor) -> torch.Tensor:
    # A product with ones takes a third of the time of a sum over three numbers.
    return torch.sqrt(torch.mv(differences**2, differences.new_ones(3)) + _LENGTH_FLOOR_A2)


def _distances(model: Model, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1)


def _are_base_atoms(model: Model, backbone: Backbone) -> np.ndarray:
    """Which atoms are those of a nucleotide's base, (n_atoms,) bool."""
    names = model.atom_names.tolist()
    of_sugar = np.array([name.endswith("'") or name in PHOSPHATE_ATOMS for name in names], dtype=bool)
    return np.isin(model.residue_of_atom, backbone.residues[backbone.is_nucleotide]) & ~of_sugar


def _link_distances(model: Model, backbone: Backbone) -> tuple[np.ndarray, np.ndarray]:
    """Atom pairs across links, C-N and O3'-P first, and other bonds between residues, with the distances to keep."""
    before, peptide = np.flatnonzero(backbone.linked), np.flatnonzero(backbone.has_peptide)
    phosphate = np.setdiff1d(before, peptide)
    alpha = backbone.atoms[:, 1]
    cis = _distances(model, np.stack([alpha[peptide], alpha[peptide + 1]], axis=1)) < _MAX_CIS_CA_CA_ANGSTROM
    found = [
        _across_links(model, backbone, peptide, names, np.where(cis, _CIS_LINK[names], trans))
        for names, trans in _TRANS_LINK.items()
    ]
    of_phosphates = [
        _across_links(model, backbone, phosphate, names, np.full(len(phosphate), ideal))
        for names, ideal in _PHOSPHATE_LINK.items()
    ]
    bonds = covalent_bonds(model)
    first, second = np.sort(backbone.frame_of_atom[bonds], axis=1).T
    bonds = bonds[(first != second) & ~((second == first + 1) & backbone.linked[first])]
    ordered = [found[0], of_phosphates[0], *found[1:], *of_phosphates[1:], (bonds, _distances(model, bonds))]
    pair, target = (np.concatenate(part) for part in zip(*ordered))
    present = (pair >= 0).all(1)
    return pair[present], target[present]


def _across_links(
    model: Model, backbone: Backbone, before: np.ndarray, names: tuple[str, str], targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of two names across the links behind the frames in ``before``, -1 for one missing, and their distances."""
    one, other = (model.atoms_named(name)[backbone.residues] for name in names)
    return np.stack([one[before], other[before + 1]], axis=1), targets


def _neighbour_distances(model: Model, backbone: Backbone) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of the start within reach that no peptide joins, and their distances: CA, C1' and edges of bases."""
    frames = np.flatnonzero(backbone.is_nucleotide)
    edges = pairing_edge_atoms(model)[backbone.residues[frames]]
    atoms = np.concatenate([backbone.atoms[:, 1], edges[edges >= 0]])
    frames = np.concatenate([np.arange(len(backbone)), frames[edges >= 0]])
    pairs = cKDTree(model.positions[atoms]).query_pairs(_NEIGHBOUR_REACH_ANGSTROM, output_type="ndarray")
    before, after = np.sort(frames[pairs], axis=1).T
    pairs = atoms[pairs[(before != after) & ~((after == before + 1) & backbone.has_peptide[before])]]
    return pairs, _distances(model, pairs)


def _base_pair_distances(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of ring atoms of bases that are paired, and their distances."""
    rings = np.stack([model.atoms_named(name) for name in _RING_TRIANGLE], axis=1)
    paired = find_base_pairs(model)
    pairs = np.array([(one, other) for first, second in paired for one in rings[first] for other in rings[second]])
    pairs = pairs.reshape(-1, 2).astype(int)
    return pairs, _distances(model, pairs)


# Ring atoms of a base in the reference frame of its pairs, Å: adenine and cytosine of Olson et al. (J. Mol. Biol. 313,
# 229, 2001), from which those of other purines and pyrimidines differ by less than 0.1 Å. z is the base's normal, and
# the origins of both bases of a Watson-Crick pair coincide.
_PURINE_RING = {
    "N9": (-1.291, 4.498, 0.0), "C8": (0.024, 4.897, 0.0), "N7": (0.877, 3.902, 0.0), "C5": (0.071, 2.771, 0.0),
    "C6": (0.369, 1.398, 0.0), "N1": (-0.668, 0.532, 0.0), "C2": (-1.912, 1.023, 0.0), "N3": (-2.320, 2.290, 0.0),
    "C4": (-1.267, 3.124, 0.0),
}  # fmt: skip
_PYRIMIDINE_RING = {
    "N1": (-1.285, 4.542, 0.0), "C2": (-1.472, 3.158, 0.0), "N3": (-0.391, 2.344, 0.0), "C4": (0.837, 2.868, 0.0),
    "C5": (1.056, 4.275, 0.0), "C6": (-0.023, 5.068, 0.0),
}  # fmt: skip
# Atoms of a nucleotide that are neither of its base nor of its sugar; those of the sugar end in a prime.
PHOSPHATE_ATOMS = ("P", "OP1", "OP2", "OP3", "O1P", "O2P", "O3P")
# What makes two bases a pair, after Lu & Olson (Nucleic Acids Res. 31, 5108, 2003): origins within 15 Å, at most 2.5 Å
# apart along the mean normal, normals within 65 degrees, N1 or N9 at least 4.5 Å apart, and a nitrogen or oxygen of
# each base within 4 Å.
_MOST_BETWEEN_ORIGINS_ANGSTROM, _MOST_ALONG_NORMAL_ANGSTROM, _MOST_BETWEEN_NORMALS_DEGREES = 15.0, 2.5, 65.0
_LEAST_BETWEEN_GLYCOSIDIC_ANGSTROM, _MOST_HYDROGEN_BOND_ANGSTROM = 4.5, 4.0


def pairing_edge_atoms(model: Model) -> np.ndarray:
    """For each residue the atom by which its base takes part in a Watson-Crick pair, N1 or N3; -1 without a base."""
    purine = np.all([model.atoms_named(name) >= 0 for name in _PURINE_RING], axis=0)
    pyrimidine = np.all([model.atoms_named(name) >= 0 for name in _PYRIMIDINE_RING], axis=0)
    edge = np.where(purine, model.atoms_named("N1"), model.atoms_named("N3"))
    return np.where(pyrimidine, edge, -1)


def find_base_pairs(model: Model) -> np.ndarray:
    """Residues whose bases are paired, (n, 2) int, the first one first, after Lu & Olson (2003).

    Of several bases that could be a base's partner it is the one with the least sum of the distance of their origins,
    twice their distance along the normal (Å) and a twentieth of the angle of their normals (degrees), if it is the
    partner's best too. Bases of any kind that have the ring of a purine or a pyrimidine count, by atom names.
    """
    rows = np.intersect1d(np.flatnonzero(pairing_edge_atoms(model) >= 0), model.nucleotides()[0])
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=int)
    axes, origins, glycosidic = _base_frames(model, rows)
    one, other = cKDTree(origins).query_pairs(_MOST_BETWEEN_ORIGINS_ANGSTROM, output_type="ndarray").T
    apart = origins[one] - origins[other]
    normals = axes[:, :, 2]
    cosines = (normals[one] * normals[other]).sum(1)
    angles = np.degrees(np.arccos(np.clip(np.abs(cosines), 0, 1)))
    mean_normal = normals[one] + np.where(cosines < 0, -1, 1)[:, None] * normals[other]
    along = np.abs((apart * mean_normal).sum(1)) / np.linalg.norm(mean_normal, axis=1)
    fit = (along <= _MOST_ALONG_NORMAL_ANGSTROM) & (angles <= _MOST_BETWEEN_NORMALS_DEGREES)
    fit &= np.linalg.norm(glycosidic[one] - glycosidic[other], axis=1) >= _LEAST_BETWEEN_GLYCOSIDIC_ANGSTROM
    bonded = _joined_by_hydrogen_bonds(model, rows)
    fit &= np.array([pair in bonded for pair in zip(one.tolist(), other.tolist())], dtype=bool)
    one, other = one[fit], other[fit]
    score = (np.linalg.norm(apart, axis=1) + 2 * along + angles / 20)[fit]
    best = np.full(len(rows), np.inf)
    np.minimum.at(best, np.concatenate([one, other]), np.concatenate([score, score]))
    mutual = (score == best[one]) & (score == best[other])
    found = np.sort(rows[np.stack([one[mutual], other[mutual]], axis=1)], axis=1)
    return found[np.lexsort(found.T[::-1])]


def _base_frames(model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes (in columns) and origins of bases, fitted to their rings, and positions of their N9 or N1."""
    named = {name: model.atoms_named(name) for name in (*_PURINE_RING, *_PYRIMIDINE_RING)}
    rotations, origins, glycosidic = [], [], []
    for row in rows:
        ring = _PURINE_RING if all(named[name][row] >= 0 for name in _PURINE_RING) else _PYRIMIDINE_RING
        positions = model.positions[[named[name][row] for name in ring]]
        rotation, translation = find_superposition(np.array(list(ring.values())), positions)
        rotations.append(rotation)
        origins.append(translation)
        glycosidic.append(positions[0])
    return np.array(rotations), np.array(origins), np.array(glycosidic)


def _joined_by_hydrogen_bonds(model: Model, rows: np.ndarray) -> set[tuple[int, int]]:
    """Places in ``rows``, the lower first, of residues of which a nitrogen or oxygen of either base is near."""
    place = np.full(len(model.residues), -1)
    place[rows] = np.arange(len(rows))
    of_sugar = np.char.endswith(model.atom_names.astype(str), "'") | np.isin(model.atom_names, PHOSPHATE_ATOMS)
    polar = np.flatnonzero(np.isin(model.atomic_numbers, (7, 8)) & ~of_sugar & (place[model.residue_of_atom] >= 0))
    near = cKDTree(model.positions[polar]).query_pairs(_MOST_HYDROGEN_BOND_ANGSTROM, output_type="ndarray")
    joined = np.sort(place[model.residue_of_atom[polar[near]]], axis=1)
    return {(one, other) for one, other in joined.tolist() if one != other}


class WeightedSums:
    """A sparse matrix with as many entries in each row, which is multiplied by tables of numbers.

    Entries are sorted once for each direction, so that neither the product nor its gradient scatters: for 1,600 rows of
    sixteen entries that takes a twentieth of the time. (torch's own sparse matrices are said to be in beta.)

    Parameters
    ----------
    rows : (n, k) int
        Rows of the table that are summed.
    weights : (n, k) float
    count : int
        Rows of the table.
    """

    def __init__(self, rows: torch.Tensor, weights: torch.Tensor, count: int) -> None:
        rows, weights = rows.contiguous(), weights.contiguous()
        self._there = (rows, None, weights)
        order = rows.flatten().argsort(stable=True)
        counts = torch.bincount(rows.flatten(), minlength=count)
        self._back = (order // rows.shape[1], counts.cumsum(0) - counts, weights.flatten()[order])

    def __call__(self, table: torch.Tensor) -> torch.Tensor:
        """Sums of rows of a table, (count, columns) float: (n, columns), differentiable."""
        found: torch.Tensor = _Product.apply(table, self)
        return found

    def times(self, table: torch.Tensor) -> torch.Tensor:
        """As a call, without a gradient."""
        return _sums(table, *self._there)

    def transposed_times(self, table: torch.Tensor) -> torch.Tensor:
        """The transposed matrix times a table, (n, columns) float: (count, columns), without a gradient."""
        return _sums(table, *self._back)


def _sums(table: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor | None, weights: torch.Tensor) -> torch.Tensor:
    return embedding_bag(rows, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, sums: WeightedSums) -> torch.Tensor:
        ctx.sums = sums
        return sums.times(table)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.sums.transposed_times(gradients[0].contiguous()), None
