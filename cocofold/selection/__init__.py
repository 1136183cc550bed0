"""Selection: some of the particles, at random, evenly over views, or by how well a model explains them."""

from cocofold.selection.selecting import BY, Selection, select

__all__ = ["BY", "Selection", "select"]
