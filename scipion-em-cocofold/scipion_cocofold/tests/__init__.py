"""Tests for an installed Scipion: ``scipion3 tests scipion_cocofold``."""
