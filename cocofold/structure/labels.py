"""Label names, entities and sequences, as mmCIF asks for, of a structure that came with all, some or none of them.

Chains of PDB files whose names do not tell molecules apart get names here too.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Dict, List

import gemmi

_Residues = Dict[str, List[gemmi.Residue]]
_POLYMER, _WATER = gemmi.EntityType.Polymer, gemmi.EntityType.Water
# Chains whose label_seq leaves out more residues than this get no sequence from it: such numbers are mistakes, and
# would make sequences of almost nothing but unknown residues.
_MAX_UNMODELLED_RESIDUES = 10_000
_UNKNOWN = "UNK"
# Also by the names that molecular dynamics programs give to protonated and bonded ones.
AMINO_ACIDS = frozenset(gemmi.expand_one_letter_sequence("ACDEFGHIKLMNPQRSTVWY", gemmi.ResidueKind.AA)) | frozenset(
    ("MSE", "UNK", "HSD", "HSE", "HSP", "HID", "HIE", "HIP", "CYX", "CYM", "ASH", "GLH", "LYN")
)
COORDINATE_RECORDS = ("ATOM  ", "HETATM")


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
            label = chain.name if free else next(free_labels(taken))
            taken.add(label)
        ends[chain.name] = (label, polymer[-1].seqid.num or 0, nucleic)
        for residue in polymer:
            residue.subchain = label
    unused = free_labels(taken)
    waters: dict[str, str] = {}
    for chain in structure[0]:
        for residue in chain:
            if residue.entity_type == _POLYMER:
                continue
            residue.label_seq = None
            if residue.entity_type == _WATER and chain.name in waters:
                residue.subchain = waters[chain.name]
                continue
            residue.subchain = next(unused)
            if residue.entity_type == _WATER:
                waters[chain.name] = residue.subchain


def free_labels(taken: set[str]) -> Iterator[str]:
    """Names of one capital letter, then of two and more, that are not taken."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            if "".join(letters) not in taken:
                yield "".join(letters)


def chain_names_note(names: Iterable[str]) -> str:
    """What the user is told of chains that got names."""
    called = ", ".join(sorted(set(names)))
    return f"chains without a name of their own, or with the numbers of another, are called {called}"


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


def tag_molecules(lines: list[str]) -> list[str]:
    """Number the molecules in the columns of segments where chain names do not tell them apart; their names, or []."""
    runs = _residue_runs(lines)
    copies: dict[tuple[str, str], list[dict[str, set[str]]]] = {}
    owner = []
    apart: set[tuple[str, str, int]] = set()
    to_come = Counter((run.chain, run.segment, run.residue) for run in runs)
    for before, run, after in zip([None, *runs], runs, [*runs[1:], None]):
        of_key = copies.setdefault((run.chain, run.segment), [{}])
        place = len(of_key) - 1
        lacking = [row for row, one in enumerate(of_key) if not run.is_in(one)] if run.is_het else []
        if lacking and to_come[run.chain, run.segment, run.residue] >= len(lacking):
            # One for each copy that has none yet: they come in the order of the copies.
            place = lacking[0]
        elif run.is_in(of_key[-1]):
            place = next((row for row, one in enumerate(of_key) if not run.is_in(one)), -1) if run.is_het else -1
            # A single residue that comes again has another conformation; a molecule goes on.
            goes_on = (
                run.is_het
                or run.is_first
                or (after is not None and (after.chain, after.segment) == (run.chain, run.segment))
            )
            if place < 0 and goes_on:
                of_key.append({})
                if run.chain and before is not None and before.chain != run.chain:
                    # A chain that comes again after another is a block of its own, and keeps its name.
                    apart.add((run.chain, run.segment, len(of_key) - 1))
            place = place if place >= 0 else len(of_key) - 1
        to_come[run.chain, run.segment, run.residue] -= 1
        of_key[place].setdefault(run.residue, set()).update(run.atoms)
        owner.append((run.chain, run.segment, place))
    names = {**_names_of_molecules(copies), **{key: key[0] for key in apart}}
    if all(name == chain for (chain, _, _), name in names.items()):
        return []
    number = {key: row for row, key in enumerate(names)}
    for run, key in zip(runs, owner):
        for row in run.rows:
            lines[row] = f"{lines[row][:72]:72}{number[key]:04d}{lines[row][76:]}"
    return list(names.values())


@dataclass
class _ResidueRun:
    """Lines of a PDB file that follow each other with one residue."""

    chain: str
    segment: str
    residue: str
    is_het: bool
    is_first: bool
    atoms: set[str] = field(default_factory=set)
    rows: list[int] = field(default_factory=list)

    def is_in(self, molecule: dict[str, set[str]]) -> bool:
        """Whether a molecule has most atoms of the residue already."""
        return 2 * len(molecule.get(self.residue, set()) & self.atoms) > len(self.atoms)


def _residue_runs(lines: list[str]) -> list[_ResidueRun]:
    """Residues of the first model, line after line; what changes within residues is no segment, and is taken out."""
    runs: list[_ResidueRun] = []
    is_first, before = True, ""
    for row, line in enumerate(lines):
        if not line.startswith(COORDINATE_RECORDS):
            if line.startswith("ENDMDL"):
                break
            is_first = is_first or line.startswith("TER")
            continue
        columns = line[17:27] + line[72:76]
        if is_first or columns != before:
            key = (line[20:22].strip(), line[72:76].strip(), line[17:20] + line[22:27])
            if is_first or (runs[-1].chain, runs[-1].segment, runs[-1].residue) != key:
                is_het = (
                    line[17:20] not in AMINO_ACIDS
                    and not gemmi.find_tabulated_residue(line[17:20].strip()).is_nucleic_acid()
                )
                run = _ResidueRun(*key, is_het, is_first)
                runs.append(run)
            is_first, before = False, columns
        run.atoms.add(line[12:17])
        run.rows.append(row)
    within = sum(one.chain == other.chain and one.residue == other.residue for one, other in zip(runs, runs[1:]))
    if 2 * within > len(runs):
        for row, line in enumerate(lines):
            if line.startswith(COORDINATE_RECORDS):
                lines[row] = f"{line[:72]}    {line[76:]}"
        return _residue_runs(lines)
    return runs


def _names_of_molecules(copies: dict[tuple[str, str], list[dict[str, set[str]]]]) -> dict[tuple[str, str, int], str]:
    """Chain names of molecules, by chain, segment and copy: the file's, else the segment's, else the next free one."""
    taken = {chain for chain, _ in copies if chain}
    used: set[str] = set()
    names = {}
    for (chain, segment), molecules in copies.items():
        others = [one for (name, other), (one, *_) in copies.items() if name == chain and other != segment]
        by_segment = not chain or any(_share_atoms(molecules[0], one) for one in others)
        for place in range(len(molecules)):
            name = chain
            if by_segment or place:
                is_free = segment and segment not in taken and not place
                kept = chain if chain and not segment and chain not in used and not place else next(free_labels(taken))
                name = segment if is_free else kept
            names[chain, segment, place] = name
            taken.add(name)
            used.add(name)
    return names


def _share_atoms(one: dict[str, set[str]], other: dict[str, set[str]]) -> bool:
    return any(atoms & other.get(residue, set()) for residue, atoms in one.items())


def name_molecules(structure: gemmi.Structure, names: Sequence[str]) -> list[str]:
    """Make chains of the molecules that are numbered in the columns of segments; a note on their names."""
    if not names:
        return []
    model = structure[0]
    parts: list[gemmi.Chain] = []
    for chain in model:
        segment = None
        for residue in chain:
            if residue.segment != segment:
                segment = residue.segment
                parts.append(gemmi.Chain(names[int(segment)]))
            parts[-1].add_residue(residue).segment = ""
    for name in {chain.name for chain in model}:
        model.remove_chain(name)
    for named in parts:
        model.add_chain(named)
    for row in reversed(range(len(structure.connections))):
        partners = (structure.connections[row].partner1, structure.connections[row].partner2)
        if any(model.find_cra(partner).atom is None for partner in partners):
            del structure.connections[row]
    return [chain_names_note(names)]
