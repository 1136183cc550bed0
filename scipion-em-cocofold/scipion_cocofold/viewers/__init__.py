"""Viewers of CoCoFold's protocols and objects."""

from .viewer_finetune import CocofoldFinetuneViewer
from .viewers import (
    CocofoldAssessViewer,
    CocofoldCheckViewer,
    CocofoldFitViewer,
    CocofoldPlacementViewer,
    CocofoldPredictViewer,
    CocofoldReconstructViewer,
    CocofoldRelaxViewer,
    CocofoldSelectViewer,
)

__all__ = [
    "CocofoldAssessViewer",
    "CocofoldCheckViewer",
    "CocofoldFinetuneViewer",
    "CocofoldFitViewer",
    "CocofoldPlacementViewer",
    "CocofoldPredictViewer",
    "CocofoldReconstructViewer",
    "CocofoldRelaxViewer",
    "CocofoldSelectViewer",
]
