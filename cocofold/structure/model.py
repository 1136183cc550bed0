"""A model: its atoms and residues, the elements of atoms, and the mmCIF categories that describe its molecules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, NamedTuple

import gemmi
import numpy as np

# Categories of a file: lists of values by category and item, where False stands for "." and None for "?".
CifCategories = Dict[str, Dict[str, List]]
# What an mmCIF that is read says of its residues' confidence: of its positions, and not written again.
CONFIDENCE_CATEGORIES = ("_ma_qa_metric.", "_ma_qa_metric_local.")


class ResidueKey(NamedTuple):
    """Name of a residue in the input file: author's chain, number, insertion code, and residue name."""

    chain: str
    number: int
    insertion_code: str
    name: str


@dataclass(frozen=True)
class Model:
    """Atoms of the first model of a file; of alternate conformations the first.

    Attributes
    ----------
    structure : gemmi.Structure
        The file's content, kept for writing: names, numbers, entities.
    positions : (n_atoms, 3) float64
        Å.
    atomic_numbers : (n_atoms,) int
        Deuterium counts as hydrogen; an atom of unknown element as what its name says, or else as carbon.
    atom_names : (n_atoms,) str
    residue_of_atom : (n_atoms,) int
        Row in ``residues``.
    residues : tuple of ResidueKey
    notes : tuple of str
        Lines for the user on what of the file was left out or read in a particular way.
    described : dict
        Categories of the input mmCIF that describe its molecules (``modelcif.MOLECULE_CATEGORIES``), whatever their
        atoms' positions: lists of values by category and item. They are written again with the model. Besides, what
        it says of residues' confidence, which is not.
    placed_as : dict of str
        How the model was placed in the frame of a map (hand, symmetry), as its file says; empty if it says nothing.
    """

    structure: gemmi.Structure
    positions: np.ndarray
    atomic_numbers: np.ndarray
    atom_names: np.ndarray
    residue_of_atom: np.ndarray
    residues: tuple[ResidueKey, ...]
    notes: tuple[str, ...] = ()
    described: CifCategories = field(default_factory=dict)
    placed_as: Dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def of(cls, structure: gemmi.Structure) -> Model:
        """The first model of a structure, every atom of it."""
        keys, sizes = [], []
        for chain in structure[0]:
            for residue in chain:
                number = residue.seqid
                keys.append(ResidueKey(chain.name, number.num or 0, number.icode.strip(), residue.name))
                sizes.append(len(residue))
        owner = np.repeat(np.arange(len(keys)), sizes)
        table, names, which = table_of_atoms(structure)
        numbers = table.elements[: len(owner)].astype(int)
        numbers[numbers == _DEUTERIUM] = 1
        if not numbers.all():
            atoms = [(atom.name, len(residue) == 1) for chain in structure[0] for residue in chain for atom in residue]
            for row in np.flatnonzero(numbers == 0).tolist():
                numbers[row] = element_from_atom_name(*atoms[row]).atomic_number or _CARBON
        positions = table.pos[: len(owner)].copy()
        return cls(structure, positions, numbers, np.array(names)[which], owner, tuple(keys))

    @property
    def in_mirror_image(self) -> bool:
        """Whether it lies in the mirror image of its particles' map, so that poses are mirrored along z for it."""
        return self.placed_as.get("hand") == _MIRRORED_HAND

    def moved_to(self, positions: np.ndarray) -> Model:
        """The same atoms at other positions, (n_atoms, 3) Å."""
        return replace(self, positions=np.asarray(positions, dtype=float))

    def only(self, kept: np.ndarray) -> Model:
        """The model of some of the residues, (n_residues,) bool; sequences stay whole."""
        structure = self.structure.clone()
        rows = iter(kept.tolist())
        for chain in structure[0]:
            gone = [place for place, stays in enumerate([next(rows) for _ in chain]) if not stays]
            for place in reversed(gone):
                del chain[place]
        structure.remove_empty_chains()
        positions = self.positions[kept[self.residue_of_atom]]
        return replace(self.of(structure), positions=positions, **self.facts_of_file())

    def facts_of_file(self) -> Dict[str, Any]:
        """Fields besides the atoms, for a model of the same molecule with other atoms."""
        return {"notes": self.notes, "described": self.described, "placed_as": self.placed_as}

    def atoms_named(self, name: str) -> np.ndarray:
        """For each residue the row of its atom of this name, or -1; (n_residues,) int."""
        rows = np.full(len(self.residues), -1)
        found = np.flatnonzero(self.atom_names == name)
        rows[self.residue_of_atom[found]] = found
        return rows

    def backbone(self) -> tuple[np.ndarray, np.ndarray]:
        """Residues with N, CA and C, in file order, and the rows of these atoms.

        Returns
        -------
        residues : (n,) int
            Rows in ``residues``.
        atoms : (n, 3) int
            Rows of N, CA and C.
        """
        # A calcium ion is called CA too, but has no N and C.
        return self._residues_with(_BACKBONE_NAMES[0])

    def nucleotides(self) -> tuple[np.ndarray, np.ndarray]:
        """Nucleotides of DNA and RNA with C3', C1' and C4', in file order, and the rows of these atoms.

        A modified one counts if gemmi's table or the file has it as part of a polymer; ATP as a ligand does not.

        Returns
        -------
        residues : (n,) int
            Rows in ``residues``.
        atoms : (n, 3) int
            Rows of C3', C1' and C4'.
        """
        residues, atoms = self._residues_with(_BACKBONE_NAMES[1])
        kinds = [residue.entity_type for chain in self.structure[0] for residue in chain] if len(residues) else []
        chosen = np.array(
            [
                kinds[row] == gemmi.EntityType.Polymer
                or gemmi.find_tabulated_residue(self.residues[row].name).is_nucleic_acid()
                for row in residues.tolist()
            ],
            dtype=bool,
        )
        chosen &= ~np.isin(residues, self.backbone()[0])
        return residues[chosen], atoms[chosen]

    def framed_residues(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Residues of ``backbone`` and ``nucleotides`` together.

        Returns
        -------
        residues : (n,) int
            Rows in ``residues``, in file order.
        atoms : (n, 3) int
            Rows of N, CA and C, or of C3', C1' and C4'.
        is_nucleotide : (n,) bool
        """
        amino_acids, nucleotides = self.backbone(), self.nucleotides()
        residues, atoms = (np.concatenate(both) for both in zip(amino_acids, nucleotides))
        order = residues.argsort(kind="stable")
        return residues[order], atoms[order], order >= len(amino_acids[0])

    def _residues_with(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Residues that have atoms of all these names, (n,) int, and the atoms, (n, n_names) int."""
        atoms = np.stack([self.atoms_named(name) for name in names], axis=1)
        residues = np.flatnonzero((atoms >= 0).all(axis=1))
        return residues, atoms[residues]


# As placement.json has it.
_MIRRORED_HAND = "mirrored"
_CARBON = 6
_DEUTERIUM = 119  # gemmi's number of it in tables of atoms, behind those of all elements
# Symbols of two letters that names of atoms in larger residues begin with; CA, CD, HG and the like are not among them.
_TWO_LETTERS = ("BR", "CL", "FE", "MG", "MN", "SE", "ZN")
_ONE_LETTER = "BCDFHIKNOPS"


def table_of_atoms(structure: gemmi.Structure) -> tuple[gemmi.FlatStructure, list[str], np.ndarray]:
    """Columns of the atoms of all models, and for each atom of the first one the row of its name in a list of names.

    Names and labels of more than seven letters, which gemmi's table does not take, are others in the table.
    """
    known: dict[str, str] = {}
    try:
        table = gemmi.FlatStructure(structure)
    except RuntimeError:
        short = structure.clone()
        for chain in (chain for model in short for chain in model):
            chain.name = ""
            for residue in chain:
                residue.name = residue.subchain = residue.entity_id = ""
                for atom in residue:
                    atom.name = known.setdefault(atom.name, str(len(known)))
        table = gemmi.FlatStructure(short)
    letters = np.ascontiguousarray(table.atom_names)[: structure[0].count_atom_sites()]
    packed, which = np.unique(letters.view(np.uint64).ravel(), return_inverse=True)
    names = [name.decode() for name in packed.view("S8").tolist()]
    given = {short: name for name, short in known.items()}
    return table, [given.get(name, name) for name in names], which


def element_from_atom_name(atom_name: str, alone: bool) -> gemmi.Element:
    """The element that an atom's name says, X if it says none.

    Parameters
    ----------
    atom_name : str
    alone : bool
        The only atom of its residue, as in an ion: a calcium then, not a CA atom.
    """
    letters = ""
    for letter in atom_name.lstrip("0123456789*'\"").upper():
        if not letter.isalpha():
            break
        letters += letter
    if alone and gemmi.Element(letters).atomic_number > 0:
        return gemmi.Element(letters)
    if letters[:2] in _TWO_LETTERS:
        return gemmi.Element(letters[:2])
    return gemmi.Element(letters[0] if letters and letters[0] in _ONE_LETTER else "X")


_CA_NAME = "CA"
# Atoms by which residues of proteins and of nucleic acids are told from ligands.
_BACKBONE_NAMES = (("N", "CA", "C"), ("C3'", "C1'", "C4'"))
# Alternates of a backbone atom lie within about 1.5 Å of each other, neighbouring residues' CA at least 2.9 Å apart.
_MOST_BETWEEN_ALTERNATES_ANGSTROM = 2.5


def keep_first_conformations(structure: gemmi.Structure) -> int:
    """Leave of alternate conformations the first of each residue; returns how many residues had others.

    All atoms of a residue are taken from the conformation that the file gives first, with a letter or without one, so
    that none is mixed from two; atoms which that one does not have come from the first that has them. Of two residues
    at one position (microheterogeneity) the first stays. A residue of the same number that is no alternate, as a
    ligand's, stays too. Letters are taken away.
    """
    changed = 0
    for chain, has_one in zip(structure[0], _have_one_conformation(structure)):
        if has_one:
            continue
        alike = _residues_that_are_copied(chain)
        positions = set()
        for row in range(len(chain) - 1, -1, -1):
            if _is_alternate_of_another(chain, row):
                positions.add((chain[row].subchain, str(chain[row].seqid)))
                del chain[row]
        for residue in chain:
            if _keep_first_of_residue(residue, alike):
                positions.add((residue.subchain, str(residue.seqid)))
        changed += len(positions)
    return changed


def _have_one_conformation(structure: gemmi.Structure) -> list[bool]:
    """For each chain whether no atom has a letter or shares its name, and no two neighbours their number: most chains.

    Chains with deuterium, which may stand in the place of a hydrogen, are not judged: False.
    """
    places = [(row, len(residue)) for row, chain in enumerate(structure[0]) for residue in chain]
    chain, size = np.array(places, dtype=int).reshape(-1, 2).T
    chain, residue = np.repeat(chain, size), np.repeat(np.arange(len(size)), size)
    table, names, which = table_of_atoms(structure)
    columns = (table.resnums, table.icodes, table.altlocs, table.elements)
    number, code, letter, element = (values[: len(residue)] for values in columns)
    _, site, count = np.unique(residue * len(names) + which, return_inverse=True, return_counts=True)
    several = (letter != 0) | (element == _DEUTERIUM) | (count[site] > 1)
    is_next = (residue[1:] != residue[:-1]) & (chain[1:] == chain[:-1])
    several[1:] |= is_next & (number[1:] == number[:-1]) & (code[1:] == code[:-1])
    return [not found for found in np.bincount(chain[several], minlength=len(structure[0])).tolist()]


def _residues_that_are_copied(chain: gemmi.Chain) -> bool:
    """Whether most residues of a chain come twice without letters: copies of a molecule, not conformations."""
    names = [[(atom.name, atom.altloc) for atom in residue] for residue in chain if _CA_NAME in residue]
    return 2 * sum((_CA_NAME, "\0") in one and one.count((_CA_NAME, "\0")) > 1 for one in names) > len(names) > 1


def _is_alternate_of_another(chain: gemmi.Chain, row: int) -> bool:
    """Whether an earlier residue has the position of this one: both have letters, or their backbones coincide."""
    residue = chain[row]
    labelled = all(atom.has_altloc() for atom in residue)
    # Alternates stand next to each other: what comes before has another number.
    for before in range(row - 1, -1, -1):
        other = chain[before]
        if other.seqid != residue.seqid:
            return False
        if other.subchain != residue.subchain:
            continue
        if labelled and all(atom.has_altloc() for atom in other):
            return True
        if other.segment == residue.segment and _backbones_coincide(residue, other):
            return True
    return False


def _backbones_coincide(one: gemmi.Residue, other: gemmi.Residue) -> bool:
    """Whether all of the backbone that two residues have in common lies within 2.5 Å."""
    distances = [
        one[name][0].pos.dist(other[name][0].pos)
        for names in _BACKBONE_NAMES
        if all(name in one and name in other for name in names)
        for name in names
    ]
    return bool(distances) and max(distances) < _MOST_BETWEEN_ALTERNATES_ANGSTROM


def _keep_first_of_residue(residue: gemmi.Residue, is_copied: bool) -> bool:
    """Leave one atom of each name, of the residue's first conformation if that has it; whether there were others.

    Of atoms without letters that share a name all stay in molecules whose names need not differ, where most of the
    chain is there twice, and where backbones lie apart: such residues are two of one number.
    """
    labelled = any(atom.has_altloc() for atom in residue)
    if not labelled and (is_copied or not _has_one_backbone(residue)):
        return False
    sites: dict[str, list[int]] = {}
    for row, atom in enumerate(residue):
        sites.setdefault(_site(atom), []).append(row)
    first = next((residue[rows[0]].altloc for rows in sites.values() if len(rows) > 1), "\0")
    kept = {next((row for row in rows if residue[row].altloc == first), rows[0]) for rows in sites.values()}
    gone = sorted(set(range(len(residue))) - kept, reverse=True)
    for row in gone:
        del residue[row]
    for atom in residue:
        atom.altloc = "\0"
    return bool(gone)


def _has_one_backbone(residue: gemmi.Residue) -> bool:
    """Whether a residue has the backbone of a polymer, and all atoms of each of its names lie within 2.5 Å."""
    complete = [names for names in _BACKBONE_NAMES if all(name in residue for name in names)]
    return bool(complete) and all(
        atom.pos.dist(residue[name][0].pos) < _MOST_BETWEEN_ALTERNATES_ANGSTROM
        for name in complete[0]
        for atom in residue[name]
    )


def _site(atom: gemmi.Atom) -> str:
    """Name of an atom's site: a deuterium in the place of a hydrogen is a conformation of the same atom."""
    return "H" + atom.name[1:] if atom.element.name == "D" and atom.name.startswith("D") else atom.name


def add_table(block: gemmi.cif.Block, category: str, items: str, rows: Iterable[Sequence[object]]) -> None:
    """Add a category, or none if there are no rows; ``items`` are their names with spaces between.

    None stands for what is unknown, an empty string for what does not apply.
    """
    # Most values come many times, and quoting takes longer than looking up.
    columns = [list(map({value: _text(value) for value in set(values)}.__getitem__, values)) for values in zip(*rows)]
    if columns:
        block.init_mmcif_loop(category, items.split()).set_all_values(columns)


def write_unoccupied_residues(block: gemmi.cif.Block, structure: gemmi.Structure) -> None:
    """List residues of polymers whose atoms all have the occupancy 0 in the dictionary's category for them."""
    if (table_of_atoms(structure)[0].occ > 0).all():
        return
    rows = [
        [
            *("Y", 0, 1, chain.name, residue.name, residue.seqid.num, residue.seqid.icode.strip() or None),
            *(residue.subchain, residue.name, residue.label_seq),
        ]
        for chain in structure[0]
        for residue in chain
        if residue.label_seq is not None and not any(atom.occ > 0 for atom in residue)
    ]
    items = "id polymer_flag occupancy_flag PDB_model_num auth_asym_id auth_comp_id auth_seq_id PDB_ins_code"
    add_table(
        block,
        "_pdbx_unobs_or_zero_occ_residues.",
        f"{items} label_asym_id label_comp_id label_seq_id",
        [[row, *one] for row, one in enumerate(rows, start=1)],
    )


def _text(value: object) -> str:
    if value is None:
        return "?"
    if isinstance(value, int):
        return str(value)
    return gemmi.cif.quote(str(value)) if str(value) else "."


def rows_by_item(categories: CifCategories, category: str, key: str) -> dict[str, dict[str, str]]:
    """Rows of a category by one of its items, without the values that are unknown or do not apply."""
    items = categories.get(category, {})
    rows = (dict(zip(items, values)) for values in zip(*items.values()))
    return {row[key]: {name: value for name, value in row.items() if value} for row in rows if row.get(key)}
