"""The energy that relaxation brings down: Amber14 in implicit solvent, and what keeps the model as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from cocofold.relaxation.parts import Parts
from cocofold.relaxation.torsion import dihedral

FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
CUTOFF_NM = 1.0
# kJ/mol: of a peptide bond turned by 90 degrees, and of an improper torsion off by a radian
_OMEGA, _HAND = 150.0, 400.0
_IMPROPER_RAD = 0.6
_FROZEN_WITHIN_ANGSTROM = 4.5


def forcefield(solvent: bool = True) -> Any:
    """The force field of proteins, with implicit solvent (generalised Born, OBC II) or in vacuum."""
    from openmm import app

    return app.ForceField(*(FORCE_FIELD if solvent else FORCE_FIELD[:1]))


def system_of(parts: Parts, field: Any, others: np.ndarray, image_force: bool) -> Any:
    """The system of a protein, with restraints.

    Heavy atoms are held to their positions by a harmonic restraint of strength ``hold`` (kJ/mol/nm², a parameter of the
    context). Peptides are held cis or trans and CA atoms in their hand, as they are. Atoms near others that the force
    field does not know do not move.

    Parameters
    ----------
    parts : Parts
    field : openmm.app.ForceField
    others : (m, 3) float
        Atoms (Å) that are not part of the protein.
    image_force : bool
        Whether each atom takes a constant force, in the last force of the system: parameters fx, fy, fz (kJ/mol/nm).
    """
    import openmm
    from openmm import app, unit

    system = field.createSystem(
        parts.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        constraints=None,
        removeCMMotion=False,
    )
    known = (parts.row >= 0) & parts.heavy
    hold = openmm.CustomExternalForce("0.5*hold*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    hold.addGlobalParameter("hold", 0.0)
    for axis in ("x0", "y0", "z0"):
        hold.addPerParticleParameter(axis)
    for atom in np.flatnonzero(known).tolist():
        hold.addParticle(atom, (parts.positions[atom] / 10).tolist())
    system.addForce(hold)
    _hold_peptides(system, parts)
    _hold_hands(system, parts)
    for atom in _near(parts, others).tolist():
        system.setParticleMass(atom, 0)
    if image_force:
        pull = openmm.CustomExternalForce("-(fx*x+fy*y+fz*z)")
        for axis in ("fx", "fy", "fz"):
            pull.addPerParticleParameter(axis)
        for atom in range(system.getNumParticles()):
            pull.addParticle(atom, [0.0, 0.0, 0.0])
        system.addForce(pull)
    return system


def _named(parts: Parts) -> list[dict[str, int]]:
    """Atoms of each residue by name."""
    return [{atom.name: atom.index for atom in residue.atoms()} for residue in parts.topology.residues()]


def _hold_peptides(system: Any, parts: Parts) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(1-cos(theta-theta0))")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    residues = list(parts.topology.residues())
    named = _named(parts)
    for one, other in zip(residues, residues[1:]):
        if one.chain is not other.chain:
            continue
        this, following = named[one.index], named[other.index]
        atoms = [this.get("CA", -1), this.get("C", -1), following.get("N", -1), following.get("CA", -1)]
        if -1 in atoms:
            continue
        omega = dihedral(parts.positions[atoms])
        force.addTorsion(*atoms, [_OMEGA, 0.0 if abs(omega) < np.pi / 2 else np.pi])
    system.addForce(force)


def _hold_hands(system: Any, parts: Parts) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(theta-theta0)^2")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    for named in _named(parts):
        atoms = [named.get(name, -1) for name in ("CA", "N", "C", "CB")]
        if -1 in atoms:
            continue
        force.addTorsion(*atoms, [_HAND, float(np.copysign(_IMPROPER_RAD, dihedral(parts.positions[atoms])))])
    system.addForce(force)


def _near(parts: Parts, others: np.ndarray) -> np.ndarray:
    """Atoms of the protein that other atoms of the model touch."""
    from scipy.spatial import cKDTree

    if len(others) == 0:
        return np.zeros(0, int)
    distance, _ = cKDTree(others).query(parts.positions, distance_upper_bound=_FROZEN_WITHIN_ANGSTROM)
    return np.flatnonzero(np.isfinite(distance) & parts.heavy)
