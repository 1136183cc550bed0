"""What molecules a model has, as tables of mmCIF: entities, components, and author's numbers along sequences."""

from __future__ import annotations

from collections.abc import Iterator

import gemmi

from cocofold.structure.tables import Categories, add_table, rows_by

# Categories that say what molecules are, whatever their atoms' positions; kept of an mmCIF that is read.
DESCRIBING = (
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
# Of these, written as they came; the others are written anew, with what they say.
_COPIED = tuple(name for name in DESCRIBING if "branch" in name or "struct_ref" in name)
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


def write_molecules(block: gemmi.cif.Block, structure: gemmi.Structure, described: Categories) -> None:
    """Write what molecules a structure has; names and the like are taken from ``described``, where it has them."""
    _write_entities(block, structure, described)
    _write_components(block, structure, described)
    _write_polymer_scheme(block, structure, described)
    _write_other_scheme(block, structure)
    labels = {label for entity in structure.entities for label in entity.subchains}
    for category in _COPIED:
        items = described.get(category, {})
        if items and labels.issuperset(items.get("asym_id", ())):
            block.set_mmcif_category(category, dict(items))


def residues_of(structure: gemmi.Structure) -> Iterator[gemmi.Residue]:
    """Residues of the first model."""
    return (residue for chain in structure[0] for residue in chain)


def _write_entities(block: gemmi.cif.Block, structure: gemmi.Structure, described: Categories) -> None:
    given = rows_by(described, "_entity.", "id")
    names = {entity.name: given.get(entity.name, {}).get("pdbx_description") for entity in structure.entities}
    rows = [
        [entity.name, _ENTITY_TYPE.get(entity.entity_type), names[entity.name], len(entity.subchains)]
        for entity in structure.entities
    ]
    add_table(block, "_entity.", "id type pdbx_description pdbx_number_of_molecules", rows)
    single = {residue.entity_id: residue.name for residue in residues_of(structure) if _stands_alone(residue)}
    components = rows_by(described, "_chem_comp.", "id")
    alone = [
        [entity, names[entity] or components.get(name, {}).get("name"), name, "explicit"]
        for entity, name in single.items()
    ]
    add_table(block, "_pdbx_entity_nonpoly.", "entity_id name comp_id ma_model_mode", alone)


def _stands_alone(residue: gemmi.Residue) -> bool:
    return residue.entity_type in (gemmi.EntityType.NonPolymer, gemmi.EntityType.Water)


def _write_components(block: gemmi.cif.Block, structure: gemmi.Structure, described: Categories) -> None:
    given = rows_by(described, "_chem_comp.", "id")
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


def _write_polymer_scheme(block: gemmi.cif.Block, structure: gemmi.Structure, described: Categories) -> None:
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
            if _stands_alone(residue):
                place = counted[residue.subchain] = counted.get(residue.subchain, 0) + 1
                number, name = residue.seqid.num, residue.name
                row = [residue.subchain, residue.entity_id, name, place, number, name, chain.name]
                rows.append([*row, residue.seqid.icode.strip(), number, name])
    items = "asym_id entity_id mon_id ndb_seq_num pdb_seq_num pdb_mon_id pdb_strand_id pdb_ins_code"
    add_table(block, "_pdbx_nonpoly_scheme.", f"{items} auth_seq_num auth_mon_id", rows)
