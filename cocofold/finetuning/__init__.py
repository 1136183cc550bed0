"""Fine-tuning: the optimiser's loop, held-out particles, checkpoints.

Knows atoms only through ``cocofold.atoms.AtomSource``, and particles only through ``ParticleSet``.
"""

from cocofold.finetuning.observations import Observations
from cocofold.finetuning.options import Options, paper
from cocofold.finetuning.run import finetune

__all__ = ["Observations", "Options", "finetune", "paper"]
