"""Files of runs that tell particles apart, made from those of their runs."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
from running import command, refused

from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import OutputModel, RunFolder
from cocofold.finetuning.state_files import FittedState, _copy_first
from cocofold.imaging.projection import render_density
from cocofold.particles import read_particles
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model


def test_a_start_of_two_residues_is_refused_before_anything_is_fitted(
    coarse_particles: Path, start: Path, tmp_path: Path
) -> None:
    model, small = read_model(start), tmp_path / "small.cif"
    write_model(small, model.only(np.arange(len(model.residues)) < 2))
    message = refused(command(coarse_particles, small, tmp_path / "out", "--junk", "auto"))
    assert "small.cif: 2 residues have a backbone, and states need 3" in message
    assert not (tmp_path / "out").exists()


def test_the_density_of_a_candidate_that_became_a_state_is_its_own(
    coarse_particles: Path, start: Path, truth: Path, tmp_path: Path
) -> None:
    """That of its run is the start's."""
    options = Options(str(coarse_particles), model=str(start), states="2", device="cpu")
    model = read_model(truth)
    written = OutputModel(model, np.full(len(model), 3.0), np.full(len(model), 0.6), None)
    with RunFolder(tmp_path / "run", options, False) as run, RunFolder(tmp_path / "out", options, False) as folder:
        run.write_model("candidate.cif", written, {})
        (run.path / "density.mrc").write_text("the start's")
        candidate = run.path / "candidate.cif"
        _copy_first(
            FittedState(run.path, candidate, read_model(candidate), {}), folder, read_particles(coarse_particles)
        )
        assert (folder.path / "model.cif").read_bytes() == candidate.read_bytes()
        with mrcfile.open(folder.path / "density.mrc") as file:
            found, voxel = file.data.copy(), float(file.voxel_size.x)
    expected = render_density(model.positions, written.amplitudes, written.widths_angstrom, 32, 5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert voxel == 5.0
