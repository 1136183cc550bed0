"""What a queue that answers nothing is taken for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")

from pwem.protocols import ProtImportPdb
from pyworkflow.protocol.constants import STATUS_RUNNING
from scipion_cocofold import queues
from scipion_project import make_project


def test_a_queue_that_says_nothing_is_asked_again(tmp_path, monkeypatch):
    """Scipion takes the first silence for the job's end; here one that lasts for 10 s is."""
    answer, clock = tmp_path / "answer", [100.0]
    host = SimpleNamespace(getCheckCommand=lambda: f"cat {answer}", getJobDoneRegex=lambda: "Invalid job id")
    monkeypatch.setattr(ProtImportPdb, "getHostConfig", lambda _: host)
    monkeypatch.setattr(queues.time, "monotonic", lambda: clock[0])
    project = make_project("silent")
    protocol = project.newProtocol(ProtImportPdb, inputPdbData=1, pdbFile="nothing.cif")
    project.saveProtocol(protocol)
    protocol.setStatus(STATUS_RUNNING)
    protocol.setJobId(7)
    queues.outlastSilence(project, 10)
    for seconds, said, lives in (
        (0, "", True),
        (9, "", True),
        (2, "slurm_load_jobs error: Unable to contact slurm controller", True),
        (2, "", True),
        (9, "", True),
        (2, "", False),
    ):
        clock[0] += seconds
        answer.write_text(said)
        assert project.checkJobId(protocol) is lives
        assert protocol.isActive() is lives
    assert "JOB ID 7 not found running" in protocol.getErrorMessage()
