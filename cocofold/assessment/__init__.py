"""How good a model is: against a reference, and by its own geometry.

Knows nothing of training.
"""

from cocofold.assessment.comparison import Assessment, ChainFigures, ResidueDisplacement, assess
from cocofold.assessment.geometry import GeometryFigures, geometry_figures
from cocofold.assessment.matching import ChainMatch, Matching, match_residues, matched_positions
from cocofold.assessment.superposition import rmsd, superpose, superposed
from cocofold.assessment.tm_score import StructuralAlignment, align_structures
from cocofold.assessment.traces import Trace, traces_of

__all__ = [
    "Assessment",
    "ChainFigures",
    "ChainMatch",
    "GeometryFigures",
    "Matching",
    "ResidueDisplacement",
    "StructuralAlignment",
    "Trace",
    "align_structures",
    "assess",
    "geometry_figures",
    "match_residues",
    "matched_positions",
    "rmsd",
    "superpose",
    "superposed",
    "traces_of",
]
