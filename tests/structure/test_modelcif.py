"""The mmCIF that is written: what ModelCIF asks of it, and what of the input survives in it."""

from __future__ import annotations

from pathlib import Path

import gemmi
import ihm.dictionary
import modelcif.reader
import numpy as np
import pytest
from structure_files import added, bare, protein, residue, saved
from test_models_as_they_come import EACH_KIND, KINDS, glycan, made, metals, missing_residues, nucleic_acids

from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

CODE, INTEGER, NUMBER = r"[][_,.;:\"&<>()/\{}'`~!@#$%A-Za-z0-9*|+-]*", r"[+-]?[0-9]+", r"[+-]?[0-9.]+"

# What the ModelCIF dictionary, version 1.4.9, and PDBx/mmCIF say of the categories that are written. An item is
# mandatory (!) or not, of a type, and may point to one of another category or have its values listed.
METHODS = "template search|template selection|target-template alignment|coevolution MSA|contact prediction|modeling|model selection|model refinement|model quality assessment|other"  # noqa: E501
CONTENTS = "target|template structure|polymeric template library|spatial restraints|target-template alignment|coevolution MSA|model coordinates|input structure|reference database|other"  # noqa: E501
METRICS = "zscore|energy|distance|normalized score|pLDDT|pLDDT in [0,1]|pLDDT all-atom|PAE|pTM|ipTM|other"
REQUIRED = {
    "entity": "!id type:polymer|non-polymer|branched|water|macrolide",
    "struct_asym": "!id !entity_id>entity.id",
    "entity_poly": "!entity_id>entity.id type pdbx_strand_id",
    "entity_poly_seq": "!entity_id>entity_poly.entity_id !num=int !mon_id>chem_comp.id",
    "chem_comp": "!id !type ma_provenance:CCD Core|CCD MA|CCD local",
    "pdbx_entity_nonpoly": "!entity_id>entity.id !comp_id>chem_comp.id !ma_model_mode:explicit|implicit",
    "pdbx_poly_seq_scheme": "!asym_id>struct_asym.id !entity_id>entity.id !seq_id=int !mon_id>chem_comp.id",
    "pdbx_nonpoly_scheme": "!asym_id>struct_asym.id !entity_id>entity.id !mon_id>chem_comp.id !ndb_seq_num",
    "atom_site": "!id=int !label_atom_id !label_alt_id !label_comp_id>chem_comp.id !label_asym_id>struct_asym.id "
    "!label_entity_id>entity.id !label_seq_id !auth_asym_id !type_symbol>atom_type.symbol !Cartn_x=float "
    "!pdbx_PDB_model_num>ma_model_list.ordinal_id",
    "atom_type": "!symbol",
    "software": "!pdbx_ordinal=int !name !classification version type:package|program|library|other",
    "ma_model_list": "!ordinal_id=int !data_id>ma_data.id !model_type:Homology model|Ab initio model|Other",
    "ma_model_group": "!id=int name",
    "ma_model_group_link": "!model_id>ma_model_list.ordinal_id !group_id>ma_model_group.id",
    "ma_data": f"!id=int !name !content_type:{CONTENTS}",
    "ma_data_group": "!ordinal_id=int !group_id=int !data_id>ma_data.id",
    "ma_target_entity": "!entity_id>entity.id !data_id>ma_data.id !origin:reference database|designed",
    "ma_target_entity_instance": "!asym_id>struct_asym.id !entity_id>ma_target_entity.entity_id",
    "ma_software_group": "!ordinal_id=int !group_id=int !software_id>software.pdbx_ordinal",
    "ma_protocol_step": f"!ordinal_id=int !protocol_id=int !step_id=int !method_type:{METHODS} "
    "software_group_id>ma_software_group.group_id input_data_group_id>ma_data_group.group_id "
    "output_data_group_id>ma_data_group.group_id",
    "ma_qa_metric": f"!id=int !name !type:{METRICS} !mode:local|global|local-pairwise "
    "software_group_id>ma_software_group.group_id",
    "ma_qa_metric_global": "!ordinal_id=int !model_id>ma_model_list.ordinal_id !metric_id>ma_qa_metric.id "
    "!metric_value=float",
    "ma_qa_metric_local": "!ordinal_id=int !model_id>ma_model_list.ordinal_id !label_asym_id>struct_asym.id "
    "!label_seq_id=int !label_comp_id>chem_comp.id !metric_id>ma_qa_metric.id !metric_value=float",
}
MANDATORY = ("entity", "struct_asym", "chem_comp", "atom_site", "ma_model_list", "ma_data", "ma_protocol_step")


def requirements() -> ihm.dictionary.Dictionary:
    """The table above as a dictionary that ihm validates by."""
    dictionary = ihm.dictionary.Dictionary()
    for name, items in REQUIRED.items():
        category = ihm.dictionary.Category()
        category.name, category.mandatory = name, name in MANDATORY
        for item in split_items(items):
            keyword = ihm.dictionary.Keyword()
            keyword.mandatory = item.startswith("!")
            label = item.lstrip("!")
            for sign in ":>=":
                label, _, rest = label.partition(sign)
                if rest and sign == ":":
                    keyword.enumeration = ihm.dictionary._KeywordEnumeration()
                    for value in rest.split("|"):
                        keyword.enumeration.add(value)
                elif rest and sign == ">":
                    dictionary.linked_items[f"_{name}.{label}"] = f"_{rest}"
                elif rest:
                    pattern = {"int": INTEGER, "float": NUMBER}[rest]
                    keyword.item_type = ihm.dictionary.ItemType(rest, "numb", pattern)
            keyword.name = label.lower()
            category.keywords[keyword.name] = keyword
        dictionary.categories[name] = category
    for child, parent in list(dictionary.linked_items.items()):
        dictionary.linked_items[child.lower()] = dictionary.linked_items.pop(child, parent).lower()
    return dictionary


def split_items(text: str) -> list[str]:
    """Items between spaces; a listed value may have spaces, so an item begins with ! or a lower-case name and sign."""
    items: list[str] = []
    for word in text.split(" "):
        if items and ":" in items[-1] and not word.startswith("!") and not any(sign in word for sign in ":>="):
            items[-1] += f" {word}"
        else:
            items.append(word)
    return items


def validate(path: Path) -> None:
    """Raise if the file does not have what ModelCIF asks for; other categories and items are not looked at."""
    block = gemmi.cif.read(str(path)).sole_block()
    dictionary = requirements()
    document = gemmi.cif.Document()
    known = document.add_new_block(block.name)
    for name, category in dictionary.categories.items():
        items = block.get_mmcif_category(f"_{name}.", raw=True)
        kept = {item: values for item, values in items.items() if item.lower() in category.keywords}
        if kept:
            known.set_mmcif_category(f"_{name}.", kept, raw=True)
    known_path = path.with_suffix(".known")
    document.write_file(str(known_path))
    with open(known_path) as file:
        dictionary.validate(file)


def written(model: Model, path: Path, **extra: object) -> gemmi.cif.Block:
    write_model(path, model, **extra)  # type: ignore[arg-type]
    return gemmi.cif.read(str(path)).sole_block()


@EACH_KIND
@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_every_kind_conforms_and_is_read_whole_by_modelcif(kind: str, suffix: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / f"given{suffix}"))
    path = tmp_path / "out.cif"
    write_model(path, model, details="fine-tuned", plddt=np.full(len(model.residues), 80.0))
    validate(path)
    with open(path) as file:
        (system,) = modelcif.reader.read(file)
    ((first,),) = ([*group] for group in system.model_groups)
    assert len(list(first.get_atoms())) == len(model)
    assert {asym.id for asym in system.asym_units} == set(residue_labels(model))
    assert all(len(entity.sequence) > 0 for entity in system.entities)
    assert [step.method_type for step in system.protocols[0].steps] == ["model refinement"]
    assert [one.name for one in system.software] == ["cocofold"]
    n_placed = sum(one.label_seq is not None for chain in model.structure[0] for one in chain)
    assert len(first.qa_metrics) == 1 + n_placed
    chains = {asym.id: asym for asym in system.asym_units}
    for chain in model.structure[0]:
        for one in chain:
            if one.label_seq is not None:
                found = chains[one.subchain].residue(one.label_seq)
                assert (found.auth_seq_id, (found.ins_code or "").strip()) == (one.seqid.num, one.seqid.icode.strip())


def residue_labels(model: Model) -> list[str]:
    return [one.subchain for chain in model.structure[0] for one in chain]


@pytest.mark.parametrize(
    ("item", "value", "complaint"),
    [
        ("_ma_protocol_step.method_type", "magic", "not a valid enumerated value"),
        ("_ma_model_list.data_id", "99", "not defined in the parent category"),
        ("_atom_site.label_entity_id", "9", "not defined in the parent category"),
        ("_ma_data.id", "one", "does not match item type"),
        ("_ma_data.content_type", None, "cannot be missing"),
        ("_chem_comp.type", None, "cannot be missing"),
        ("_ma_target_entity.entity_id", "?", "cannot have value"),
    ],
)
def test_the_requirements_find_what_is_wrong(item: str, value: str | None, complaint: str, tmp_path: Path) -> None:
    block = written(read_model(saved(protein(), tmp_path / "x.cif")), tmp_path / "out.cif")
    validate(tmp_path / "out.cif")
    if value is None:
        category, _, name = item.partition(".")
        items = block.get_mmcif_category(f"{category}.", raw=True)
        del items[name]
        block.set_mmcif_category(f"{category}.", items, raw=True)
    else:
        block.find_values(item)[0] = value
    block.write_file(str(tmp_path / "wrong.cif"))
    with pytest.raises(ihm.dictionary.ValidatorError, match=complaint):
        validate(tmp_path / "wrong.cif")


def test_sequence_numbers_labels_and_names_of_an_mmcif_survive(tmp_path: Path) -> None:
    """Unmodelled residues stay in the sequence with the author's numbers, entities and labels keep their names."""
    structure = protein()
    missing_residues(structure)
    for one in structure[0][0]:
        one.seqid = gemmi.SeqId(one.seqid.num + 1000, " ")
        one.subchain, one.entity_id = "Xx1", "7"
    structure[0][0].name = "heavy"
    structure.entities[0].name, structure.entities[0].subchains = "7", ["Xx1"]
    structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    block = gemmi.cif.read(str(tmp_path / "x.cif")).sole_block()
    names = list(block.find_values("_entity_poly_seq.mon_id"))
    scheme = {
        "asym_id": ["Xx1"] * 214, "seq_id": [str(place) for place in range(1, 215)], "mon_id": names,
        "pdb_seq_num": [str(1000 + place) for place in range(1, 215)], "pdb_ins_code": [False] * 214,
    }  # fmt: skip
    block.set_mmcif_category("_pdbx_poly_seq_scheme.", scheme)
    block.set_mmcif_category("_entity.", {"id": ["7"], "type": ["polymer"], "pdbx_description": ["the enzyme"]})
    block.write_file(str(tmp_path / "x.cif"))
    model = read_model(tmp_path / "x.cif")
    for again in ("once.cif", "twice.cif"):
        block = written(model, tmp_path / again)
        model = read_model(tmp_path / again)
        assert list(block.find_values("_entity_poly_seq.mon_id")) == names
        assert list(block.find_values("_pdbx_poly_seq_scheme.pdb_seq_num")) == scheme["pdb_seq_num"]
        authors = list(block.find_values("_pdbx_poly_seq_scheme.auth_seq_num"))
        assert [place for place, number in enumerate(authors) if number == "?"] == [100, 101, 102, 103, 104]
        atoms = block.find("_atom_site.", ["label_asym_id", "label_entity_id", "label_seq_id", "auth_asym_id",
                                           "auth_seq_id"])  # fmt: skip
        assert {tuple(row)[:2] for row in atoms} == {("Xx1", "7")}
        assert all(int(row[4]) == int(row[2]) + 1000 and row[3] == "heavy" for row in atoms)
        assert block.find_values("_entity.pdbx_description")[0] == "'the enzyme'"
        validate(tmp_path / again)


def test_seqres_of_a_pdb_file_gives_the_sequence_and_the_places_in_it(tmp_path: Path) -> None:
    structure = protein()
    missing_residues(structure)
    path = saved(structure, tmp_path / "x.pdb")
    assert path.read_text().count("SEQRES") == 17
    block = written(read_model(path), tmp_path / "out.cif")
    assert len(block.find_values("_entity_poly_seq.mon_id")) == 214
    places = {(int(row[0]), int(row[1])) for row in block.find("_atom_site.", ["label_seq_id", "auth_seq_id"])}
    assert places == {(number, number) for number in range(1, 215) if not 101 <= number <= 105}
    assert set(block.find_values("_atom_site.label_asym_id")) == {"A"}


@pytest.mark.parametrize("name", ["x.cif", "x.pdb"])
def test_copies_under_one_chain_name_are_instances_of_their_own(name: str, tmp_path: Path) -> None:
    """A, B and A again: gemmi gives both A one label name."""
    structure = bare(protein())
    KINDS["two chains"][0](structure)
    added(structure, "A", [one.clone() for one in structure[0][0]])
    block = written(read_model(saved(structure, tmp_path / name)), tmp_path / "out.cif")
    validate(tmp_path / "out.cif")
    named = {tuple(row) for row in block.find("_atom_site.", ["label_asym_id", "label_seq_id", "label_atom_id"])}
    assert len(named) == 3 * 1656
    assert set(block.find_values("_atom_site.auth_asym_id")) == {"A", "B"}


def test_one_label_and_entity_for_all_atoms_is_sorted_out(tmp_path: Path) -> None:
    structure = protein()
    metals(structure)
    path = saved(structure, tmp_path / "x.cif")
    block = gemmi.cif.read(str(path)).sole_block()
    for item, value in (("label_asym_id", "A"), ("label_entity_id", "1")):
        column = block.find_values(f"_atom_site.{item}")
        for row in range(len(column)):
            column[row] = value
    block.write_file(str(path))
    model = read_model(path)
    block = written(model, tmp_path / "out.cif")
    validate(tmp_path / "out.cif")
    assert sorted(block.find_values("_entity.type")) == ["non-polymer", "non-polymer", "polymer", "water"]
    assert len(set(block.find_values("_atom_site.label_asym_id"))) == 5


def test_a_seqres_that_does_not_match_gives_way_to_the_residues(tmp_path: Path) -> None:
    path = saved(protein(), tmp_path / "x.pdb")
    wrong = [
        line.replace("ALA", "TRP") if line.startswith("SEQRES") else line for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(wrong) + "\n")
    model = read_model(path)
    assert list(model.structure.entities[0].full_sequence) == [key.name for key in model.residues]
    write_model(tmp_path / "out.cif", model)
    validate(tmp_path / "out.cif")


def test_a_pdb_gets_entities_by_what_its_molecules_are(tmp_path: Path) -> None:
    structure = bare(protein())
    for edit in (KINDS["two chains"][0], nucleic_acids, metals):
        edit(structure)
    block = written(read_model(saved(structure, tmp_path / "x.pdb")), tmp_path / "out.cif")
    kinds = {tuple(row) for row in block.find("_entity.", ["type", "pdbx_number_of_molecules"])}
    assert kinds == {("polymer", "2"), ("polymer", "1"), ("non-polymer", "1"), ("non-polymer", "2"), ("water", "1")}
    polymers = [gemmi.cif.as_string(kind) for kind in block.find_values("_entity_poly.type")]
    assert polymers == ["polypeptide(L)", "polydeoxyribonucleotide", "polyribonucleotide"]
    components = {row.str(0): row.str(1) for row in block.find("_chem_comp.", ["id", "type"])}
    assert components["GLY"] == "PEPTIDE LINKING"
    assert components["ALA"] == "L-PEPTIDE LINKING"
    assert components["DA"] == "DNA LINKING"
    assert components["U"] == "RNA LINKING"
    assert set(block.find_values("_pdbx_entity_nonpoly.ma_model_mode")) == {"explicit"}
    assert components["ZN"] == components["HOH"] == "NON-POLYMER"


def test_components_keep_what_the_input_says_of_them(tmp_path: Path) -> None:
    structure = protein()
    added(structure, "L", [residue("LIG", 1, [("C1", "C", [0, 0, 0]), ("O1", "O", [1.4, 0, 0])])])
    path = saved(structure, tmp_path / "x.cif")
    block = gemmi.cif.read(str(path)).sole_block()
    given = {"id": ["LIG"], "type": ["non-polymer"], "name": ["a made-up ligand"], "formula": ["C O"]}
    block.set_mmcif_category("_chem_comp.", given)
    block.write_file(str(path))
    for again in ("once.cif", "twice.cif"):
        block = written(read_model(path), tmp_path / again)
        path = tmp_path / again
        rows = {row.str(0): [row.str(column) for column in range(1, 4)] for row in
                block.find("_chem_comp.", ["id", "type", "name", "formula"])}  # fmt: skip
        assert rows["LIG"] == ["non-polymer", "a made-up ligand", "C O"]
        assert list(block.find_values("_pdbx_entity_nonpoly.name")) == ["'a made-up ligand'"]


def test_links_between_residues_are_kept_with_their_labels(tmp_path: Path) -> None:
    structure = bare(protein())
    glycan(structure)
    link = gemmi.Connection()
    link.name, link.type = "covale1", gemmi.ConnectionType.Covale
    link.partner1 = gemmi.make_address(structure[0][0], structure[0][0][137], structure[0][0][137]["ND2"][0])
    link.partner2 = gemmi.make_address(structure[0][1], structure[0][1][0], structure[0][1][0]["C1"][0])
    structure.connections.append(link)
    structure.setup_entities()
    path = saved(structure, tmp_path / "x.pdb")
    assert "LINK" in path.read_text()
    items = ["conn_type_id", "ptnr1_label_asym_id", "ptnr1_auth_seq_id", "ptnr2_label_asym_id", "ptnr2_auth_seq_id"]
    for again in ("once.cif", "twice.cif"):
        block = written(read_model(path), tmp_path / again)
        path = tmp_path / again
        assert [list(row) for row in block.find("_struct_conn.", items)] == [["covale", "A", "138", "B", "301"]]


def test_confidence_stands_in_the_metric_and_in_the_b_column(tmp_path: Path) -> None:
    structure = protein()
    metals(structure)
    model = read_model(saved(structure, tmp_path / "x.cif"))
    plddt = np.linspace(20, 95, len(model.residues))
    ion = next(row for row, key in enumerate(model.residues) if key.name == "ZN")
    water = next(row for row, key in enumerate(model.residues) if key.name == "HOH")
    plddt[water] = np.nan
    block = written(model, tmp_path / "out.cif", plddt=plddt)
    validate(tmp_path / "out.cif")
    local = list(block.find("_ma_qa_metric_local.", ["label_seq_id", "metric_value"]))
    assert [int(row[0]) for row in local] == list(range(1, 215))
    np.testing.assert_allclose([float(row[1]) for row in local], plddt[:214], atol=0.006)
    mean = float(block.find_values("_ma_qa_metric_global.metric_value")[0])
    assert mean == pytest.approx(np.nanmean(plddt), abs=0.006)
    b_factors = np.array([float(value) for value in block.find_values("_atom_site.B_iso_or_equiv")])
    expected = plddt[model.residue_of_atom]
    known = np.isfinite(expected)
    np.testing.assert_allclose(b_factors[known], expected[known], atol=0.006)
    assert b_factors[model.residue_of_atom == ion][0] == pytest.approx(plddt[ion], abs=0.006)
    assert b_factors[~known].tolist() == [20.0]
    with open(tmp_path / "out.cif") as file:
        (system,) = modelcif.reader.read(file)
    ((first,),) = ([*group] for group in system.model_groups)
    assert len(first.qa_metrics) == 215
    assert {metric.type for metric in first.qa_metrics} == {"pLDDT"}


def test_without_a_confidence_no_metric_is_stated_and_b_factors_stay(tmp_path: Path) -> None:
    model = read_model(saved(protein(), tmp_path / "x.cif"))
    block = written(model, tmp_path / "with.cif", plddt=np.full(214, 70.0))
    assert "_ma_qa_metric." in block.get_mmcif_category_names()
    confident = read_model(tmp_path / "with.cif")
    block = written(confident.moved_to(confident.positions + 1), tmp_path / "without.cif")
    assert not [name for name in block.get_mmcif_category_names() if "qa_metric" in name]
    assert {float(value) for value in block.find_values("_atom_site.B_iso_or_equiv")} == {70.0}


def test_values_for_the_wrong_number_of_atoms_or_residues_are_refused(tmp_path: Path) -> None:
    model = read_model(saved(protein(), tmp_path / "x.cif"))
    for extra in ({"plddt": np.zeros(len(model))}, {"amplitudes": np.zeros(3), "widths_angstrom": np.zeros(3)}):
        with pytest.raises(ValueError, match="is needed"):
            write_model(tmp_path / "out.cif", model, **extra)  # type: ignore[arg-type]
    assert not (tmp_path / "out.cif").exists()


def test_what_is_true_of_the_input_only_is_left_out(tmp_path: Path) -> None:
    structure = protein()
    KINDS["crystal"][0](structure)
    structure[0][0][0][0].aniso = gemmi.SMat33f(1, 1, 1, 0, 0, 0)
    path = saved(structure, tmp_path / "x.cif")
    assert "_atom_site_anisotrop." in gemmi.cif.read(str(path)).sole_block().get_mmcif_category_names()
    names = written(read_model(path), tmp_path / "out.cif").get_mmcif_category_names()
    for category in ("_cell.", "_symmetry.", "_atom_site_anisotrop.", "_refine.", "_exptl.", "_reflns."):
        assert category not in names


def test_a_real_complex_survives_and_conforms(shared_data: Path, tmp_path: Path) -> None:
    given = shared_data / "tcr" / "truth.cif"
    model = read_model(given)
    once = written(model, tmp_path / "once.cif", details="x")
    validate(tmp_path / "once.cif")
    write_model(tmp_path / "twice.cif", read_model(tmp_path / "once.cif"), details="x")
    assert (tmp_path / "once.cif").read_text() == (tmp_path / "twice.cif").read_text()
    before = gemmi.cif.read(str(given)).sole_block()
    for items in (("_entity_poly_seq.entity_id", "_entity_poly_seq.num", "_entity_poly_seq.mon_id"),
                  ("_struct_conn.id", "_struct_conn.ptnr1_auth_seq_id"), ("_struct_asym.id", "_struct_asym.entity_id"),
                  ("_atom_site.auth_asym_id", "_atom_site.label_asym_id", "_atom_site.label_seq_id",
                   "_atom_site.auth_seq_id", "_atom_site.pdbx_PDB_ins_code")):  # fmt: skip
        for item in items:
            assert list(once.find_values(item)) == list(before.find_values(item)), item
