"""What stands for the shared data sets where these are not: the same files, made by this project's own code.

Adenylate kinase comes with the demonstration, the T-cell receptor complex (PDB entry 1BD2, CC0) lies in ``data``.
Images are simulated with RELION's boxes, pixel sizes and noise. The network's arrays are those of random
weights. Tests whose point is that somebody else made the files are marked ``independent`` and do not use these.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pandas as pd
import starfile

BUNDLED = Path(__file__).parent / "data"
# As in the shared sets: x_moved = R (x - centre) + centre + t
MOVED_AXIS, MOVED_DEG, MOVED_BY = (0.36, -0.48, 0.8), 137.0, (6.0, -4.5, 3.0)
FRAMES = (0, 8, 17, 26, 35, 44, 52, 61, 70, 79, 88, 97)


def make(folder: Path) -> Path:
    """Write all of them into an empty folder; ten seconds or so."""
    adk, tcr = folder / "adk", folder / "tcr"
    _adenylate_kinase(adk)
    _complex(tcr)
    _images(adk / "small300", adk / "truth_open.cif", 2.5, 300, seed=104)
    _images(adk / "uniform", adk / "truth_open.cif", 2.5, 200, seed=101, with_map=True)
    _images(tcr, tcr / "truth.cif", 2.75, 100, seed=202, with_map=True)
    shutil.copy(adk / "uniform" / "particles.star", adk / "uniform" / "particles_200.star")
    _two_optics(adk / "two_optics", adk / "truth_open.cif")
    _network(folder / "afm")
    return folder


def _adenylate_kinase(folder: Path) -> None:
    from cocofold.commands.demo import closed_state, open_state

    (folder / "trajectory").mkdir(parents=True)
    shutil.copy(open_state(), folder / "truth_open.cif")
    shutil.copy(closed_state(), folder / "start_closed.cif")
    _write(folder / "start_closed_moved.cif", closed_state(), _moved)
    # The atoms of both states are the same ones
    closed, opened = _positions(closed_state()), _positions(open_state())
    for number in FRAMES:
        between = closed + number / 100 * (opened - closed)
        _write(folder / "trajectory" / f"dims_{number:03d}.cif", closed_state(), lambda _, at=between: at)


def _complex(folder: Path) -> None:
    folder.mkdir()
    (folder / "truth.cif").write_bytes(gzip.decompress((BUNDLED / "1bd2.cif.gz").read_bytes()))
    shutil.copy(BUNDLED / "1bd2_displaced.json", folder / "models.json")
    known = json.loads((folder / "models.json").read_text())
    turn, pivot, shift = (np.array(known[name]) for name in ("R", "pivot", "t"))

    def displaced(at: np.ndarray) -> np.ndarray:
        return (at - pivot) @ turn.T + pivot + shift

    _write(folder / "start_tcr_displaced.cif", folder / "truth.cif", displaced, known["moved_chains"])


def _moved(at: np.ndarray) -> np.ndarray:
    axis = np.array(MOVED_AXIS) / np.linalg.norm(MOVED_AXIS)
    cross = np.cross(np.eye(3), axis) * -1
    angle = np.radians(MOVED_DEG)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return (at - 80) @ turn.T + 80 + np.array(MOVED_BY)


def _positions(path: Path) -> np.ndarray:
    structure = gemmi.read_structure(str(path))
    return np.array([atom.atom.pos.tolist() for atom in structure[0].all()])


def _write(path: Path, source: Path, move, chains: Sequence[str] = ()) -> None:
    """A model whose atoms, or those of these chains, are elsewhere."""
    structure = gemmi.read_structure(str(source))
    positions = move(_positions(source))
    for one, at in zip(structure[0].all(), positions):
        if not chains or one.chain.name in chains:
            one.atom.pos = gemmi.Position(*at)
    structure.make_mmcif_document().write_file(str(path))


def _images(folder: Path, model: Path, pixel_size: float, count: int, seed: int, with_map: bool = False) -> None:
    """A simulated set, as ``particles`` and ``reconstruction`` beside what is there already."""
    from cocofold.simulation.particle_simulation import simulate
    from cocofold.simulation.simulation_settings import SimulationSettings

    made = folder / "simulated"
    simulate(SimulationSettings(str(model), 64, pixel_size, count, snr=0.1, map=with_map, seed=seed), made)
    shutil.move(made / "particles.star", folder / "particles.star")
    shutil.move(made / "particles.mrcs", folder / "particles.mrcs")
    if with_map:
        shutil.move(made / "map.mrc", folder / "reconstruction.mrc")
    shutil.rmtree(made)


def _two_optics(folder: Path, model: Path) -> None:
    """Two optics groups in turn: 300 kV, and 200 kV with a phase plate."""
    from cocofold.simulation.particle_simulation import simulate
    from cocofold.simulation.simulation_settings import SimulationSettings

    folder.mkdir()
    groups = ({"seed": 31}, {"seed": 32, "voltage": 200.0, "cs": 1.4, "amplitude_contrast": 0.07, "phase_shift": 90.0})
    stars, stacks = [], []
    for number, group in enumerate(groups, start=1):
        made = folder / str(number)
        simulate(SimulationSettings(str(model), box=64, pixel_size=2.5, count=150, snr=0.1, **group), made)
        star = starfile.read(made / "particles.star")
        for block in star.values():
            block["rlnOpticsGroup"] = number
        star["optics"]["rlnOpticsGroupName"] = f"group{number}"
        star["particles"]["rlnPhaseShift"] = group.get("phase_shift", 0.0)
        stars.append(star)
        stacks.append(mrcfile.read(made / "particles.mrcs"))
        shutil.rmtree(made)
    joined = {name: pd.concat([star[name] for star in stars], ignore_index=True) for name in ("optics", "particles")}
    order = np.arange(300).reshape(2, 150).T.ravel()
    particles = joined["particles"].iloc[order].reset_index(drop=True)
    particles["rlnImageName"] = [f"{number:06d}@particles.mrcs" for number in range(1, 301)]
    starfile.write({**joined, "particles": particles}, folder / "particles.star")
    with mrcfile.new(folder / "particles.mrcs") as stack:
        stack.set_data(np.concatenate(stacks)[order])
        stack.voxel_size = 2.5


def _network(folder: Path) -> None:
    """Weights, and what the structure module makes of 22 residues with them."""
    import torch

    from cocofold.alphafold import load_structure_module
    from cocofold.alphafold.openfold import _ATOM37 as ATOM37
    from cocofold.alphafold.sequences import ATOM14_NAMES
    from cocofold.alphafold.weight_layout import random_weights

    folder.mkdir()
    weights = random_weights(1)
    own = {name: array.numpy() for name, array in weights.items() if "single_activations" not in name}
    np.savez(folder / "sm_params.npz", **own)
    generator = np.random.default_rng(2)
    single = generator.standard_normal((22, 384)).astype(np.float32)
    pair = generator.standard_normal((22, 22, 128)).astype(np.float32)
    aatype = generator.integers(0, 20, 22).astype(np.int32)
    module = load_structure_module(weights)
    with torch.no_grad():
        found = module(*map(torch.as_tensor, (single, pair, aatype, np.ones(22, np.float32))))
        error = module.aligned_error(torch.as_tensor(pair)).numpy()
    atom37, there = np.zeros((22, 37, 3), np.float32), np.zeros((22, 37), np.float32)
    for row, kind in enumerate(aatype):
        columns = [ATOM37.index(name) for name in ATOM14_NAMES[kind]]
        atom37[row, columns] = found.atom14[row, : len(columns)].numpy()
        there[row, columns] = 1
    np.savez(
        folder / "sm_n22.npz",
        **{"single": single, "pair": pair, "aatype": aatype, "seq_mask": np.ones(22, np.float32)},
        **{"atom37": atom37, "atom37_mask": there, "plddt": found.plddt.numpy().astype(float), "pae": error},
    )
