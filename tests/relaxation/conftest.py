"""A fragment of adenylate kinase, small enough to relax in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cocofold.commands.demo import open_state
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="session")
def whole() -> Model:
    return read_model(open_state())


@pytest.fixture(scope="session")
def fragment(whole: Model) -> Callable[..., Model]:
    """Residues first to last, without some, at positions disturbed by normal noise (Å)."""

    def make(first: int, last: int, without: tuple[int, ...] = (), noise: float = 0.0, seed: int = 0) -> Model:
        kept = np.array([first <= key.number <= last and key.number not in without for key in whole.residues])
        model = whole.only(kept)
        moves = np.random.default_rng(seed).normal(0, noise, model.positions.shape) if noise else 0.0
        return replace(model, positions=model.positions + moves)

    return make
