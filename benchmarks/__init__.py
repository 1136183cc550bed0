"""Measurements of speed, memory and accuracy; not part of what is installed."""

# Before torch is loaded, as in the command: it says how threads wait.
import cocofold
from cocofold.system.hardware import keep_freed_memory

__all__ = ["cocofold"]

keep_freed_memory()
