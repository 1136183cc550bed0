"""Confidence of a prediction: pLDDT of residues and predicted aligned error of pairs."""

from __future__ import annotations

import torch
from torch import nn

from cocofold.network.sizes import HIDDEN_WIDTH, PAIR_WIDTH, SINGLE_WIDTH

LDDT_BINS, ERROR_BINS = 50, 64
LARGEST_ERROR_ANGSTROM = 31.0

_BLOCK_PAIRS = 1 << 16


class ResidueConfidence(nn.Module):
    """Predicted lDDT-Cα (Jumper et al., alg. 29)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SINGLE_WIDTH)
        self.first = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.second = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)
        self.logits = nn.Linear(HIDDEN_WIDTH, LDDT_BINS)

    def forward(self, act: torch.Tensor) -> torch.Tensor:
        """pLDDT of each residue, (n,), from 0 to 100; ``act`` is (n, 384)."""
        logits = self.logits(self.second(self.first(self.norm(act)).relu()).relu())
        centres = (torch.arange(LDDT_BINS, dtype=act.dtype, device=act.device) + 0.5) * (100 / LDDT_BINS)
        return torch.matmul(logits.softmax(dim=1), centres)


class AlignedError(nn.Module):
    """Error of a residue's position when another's frame is superposed (Jumper et al., suppl. 1.9.7)."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(PAIR_WIDTH, ERROR_BINS)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Expected error, (n, n) Å, from the pair representation as it left the trunk, (n, n, 128); row: the frame."""
        weight = self.logits.weight
        width = LARGEST_ERROR_ANGSTROM / (ERROR_BINS - 2)
        centres = (torch.arange(ERROR_BINS, dtype=weight.dtype, device=weight.device) + 0.5) * width
        rows = pair.split(max(1, _BLOCK_PAIRS // len(pair)))
        return torch.cat([torch.matmul(self.logits(block.to(weight.dtype)).softmax(dim=2), centres) for block in rows])
