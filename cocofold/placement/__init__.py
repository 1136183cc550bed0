"""A model placed rigidly in a map: the whole, its bodies, and the map's hand.

Knows nothing of networks and of particles.
"""

from cocofold.placement.domains import bodies_by_error
from cocofold.placement.fitting import AUTO, HANDS, Fit, fit
from cocofold.placement.maps import DensityMap, read_map, same_grid
from cocofold.placement.placement import AS_IS, MIRRORED, Body, Placement, apply_placement, bodies_of_atoms

__all__ = [
    "AS_IS",
    "AUTO",
    "HANDS",
    "MIRRORED",
    "Body",
    "DensityMap",
    "Fit",
    "Placement",
    "apply_placement",
    "bodies_by_error",
    "bodies_of_atoms",
    "fit",
    "read_map",
    "same_grid",
]
