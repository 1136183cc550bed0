"""Widths of AlphaFold-Multimer's structure module."""

SINGLE_WIDTH, PAIR_WIDTH, HIDDEN_WIDTH = 384, 128, 128
HEADS, CHANNELS, QUERY_POINTS, VALUE_POINTS = 12, 16, 4, 8

MASKED_LOGIT = -1e5
"""Added to the logits of residues that do not count, before they are scaled."""
