"""The tests that the plugin brings for an installed Scipion: they are found by the plugin's name."""

from __future__ import annotations

import os
import unittest

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")


def names_of(suite: unittest.TestSuite) -> set[str]:
    return {name for one in suite for name in (names_of(one) if isinstance(one, unittest.TestSuite) else {one.id()})}


def test_scipion_finds_them_by_the_plugin_s_name() -> None:
    found = names_of(unittest.defaultTestLoader.loadTestsFromName("scipion_cocofold"))
    assert {name.rsplit(".", 2)[1] for name in found} == {"TestCocofoldInstallation", "TestCocofoldWorkflow"}


@pytest.mark.slow
@pytest.mark.skipif(
    "COCOFOLD_PLUGIN_TESTS" not in os.environ, reason="the template's test goes the same way (make test-plugin)"
)
def test_the_workflow_passes() -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromName("scipion_cocofold").run(result)
    assert result.testsRun == 2
    assert not result.errors, result.errors[0][1]
    assert not result.failures, result.failures[0][1]
