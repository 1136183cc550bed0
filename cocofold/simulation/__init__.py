"""Simulated particles of a model, by the image formation that fine-tuning uses.

The settings can be imported without torch.
"""
