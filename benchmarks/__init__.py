"""Benchmarks: each prints one table that the documentation quotes."""
