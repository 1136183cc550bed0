"""Viewers of CoCoFold's protocols."""

from .viewer_finetune import CocofoldFinetuneViewer
from .viewers import CocofoldAssessViewer, CocofoldCheckViewer, CocofoldFitViewer

__all__ = ["CocofoldAssessViewer", "CocofoldCheckViewer", "CocofoldFinetuneViewer", "CocofoldFitViewer"]
