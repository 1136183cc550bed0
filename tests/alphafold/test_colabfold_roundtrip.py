"""The real ColabFold, on random weights in the official layout: its atoms and ours agree.

Not in the default run: ``COCOFOLD_COLABFOLD`` names an environment with ``colabfold[alphafold]==1.6.3``. Needs 4 GB of
memory, 1 GB of disk and some minutes on a CPU; nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocofold.alphafold.prediction import Prediction
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.colabfold


@pytest.fixture(scope="module")
def environment() -> Path:
    folder = os.environ.get("COCOFOLD_COLABFOLD", "")
    if not (Path(folder) / "bin" / "colabfold_batch").is_file():
        pytest.skip("COCOFOLD_COLABFOLD does not name an environment with colabfold_batch")
    return Path(folder)


@pytest.fixture(scope="module")
def random_weights(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "data"
    script = Path(__file__).with_name("random_alphafold.py")
    subprocess.run([environment / "bin" / "python", script, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("sequences", [("MKTAYIAKQRQISFVK", "GSHWLKDEFPRNV"), ("MKTAYIAKQRQISFVKSHFSRQ",)], ids=str)
def test_colabfolds_atoms_and_those_of_the_bundle_agree(
    sequences: tuple[str, ...], random_weights: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    fasta = tmp_path / "short.fasta"
    fasta.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    out = tmp_path / "out"
    said = command(
        "--fasta", fasta, "--out", out, "--weights", random_weights, "--msa", "single-sequence",
        "--num-models", 1, "--num-recycle", 1,
    )  # fmt: skip
    prediction = Prediction.read(out)
    assert prediction.chains.sequences == sequences
    assert prediction.origin.recycles == 1
    assert prediction.origin.program_version in said
    ours = read_model(out / "model.cif")
    (pdb,) = (out / "colabfold" / "results").glob("*_unrelaxed_rank_001_*.pdb")
    theirs = read_model(pdb)
    assert [key[:2] + key[3:] for key in ours.residues] == [key[:2] + key[3:] for key in theirs.residues]
    assert sorted(_atoms(ours)) == sorted(_atoms(theirs))
    pairs = [(position, _atoms(theirs)[name]) for name, position in _atoms(ours).items()]
    distances = np.array([np.linalg.norm(one - other) for one, other in pairs])
    print(f"{len(sequences)} chains: rms {(distances**2).mean() ** 0.5:.3f} Å, at most {distances.max():.3f} Å")
    assert (distances**2).mean() ** 0.5 < 0.15
    assert abs(float(prediction.plddt.mean()) - float(np.mean(_plddt(ours)))) < 0.5


def _atoms(model) -> dict:
    keys = [(*model.residues[row][:2], name) for row, name in zip(model.residue_of_atom, model.atom_names)]
    return dict(zip(keys, model.positions))


def _plddt(model) -> list:
    return [residue[0].b_iso for chain in model.structure[0] for residue in chain]
