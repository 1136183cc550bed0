"""Models of molecules: reading and writing, residue frames, torsions, geometry.

Knows nothing of images.
"""

from cocofold.structure.model import Model, ResidueKey, read_model, write_model

__all__ = ["Model", "ResidueKey", "read_model", "write_model"]
