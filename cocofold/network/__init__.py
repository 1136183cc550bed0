"""AlphaFold-Multimer's structure module with the paper's image adapter.

Knows nothing of images, particles, or files other than weights.
"""

from cocofold.network.adapter import ImageAdapter
from cocofold.network.module import Folded, FoldingOptions, StructureModule
from cocofold.network.pairs import Pair, SegmentPair, normalise_pair, pair_types, segments_of
from cocofold.network.random_weights import random_weights
from cocofold.network.residues import ATOM14_NAMES, RESIDUE_NAMES
from cocofold.network.weights import (
    load_single_activations,
    load_structure_module,
    official_weights,
    read_weights,
    save_structure_module,
    save_weights,
)

__all__ = [
    "ATOM14_NAMES",
    "RESIDUE_NAMES",
    "Folded",
    "FoldingOptions",
    "ImageAdapter",
    "Pair",
    "SegmentPair",
    "StructureModule",
    "load_single_activations",
    "load_structure_module",
    "normalise_pair",
    "official_weights",
    "pair_types",
    "random_weights",
    "read_weights",
    "save_structure_module",
    "save_weights",
    "segments_of",
]
