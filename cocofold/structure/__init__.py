"""Models of molecules: reading and writing, residue frames, torsions, geometry.

Knows nothing of images.
"""

from cocofold.structure.backbone import Backbone, centroids, frames
from cocofold.structure.model import Model, ResidueKey
from cocofold.structure.modelcif import write_model
from cocofold.structure.reading import read_model, read_placed_as
from cocofold.structure.restraints import Restraints
from cocofold.structure.torsions import Torsions

__all__ = [
    "Backbone",
    "Model",
    "ResidueKey",
    "Restraints",
    "Torsions",
    "centroids",
    "frames",
    "read_model",
    "read_placed_as",
    "write_model",
]
