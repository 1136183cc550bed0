"""Where AlphaFold-Multimer's frozen representations come from: one bundle, from ColabFold's or OpenFold's output.

Knows nothing of images or training.
"""

from cocofold.trunk.checking import Found
from cocofold.trunk.colabfold import from_colabfold
from cocofold.trunk.colabfold_run import ColabFoldSettings
from cocofold.trunk.from_fasta import Request, predict_fasta
from cocofold.trunk.openfold import from_openfold
from cocofold.trunk.openfold_run import OpenFoldSettings
from cocofold.trunk.prediction import Origin, Prediction, make_room

__all__ = [
    "ColabFoldSettings",
    "Found",
    "OpenFoldSettings",
    "Origin",
    "Prediction",
    "Request",
    "from_colabfold",
    "from_openfold",
    "make_room",
    "predict_fasta",
]
