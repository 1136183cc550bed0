"""A model placed rigidly in a map: the whole, its bodies, and the map's hand.

Knows nothing of networks and of particles.
"""

from cocofold.placement.fitting import AUTO, HANDS, Fit, fit
from cocofold.placement.maps import DensityMap, read_map, same_grid
from cocofold.placement.placement import Body, Placement, apply_placement

__all__ = [
    "AUTO",
    "HANDS",
    "Body",
    "DensityMap",
    "Fit",
    "Placement",
    "apply_placement",
    "fit",
    "read_map",
    "same_grid",
]
