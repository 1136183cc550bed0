"""Symmetric assemblies: point groups, and copies of a subunit that share its parameters.

Knows nothing of images and of maps.
"""

from cocofold.symmetry.copies import Copies, assembly_of, copied
from cocofold.symmetry.groups import normal_name, rotations_of

__all__ = ["Copies", "assembly_of", "copied", "normal_name", "rotations_of"]
