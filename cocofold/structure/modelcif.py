"""Models written as mmCIF with the categories of ModelCIF: what was modelled, from what, how, and with what confidence.

First the file and the protocol, then the categories of molecules (entities, components, sequences), and last what the
atoms of an mmCIF that is read may lack.

The dictionary: https://mmcif.wwpdb.org/dictionaries/mmcif_ma.dic/Index/, an extension of PDBx/mmCIF.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

import gemmi
import numpy as np

from cocofold import __version__
from cocofold.structure.labels import chain_names_note, free_labels
from cocofold.structure.model import (
    CifCategories,
    Model,
    add_table,
    element_from_atom_name,
    rows_by_item,
    write_unoccupied_residues,
)
from cocofold.system.atomic_files import atomic_path

_DICTIONARY = ("mmcif_ma.dic", "1.4.9", "https://raw.githubusercontent.com/ihmwg/ModelCIF/master/dist/mmcif_ma.dic")
# What belongs to a crystal or to the frame of the input (cell, symmetry, operators of assemblies, anisotropic B
# factors) is left out, as the model has moved, and so is the experiment behind the input.
_WRITTEN_BY_GEMMI = (
    "atom_type", "atoms", "block_name", "cis", "conn", "entity_poly", "entity_poly_seq", "entry", "group_pdb",
    "struct_asym", "struct_conf", "struct_sheet", "title_keywords",
)  # fmt: skip
PLACEMENT_CATEGORY = "_cocofold_placement."
# Numbers by which ModelCIF tables refer to rows of each other; any that differ within a table would do.
_MODEL_ID, _SOFTWARE_ID, _PROTOCOL_ID = 1, 1, 1
_INPUT_GROUP_ID, _OUTPUT_GROUP_ID = 1, 2
_GLOBAL_METRIC_ID, _LOCAL_METRIC_ID = 1, 2


def write_model(
    path: str | os.PathLike[str],
    model: Model,
    amplitudes: np.ndarray | None = None,
    widths_angstrom: np.ndarray | None = None,
    details: str | None = None,
    plddt: np.ndarray | None = None,
    placed_as: Mapping[str, str] | None = None,
) -> None:
    """Write a model as mmCIF, with the chain names, residue numbers, labels, entities and B factors of its input.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    model : Model
    amplitudes, widths_angstrom : (n_atoms,) float, optional
        Learned Gaussians, written in a category ``_cocofold_gaussian`` of their own.
    details : str, optional
        One line on what was done, for ``_ma_protocol_step.details`` and ``_struct.pdbx_descriptor``.
    plddt : (n_residues,) float, optional
        Predicted lDDT-CA of each residue, 0 to 100, or NaN where there is none: written as ``_ma_qa_metric_local`` of
        residues in polymers, its mean as ``_ma_qa_metric_global``, and in place of B factors. Without it B factors
        stay as they came, and the file states no metric: one of the input was about other positions.
    placed_as : dict of str, optional
        How the model was placed in the frame of a map (hand, symmetry), as the category ``_cocofold_placement``; empty
        or None if it was not.

    Raises
    ------
    ValueError
        If an array does not have one value for each atom or residue.
    """
    for values, count in ((amplitudes, len(model)), (widths_angstrom, len(model)), (plddt, len(model.residues))):
        if values is not None and np.shape(values) != (count,):
            raise ValueError(f"an array of shape {np.shape(values)} was given where ({count},) is needed")
    structure = _moved_structure(model, plddt)
    document = structure.make_mmcif_document(_mmcif_output_groups())
    block = document.sole_block()
    # Anisotropic B factors are of the orientation that the input had.
    block.find_mmcif_category("_atom_site_anisotrop.").erase()
    add_table(block, "_audit_conform.", "dict_name dict_version dict_location", [_DICTIONARY])
    block.set_pair("_struct.entry_id", gemmi.cif.quote(structure.name))
    if details:
        block.set_pair("_struct.pdbx_descriptor", gemmi.cif.quote(details))
    write_molecules(block, structure, model.described)
    write_unoccupied_residues(block, structure)
    _write_protocol(block, structure, details)
    if plddt is not None:
        _write_confidence(block, structure, plddt)
    if amplitudes is not None and widths_angstrom is not None:
        loop = block.init_mmcif_loop("_cocofold_gaussian.", ["atom_site_id", "amplitude", "width_angstrom"])
        numbers = [
            [f"{value:.4f}" for value in np.asarray(values).tolist()] for values in (amplitudes, widths_angstrom)
        ]
        loop.set_all_values([list(map(str, range(1, len(model) + 1))), *numbers])
    for name, value in (placed_as or {}).items():
        block.set_pair(PLACEMENT_CATEGORY + name, gemmi.cif.quote(value))
    with atomic_path(path) as partial:
        # Not by gemmi, which does not notice a full disk.
        partial.write_text(document.as_string())


def _mmcif_output_groups() -> gemmi.MmcifOutputGroups:
    groups = gemmi.MmcifOutputGroups(False)
    for name in _WRITTEN_BY_GEMMI:
        setattr(groups, name, True)
    return groups


def _moved_structure(model: Model, plddt: np.ndarray | None) -> gemmi.Structure:
    structure = model.structure.clone()
    structure.assign_serial_numbers()
    positions = iter(model.positions.tolist())
    for residue in residues_of(structure):
        for atom, (x, y, z) in zip(residue, positions):
            atom.pos = gemmi.Position(x, y, z)
    if plddt is not None:
        for residue, value in zip(residues_of(structure), plddt.tolist()):
            if math.isfinite(value):
                for atom in residue:
                    atom.b_iso = value
    return structure


def _write_protocol(block: gemmi.cif.Block, structure: gemmi.Structure, details: str | None) -> None:
    """What the model is of, and the one step that made it: from an input structure to these coordinates."""
    entities = structure.entities
    data = [[f"target {entity.name}", "target"] for entity in entities]
    data += [[f"input {structure.name}", "input structure"], [structure.name, "model coordinates"]]
    add_table(block, "_ma_data.", "id name content_type", [[row, *one] for row, one in enumerate(data, start=1)])
    groups = [[row, _INPUT_GROUP_ID if row < len(data) else _OUTPUT_GROUP_ID, row] for row in range(1, len(data) + 1)]
    add_table(block, "_ma_data_group.", "ordinal_id group_id data_id", groups)
    # Whether a sequence is of a database or designed is not known here.
    targets = [[entity.name, row, ""] for row, entity in enumerate(entities, start=1)]
    add_table(block, "_ma_target_entity.", "entity_id data_id origin", targets)
    instances = [[label, entity.name, ""] for entity in entities for label in entity.subchains]
    add_table(block, "_ma_target_entity_instance.", "asym_id entity_id details", instances)
    kind = [[_MODEL_ID, structure.name, len(data), "Other", details or "an input structure"]]
    add_table(block, "_ma_model_list.", "ordinal_id model_name data_id model_type model_type_other_details", kind)
    add_table(block, "_ma_model_group.", "id name", [[1, "all models"]])
    add_table(block, "_ma_model_group_link.", "model_id group_id", [[_MODEL_ID, 1]])
    purpose = "fine-tuning of models against cryo-EM particle images"
    software = [[_SOFTWARE_ID, "cocofold", __version__, "package", "refinement", purpose]]
    add_table(block, "_software.", "pdbx_ordinal name version type classification description", software)
    add_table(block, "_ma_software_group.", "ordinal_id group_id software_id", [[1, 1, _SOFTWARE_ID]])
    method = "model refinement" if details else "other"
    step = [1, _PROTOCOL_ID, 1, method, details, 1, _INPUT_GROUP_ID, _OUTPUT_GROUP_ID]
    items = "ordinal_id protocol_id step_id method_type details software_group_id"
    add_table(block, "_ma_protocol_step.", f"{items} input_data_group_id output_data_group_id", [step])


def _write_confidence(block: gemmi.cif.Block, structure: gemmi.Structure, plddt: np.ndarray) -> None:
    """Predicted lDDT-CA of the model and of its residues in polymers; others have no place to be named by."""
    known = np.isfinite(plddt)
    if not known.any():
        return
    metrics = [
        [_GLOBAL_METRIC_ID, "pLDDT", "predicted accuracy of CA positions, mean over residues", "pLDDT", "global", 1],
        [_LOCAL_METRIC_ID, "pLDDT", "predicted accuracy of the CA position of a residue", "pLDDT", "local", 1],
    ]
    add_table(block, "_ma_qa_metric.", "id name description type mode software_group_id", metrics)
    mean = [[1, _MODEL_ID, _GLOBAL_METRIC_ID, f"{plddt[known].mean():.2f}"]]
    add_table(block, "_ma_qa_metric_global.", "ordinal_id model_id metric_id metric_value", mean)
    placed = [
        [residue.subchain, residue.label_seq, residue.name, _LOCAL_METRIC_ID, f"{value:.2f}"]
        for residue, value in zip(residues_of(structure), plddt)
        if residue.label_seq is not None and np.isfinite(value)
    ]
    items = "ordinal_id model_id label_asym_id label_seq_id label_comp_id metric_id metric_value"
    add_table(block, "_ma_qa_metric_local.", items, [[row, _MODEL_ID, *one] for row, one in enumerate(placed, start=1)])


# Categories that say what molecules are, whatever their atoms' positions; kept of an mmCIF that is read.
MOLECULE_CATEGORIES = (
    "_chem_comp.",
    "_entity.",
    "_pdbx_branch_scheme.",
    "_pdbx_entity_branch.",
    "_pdbx_entity_branch_descriptor.",
    "_pdbx_entity_branch_link.",
    "_pdbx_entity_branch_list.",
    "_pdbx_poly_seq_scheme.",
    "_struct_ref.",
    "_struct_ref_seq.",
)
# Of the molecules' categories, written as they came; the others are written anew, with what they say.
_COPIED_CATEGORIES = tuple(name for name in MOLECULE_CATEGORIES if "branch" in name or "struct_ref" in name)
_ENTITY_TYPE = {
    gemmi.EntityType.Polymer: "polymer",
    gemmi.EntityType.NonPolymer: "non-polymer",
    gemmi.EntityType.Branched: "branched",
    gemmi.EntityType.Water: "water",
}
_TYPE_OF_KIND = {
    gemmi.ResidueKind.AA: "L-PEPTIDE LINKING",
    gemmi.ResidueKind.PAA: "L-PEPTIDE LINKING",
    gemmi.ResidueKind.MAA: "L-PEPTIDE LINKING",
    gemmi.ResidueKind.AAD: "D-PEPTIDE LINKING",
    gemmi.ResidueKind.DNA: "DNA LINKING",
    gemmi.ResidueKind.RNA: "RNA LINKING",
    gemmi.ResidueKind.PYR: "SACCHARIDE",
    gemmi.ResidueKind.KET: "SACCHARIDE",
}
_TYPE_IN_POLYMER = {
    gemmi.PolymerType.PeptideL: "PEPTIDE LINKING",
    gemmi.PolymerType.PeptideD: "PEPTIDE LINKING",
    gemmi.PolymerType.Dna: "DNA LINKING",
    gemmi.PolymerType.Rna: "RNA LINKING",
}


def write_molecules(block: gemmi.cif.Block, structure: gemmi.Structure, described: CifCategories) -> None:
    """Write what molecules a structure has; names and the like are taken from ``described``, where it has them."""
    _write_entities(block, structure, described)
    _write_components(block, structure, described)
    _write_polymer_scheme(block, structure, described)
    _write_other_scheme(block, structure)
    labels = {label for entity in structure.entities for label in entity.subchains}
    for category in _COPIED_CATEGORIES:
        items = described.get(category, {})
        if items and labels.issuperset(items.get("asym_id", ())):
            block.set_mmcif_category(category, dict(items))


def residues_of(structure: gemmi.Structure) -> Iterator[gemmi.Residue]:
    """Residues of the first model."""
    return (residue for chain in structure[0] for residue in chain)


def _write_entities(block: gemmi.cif.Block, structure: gemmi.Structure, described: CifCategories) -> None:
    given = rows_by_item(described, "_entity.", "id")
    names = {entity.name: given.get(entity.name, {}).get("pdbx_description") for entity in structure.entities}
    types = _ENTITY_TYPE
    rows = [[one.name, types.get(one.entity_type), names[one.name], len(one.subchains)] for one in structure.entities]
    add_table(block, "_entity.", "id type pdbx_description pdbx_number_of_molecules", rows)
    single = {residue.entity_id: residue.name for residue in residues_of(structure) if _is_nonpolymer_or_water(residue)}
    components = rows_by_item(described, "_chem_comp.", "id")
    titles = {name: components.get(name, {}).get("name") for name in single.values()}
    alone = [[entity, names[entity] or titles[name], name, "explicit"] for entity, name in single.items()]
    add_table(block, "_pdbx_entity_nonpoly.", "entity_id name comp_id ma_model_mode", alone)


def _is_nonpolymer_or_water(residue: gemmi.Residue) -> bool:
    return residue.entity_type in (gemmi.EntityType.NonPolymer, gemmi.EntityType.Water)


def _write_components(block: gemmi.cif.Block, structure: gemmi.Structure, described: CifCategories) -> None:
    given = rows_by_item(described, "_chem_comp.", "id")
    types = {residue.name: "NON-POLYMER" for residue in residues_of(structure)}
    for entity in structure.entities:
        for monomers in entity.full_sequence:
            types.update((name, _TYPE_IN_POLYMER.get(entity.polymer_type, "OTHER")) for name in monomers.split(","))
    rows = []
    for name, in_structure in sorted(types.items()):
        tabulated = gemmi.find_tabulated_residue(name)
        kind = _TYPE_OF_KIND.get(tabulated.kind, "NON-POLYMER") if tabulated.found() else in_structure
        row = {"type": "PEPTIDE LINKING" if name == "GLY" else kind, **given.get(name, {})}
        # Whether a name that gemmi does not know is one of the PDB's is not known here.
        source = row.get("ma_provenance", "CCD Core" if tabulated.found() else None)
        rows.append([name, row["type"], row.get("name"), row.get("formula"), row.get("formula_weight"), source])
    add_table(block, "_chem_comp.", "id type name formula formula_weight ma_provenance", rows)


def _write_polymer_scheme(block: gemmi.cif.Block, structure: gemmi.Structure, described: CifCategories) -> None:
    """Author's numbers along the sequences, also of what is not modelled, if they are known."""
    scheme = described.get("_pdbx_poly_seq_scheme.", {})
    columns = [scheme.get(item, ()) for item in ("asym_id", "seq_id", "mon_id", "pdb_seq_num", "pdb_ins_code")]
    known = {(label, place, name): (number, code) for label, place, name, number, code in zip(*columns)}
    modelled: dict[tuple[str, str, str], gemmi.SeqId] = {}
    chains: dict[str, str] = {}
    for chain in structure[0]:
        for residue in chain:
            chains.setdefault(residue.subchain, chain.name)
            modelled[residue.subchain, str(residue.label_seq), residue.name] = residue.seqid
    rows: list[list[object]] = []
    for entity in structure.entities:
        places = list(enumerate(entity.full_sequence, start=1))
        for label, (place, monomers) in ((label, place) for label in entity.subchains for place in places):
            names = monomers.split(",")
            for name in names:
                key = (label, str(place), name)
                number, code = known.get(key, (None, None))
                if key in modelled:
                    number, code = modelled[key].num, modelled[key].icode.strip()
                row = [label, entity.name, place, name, place, number, name, chains.get(label), code or ""]
                author = [number, name] if key in modelled else [None, None]
                rows.append([*row, *author, "yes" if len(names) > 1 else "no"])
    items = "asym_id entity_id seq_id mon_id ndb_seq_num pdb_seq_num pdb_mon_id pdb_strand_id pdb_ins_code"
    add_table(block, "_pdbx_poly_seq_scheme.", f"{items} auth_seq_num auth_mon_id hetero", rows)


def _write_other_scheme(block: gemmi.cif.Block, structure: gemmi.Structure) -> None:
    """Author's numbers of ligands, ions and waters."""
    counted: dict[str, int] = {}
    rows = []
    for chain in structure[0]:
        for residue in chain:
            if _is_nonpolymer_or_water(residue):
                place = counted[residue.subchain] = counted.get(residue.subchain, 0) + 1
                number, name = residue.seqid.num, residue.name
                row = [residue.subchain, residue.entity_id, name, place, number, name, chain.name]
                rows.append([*row, residue.seqid.icode.strip(), number, name])
    items = "asym_id entity_id mon_id ndb_seq_num pdb_seq_num pdb_mon_id pdb_strand_id pdb_ins_code"
    add_table(block, "_pdbx_nonpoly_scheme.", f"{items} auth_seq_num auth_mon_id", rows)


_REQUIRED_ATOM_SITE_ITEMS = ("id", "type_symbol", "label_alt_id", "label_asym_id")


def complete_atom_site(block: gemmi.cif.Block) -> list[str]:
    """Add columns of ``_atom_site`` that gemmi needs and the file does without, and names of chains; notes on these."""
    loop = block.find_loop("_atom_site.Cartn_x").get_loop()
    if loop is None:
        return []
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
    return _name_chains(block)


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
    if all(map(gemmi.cif.as_string, set(block.find_loop("_atom_site.auth_seq_id")))):
        return
    place = "label_seq_id" if block.find_loop("_atom_site.label_seq_id") else "auth_seq_id"
    table = block.find("_atom_site.", ["auth_seq_id", place, *_naming_columns(block)])
    numbers = [row[0] if gemmi.cif.as_string(row[0]) else row[1] for row in table]
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


def _name_chains(block: gemmi.cif.Block) -> list[str]:
    """Call chains without a name, and molecules that share one and their numbers, as their labels; says so."""
    items = ["auth_asym_id", "label_asym_id", "auth_seq_id", "?pdbx_PDB_ins_code", "?pdbx_PDB_model_num"]
    columns = [block.find_loop(f"_atom_site.{item.lstrip('?')}") for item in items]
    places = set(zip(*(column for column in columns if column)))
    numbered = {(chain, *rest) for chain, _, *rest in places}
    # Most files name every chain, and do not give one number to residues of two labels.
    if columns[0] and all(gemmi.cif.as_string(chain) for chain, *_ in numbered) and len(numbered) == len(places):
        return []
    table = block.find("_atom_site.", [*items, *_naming_columns(block)[:2], "label_alt_id"])
    owners: dict[tuple[str, ...], set[str]] = {}
    for row in table:
        atom = (row[0], *(row[place] if row.has(place) else "" for place in range(2, 8)))
        owners.setdefault(atom, set()).add(row.str(1))
    shared = {atom[0]: labels for atom, labels in owners.items() if len(labels) > 1}
    named = {gemmi.cif.as_string(atom[0]) for atom in owners}
    renamed: dict[tuple[str, str], str] = {}
    for row in table:
        key = (row[0], row.str(1))
        if (gemmi.cif.as_string(row[0]) and row[0] not in shared) or not key[1]:
            continue
        if key not in renamed:
            is_first = not any(chain == row[0] for chain, _ in renamed)
            given = gemmi.cif.as_string(row[0])
            label = key[1] if key[1] not in named else next(free_labels(named))
            renamed[key] = given if given and is_first else label
            named.add(renamed[key])
        row[0] = gemmi.cif.quote(renamed[key])
    return [chain_names_note(renamed.values())] if renamed else []
