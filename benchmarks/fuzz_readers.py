"""Damaged files for every reader: what a disk, a slip of the hand or somebody who means ill may give to CoCoFold.

``make_samples`` writes one good file for each reader; ``damaged`` is a strategy of Hypothesis that gives edits of it.
A reader must take what it is given, or refuse it by ``InputError``; readers are called here, without the command's last
resort for what nobody expected.
"""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cocofold.alphafold.external_programs import load_pickled_arrays
from cocofold.alphafold.openfold import read_openfold_prediction
from cocofold.alphafold.sequences import read_a3m_chains, read_fasta
from cocofold.alphafold.weights import load_single_activations, read_openfold_checkpoint
from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.finetuning.run_folder import RunFolder
from cocofold.finetuning.training_loop import load_checkpoint
from cocofold.mapfit.density_map import read_map
from cocofold.mapfit.map_files import Placement
from cocofold.particles import read_particles
from cocofold.particles.mrc import StackReader, write_map
from cocofold.reporting.run_contents import read_run
from cocofold.reporting.run_report import write_report
from cocofold.reporting.viewer_files import ViewerFrame
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

LIMIT_S = 10.0  # a reader that takes longer hangs
_RESIDUES, _PARTICLES = 24, 8
# Texts that programs stumble over: numbers beyond types, what other formats begin with, nesting, odd letters
TOKENS = (
    *(b"nan", b"-inf", b"1e999", b"-0.0", b"-1", b"0", b"4294967296", b"99999999999999999999", b"1_000", b"0x1F"),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b"'", b'"', b"#", b";", b"?", b".", b"*", b"$"),
    *(b"loop_\n", b"data_\n", b"_rlnImageName\n", b"_atom_site.id\n", b"ATOM  ", b"HETATM", b"MODEL", b"END\n"),
    *(b"[" * 5000, b"{" * 5000, b"a: &a [*a, *a]\n", b"!!python/object:os.system x", b"null", b"true", b"{}", b"[]"),
    *(b"\x1f\x8b\x08", b"BZh9", b"PK\x03\x04", b"\x93NUMPY", b"#1\t1000000000\n", b">a\n", b"@", b"../", b"~"),
    *("Å".encode(), "é".encode("latin-1"), "日本".encode(), "\u202e".encode(), b"A" * 3000),
)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes
    ----------
    sample : str
        Name of the good file, below the samples' folder.
    read : callable
        From the path of a file and a copy of the folder in which it is, to whatever it gives.
    pack : callable, optional
        From a damaged content to the file's, where the file is packed.
    seconds : float
        That one input takes, by which a draw decides how many it tries.
    """

    sample: str
    read: Callable[[Path], Any]
    pack: Callable[[bytes], bytes] | None = None
    seconds: float = 0.003


def _images(path: Path) -> None:
    particles = read_particles(path)
    particles.images(np.arange(len(particles)))
    particles.metadata_digests()


def _stack(path: Path) -> None:
    StackReader().read(path, np.arange(3))


def _inputs(path: Path) -> None:
    """The record of a run's inputs, as resuming reads it."""
    folder = path.parent
    options = Options(str(folder / "set" / "particles.star"), model=str(folder / "m.cif"))
    run = RunFolder(folder, options, resume=True)
    run.settle_inputs(read_particles(options.particles))


def _settings(path: Path) -> None:
    read = Options.read(path)
    read.refuse_other_settings(path)


def _metrics(path: Path) -> None:
    RunFolder(path.parent, Options("p.star", model="m.cif"), resume=True).read_metrics()


def _report(path: Path) -> None:
    write_report(path.parent, None, None, None, ViewerFrame((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))


def _run_of(path: Path) -> None:
    read_run(path.parent)


def _openfold(path: Path) -> None:
    """OpenFold's outputs, read up to where the whole of the weights is asked for."""
    load_pickled_arrays(path)
    read_openfold_prediction(path, path.parent / "weights", fasta=path.parent / "a.fasta", model_number=1)


READERS: dict[str, Reader] = {
    "particles (STAR)": Reader("set/particles.star", _images, seconds=0.02),
    "particles (.cs)": Reader("particles.cs", _images, seconds=0.01),
    "stack (MRC)": Reader("set/particles.mrcs", _stack),
    "map (MRC)": Reader("map.mrc", read_map),
    "map, packed file damaged": Reader("map.mrc.gz", read_map),
    "map, damaged and packed (gzip)": Reader("map.mrc", read_map, gzip.compress),
    "map, damaged and packed (bzip2)": Reader("map.mrc", read_map, bz2.compress),
    "model (mmCIF)": Reader("m.cif", read_model, seconds=0.02),
    "model (PDB)": Reader("m.pdb", read_model, seconds=0.02),
    "model, packed file damaged": Reader("m.cif.gz", read_model),
    "model, damaged and packed (gzip)": Reader("m.cif", read_model, gzip.compress, seconds=0.02),
    "placement.json": Reader("placement.json", Placement.read),
    "config.yaml": Reader("run/config.yaml", _settings, seconds=0.02),
    "inputs.json": Reader("run/inputs.json", _inputs, seconds=0.03),
    "metrics.json (resumed)": Reader("run/metrics.json", _metrics),
    "metrics.json (report)": Reader("run/metrics.json", _report, seconds=1.0),
    "metrics.csv (report)": Reader("run/metrics.csv", _report, seconds=1.0),
    "config.yaml (report)": Reader("run/config.yaml", _report, seconds=1.0),
    "model.cif of a run": Reader("run/model.cif", _run_of, seconds=0.05),
    "checkpoint": Reader("run/checkpoints/latest.safetensors", load_checkpoint),
    "weights (.npz)": Reader("weights.npz", load_single_activations),
    "weights (.pt)": Reader("weights.pt", read_openfold_checkpoint, seconds=0.01),
    "pickle (OpenFold)": Reader("job_model_1_multimer_v3_output_dict.pkl", _openfold),
    "alignment (a3m)": Reader("a.a3m", read_a3m_chains),
    "sequences (FASTA)": Reader("a.fasta", read_fasta),
}


def make_samples(folder: Path) -> None:
    """Write a good file for each reader; takes some seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in (("m.cif", closed_state()), ("open.cif", open_state())):
        structure = gemmi.read_structure(str(state))
        chain = structure[0][0]
        del chain[_RESIDUES:]
        structure.make_mmcif_document().write_file(str(folder / name))
        structure.write_pdb(str(folder / name.replace(".cif", ".pdb")))
    (folder / "m.cif.gz").write_bytes(gzip.compress((folder / "m.cif").read_bytes()))
    make = SimulationSettings(
        model=str(folder / "open.cif"), box=32, pixel_size=3, count=_PARTICLES, snr=1, seed=3, centre=True
    )
    simulate(make, folder / "set")
    write_map(folder / "map.mrc", np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32), 3.0)
    (folder / "map.mrc.gz").write_bytes(gzip.compress((folder / "map.mrc").read_bytes()))
    body = {
        "selection": "A",
        "rotation": np.eye(3).tolist(),
        "translation_angstrom": [0, 0, 0],
        "correlation": 0.5,
        "runner_up": 0.2,
    }
    place = {"hand": "as-is", "hand_scores": {}, "mirror_axis": None, "symmetry": None, "bodies": [body]}
    (folder / "placement.json").write_text(json.dumps(place, indent=1))
    _write_cryosparc(folder)
    _write_network_files(folder)
    _write_run(folder)


def _write_cryosparc(folder: Path) -> None:
    kinds = [
        ("uid", "<u8"), ("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("alignments3D/pose", "<f4", (3,)),
        ("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4"), ("alignments3D/split", "<u4"),
        ("ctf/exp_group_id", "<u4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
        ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("ctf/phase_shift_rad", "<f4"),
        ("ctf/scale", "<f4"), ("ctf/bfactor", "<f4"),
    ]  # fmt: skip
    table = np.zeros(3, dtype=kinds)
    table["uid"], table["blob/idx"] = [5, 6, 7], [0, 1, 2]
    table["blob/path"], table["blob/shape"], table["blob/psize_A"] = b"set/particles.mrcs", 32, 3
    table["alignments3D/psize_A"], table["blob/sign"], table["ctf/scale"] = 3, 1, 1
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"] = 300, 2.7, 0.1
    table["ctf/df1_A"], table["ctf/df2_A"] = 15_000, 14_000
    with open(folder / "particles.cs", "wb") as file:
        np.save(file, table)


def _write_network_files(folder: Path) -> None:
    random = np.random.default_rng(0)
    scope = "alphafold/alphafold_iteration/evoformer/single_activations//"
    weights = random.normal(size=(256, 384)).astype(np.float32)
    np.savez(folder / "weights.npz", **{scope + "weights": weights, scope + "bias": weights[0]})
    state = {"ema": {"params": {f"layer.{row}.weight": torch.ones(4, 4) for row in range(5)}}}
    torch.save(state, folder / "weights.pt")
    n = 6
    outputs = {
        "single": random.normal(size=(n, 384)).astype(np.float32),
        "pair": random.normal(size=(n, n, 128)).astype(np.float32),
        "final_atom_positions": np.zeros((n, 37, 3), np.float32),
        "final_atom_mask": np.zeros((n, 37), np.float32),
        "plddt": np.full(n, 70, np.float32),
        "predicted_aligned_error": np.zeros((n, n), np.float32),
        "num_recycles": np.array(3),
    }
    (folder / "job_model_1_multimer_v3_output_dict.pkl").write_bytes(pickle.dumps(outputs))
    (folder / "weights").mkdir(exist_ok=True)
    shutil.copy(folder / "weights.npz", folder / "weights" / "params_model_1_multimer_v3.npz")
    (folder / "a.fasta").write_text(">a\nMKTAYI\n")
    (folder / "a.a3m").write_text("#6,4\t2,1\n>101\t102\nMKTAYIGGAK\n>x\nMK-AYI----\n>y\n------GGAKv\n")


def _write_run(folder: Path) -> None:
    star, model = folder / "set" / "particles.star", folder / "m.cif"
    options = Options(str(star), model=str(model), check=False, contrast="white", effort=0.01, cycles=2, heldout=0.5)
    finetune(options, folder / "run")
    # As resuming wants them beside the run
    (folder / "run" / "set").mkdir()
    for path in (folder / "set").iterdir():
        shutil.copy(path, folder / "run" / "set")
    shutil.copy(model, folder / "run")


def _numbers_of(content: bytes) -> list[tuple[int, int]]:
    """Where words begin and end, a thousand at most."""
    found, start = [], None
    for place, byte in enumerate(content[:100_000]):
        is_word = byte > 32 and byte not in b",:[]{}"
        if is_word and start is None:
            start = place
        elif not is_word and start is not None:
            found.append((start, place))
            start = None
    return found[:: max(1, len(found) // 1000)]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Edits of a file: cut, bytes changed, parts repeated or left out, words replaced, values of JSON and YAML."""
    parsed = _parse(content)
    kinds = ["cut", "flip", "repeat", "leave out", "fill", "insert", "word", "word"] + ["value"] * (6 * bool(parsed))
    words = _numbers_of(content)
    for _ in range(draw(st.integers(1, 3))):
        kind, length = draw(st.sampled_from(kinds)), len(content)
        if kind == "value":
            parsed = draw(_changed(parsed[0]))
            return yaml.safe_dump(parsed).encode() if draw(st.booleans()) else json.dumps(parsed).encode()
        at = draw(st.integers(0, max(0, length - 1)))
        # Headers are where sizes stand.
        at = at % 1024 if draw(st.booleans()) else at
        size = draw(st.integers(1, 64))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + size % 8 + 1 :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + size] * draw(st.integers(2, 50)) + content[at + size :]
        elif kind == "leave out":
            content = content[:at] + content[at + size :]
        elif kind == "fill":
            content = (
                content[:at] + draw(st.sampled_from([b"\x00", b"\xff", b" ", b"\x7f"])) * size + content[at + size :]
            )
        elif kind == "insert":
            content = content[:at] + draw(st.sampled_from(TOKENS)) + content[at:]
        elif words:
            begin, end = draw(st.sampled_from(words))
            content = content[:begin] + draw(st.sampled_from(TOKENS)) + content[end:]
    return content


def _parse(content: bytes) -> list[Any]:
    """JSON or YAML's value in a list, none if it is neither or too long for quick edits."""
    if len(content) > 20_000 or b"data_" in content[:2000]:
        return []
    try:
        value = yaml.safe_load(content.decode())
    except (ValueError, yaml.YAMLError):
        return []
    return [value] if isinstance(value, dict) else []


_VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[[]]]),
    st.sampled_from([-1, 0, 2**31, 2**63, 10**400, 1e308, "nan", "../../x", "A" * 2000, [1, "a"], {"a": None}]),
)  # fmt: skip


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON with one of its parts changed, or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value, key=str)))
        if not draw(st.integers(0, 6)):
            return {key: one for key, one in value.items() if key != name}
        return {**value, name: draw(_changed(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        row = draw(st.integers(0, len(value) - 1))
        return [*value[:row], draw(_changed(value[row])), *value[row + 1 :]]
    return draw(_VALUES)


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    content = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(content)


@dataclass
class Fuzzed:
    """What became of damaged files: how many, how many were refused, and what went wrong, with the file."""

    inputs: int = 0
    refused: int = 0
    wrong: tuple[str, bytes] | None = None


def fuzz(name: str, samples: Path, number: int, count: int, on_input: Callable[[], None] = lambda: None) -> Fuzzed:
    """Give one reader damaged files until something goes wrong; the same number gives the same files.

    Parameters
    ----------
    name : str
        Of ``READERS``.
    samples : Path
        Of ``make_samples``; the good file is back in its place at the end.
    number : int
        Seed.
    count : int
        Files at most.
    on_input : callable
        Called before each file, for example to set an alarm.
    """
    reader, found = READERS[name], Fuzzed()
    path = samples / reader.sample
    good = path.read_bytes()

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], print_blob=False,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(damaged(good))
    def read(content: bytes) -> None:
        packed = reader.pack(content) if reader.pack else content
        path.write_bytes(packed)
        found.inputs += 1
        on_input()
        try:
            reader.read(path)
        except InputError as error:
            found.refused += len(str(error)) > 0
        except BaseException:
            found.wrong = (name, packed)
            raise

    with _kept(path):
        read()
    return found
