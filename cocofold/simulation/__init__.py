"""Simulated particles of a model, by the image formation that fine-tuning uses.

``cocofold.simulation.simulate`` does the work; it is not imported here, so that the settings can be had without torch.
"""

from cocofold.simulation.settings import LIFE_LIKE, Settings, Views

__all__ = ["LIFE_LIKE", "Settings", "Views"]
