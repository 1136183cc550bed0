"""Models from mmCIF and PDB files."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import gemmi
import numpy as np

from cocofold.structure.labels import complete_labels, keep_first_conformations
from cocofold.structure.model import Model, element_from_atom_name
from cocofold.structure.modelcif import MOLECULE_CATEGORIES, PLACEMENT_CATEGORY
from cocofold.system.errors import InputError

_GZIP = b"\x1f\x8b"
_MRC_MAP_STRING = slice(208, 211)
_CIF_START = re.compile(rb"(?:\s*#[^\n]*\n|\s)*data_", re.IGNORECASE)
_PDB_COORDINATE_COLUMNS = (slice(30, 38), slice(38, 46), slice(46, 54))
_REQUIRED_ATOM_SITE_ITEMS = ("id", "type_symbol", "label_alt_id", "label_asym_id")


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read an mmCIF or PDB file, gzip-compressed or not; what it is shows in its content, not in its name.

    Of several models the first is taken, of alternate conformations the first of each residue. Residues get the label
    names and entities that mmCIF asks for where the file has none; see ``cocofold.structure.labels``.

    Raises
    ------
    InputError
        If the file is missing, unreadable, holds no atoms, no protein backbone or positions that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model {path}: no such file; give an mmCIF or PDB file")
    try:
        structure, described = _parse(path, _read_text_bytes(path))
        structure.name = structure.name or _stem(path)
        model = _first_model(structure)
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"model {path}: not readable as mmCIF or PDB ({error})") from error
    if not np.isfinite(model.positions).all():
        lost = int((~np.isfinite(model.positions)).any(1).sum())
        raise InputError(f"model {path}: {lost} of {len(model)} atoms have no position; remove them or build them")
    if len(model.backbone()[0]) == 0:
        _refuse_without_backbone(path, model)
    _refuse_repeated_backbone(path, model)
    return replace(model, described=described)


def read_map_placement(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a model file says of its place in a map (see ``write_model``); nothing if it says nothing."""
    content = _read_text_bytes(Path(path))
    if not _CIF_START.match(content):
        return {}
    block = gemmi.cif.read_string(content)[0]
    return {name: str(values[0]) for name, values in block.get_mmcif_category(PLACEMENT_CATEGORY).items() if values}


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _read_text_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    if content[_MRC_MAP_STRING] == b"MAP":
        raise InputError(f"model {path}: is a map (MRC); give an mmCIF or PDB file with a protein model")
    if b"\0" in content:
        raise InputError(f"model {path}: is a binary file; give an mmCIF or PDB file with a protein model")
    if not content.strip():
        raise InputError(f"model {path}: the file is empty; give an mmCIF or PDB file with a protein model")
    return content


def _parse(path: Path, content: bytes) -> tuple[gemmi.Structure, dict]:
    if not _CIF_START.match(content):
        _check_pdb(path, content)
        structure = gemmi.read_pdb_string(content)
        structure.name = _stem(path)
        return structure, {}
    document = gemmi.cif.read_string(content)
    blocks = [block for block in document if block.find_mmcif_category("_atom_site.")]
    if not blocks:
        _refuse_without_atoms(path, document)
    block = blocks[0]
    described = {name: block.get_mmcif_category(name) for name in MOLECULE_CATEGORIES}
    _add_missing_atom_site_items(block)
    return gemmi.make_structure_from_block(block), {name: items for name, items in described.items() if items}


def _check_pdb(path: Path, content: bytes) -> None:
    """Refuse a file without atom records, and coordinates that are no numbers, which would be read as zero."""
    found = False
    for number, line in enumerate(content.splitlines(), start=1):
        if line[:6] not in (b"ATOM  ", b"HETATM"):
            continue
        found = True
        for part in _PDB_COORDINATE_COLUMNS:
            try:
                float(line[part])
            except ValueError as error:
                text = line[30:54].decode("ascii", "replace").strip()
                raise InputError(
                    f"model {path}: line {number} has no position where PDB has it, but {text!r} in columns 31 to 54; "
                    "repair the file, or give mmCIF"
                ) from error
    if not found:
        raise InputError(
            f"model {path}: neither mmCIF (no data_) nor PDB (no ATOM records); "
            "give an mmCIF or PDB file with a protein model"
        )


def _refuse_without_atoms(path: Path, document: gemmi.cif.Document) -> NoReturn:
    kinds = {
        "_refln.": "reflections",
        "_chem_comp_atom.": "definitions of residues (a monomer dictionary)",
        "_ihm_sphere_obj_site.": "spheres, not atoms",
    }
    found = "no atoms"
    for category, kind in kinds.items():
        if any(block.find_mmcif_category(category) for block in document):
            found = f"{kind}, no model"
    if any(block.find_loop("_atom_site_label") for block in document):
        found = "a small molecule's crystal structure (_atom_site_label), not mmCIF"
    raise InputError(f"model {path}: holds {found}; give an mmCIF or PDB file with a protein model")


def _add_missing_atom_site_items(block: gemmi.cif.Block) -> None:
    """Add columns of ``_atom_site`` that gemmi needs and the file does without."""
    loop = block.find_loop("_atom_site.Cartn_x").get_loop()
    if loop is None:
        return
    for name in _REQUIRED_ATOM_SITE_ITEMS:
        if f"_atom_site.{name}" in loop.tags:
            continue
        loop.add_columns([f"_atom_site.{name}"], value=".")
        column = block.find_loop(f"_atom_site.{name}")
        if name == "id":
            for row in range(len(column)):
                column[row] = str(row + 1)
        elif name == "type_symbol":
            _guess_elements(block)
    if "_atom_site.auth_seq_id" not in loop.tags:
        loop.add_columns(["_atom_site.auth_seq_id"], value=".")
    _number_residues(block)


def _guess_elements(block: gemmi.cif.Block) -> None:
    for row in block.find("_atom_site.", ["type_symbol", *_naming_columns(block)]):
        name, residue = row.str(1), row.str(2)
        row[0] = element_from_atom_name(name, alone=name.upper() == residue.upper()).name


def _naming_columns(block: gemmi.cif.Block) -> list[str]:
    """Columns of the atom's, residue's and chain's name, whichever the file has of each."""
    return [
        f"label_{name}" if block.find_loop(f"_atom_site.label_{name}") else f"auth_{name}"
        for name in ("atom_id", "comp_id", "asym_id")
    ]


def _number_residues(block: gemmi.cif.Block) -> None:
    """Give residues without an author's number that in the sequence, and those without either the next ones."""
    place = "label_seq_id" if block.find_loop("_atom_site.label_seq_id") else "auth_seq_id"
    table = block.find("_atom_site.", ["auth_seq_id", place, *_naming_columns(block)])
    numbers = [row[0] if gemmi.cif.as_string(row[0]) else row[1] for row in table]
    if all(gemmi.cif.as_string(number) for number in numbers):
        return
    last: dict[str, int] = {}
    for row, number in zip(table, numbers):
        if gemmi.cif.as_string(number):
            last[row[4]] = max(last.get(row[4], 0), int(number))
    current, names = ("", ""), {""}
    for row, number in zip(table, numbers):
        if not gemmi.cif.as_string(number):
            # A residue ends where the name changes, or where a name of an atom comes again: the next water.
            if (row[4], row[3]) != current or row[2] in names:
                current, names = (row[4], row[3]), set()
                last[row[4]] = last.get(row[4], 0) + 1
            names.add(row[2])
            number = str(last[row[4]])
        row[0] = number


def _first_model(structure: gemmi.Structure) -> Model:
    notes = []
    if len(structure) > 1:
        notes.append(f"the file holds {len(structure)} models; the first is taken")
    while len(structure) > 1:
        del structure[1]
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise ValueError("it holds no atoms")
    structure.remove_empty_chains()
    changed = keep_first_conformations(structure)
    if changed:
        notes.append(f"{changed} residues have alternate conformations; the first of each is taken")
    complete_labels(structure)
    unknown = sum(atom.element.atomic_number == 0 for chain in structure[0] for residue in chain for atom in residue)
    if unknown:
        notes.append(f"{unknown} atoms are of no known element; they count as what their names say, or else as carbon")
    return replace(Model.of(structure), notes=tuple(notes))


def _refuse_repeated_backbone(path: Path, model: Model) -> None:
    for name in ("N", "CA", "C"):
        owners, counts = np.unique(model.residue_of_atom[model.atom_names == name], return_counts=True)
        # Small molecules from elsewhere may have many atoms of one name.
        repeated = owners[(counts > 1) & np.isin(owners, model.backbone()[0])]
        if len(repeated):
            chain, number, code, residue = model.residues[repeated[0]]
            raise InputError(
                f"model {path}: {len(repeated)} residues have the atom {name} more than once, first {residue} "
                f"{number}{code} of chain {chain}; two copies of a chain need two chain names, and alternate "
                "conformations their labels"
            )


def _refuse_without_backbone(path: Path, model: Model) -> NoReturn:
    alpha = int(((model.atom_names == "CA") & (model.atomic_numbers == 6)).sum())
    nucleotides = sum(gemmi.find_tabulated_residue(residue.name).is_nucleic_acid() for residue in model.residues)
    needed = "no residue has the backbone atoms N, CA and C"
    if alpha:
        raise InputError(
            f"model {path}: {needed}, but {alpha} have CA alone or with part of the others; build the backbone first "
            "(PULCHRA, for example), or give a model with all atoms"
        )
    if nucleotides:
        raise InputError(
            f"model {path}: {needed}, and {nucleotides} are nucleotides; nucleic acids only move along with a protein: "
            "give a model with its protein"
        )
    raise InputError(f"model {path}: {needed}; a protein model with its backbone is needed")
