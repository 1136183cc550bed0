"""Fixtures of the particles' tests."""

from pathlib import Path

import pytest
from particle_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small project of two stacks, whose STAR file a test changes in one place."""
    return Project(tmp_path)
