"""Fine-tuning: the optimiser's loop, held-out particles, checkpoints.

Knows atoms only through ``cocofold.sources.base.AtomSource``, and particles only through ``ParticleSet``.
"""
