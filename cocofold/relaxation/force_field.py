"""A model's protein and nucleic acids as the force field has them, and the energy that relaxation brings down.

The protein is completed with missing atoms, and all with hydrogens. The energy is Amber14 in implicit solvent with
restraints that keep the model as it is.
"""

from __future__ import annotations

import io
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cocofold.relaxation import (
    FROZEN_WITHIN_ANGSTROM,
    PHOSPHATE_END,
    SELENOMETHIONINE,
    RelaxedResidues,
    are_sugars,
    force_field_atom_name,
    hydrogens_at_ends,
    templates_with_phosphate,
)
from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model
from cocofold.system.errors import InputError

# Amber ff14SB, OL15 of DNA and OL3 of RNA with OBC II (Onufriev, Bashford & Case 2004), under OpenMM's names
FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
# Non-bonded interactions end here, as is usual for these force fields in implicit solvent without periodicity
CUTOFF_NM = 1.0
ANGSTROM_PER_NM = 10.0
# By this name the force of the images is found in a system.
IMAGE_FORCE_NAME = "images"
# kJ/mol: of a peptide bond turned by 90 degrees, and of an improper torsion off by a radian. Smaller ones could give
# way to a clash, so that a peptide turns over or a residue changes its chirality; larger ones strain bonds nearby.
_OMEGA_STRENGTH_KJ, _CHIRALITY_STRENGTH_KJ = 150.0, 400.0
# The improper torsion CA-N-C-CB of a tetrahedral carbon is about 35 degrees.
_IMPROPER_RAD = 0.6
_HYDROGEN, _SULPHUR = 1, 16
_SELENIUM_ATOM, _SULPHUR_ATOM = "SE", "SD"
# 0 would stand for any seed in OpenMM
_SEED = 1
# Length (Å) of C-O in a carboxylate, of P-OH, and of CA-CB; angle of a tetrahedron
_CARBOXYLATE_BOND_ANGSTROM, _PHOSPHATE_BOND_ANGSTROM = 1.25, 1.61
_BETA_BOND_ANGSTROM, _TETRAHEDRAL_DEGREES = 1.53, 109.5


def load_force_field(solvent: bool = True) -> Any:
    """The force field of proteins and nucleic acids, with implicit solvent (generalised Born, OBC II) or in vacuum."""
    from openmm import app

    field = app.ForceField(*(FORCE_FIELD if solvent else FORCE_FIELD[:1]))
    more = ElementTree.Element("ForceField")
    ElementTree.SubElement(more, "Residues").extend(templates_with_phosphate().values())
    field.loadFile(io.StringIO(ElementTree.tostring(more, encoding="unicode")))
    return field


def build_system(parts: ForceFieldParts, field: Any, model: Model, image_force: bool) -> Any:
    """The system of a model's protein and nucleic acids, with restraints.

    Heavy atoms are held to their positions by a harmonic restraint of strength ``hold`` (kJ/mol/nm², a parameter of the
    context). Peptides are held cis or trans and amino acids in their chirality, as they are. Atoms near others that
    are left out do not move.

    Parameters
    ----------
    parts : ForceFieldParts
    field : openmm.app.ForceField
    model : Model
        Of which these are parts.
    image_force : bool
        Whether each atom takes a constant force, in the force `IMAGE_FORCE_NAME`: parameters fx, fy, fz (kJ/mol/nm).
    """
    from openmm import app, unit

    system = field.createSystem(
        parts.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        constraints=None,
        removeCMMotion=False,
    )
    _restrain_positions(system, parts)
    _hold_peptides(system, parts)
    _hold_chirality(system, parts)
    for atom in _atoms_near(parts, model).tolist():
        # OpenMM does not move atoms without mass.
        system.setParticleMass(atom, 0)
    if image_force:
        _add_image_force(system)
    return system


def image_force_of(system: Any) -> Any:
    """The force of the images in a system that was built with one."""
    return next(force for force in system.getForces() if force.getName() == IMAGE_FORCE_NAME)


def _restrain_positions(system: Any, parts: ForceFieldParts) -> None:
    import openmm

    hold = openmm.CustomExternalForce("0.5*hold*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    hold.addGlobalParameter("hold", 0.0)
    for axis in ("x0", "y0", "z0"):
        hold.addPerParticleParameter(axis)
    for atom in np.flatnonzero((parts.model_row >= 0) & parts.is_heavy).tolist():
        hold.addParticle(atom, (parts.positions[atom] / ANGSTROM_PER_NM).tolist())
    system.addForce(hold)


def _add_image_force(system: Any) -> None:
    import openmm

    pull = openmm.CustomExternalForce("-(fx*x+fy*y+fz*z)")
    pull.setName(IMAGE_FORCE_NAME)
    for axis in ("fx", "fy", "fz"):
        pull.addPerParticleParameter(axis)
    for atom in range(system.getNumParticles()):
        pull.addParticle(atom, [0.0, 0.0, 0.0])
    system.addForce(pull)


def _atoms_by_name(parts: ForceFieldParts) -> list[dict[str, int]]:
    """Atoms of each residue by name."""
    return [{atom.name: atom.index for atom in residue.atoms()} for residue in parts.topology.residues()]


def peptide_torsion_atoms(named: dict[str, int], next_named: dict[str, int]) -> list[int]:
    """Atoms CA, C, N and CA of the torsion omega between two residues, by their atoms' names; -1 for one missing."""
    return [named.get("CA", -1), named.get("C", -1), next_named.get("N", -1), next_named.get("CA", -1)]


def _hold_peptides(system: Any, parts: ForceFieldParts) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(1-cos(theta-theta0))")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    residues = list(parts.topology.residues())
    named = _atoms_by_name(parts)
    for one, other in zip(residues, residues[1:]):
        if one.chain is not other.chain:
            continue
        atoms = peptide_torsion_atoms(named[one.index], named[other.index])
        if -1 in atoms:
            continue
        omega = float(torsion_radians(parts.positions[atoms]))
        force.addTorsion(*atoms, [_OMEGA_STRENGTH_KJ, 0.0 if abs(omega) < np.pi / 2 else np.pi])
    system.addForce(force)


def _hold_chirality(system: Any, parts: ForceFieldParts) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(theta-theta0)^2")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    for named in _atoms_by_name(parts):
        atoms = [named.get(name, -1) for name in ("CA", "N", "C", "CB")]
        if -1 in atoms:
            continue
        force.addTorsion(
            *atoms, [_CHIRALITY_STRENGTH_KJ, float(np.copysign(_IMPROPER_RAD, torsion_radians(parts.positions[atoms])))]
        )
    system.addForce(force)


def _atoms_near(parts: ForceFieldParts, model: Model) -> np.ndarray:
    """Heavy atoms that are too near to atoms of the model that are left out to move, (n,) int.

    That is within 4.5 Å; of a residue that binds a sugar the atom that does so, with those that are bonded to it.
    """
    from scipy.spatial import cKDTree

    sugars = are_sugars(model)
    binding = parts.chosen.bound[sugars[model.residue_of_atom[parts.chosen.bound[:, 1]]], 0]
    is_near = np.isin(parts.model_row, binding)
    for one, other in list(parts.topology.bonds()) if len(binding) else []:
        ends = [one.index, other.index]
        is_near[ends] |= np.isin(parts.model_row[ends], binding).any()
    is_free = np.isin(parts.model_residue, model.residue_of_atom[binding])
    for chosen, is_exempt in ((~sugars, False), (sugars, is_free)):
        others = model.positions[(parts.chosen.left_out & chosen)[model.residue_of_atom]]
        if len(others):
            distance, _ = cKDTree(others).query(parts.positions, distance_upper_bound=FROZEN_WITHIN_ANGSTROM)
            is_near |= np.isfinite(distance) & ~np.asarray(is_exempt)
    return np.flatnonzero(is_near & parts.is_heavy)


@dataclass(frozen=True)
class ForceFieldParts:
    """The protein and the nucleic acids of a model as OpenMM sees them.

    Attributes
    ----------
    chosen : RelaxedResidues
        Which residues of the model they are.
    topology : openmm.app.Topology
        Topology with hydrogens and missing heavy atoms, and a chain for each piece without a gap.
    positions : (n, 3) float
        Å.
    is_heavy : (n,) bool
        Atoms other than hydrogens.
    model_row : (n,) int
        Row of each atom in the model, or -1 for one that was added.
    model_residue : (n,) int
        Row in ``Model.residues`` of each atom.
    is_stand_in : (n,) bool
        Added atoms that the molecule does not have: they stand for the neighbour behind a gap, or for what is bound.
    n_disulphides : int
    """

    chosen: RelaxedResidues
    topology: Any
    positions: np.ndarray
    is_heavy: np.ndarray
    model_row: np.ndarray
    model_residue: np.ndarray
    is_stand_in: np.ndarray
    n_disulphides: int


def build_parts(model: Model, forcefield: Any, platform: Any) -> ForceFieldParts:
    """The protein of a model, with what was missing of its residues, and the nucleic acids.

    Selenomethionine is built as methionine. Hydrogens of the model are replaced. Missing residues are not built: the
    ends of a gap are ends of chains.

    Parameters
    ----------
    model : Model
    forcefield : openmm.app.ForceField
    platform : openmm.Platform
        Platform on which hydrogens are placed.

    Raises
    ------
    InputError
        If the model has no residue that the force field knows, or only CA atoms.
    """
    from openmm import unit

    chosen = RelaxedResidues.of(model)
    topology, rows, positions = _heavy_atom_topology(model, chosen)
    disulphides = sum(1 for bond in topology.bonds() if {bond[0].name, bond[1].name} == {"SG"})
    residues = [number for piece in chosen.pieces for number in piece]
    labels = [f"{key.name} {key.number}{key.insertion_code} of chain {key.chain}" for key in model.residues]
    row_of = {(atom.residue.index, atom.name): row for atom, row in zip(topology.atoms(), rows.tolist())}
    modeller = _with_missing_atoms(topology, positions, forcefield, platform, [labels[row] for row in residues])
    atoms = list(modeller.topology.atoms())
    positions = np.array(modeller.positions.value_in_unit(unit.angstrom))
    model_row = np.array([row_of.get((atom.residue.index, atom.name), -1) for atom in atoms])
    return ForceFieldParts(
        chosen=chosen,
        topology=modeller.topology,
        positions=positions,
        is_heavy=np.array([atom.element.atomic_number != _HYDROGEN for atom in atoms]),
        model_row=model_row,
        model_residue=np.array([residues[atom.residue.index] for atom in atoms]),
        is_stand_in=_stand_ins(model, chosen, modeller.topology, positions, model_row),
        n_disulphides=disulphides,
    )


def _stand_ins(
    model: Model, chosen: RelaxedResidues, topology: Any, positions: np.ndarray, model_row: np.ndarray
) -> np.ndarray:
    """Added atoms that the molecule does not have, (n,) bool.

    These are oxygens at the ends of pieces, and of an atom to which something is bound, such as a sugar, the hydrogen
    that is nearest to that.
    """
    names = np.array([atom.name for atom in topology.atoms()])
    found = np.isin(names, ("OXT", PHOSPHATE_END)) & (model_row < 0)
    hydrogens: dict[int, list[int]] = {}
    for one, other in topology.bonds():
        for parent, atom in ((one, other), (other, one)):
            if atom.element.atomic_number == _HYDROGEN:
                hydrogens.setdefault(parent.index, []).append(atom.index)
    place = {row: atom for atom, row in enumerate(model_row.tolist())}
    for atom, other in chosen.bound.tolist():
        near = [one for one in hydrogens.get(place.get(atom, -1), []) if not found[one]]
        if near:
            found[min(near, key=lambda one: float(np.linalg.norm(positions[one] - model.positions[other])))] = True
    return found


def _with_missing_atoms(topology: Any, positions: np.ndarray, forcefield: Any, platform: Any, labels: list[str]) -> Any:
    """An OpenMM modeller with the missing heavy atoms of residues and with hydrogens.

    ``positions`` are (n, 3) Å, ``labels`` the names of the residues in messages.
    """
    from openmm import app, unit
    from pdbfixer import PDBFixer

    text = io.StringIO()
    app.PDBxFile.writeFile(topology, positions * unit.angstrom, text, keepIds=True)
    text.seek(0)
    with warnings.catch_warnings():
        # What these programs warn of concerns the file between them, not the user's model.
        warnings.simplefilter("ignore")
        fixer = PDBFixer(pdbxfile=text)
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=_SEED)
        modeller = app.Modeller(fixer.topology, fixer.positions)
        # Hydrogens start from random directions of Python's generator, whose state is the caller's.
        state = random.getstate()
        random.seed(_SEED)
        try:
            modeller.addHydrogens(forcefield, platform=platform, variants=hydrogens_at_ends(modeller.topology))
        except ValueError as error:
            # OpenMM counts residues from 0.
            said = re.sub(r"residue (\d+) \(\w+\)", lambda found: labels[int(found[1])], str(error))
            raise InputError(
                f"the force field does not know a residue ({said}); remove it or rename its atoms"
            ) from error
        finally:
            random.setstate(state)
    return modeller


def _heavy_atom_topology(model: Model, chosen: RelaxedResidues) -> tuple[Any, np.ndarray, np.ndarray]:
    """An OpenMM topology of the heavy atoms, their rows in the model or -1, and positions (Å).

    A missing CB is built here, since what else is built of a side chain takes its chirality from it, and so is the
    oxygen at the end of each piece.
    """
    from openmm import app, unit

    topology, rows, positions = app.Topology(), [], []
    runs = np.split(np.arange(len(model)), np.flatnonzero(np.diff(model.residue_of_atom)) + 1)
    atoms_of_residue = {int(model.residue_of_atom[atoms[0]]): atoms.tolist() for atoms in runs}
    for number, piece in enumerate(chosen.pieces, start=1):
        chain = topology.addChain(str(number))
        for place, residue in enumerate(piece, start=1):
            standard = chosen.names[residue]
            added, named = topology.addResidue(standard, chain, str(place)), {}
            for row in atoms_of_residue[residue]:
                element = int(model.atomic_numbers[row])
                if element == _HYDROGEN or (model.atom_names[row] == "OXT" and residue != piece[-1]):
                    continue
                atom_name = force_field_atom_name(standard, str(model.atom_names[row]))
                if model.residues[residue].name == SELENOMETHIONINE and atom_name == _SELENIUM_ATOM:
                    atom_name, element = _SULPHUR_ATOM, _SULPHUR
                topology.addAtom(atom_name, app.Element.getByAtomicNumber(element), added)
                rows.append(row)
                positions.append(model.positions[row])
                named[atom_name] = model.positions[row]
            for atom_name, position in _added_heavy_atoms(standard, named, place == 1, place == len(piece)):
                topology.addAtom(atom_name, app.Element.getBySymbol(atom_name[0]), added)
                rows.append(-1)
                positions.append(position)
    topology.createStandardBonds()
    topology.createDisulfideBonds(np.array(positions) * unit.angstrom)
    return topology, np.array(rows), np.array(positions)


def _added_heavy_atoms(
    residue: str, named: dict[str, np.ndarray], is_first: bool, is_last: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and position (Å) of atoms that are built of a residue: CB, and the oxygens at both ends of a piece."""
    if "CA" not in named:
        if is_first and "P" in named and PHOSPHATE_END not in named:
            yield (
                PHOSPHATE_END,
                _opposite(named["P"], [named[name] for name in ("OP1", "OP2", "O5'")], _PHOSPHATE_BOND_ANGSTROM),
            )
        return
    if residue != "GLY" and "CB" not in named:
        yield "CB", _beta_carbon(named["N"], named["CA"], named["C"])
    if is_last and "OXT" not in named and "O" in named:
        yield "OXT", _opposite(named["C"], [named["CA"], named["O"]], _CARBOXYLATE_BOND_ANGSTROM)


def _opposite(centre: np.ndarray, others: list[np.ndarray], length: float) -> np.ndarray:
    """The point at a distance from an atom that is opposite to the atoms bonded to it: Å."""
    away = -sum((point - centre) / np.linalg.norm(point - centre) for point in others)
    return centre + length * away / np.linalg.norm(away)


def _beta_carbon(nitrogen: np.ndarray, alpha: np.ndarray, carbon: np.ndarray) -> np.ndarray:
    """Where CB of an L-amino acid is: 1.53 Å from CA, tetrahedral to N and C."""
    toward = [point - alpha for point in (nitrogen, carbon)]
    toward = [one / np.linalg.norm(one) for one in toward]
    between = toward[0] + toward[1]
    aside = np.cross(toward[0], toward[1])
    half = np.radians(_TETRAHEDRAL_DEGREES) / 2
    direction = -np.cos(half) * between / np.linalg.norm(between) + np.sin(half) * aside / np.linalg.norm(aside)
    return alpha + _BETA_BOND_ANGSTROM * direction
