"""Layers whose gradients are the same bits on any number of a processor's threads."""

from __future__ import annotations

import torch
from torch import nn

# Of fewer outputs than these the processor's libraries divide the sum over rows among threads.
_OUTPUTS = 8


class LayerNorm(nn.LayerNorm):
    """A layer normalisation; torch's own adds the gradients of its weights thread by thread."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values, of the same shape."""
        return nn.functional.layer_norm(values, self.normalized_shape, eps=self.eps) * self.weight + self.bias


class NarrowLinear(nn.Linear):
    """A linear layer with less than eight outputs, computed as one with eight."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(n, in_features) to (n, out_features)."""
        filled = nn.functional.pad(self.weight, (0, 0, 0, _OUTPUTS - self.out_features))
        return nn.functional.linear(values, filled)[..., : self.out_features] + self.bias
