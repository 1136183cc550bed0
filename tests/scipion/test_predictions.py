"""Predictions in Scipion: a ColabFold folder around arrays of DeepMind's own code becomes what fine-tuning trains."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

from pwem.protocols import ProtImportSequence
from scipion_cocofold.models import chainLengths
from scipion_cocofold.protocols import ProtCocofoldFinetune, ProtCocofoldPredict
from scipion_cocofold.protocols.protocol_predict import FROM_COLABFOLD, FROM_SEQUENCES
from scipion_project import finished, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "alphafold"))
from trunk_files import ColabFoldFolder, DeepMind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def colabfold(shared_data, tmp_path_factory):
    """A ColabFold folder of one chain of 22 residues, and the weights that belong to it."""
    known = DeepMind.of(shared_data / "afm")
    folder = tmp_path_factory.mktemp("prediction")
    np.savez(folder / "params_model_1_multimer_v3.npz", **known.parameters)
    return ColabFoldFolder(folder / "colabfold", known).write([known.sequence])


def test_a_colabfold_folder_becomes_a_prediction(colabfold, adk):
    inputs = {"source": FROM_COLABFOLD, "colabfoldFolder": str(colabfold), "weights": str(colabfold.parent)}
    protocol = finished(run(adk.project, ProtCocofoldPredict, **inputs, numberOfThreads=1))
    prediction = protocol.outputPrediction
    assert prediction.getResidues() == 22
    assert chainLengths(protocol.outputAtomStruct.getFileName()) == {"A": 22}
    assert "22 residues" in " ".join(protocol.summary())
    given = {"inputParticles": adk.particles, "inputModel": prediction}
    alone = adk.project.newProtocol(ProtCocofoldFinetune, **given)
    assert "place of a prediction is not known" in " ".join(alone.validate())
    with_volume = adk.project.newProtocol(ProtCocofoldFinetune, **given, inputVolume=adk.volume, removeBelow=30.0)
    assert with_volume.validate() == []
    options = with_volume._finetuneOptions()
    assert options["--prediction"] == prediction.getFileName()
    assert "--placement" in options
    assert "--model" not in options
    assert options["--remove-below"] == 30.0
    as_in_the_paper = adk.project.newProtocol(ProtCocofoldFinetune, **given, inputVolume=adk.volume, preset=1)
    assert as_in_the_paper.validate() == []
    as_in_the_paper.effort.set(0.3)
    assert "set the effort to 1" in " ".join(as_in_the_paper.validate())


def test_what_predictions_need_is_said_before_the_start(adk, tmp_path):
    def errors(**parameters):
        return " ".join(adk.project.newProtocol(ProtCocofoldPredict, **parameters).validate())

    assert "--save-single-representations" in errors(source=FROM_COLABFOLD, colabfoldFolder=str(tmp_path))
    assert "sequences" in errors(source=FROM_SEQUENCES)
    dna = {"inputSequenceName": "dna", "inputSequence": 1, "inputRawSequence": "ACGT"}
    dna = finished(run(adk.project, ProtImportSequence, **dna))
    assert "no protein" in errors(source=FROM_SEQUENCES, inputSequences=[dna.outputSequence])
