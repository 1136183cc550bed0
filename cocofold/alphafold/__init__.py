"""AlphaFold-Multimer's structure module with the paper's image adapter, its weights, and predictions of other programs.

It knows nothing of images and particles.
"""

from cocofold.alphafold.weights import load_structure_module

__all__ = ["load_structure_module"]
