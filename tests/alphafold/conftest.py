"""A ColabFold folder and OpenFold's pickle, as these programs write them, around arrays of DeepMind's own code.

The representations and the atoms are DeepMind's (random weights, 22 residues). The first row of the MSA is made up, and
the weights that turn it into the single representation follow from it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from trunk_files import ColabFoldFolder, DeepMind
from typer.testing import CliRunner

from cocofold.commands.predict import predict
from cocofold.system.errors import InputError


@pytest.fixture(scope="session")
def deepmind(shared_data: Path) -> DeepMind:
    return DeepMind.of(shared_data / "afm")


@pytest.fixture(scope="session")
def weights(deepmind: DeepMind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weight files of models 1 and 2, which differ."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "params_model_1_multimer_v3.npz", **deepmind.parameters)
    name = "alphafold/alphafold_iteration/structure_module/initial_projection//weights"
    other = {**deepmind.parameters, name: deepmind.parameters[name][::-1]}
    np.savez(folder / "params_model_2_multimer_v3.npz", **other)
    return folder


@pytest.fixture
def colabfold(tmp_path: Path, deepmind: DeepMind) -> ColabFoldFolder:
    return ColabFoldFolder(tmp_path / "colabfold", deepmind)


@pytest.fixture
def openfold_pickle(tmp_path: Path, deepmind: DeepMind) -> Callable[..., Path]:
    """Writes OpenFold's outputs, with entries added or, as None, left out."""

    def write(name: str = "job_model_1_multimer_v3_output_dict.pkl", **changes: object) -> Path:
        d = deepmind
        outputs = {
            "msa": np.zeros((2, 22, 256), np.float32),
            "single": d.single,
            "pair": d.pair,
            "sm": {"positions": np.zeros((8, 22, 14, 3), np.float32)},
            "final_atom_positions": d.atom37,
            "final_atom_mask": d.atom37_mask,
            "plddt": d.plddt.astype(np.float32),
            "predicted_aligned_error": d.pae,
            "num_recycles": np.array(3),
            "asym_id": np.ones(22, np.int64),
            **changes,
        }
        folder = tmp_path / "predictions"
        folder.mkdir(exist_ok=True)
        content = {key: value for key, value in outputs.items() if value is not None}
        (folder / name).write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
        return folder / name

    return write


@pytest.fixture
def command() -> Callable[..., str]:
    """Run ``cocofold predict``; returns what it prints, or raises its InputError."""
    app = typer.Typer()
    app.command()(predict)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, InputError):
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return str(result.output)

    return run
