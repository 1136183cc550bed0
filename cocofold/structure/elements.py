"""Elements of atoms whose file does not say them."""

from __future__ import annotations

import gemmi

_CARBON = 6
# Symbols of two letters that names of atoms in larger residues begin with; CA, CD, HG and the like are not among them.
_TWO_LETTERS = ("BR", "CL", "FE", "MG", "MN", "SE", "ZN")
_ONE_LETTER = "BCDFHIKNOPS"


def atomic_number(atom: gemmi.Atom, residue: gemmi.Residue) -> int:
    """Number of the atom's element; for one of unknown element that of its name, or else carbon's."""
    if atom.element.atomic_number > 0:
        return atom.element.atomic_number
    return element_named(atom.name, len(residue) == 1).atomic_number or _CARBON


def element_named(atom_name: str, alone: bool) -> gemmi.Element:
    """The element that an atom's name says, X if it says none.

    Parameters
    ----------
    atom_name : str
    alone : bool
        The only atom of its residue, as in an ion: a calcium then, not a CA atom.
    """
    letters = ""
    for letter in atom_name.lstrip("0123456789*'\"").upper():
        if not letter.isalpha():
            break
        letters += letter
    if alone and gemmi.Element(letters).atomic_number > 0:
        return gemmi.Element(letters)
    if letters[:2] in _TWO_LETTERS:
        return gemmi.Element(letters[:2])
    return gemmi.Element(letters[0] if letters and letters[0] in _ONE_LETTER else "X")
