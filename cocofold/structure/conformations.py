"""One conformation of each residue: the first."""

from __future__ import annotations

import gemmi


def keep_first_conformations(structure: gemmi.Structure) -> int:
    """Leave of alternate conformations the first of each residue; returns how many residues had others.

    All atoms of a residue are taken from the conformation that the file gives first, so that none is mixed from two;
    atoms which that one does not have come from the first that has them. Of two residues at one position
    (microheterogeneity) the first stays. A residue of the same number that is no alternate, as a ligand's, stays too.
    """
    changed = 0
    for chain in structure[0]:
        positions = set()
        for row in range(len(chain) - 1, -1, -1):
            if _is_alternate_of_another(chain, row):
                positions.add((chain[row].subchain, str(chain[row].seqid)))
                del chain[row]
        for residue in chain:
            if _keep_first_of_residue(residue):
                positions.add((residue.subchain, str(residue.seqid)))
        changed += len(positions)
    return changed


def _is_alternate_of_another(chain: gemmi.Chain, row: int) -> bool:
    """Whether the residue and an earlier one at its position are labelled as alternates."""
    residue = chain[row]
    if not all(atom.has_altloc() for atom in residue):
        return False
    # Alternates stand next to each other: what comes before has another number.
    for before in range(row - 1, -1, -1):
        other = chain[before]
        if other.seqid != residue.seqid:
            return False
        if other.subchain == residue.subchain and all(atom.has_altloc() for atom in other):
            return True
    return False


def _keep_first_of_residue(residue: gemmi.Residue) -> bool:
    """Leave one atom of each name, of the residue's first conformation if that has it; whether there were others."""
    labels = [atom.altloc for atom in residue if atom.has_altloc()]
    if not labels:
        return False
    kept: dict[str, int] = {}
    for row, atom in enumerate(residue):
        name = _site(atom)
        if name not in kept or (atom.altloc == labels[0] and residue[kept[name]].altloc != labels[0]):
            kept[name] = row
    for row in sorted(set(range(len(residue))) - set(kept.values()), reverse=True):
        del residue[row]
    for atom in residue:
        atom.altloc = "\0"
    return len(set(labels)) > 1


def _site(atom: gemmi.Atom) -> str:
    """Name of an atom's site: a deuterium in the place of a hydrogen is a conformation of the same atom."""
    return "H" + atom.name[1:] if atom.element.name == "D" and atom.name.startswith("D") else atom.name
