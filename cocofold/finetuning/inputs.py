"""What a run is given: the particles it uses, and whether they and the model belong together."""

from __future__ import annotations

import numpy as np

from cocofold.errors import InputError
from cocofold.finetuning.options import Options
from cocofold.particles import ParticleSet, unsupported_aberrations
from cocofold.structure import Model


def choose(particles: ParticleSet, options: Options) -> ParticleSet:
    """Those of the particles that the options ask for."""
    if options.first is not None:
        particles = particles.subset(np.arange(min(options.first, len(particles))))
    if options.max_particles is not None and options.max_particles < len(particles):
        drawn = np.random.default_rng(options.seed).choice(len(particles), options.max_particles, replace=False)
        particles = particles.subset(np.sort(drawn))
    return particles


def check_together(model: Model, particles: ParticleSet, options: Options) -> None:
    """Refuse what would give a wrong answer in silence."""
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError(f"{options.particles}: " + "; ".join(aberrations))
    extent = particles.box * particles.pixel_size_angstrom
    outside = ((model.positions < 0) | (model.positions > extent)).any(1).mean()
    if outside > 0.1:
        low, high = model.positions.min(0).round(1).tolist(), model.positions.max(0).round(1).tolist()
        raise InputError(
            f"{options.model or options.prediction}: {outside:.0%} of the atoms lie outside the particles' box "
            f"(x, y, z from {low} to {high} Å; the box is 0 to {extent:g} Å on each axis); place the model in the "
            "map's frame, with voxel (0, 0, 0) at 0 Å"
        )
