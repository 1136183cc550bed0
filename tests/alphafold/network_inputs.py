"""Small random inputs and weights for tests of the network."""

from __future__ import annotations

import torch

from cocofold.alphafold import load_structure_module
from cocofold.alphafold.structure_network import FoldingOptions, StructureModule
from cocofold.alphafold.weight_layout import random_weights


def rough_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in which nothing is zero or one: every bias, scale and offset shows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: array + 0.1 * torch.randn(array.shape, generator=generator) * (array.ndim == 1)
        for name, array in random_weights(seed).items()
    }


def rough_module(options: FoldingOptions = FoldingOptions()) -> StructureModule:
    """A module with rough weights, float64."""
    return load_structure_module(rough_weights(), options).double()


def random_inputs(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Single, pair, amino acids (all kinds in turn) and a mask of ones, float64."""
    generator = torch.Generator().manual_seed(seed)
    single = torch.randn(n, 384, generator=generator, dtype=torch.float64)
    pair = torch.randn(n, n, 128, generator=generator, dtype=torch.float64)
    return single, pair, torch.arange(n) % 20, torch.ones(n)
