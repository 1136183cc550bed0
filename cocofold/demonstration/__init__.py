"""Two states of adenylate kinase, for a demonstration without data of one's own.

Protein atoms of chain A of the PDB entries 1AKE (closed; Müller & Schulz 1992) and 4AKE (open; Müller et al. 1996),
in the public domain (CC0). Both lie in the frame of a box of 64 pixels of 2.5 Å, their CORE domains (residues 1-29,
68-117, 161-214) superposed; the files themselves say where they come from.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

BOX = 64
PIXEL_SIZE_ANGSTROM = 2.5


def closed_state() -> Path:
    """Path of the closed state, 1AKE."""
    return _bundled("adenylate_kinase_closed.cif")


def open_state() -> Path:
    """Path of the open state, 4AKE."""
    return _bundled("adenylate_kinase_open.cif")


def _bundled(name: str) -> Path:
    return Path(str(files(__name__) / name))
