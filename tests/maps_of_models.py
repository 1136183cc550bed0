"""Reconstructions of a model with white noise, as many images had made them, of which none lacks a view."""

from __future__ import annotations

import numpy as np

from cocofold.commands.demo import open_state
from cocofold.imaging.projection import render_density
from cocofold.likelihood.reconstruction import Reconstruction
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model

BOX, PIXEL = 32, 4.0
HEIGHT, WIDTH = 0.02, 1.5


def whole_model() -> Model:
    """Adenylate kinase, open, in the middle of the box."""
    model = read_model(open_state())
    return model.moved_to(model.positions - model.positions.mean(0) + BOX // 2 * PIXEL)


def is_lid(model: Model) -> np.ndarray:
    """Residues of adenylate kinase's LID domain."""
    return np.array([118 <= key.number <= 160 for key in model.residues])


def imaged(*models: Model, noise: float = 0.05) -> Reconstruction:
    """Maps of a model, or of the mean of several."""
    clean = np.zeros((BOX, BOX, BOX))
    for model in models:
        masses = model.atomic_numbers * HEIGHT
        drawn = render_density(model.positions, masses, np.full(len(model), WIDTH), BOX, PIXEL)
        clean += drawn * (masses.sum() / drawn.sum() / len(models))
    halves = [clean + np.random.default_rng(half).normal(0, noise, clean.shape) for half in (1, 2)]
    everywhere = np.ones((BOX, BOX, BOX // 2 + 1), np.float32)
    maps = np.mean(halves, axis=0), (halves[0], halves[1])
    return Reconstruction(*maps, everywhere, everywhere, (everywhere, everywhere), PIXEL, (200, 100, 100))
