"""AlphaFold-Multimer's structure module with the paper's image adapter.

Knows nothing of images, particles, or files other than weights.
"""

from cocofold.alphafold.weights import load_structure_module

__all__ = ["load_structure_module"]
