"""Protocols of CoCoFold, from prediction to assessment."""

from .protocol_assess import ProtCocofoldAssess
from .protocol_check import ProtCocofoldCheck
from .protocol_finetune import ProtCocofoldFinetune
from .protocol_fit import ProtCocofoldFit
from .protocol_predict import ProtCocofoldPredict
from .protocol_reconstruct import ProtCocofoldReconstruct
from .protocol_relax import ProtCocofoldRelax
from .protocol_select import ProtCocofoldSelect

__all__ = [
    "ProtCocofoldAssess",
    "ProtCocofoldCheck",
    "ProtCocofoldFinetune",
    "ProtCocofoldFit",
    "ProtCocofoldPredict",
    "ProtCocofoldReconstruct",
    "ProtCocofoldRelax",
    "ProtCocofoldSelect",
]
