"""Relaxation of models by molecular mechanics, held near where the images put them."""

from cocofold.relaxation.relaxing import Relaxed, Settings, relax

__all__ = ["Relaxed", "Settings", "relax"]
