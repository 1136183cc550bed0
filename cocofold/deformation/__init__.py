"""A given model under a multi-scale field of rigid motions, with side-chain torsions at the finest level.

Knows nothing of images or networks.
"""

from cocofold.deformation.on_top import FieldOnTop
from cocofold.deformation.source import DeformationSource

__all__ = ["DeformationSource", "FieldOnTop"]
