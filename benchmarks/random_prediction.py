"""Predictions by random weights: their atoms are no protein's, but the network is of full size."""

from __future__ import annotations

import torch

from cocofold.alphafold.prediction import Prediction, Provenance
from cocofold.alphafold.sequences import Chains
from cocofold.alphafold.weight_layout import random_weights


def random_prediction(*sequences: str) -> Prediction:
    """A prediction of chains of these sequences, always the same one."""
    chains = Chains.of(sequences)
    n, draw = len(chains), torch.Generator().manual_seed(0)
    return Prediction(
        single=torch.randn(n, 384, generator=draw),
        pair=torch.randn(n, n, 128, generator=draw).half(),
        aatype=torch.as_tensor(chains.aatype()),
        mask=torch.ones(n, dtype=torch.bool),
        chain_index=torch.as_tensor(chains.chain_index()),
        residue_numbers=torch.as_tensor(chains.residue_numbers()),
        chains=chains,
        weights=random_weights(0),
        origin=Provenance(program="none", program_version=None, job="toy", model_number=1),
    )
