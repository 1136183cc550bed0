"""Models from mmCIF and PDB files, and copies of such files with their atoms moved."""

from __future__ import annotations

import codecs
import os
import re
import string
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import gemmi
import numpy as np

from cocofold.structure.labels import AMINO_ACIDS, COORDINATE_RECORDS, complete_labels, name_molecules, tag_molecules
from cocofold.structure.model import CONFIDENCE_CATEGORIES, Model, keep_first_conformations, table_of_atoms
from cocofold.structure.modelcif import MOLECULE_CATEGORIES, PLACEMENT_CATEGORY, complete_atom_site, write_model
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import MOST_TEXT_BYTES, InputError, packing_program, refuse_large, unpack_gzip

# What packed files are called, and what unpacks them, by the program that packed them.
_ARCHIVES = {
    "zip": ("a ZIP archive", "unzip"),
    "bzip2": ("packed by bzip2", "bunzip2"),
    "xz": ("packed by xz", "unxz"),
    "zstd": ("packed by Zstandard", "unzstd"),
    "7z": ("a 7-Zip archive", "7z x"),
}
# Bytes of an MRC header that hold MAP (word 53 of MRC2014), without the space that follows
_MRC_MAP_STRING = slice(208, 211)
_CIF_START = re.compile(r"(?:\s*#[^\n]*\n|\s)*data_", re.IGNORECASE)
_FARTHEST_ANGSTROM = 1e7  # beyond, positions of float32 are coarser than 1 Å
# x, y and z of ATOM records: columns 31 to 54 of PDB, eight each
_PDB_COORDINATE_COLUMNS = (slice(30, 38), slice(38, 46), slice(46, 54))


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read an mmCIF or PDB file, gzip-compressed or not; what it is shows in its content, not in its name.

    Of several models the first is taken, of alternate conformations the first of each residue. Residues get the label
    names and entities that mmCIF asks for where the file has none; see ``cocofold.structure.labels``.

    Raises
    ------
    InputError
        If the file is missing, unreadable, holds no atoms, neither a protein's backbone nor nucleotides, or positions
        that are not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"model {path}: is a folder; give the mmCIF or PDB file in it")
    if not path.is_file():
        raise InputError(f"model {path}: no such file; give an mmCIF or PDB file")
    try:
        structure, categories, notes = _parse(path, _read_text(path))
        structure.name = structure.name or _stem(path)
        model = _first_model(structure, notes)
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"model {path}: not readable as mmCIF or PDB ({error})") from error
    if not np.isfinite(model.positions).all():
        lost = int((~np.isfinite(model.positions)).any(1).sum())
        raise InputError(f"model {path}: {lost} of {len(model)} atoms have no position; remove them or build them")
    _refuse_impossible_positions(path, model)
    if len(model.backbone()[0]) + len(model.nucleotides()[0]) == 0:
        _refuse_without_backbone(path, model)
    _refuse_repeated_backbone(path, model)
    place = categories.pop(PLACEMENT_CATEGORY, {})
    placed_as = {name: str(values[0]) for name, values in place.items() if values}
    return replace(model, described=categories, placed_as=placed_as)


def read_gaussian_widths(path: str | os.PathLike[str]) -> list[float]:
    """Learned widths (Å) of the Gaussians of a model's atoms, in the file's order; none if the file has none."""
    content = _read_text(Path(path))
    if not _CIF_START.match(content):
        return []
    block = gemmi.cif.read_string(content)[0]
    return [float(width) for width in block.find_values("_cocofold_gaussian.width_angstrom")]


def read_gaussians(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes and widths (Å), (n_atoms,) each, of the Gaussians of a model that a run wrote, with so many atoms.

    Raises
    ------
    InputError
        If there are more or fewer.
    """
    table = gemmi.cif.read(str(path)).sole_block().find("_cocofold_gaussian.", ["amplitude", "width_angstrom"])
    if len(table) != count:
        raise InputError(f"{path}: holds Gaussians of {len(table)} atoms and {count} atoms; run it anew")
    values = np.array([[float(cell) for cell in row] for row in table])
    return values[:, 0], values[:, 1]


_CARTESIAN_AXES = ("Cartn_x", "Cartn_y", "Cartn_z")
_FEWEST_DECIMALS = 3  # of coordinates that are written: those of PDB


def write_moved_model(source: str | os.PathLike[str], out: str | os.PathLike[str], shift: Sequence[float]) -> Model:
    """Write a copy of a model's file, as mmCIF, with all atoms moved by a vector.

    Of mmCIF all else in the block that ``read_model`` reads is kept as it stands; PDB is written anew.

    Parameters
    ----------
    source
        Any file that ``read_model`` reads.
    out
        mmCIF file to write; it appears whole or not at all.
    shift : (3,) float
        Å.

    Returns
    -------
    Model
        At its new place.

    Raises
    ------
    InputError
        If the model cannot be read.
    """
    model = read_model(source)
    moved = model.moved_to(model.positions + np.asarray(shift, dtype=float))
    text = _read_text(Path(source))
    if not _CIF_START.match(text):
        write_model(out, moved)
        return moved
    block = next(one for one in gemmi.cif.read_string(text) if one.find_mmcif_category("_atom_site."))
    for row in block.find("_atom_site.", list(_CARTESIAN_AXES)):
        for axis, by in enumerate(shift):
            row[axis] = _moved_coordinate(row[axis], by)
    with atomic_path(out) as partial:
        partial.write_text(block.as_string(), encoding="utf-8")
    return moved


def _moved_coordinate(text: str, by: float) -> str:
    """Text of a moved coordinate with as many decimals as before, and at least three; "?" stays as it is."""
    value = gemmi.cif.as_number(text)
    if not np.isfinite(value):
        return text
    decimals = len(re.sub(r"\(\d+\)$", "", text).partition(".")[2])
    return f"{value + by:.{max(_FEWEST_DECIMALS, decimals)}f}"


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _read_text(path: Path) -> str:
    """Text of a file: UTF-8, UTF-16 with its mark, or else Latin-1, as old programs write names of authors."""
    with path.open("rb") as start:
        is_packed = packing_program(start.read(8)) == "gzip"
    if not is_packed:
        refuse_large(f"model {path}", path.stat().st_size, MOST_TEXT_BYTES)
    content = unpack_gzip(path, f"model {path}", MOST_TEXT_BYTES) if is_packed else path.read_bytes()
    program = packing_program(content)
    if program in _ARCHIVES:
        kind, command = _ARCHIVES[program]
        raise InputError(f"model {path}: is {kind}; unpack it ({command} {path.name}) and give the model in it")
    if content[_MRC_MAP_STRING] == b"MAP":
        raise InputError(f"model {path}: is a map (MRC); give an mmCIF or PDB file with a protein model")
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in content and not is_utf16:
        raise InputError(f"model {path}: is a binary file; give an mmCIF or PDB file with a protein model")
    if not content.strip():
        raise InputError(f"model {path}: the file is empty; give an mmCIF or PDB file with a protein model")
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(path: Path, text: str) -> tuple[gemmi.Structure, dict, list[str]]:
    """A structure, the categories of its molecules and its place in a map, and notes on how it was read."""
    if not _CIF_START.match(text):
        lines = [_as_ascii(line) for line in text.split("\n")]
        _check_pdb(path, lines)
        structure, notes = _read_pdb(lines)
        structure.name = _stem(path)
        return structure, {}, notes
    document = gemmi.cif.read_string(text)
    blocks = [block for block in document if block.find_mmcif_category("_atom_site.")]
    if not blocks:
        _refuse_without_atoms(path, document)
    block = blocks[0]
    categories = (*MOLECULE_CATEGORIES, *CONFIDENCE_CATEGORIES, PLACEMENT_CATEGORY)
    found = {name: block.get_mmcif_category(name) for name in categories}
    notes = complete_atom_site(block)
    return gemmi.make_structure_from_block(block), {name: items for name, items in found.items() if items}, notes


def _as_ascii(line: str) -> str:
    """A line as PDB has it, in which each character is one column: letters without their accents, others as "?"."""
    if line.isascii():
        return line
    letters = (unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()[:1] for letter in line)
    return "".join(plain or "?" for plain in letters)


def _check_pdb(path: Path, lines: Sequence[str]) -> None:
    """Refuse a file without atom records, and coordinates that are no numbers, which would be read as zero."""
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.startswith(COORDINATE_RECORDS):
            continue
        found = True
        for part in _PDB_COORDINATE_COLUMNS:
            try:
                float(line[part])
            except ValueError as error:
                raise InputError(
                    f"model {path}: line {number} has no position where PDB has it, but {line[30:54].strip()!r} in "
                    "columns 31 to 54; repair the file, or give mmCIF"
                ) from error
    if not found:
        raise InputError(
            f"model {path}: neither mmCIF (no data_) nor PDB (no ATOM records); "
            "give an mmCIF or PDB file with a protein model"
        )


# Columns 77 to 80 of PDB: an element, and a charge; before 1996 there was the number of the line.
_ELEMENT_AND_CHARGE = re.compile(r"[ A-Za-z][ A-Za-z]([ \d][ +-]|[+-][ \d])")
_LARGEST_PLAIN_NUMBER = 9_999  # of residues: PDB has four columns for it
_DIGITS = string.digits + string.ascii_uppercase
# Ions by the names that CHARMM and Amber give them: residue and atom have the same name, from which no element shows.
_ION_ELEMENTS = {
    "SOD": "Na", "CLA": "Cl", "POT": "K", "CAL": "Ca", "CES": "Cs", "LIT": "Li", "RUB": "Rb", "BAR": "Ba", "CAD": "Cd",
    "C0": "Ca", "NA+": "Na", "CL-": "Cl", "K+": "K", "NA": "Na", "CIO": "Cs", "IM": "Cl", "IP": "Na",
}  # fmt: skip


def _read_pdb(lines: list[str]) -> tuple[gemmi.Structure, list[str]]:
    """A structure of the lines of a PDB file, mended where programs write it otherwise, and notes."""
    rows = [row for row, line in enumerate(lines) if line.startswith(COORDINATE_RECORDS)]
    for row in rows:
        lines[row] = lines[row].ljust(80)
    if all(lines[row][76:80].strip().isdigit() for row in rows):
        for row in rows:
            lines[row] = lines[row][:72]
    tails = [lines[row][76:80].ljust(4) for row in rows]
    proper = set(filter(_ELEMENT_AND_CHARGE.fullmatch, set(tails)))
    for row, tail in zip(rows, tails):
        if tail not in proper:
            lines[row] = lines[row][:76] + (tail[:2] if tail[:2].strip().isalpha() else "  ")
        lines[row] = _with_three_letters(lines[row])
    _decode_numbers(lines)
    names = tag_molecules(lines)
    structure = gemmi.read_pdb_string("\n".join(lines))
    for chain in structure[0] if len(structure) else ():
        for residue in chain:
            if len(residue) == 1 and residue.name.upper() in _ION_ELEMENTS:
                residue[0].element = gemmi.Element(_ION_ELEMENTS[residue.name.upper()])
    return structure, name_molecules(structure, names)


def _with_three_letters(line: str) -> str:
    """A residue's name of four letters (TIP3, POPC), whose last would be taken for the chain's, cut to three."""
    is_longer = line[20] != " " and (line[21] == " " or line[72:76].strip()) and " " not in line[17:20]
    return line[:20] + " " + line[21:] if is_longer and line[17:20] not in AMINO_ACIDS else line


# Records that follow an atom with more about it
_ABOUT_ATOMS = ("ANISOU", "SIGATM", "SIGUIJ")
# Residues that a chain may leave out where its numbers turn from decimal to hexadecimal ones. These also are decimal
# numbers, if not the chain's next ones; a larger gap would take the numbers of waters for such.
_WIDEST_GAP = 100


def _decode_numbers(lines: list[str]) -> None:
    """Write numbers of residues above 9,999 as gemmi reads them, of hexadecimal ones, five digits, or stars."""
    fields = {line[22:27] for line in lines if line.startswith(COORDINATE_RECORDS)}
    if all(field[:4].strip().isdigit() and not field[4].isdigit() for field in fields) and not any(
        int(field[:4]) > _LARGEST_PLAIN_NUMBER - _WIDEST_GAP for field in fields
    ):
        return
    last, before, seen, is_hexadecimal = 0, "", set[str](), False
    for row, line in enumerate(lines):
        if line.startswith(_ABOUT_ATOMS):
            continue
        if not line.startswith(COORDINATE_RECORDS):
            last, before, seen, is_hexadecimal = 0, "", set(), False
            continue
        text, residue = line[22:27], line[17:22] + line[22:27]
        is_next = residue != before or line[12:17] in seen
        before, seen = residue, {line[12:17]} | (set() if is_next else seen)
        last, is_hexadecimal = _number_of(text, last, is_next, is_hexadecimal)
        if last > _LARGEST_PLAIN_NUMBER:
            lines[row] = line[:22] + _in_base_36(last) + " " + line[27:]


def _number_of(text: str, last: int, is_next: bool, is_hexadecimal: bool) -> tuple[int, bool]:
    """Number of a residue, or 0 if gemmi reads it as it stands, and whether it is hexadecimal.

    ``last`` and ``is_hexadecimal`` are those of the atom before.
    """
    plain = text.strip()
    if "*" in plain:
        return (last + 1 if is_next else last), False
    decimal = int(plain) if plain.isdigit() else 0
    is_short = re.fullmatch(r"\d[0-9a-fA-F]{3}", plain) is not None and text[4] == " "
    if not is_short:
        return decimal, False
    value = int(plain, 16)
    if not plain.isdigit():
        return value, True
    # Of digits alone both are numbers: hexadecimal is what goes on from the one before, while decimal does not.
    goes_on = last <= value <= last + _WIDEST_GAP and value > _LARGEST_PLAIN_NUMBER
    if goes_on and decimal < last and (is_hexadecimal or last >= _LARGEST_PLAIN_NUMBER - _WIDEST_GAP):
        return value, True
    return decimal, False


def _in_base_36(number: int) -> str:
    """A number of 10,000 and more in hybrid 36, which begins with A000."""
    number += 10 * 36**3 - _LARGEST_PLAIN_NUMBER - 1
    return "".join(_DIGITS[number // 36**place % 36] for place in (3, 2, 1, 0))


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


def _refuse_impossible_positions(path: Path, model: Model) -> None:
    if len(model) > 1 and np.ptp(model.positions, axis=0).max() == 0:
        raise InputError(f"model {path}: all {len(model)} atoms lie in one place; give a model with real positions")
    farthest = float(np.abs(model.positions).max(initial=0.0))
    if farthest > _FARTHEST_ANGSTROM:
        raise InputError(
            f"model {path}: an atom lies {farthest:.3g} Å from the origin, and {_FARTHEST_ANGSTROM:.0e} Å are allowed; "
            "repair its position"
        )


def _first_model(structure: gemmi.Structure, notes: list[str]) -> Model:
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
    unknown = int((table_of_atoms(structure)[0].elements == 0).sum())
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
            f"model {path}: {needed}, and of {nucleotides} nucleotides none has C3', C1' and C4'; give a model with "
            "all atoms, by the names of PDB files since 2007"
        )
    raise InputError(f"model {path}: {needed}; a protein model with its backbone is needed")
