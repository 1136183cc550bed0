"""Label names, entities and sequences, as mmCIF asks for, of a structure that came with all, some or none of them.

Of alternate conformations, of which a model has one, the first is chosen here too.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Dict, List

import gemmi

_Residues = Dict[str, List[gemmi.Residue]]
_POLYMER, _WATER = gemmi.EntityType.Polymer, gemmi.EntityType.Water
_MAX_UNMODELLED_RESIDUES = 10_000
_UNKNOWN = "UNK"
_CA_NAME = "CA"
# Atoms by which residues of proteins and of nucleic acids are told from ligands.
_BACKBONE_NAMES = (("N", "CA", "C"), ("C4'", "C3'", "C1'"))
# Alternates of a backbone atom lie within about 1.5 Å of each other, neighbouring residues' CA at least 2.9 Å apart.
_MOST_BETWEEN_ALTERNATES_ANGSTROM = 2.5


@dataclass(eq=False)
class _Entity:
    """A kind of molecule; its labels are those of its copies. Without a name until it is numbered."""

    name: str
    kind: gemmi.EntityType
    polymer_type: gemmi.PolymerType
    sequence: list[str]
    labels: list[str]


def complete_labels(structure: gemmi.Structure) -> None:
    """Give every residue of the first model a label name and an entity, and in a polymer its place in the sequence.

    What the file says is kept: label names, entity numbers, sequences with residues that are not modelled, places in
    them. Label names are given anew if some are missing, or if several molecules share one. A polymer gets the sequence
    of its residues if the file has none, or one that does not match them.
    """
    structure.add_entity_types()
    if not _labels_are_usable(structure):
        # Where molecules share a label they may share the kind of the first too.
        structure.add_entity_types(overwrite=True)
        _assign_new_labels(structure)
    residues = _residues_by_label(structure)
    entities = _sort_into_entities(structure, residues)
    _replace_entities(structure, entities)
    # Aligns polymers that have a sequence, but no places in it.
    structure.assign_label_seq_id()
    for entity in list(entities):
        if entity.kind == _POLYMER:
            _complete_sequence(entity, entities, residues)
    _merge_identical_entities(entities, residues)
    _number_entities(entities)
    _replace_entities(structure, entities)
    for entity in entities:
        for label in entity.labels:
            for residue in residues[label]:
                residue.entity_id = entity.name


def _residues_by_label(structure: gemmi.Structure) -> _Residues:
    residues: _Residues = {}
    for chain in structure[0]:
        for residue in chain:
            residues.setdefault(residue.subchain, []).append(residue)
    return residues


def _labels_are_usable(structure: gemmi.Structure) -> bool:
    return structure.input_format != gemmi.CoorFormat.Pdb and all(
        _is_plain(label) and _is_one_molecule(members) for label, members in _residues_by_label(structure).items()
    )


def _is_one_molecule(members: Sequence[gemmi.Residue]) -> bool:
    """Whether residues are of one kind, and of a polymer all or none have a place in it and none comes twice."""
    kinds = {residue.entity_type for residue in members}
    if len(kinds) > 1:
        return False
    alike = (
        len({residue.is_water() for residue in members})
        == len({_sequence_place(residue) > 0 for residue in members})
        == 1
    )
    return kinds != {_POLYMER} or (alike and len({str(residue.seqid) for residue in members}) == len(members))


def _is_plain(label: str) -> bool:
    """Whether mmCIF takes the name without quotes."""
    return bool(label) and label.isascii() and gemmi.cif.quote(label) == label


def _assign_new_labels(structure: gemmi.Structure) -> None:
    """One label a polymer, named as its chain if possible, one for the waters of a chain, one for each other residue.

    A chain that goes on in a later block, with higher numbers, is one polymer.
    """
    taken: set[str] = set()
    ends: dict[str, tuple[str, int, bool]] = {}
    for chain in structure[0]:
        polymer = [residue for residue in chain if residue.entity_type == _POLYMER]
        if not polymer:
            continue
        nucleic = gemmi.find_tabulated_residue(polymer[0].name).is_nucleic_acid()
        label, last, was_nucleic = ends.get(chain.name, ("", 0, nucleic))
        if not label or (polymer[0].seqid.num or 0) <= last or nucleic != was_nucleic:
            free = _is_plain(chain.name) and chain.name not in taken
            label = chain.name if free else next(_free_labels(taken))
            taken.add(label)
        ends[chain.name] = (label, polymer[-1].seqid.num or 0, nucleic)
        for residue in polymer:
            residue.subchain = label
    free_labels = _free_labels(taken)
    waters: dict[str, str] = {}
    for chain in structure[0]:
        for residue in chain:
            if residue.entity_type == _POLYMER:
                continue
            residue.label_seq = None
            if residue.entity_type == _WATER and chain.name in waters:
                residue.subchain = waters[chain.name]
                continue
            residue.subchain = next(free_labels)
            if residue.entity_type == _WATER:
                waters[chain.name] = residue.subchain


def _free_labels(taken: set[str]) -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            if "".join(letters) not in taken:
                yield "".join(letters)


def _sort_into_entities(structure: gemmi.Structure, residues: _Residues) -> list[_Entity]:
    """The file's entities, as far as modelled, and a new one for each label that is in none."""
    entities = [
        _Entity(entity.name, entity.entity_type, entity.polymer_type, list(entity.full_sequence), entity.subchains)
        for entity in structure.entities
    ]
    if structure.input_format == gemmi.CoorFormat.Pdb:
        # Entities of SEQRES are called as their chains; what they are called in mmCIF is open.
        chains = {residue.subchain: chain.name for chain in structure[0] for residue in chain}
        owner = {label: chains[label] for label, members in residues.items() if members[0].entity_type == _POLYMER}
    else:
        owner = {label: entity.name for entity in entities for label in entity.labels}
        owner.update({label: members[0].entity_id for label, members in residues.items() if members[0].entity_id})
    by_name = {entity.name: entity for entity in entities if entity.name}
    for entity in entities:
        entity.labels = []
    for label, members in residues.items():
        kind = members[0].entity_type
        entity = by_name.get(owner.get(label, ""), _Entity("", kind, gemmi.PolymerType.Unknown, [], []))
        if entity.kind not in (kind, gemmi.EntityType.Unknown):
            entity = _Entity("", kind, gemmi.PolymerType.Unknown, [], [])
        if entity not in entities:
            entities.append(entity)
        entity.labels.append(label)
        entity.kind = kind
        if entity.kind == _POLYMER and entity.polymer_type == gemmi.PolymerType.Unknown:
            entity.polymer_type = structure[0].get_subchain(label).check_polymer_type()
    if structure.input_format == gemmi.CoorFormat.Pdb:
        for entity in entities:
            entity.name = ""
    return [entity for entity in entities if entity.labels]


def _replace_entities(structure: gemmi.Structure, entities: Sequence[_Entity]) -> None:
    while len(structure.entities):
        del structure.entities[0]
    for entity in entities:
        written = gemmi.Entity(entity.name)
        written.entity_type = entity.kind
        written.polymer_type = entity.polymer_type
        written.full_sequence = entity.sequence
        written.subchains = entity.labels
        structure.entities.append(written)


def _complete_sequence(entity: _Entity, entities: list[_Entity], residues: _Residues) -> None:
    """Give a polymer a sequence if it has none; move copies that do not match theirs into entities of their own."""
    if not entity.sequence:
        entity.sequence = _sequence_from_places([residues[label] for label in entity.labels])
    for label in list(entity.labels):
        members = residues[label]
        if _matches_sequence(members, entity.sequence):
            continue
        for place, residue in enumerate(members, start=1):
            residue.label_seq = place
        own = [residue.name for residue in members]
        if len(entity.labels) == 1:
            entity.sequence = own
        else:
            entity.labels.remove(label)
            entities.append(_Entity("", entity.kind, entity.polymer_type, own, [label]))


def _matches_sequence(members: Sequence[gemmi.Residue], sequence: Sequence[str]) -> bool:
    """Whether each residue has a place in the sequence that names it, one after another."""
    return _sequence_places_ascend(members) and all(
        _sequence_place(residue) <= len(sequence) and residue.name in sequence[_sequence_place(residue) - 1].split(",")
        for residue in members
    )


def _sequence_places_ascend(members: Sequence[gemmi.Residue]) -> bool:
    places = [_sequence_place(residue) for residue in members]
    return places[0] > 0 and all(after > before for before, after in zip(places, places[1:]))


def _sequence_place(residue: gemmi.Residue) -> int:
    return residue.label_seq or 0


def _sequence_from_places(copies: Sequence[Sequence[gemmi.Residue]]) -> list[str]:
    """The sequence that the places of modelled residues make up; unknown between them; none if they say none."""
    copies = [members for members in copies if _sequence_places_ascend(members)]
    length = max((_sequence_place(members[-1]) for members in copies), default=0)
    if length > sum(len(members) for members in copies) + _MAX_UNMODELLED_RESIDUES:
        return []
    names = {_sequence_place(residue): residue.name for members in reversed(copies) for residue in members}
    return [names.get(place, _UNKNOWN) for place in range(1, length + 1)]


def _merge_identical_entities(entities: list[_Entity], residues: _Residues) -> None:
    """Make one of new entities that are the same molecule."""
    first: dict[tuple, _Entity] = {}
    for entity in list(entities):
        if entity.name:
            continue
        name = "" if entity.kind in (_POLYMER, _WATER) else residues[entity.labels[0]][0].name
        alike = first.setdefault((entity.kind, entity.polymer_type, name, *entity.sequence), entity)
        if alike is not entity:
            alike.labels.extend(entity.labels)
            entities.remove(entity)


def _number_entities(entities: Sequence[_Entity]) -> None:
    names = {entity.name for entity in entities}
    numbers = (str(number) for number in itertools.count(1) if str(number) not in names)
    for entity in entities:
        entity.name = entity.name or next(numbers)


def keep_first_conformations(structure: gemmi.Structure) -> int:
    """Leave of alternate conformations the first of each residue; returns how many residues had others.

    All atoms of a residue are taken from the conformation that the file gives first, with a letter or without one, so
    that none is mixed from two; atoms which that one does not have come from the first that has them. Of two residues
    at one position (microheterogeneity) the first stays. A residue of the same number that is no alternate, as a
    ligand's, stays too. Letters are taken away.
    """
    changed = 0
    for chain in structure[0]:
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
