"""Particles: STAR (RELION 3.0 to 5) and CryoSPARC .cs files with their stacks, as one ``ParticleSet``."""

from cocofold.particles.particle_set import OpticsGroup, ParticleSet, unsupported_aberrations
from cocofold.particles.reading import read_particles
from cocofold.particles.staging import staged
from cocofold.particles.star_selection import write_chosen
from cocofold.particles.star_writing import write_star

__all__ = [
    "OpticsGroup",
    "ParticleSet",
    "read_particles",
    "staged",
    "unsupported_aberrations",
    "write_chosen",
    "write_star",
]
