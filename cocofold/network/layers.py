"""Layers whose gradients are the same bits on any number of a processor's threads."""

from __future__ import annotations

import torch
from torch import nn


class LayerNorm(nn.LayerNorm):
    """A layer normalisation; torch's own adds the gradients of its weights thread by thread."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values, of the same shape."""
        return nn.functional.layer_norm(values, self.normalized_shape, eps=self.eps) * self.weight + self.bias
