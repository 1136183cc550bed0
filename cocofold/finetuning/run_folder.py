"""The folder of a run: its lock, its log and its files, each of which appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from cocofold.alphafold.prediction import FILE_NAME
from cocofold.finetuning.options import Options
from cocofold.imaging.projection import render_density
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.particles.mrc import write_map
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.system.atomic_files import is_partial, read_json, remove_partial, write_atomically, write_json
from cocofold.system.errors import InputError, escape_unprintable

_LOG = logging.getLogger("cocofold")
_LOCK = ".lock"
_INPUTS = "inputs.json"
SECOND_START = "second_start.cif"  # among the models: where a second fit begins that leaves parts out
_FILES_OF_FAILED_START = (
    "config.yaml",
    _INPUTS,
    "log.txt",
    "metrics.csv",
    "model.cif",
    "placed.cif",
    "mirrored.star",
    "check.json",
    _LOCK,
)
# What other runs read in the metrics of a finished one.
_METRICS_READ = ("verdict", "seconds", "peak_memory_gb")
_METRICS_ANEW = "remove this file, and --resume writes it anew"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_OTHER_CONTENT = "holds something else than when the run was started"
_NEEDED = ("rows", "particles", "stacks")  # without these a record is damaged; versions may differ in others
_SAME_FILES = "resume with the same files, wherever they are, or start anew in another folder"


def _read_record(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = read_json(path, path, "start the run anew in another folder")
    if any(not isinstance(known.get(name), type(like[name])) for name in _NEEDED):
        raise InputError(f"{path}: is not what a run writes; start the run anew in another folder")
    return known


def _open_no_link(path: str, flags: int) -> int:
    """For files that are not written anew: what somebody may have linked to is not touched."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _digest_of_file(path: str) -> str | None:
    if not Path(path).is_file():
        return None  # its reader says so
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    return digest.hexdigest()


class RunFolder:
    """A run's folder, held by one process at a time.

    Parameters
    ----------
    path : Path
    options : Options
        Written to ``config.yaml``; on resuming compared with it.
    resume : bool
        Go on with what is there; without it a folder that holds anything is refused.
    """

    def __init__(self, path: Path, options: Options, resume: bool) -> None:
        self.path = path
        self.checkpoint = path / "checkpoints" / "latest.safetensors"
        self.coarse_stages = path / "checkpoints" / "coarse_stages.safetensors"
        self._options = options
        self._resume = resume
        self._held = contextlib.ExitStack()

    def __enter__(self) -> RunFolder:
        config = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path}: is a file; give a folder")
        if not self._resume and self._holds_anything():
            raise InputError(
                f"--out {self.path}: the folder is not empty; give another one, or --resume to go on with the run in it"
            )
        if self._resume and not config.is_file():
            raise InputError(f"--resume: {self.path} holds no run (no config.yaml); leave --resume out to start one")
        try:
            self._lock_and_prepare(config)
        except BlockingIOError as error:
            raise InputError(f"--out {self.path}: another run is writing there; wait for it or give another") from error
        except OSError as error:
            if not self._resume:
                self._remove_failed_start()
            remedy = "make it writable" if self._resume else "give another folder"
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror}); {remedy}") from error
        return self

    def _lock_and_prepare(self, config: Path) -> None:
        """Lock the folder and have in it what a run begins with."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as until_ready:
            lock = until_ready.enter_context(open(self.path / _LOCK, "a", opener=_open_no_link))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._resume:
                self._options.refuse_other_settings(config, by_content=(self.path / _INPUTS).is_file())
            self._remove_half_written()
            if not self._resume:
                self._options.write(config)
            for name in ("models", "checkpoints"):
                (self.path / name).mkdir(exist_ok=True)
            self._held = until_ready.pop_all()

    def _holds_anything(self) -> bool:
        """Whether there is more than a run leaves that was killed before it had written its settings."""
        return self.path.is_dir() and any(path.name != _LOCK and not is_partial(path) for path in self.path.iterdir())

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, Exception) and not self._resume and not self._has_checkpoint:
            self._remove_failed_start()
        self._held.close()

    def _remove_half_written(self) -> None:
        """Remove what a killed process left half-written."""
        remove_partial(self.path)
        log = self.path / "log.txt"
        if log.is_file():
            # Cut, not written anew: the disk may be full.
            os.truncate(log, log.read_bytes().rfind(b"\n") + 1)

    @property
    def _has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, of this run or of a teacher's below it."""
        return any(self.path.rglob(self.checkpoint.name))

    def settle_inputs(self, particles: ParticleSet) -> None:
        """Note in ``inputs.json`` what the input files hold; on resuming, refuse files that hold something else.

        Parameters
        ----------
        particles : ParticleSet
            Those that are used, as they were read.
        """
        record, options = self.path / _INPUTS, self._options
        files = {name: getattr(options, name) for name in ("model", "map", "placement", "context")}
        files |= {f"model {number}": path for number, path in enumerate(options.other_models, 2)}
        files["prediction"] = options.prediction and str(Path(options.prediction) / FILE_NAME)
        self._stacks = particles.stack_digests()
        found: dict[str, Any] = {name: None if path is None else _digest_of_file(path) for name, path in files.items()}
        found |= {"rows": len(particles), "particles": particles.metadata_digests()}
        found["stacks"] = [known for _, known in self._stacks]
        if self._resume and record.is_file():
            self._refuse_other_inputs(found, _read_record(record, found), files)
        else:
            if self._resume and self.checkpoint.is_file():
                self.log("the run was started by an older version: whether its input changed is not known")
            write_json(record, found)

    def _refuse_other_inputs(self, found: dict[str, Any], known: dict[str, Any], files: dict[str, str | None]) -> None:
        """Refuse files that hold something else than they did, or are gone; versions may differ in what they note."""
        source = self._options.particles
        if found["rows"] != known["rows"]:
            rows = f"{found['rows']} particles are used now, {known['rows']} then"
            raise InputError(f"{source}: {_OTHER_CONTENT} ({rows}); {_SAME_FILES}")
        now, then = found["particles"], known["particles"]
        changed = [name for name in now if name in then and now[name] != then[name]]
        if changed:
            raise InputError(f"{source}: {_OTHER_CONTENT} (in {', '.join(changed)}); {_SAME_FILES}")
        for name, path in files.items():
            if known.get(name) is not None and found[name] is None:
                raise InputError(f"{path}: is gone since the run was started; {_SAME_FILES}")
            if found[name] != known.get(name, found[name]):
                raise InputError(f"{path}: {_OTHER_CONTENT}; {_SAME_FILES}")
        for (stack, digest), before in zip(self._stacks, known["stacks"]):
            if digest != before:
                raise InputError(f"{stack}: {_OTHER_CONTENT}; {_SAME_FILES}")

    def require_unchanged_stacks(self, particles: ParticleSet, all_were_read: bool) -> None:
        """Refuse stacks that were overwritten while the run read them, and tell of empty images in them.

        Parameters
        ----------
        particles : ParticleSet
            Those that are used, as they were read.
        all_were_read : bool
            Whether each image was read by this process, so that the number of empty ones is known.
        """
        if particles.reader.empty:
            path, row = min(particles.reader.empty)
            count = f"{'' if all_were_read else 'at least '}{len(particles.reader.empty)}"
            self.log(
                f"{count} images are empty and weigh nothing: all their pixels are alike; the first is image {row + 1} "
                f"of {path}"
            )
        if all(path.is_file() for path in particles.stacks):
            for (path, then), (_, now) in zip(self._stacks, particles.stack_digests()):
                if now != then:
                    raise InputError(f"{path}: was overwritten while the run was reading it; start anew with one set")

    def require_space(self, n_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Parameters
        ----------
        n_bytes : int
            That the whole run takes, with what is there already.
        """
        free = shutil.disk_usage(self.path).free
        needed = n_bytes - sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        if free < needed:
            raise InputError(
                f"--out {self.path}: the run writes up to {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free "
                "there; make room, or give another folder"
            )

    def explain(self, error: OSError) -> str:
        """What to tell of a file that could not be written, or of input that could not be read, in mid-run."""
        if not self.path.is_dir():
            return f"--out {self.path}: cannot be written: the folder is gone; start again"
        again = "go on from the last checkpoint with --resume" if self._has_checkpoint else "start again"
        place, reason, remedy = error.filename or self.path, error.strerror or str(error), "make it writable"
        of_error = Path(os.fsdecode(place)).resolve()
        if self.path.resolve() not in (of_error, *of_error.parents):
            return f"{place}: cannot be read: {reason}; make it readable, then {again}"
        if error.errno in _FULL:
            free = shutil.disk_usage(self.path).free
            reason = f"the disk, a quota or a limit is full ({reason}; {free / 1e6:.1f} MB of the disk are free)"
            remedy = "make room"
        return f"{place}: cannot be written: {reason}; {remedy}, then {again}"

    def _remove_failed_start(self) -> None:
        """Leave nothing behind of a run that could not start."""
        for folder in ("models", "checkpoints", "placement", "states"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        # What cannot be removed was there before, or the folder is gone.
        with contextlib.suppress(OSError):
            for name in _FILES_OF_FAILED_START:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "metrics.json").is_file()

    def read_metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json`` of a finished run."""
        path = self.path / "metrics.json"
        content: dict[str, Any] = read_json(path, path, _METRICS_ANEW)
        if not set(_METRICS_READ) <= set(content):
            raise InputError(f"{path}: is not what a run writes; {_METRICS_ANEW}")
        return content

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write ``metrics.json``, with which the run is finished."""
        write_json(self.path / "metrics.json", metrics)

    def log_to_file(self, line: str) -> None:
        """Keep a line in log.txt; a folder that cannot take it could not take a checkpoint either."""
        with open(self.path / "log.txt", "a", encoding="utf-8", errors="backslashreplace", opener=_open_no_link) as log:
            log.write(escape_unprintable(line) + "\n")

    def log(self, line: str) -> None:
        """Keep a line in log.txt, and give it to the logger ``cocofold``, which the command shows."""
        self.log_to_file(line)
        _LOG.info(line)

    def write_model(self, name: str, written: OutputModel, placed_as: dict[str, str]) -> None:
        """Write a model with its Gaussians, and how it is placed."""
        model = written.model
        details = f"{model.structure.name}, fine-tuned against cryo-EM particle images"
        amplitudes, widths = written.amplitudes, written.widths_angstrom
        write_model(self.path / name, model, amplitudes, widths, details, written.plddt, placed_as)

    def write_density(self, written: OutputModel, box: int, pixel_size: float) -> None:
        """Write the density of the Gaussians as density.mrc."""
        volume = render_density(written.model.positions, written.amplitudes, written.widths_angstrom, box, pixel_size)
        write_map(self.path / "density.mrc", volume, pixel_size)

    def write_cycles(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.csv, one row a cycle of any pass."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        write_atomically(self.path / "metrics.csv", text.getvalue())


_BEST_PREFIX = "best."


@dataclass(frozen=True)
class ModelState:
    """Atoms, and how sure a network is of residues.

    Attributes
    ----------
    positions : (n_atoms, 3) float
        Å.
    gaussians : AtomGaussians
    plddt : (n_residues,) float, optional
    """

    positions: torch.Tensor
    gaussians: AtomGaussians
    plddt: torch.Tensor | None = None

    def tensors(self, prefix: str = _BEST_PREFIX) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        known = {
            "positions": self.positions,
            "amplitudes": self.gaussians.amplitudes,
            "widths": self.gaussians.widths_angstrom,
            "plddt": self.plddt,
        }
        return {
            prefix + name: values.detach().cpu().contiguous() for name, values in known.items() if values is not None
        }

    @classmethod
    def pop_from_checkpoint(
        cls, tensors: dict[str, torch.Tensor], device: torch.device, prefix: str = _BEST_PREFIX
    ) -> ModelState:
        """From a checkpoint's tensors, out of which it is taken."""
        known = {name[len(prefix) :]: tensors.pop(name).to(device) for name in list(tensors) if name.startswith(prefix)}
        return cls(known["positions"], AtomGaussians(known["amplitudes"], known["widths"]), known.get("plddt"))

    def to_output(self, model: Model) -> OutputModel:
        """With the model's names, as files have it."""
        return OutputModel(
            model.moved_to(self.positions.cpu().double().numpy()),
            self.gaussians.amplitudes.detach().cpu().numpy(),
            self.gaussians.widths_angstrom.detach().cpu().numpy(),
            None if self.plddt is None else self.plddt.cpu().double().numpy(),
        )


@dataclass(frozen=True)
class OutputModel:
    """A model, the amplitude and width (Å) of each atom, (n_atoms,), and perhaps pLDDT, (n_residues,)."""

    model: Model
    amplitudes: np.ndarray
    widths_angstrom: np.ndarray
    plddt: np.ndarray | None

    def first_copy(self, subunit: Model) -> OutputModel:
        """Of an assembly the first of its copies, whose names are a subunit's."""
        n_atoms, n_residues = len(subunit), len(subunit.residues)
        return OutputModel(
            subunit.moved_to(self.model.positions[:n_atoms]),
            self.amplitudes[:n_atoms],
            self.widths_angstrom[:n_atoms],
            None if self.plddt is None else self.plddt[:n_residues],
        )

    def only(self, kept: np.ndarray) -> OutputModel:
        """Of some of its residues, (n_residues,) bool."""
        atoms = kept[self.model.residue_of_atom]
        plddt = None if self.plddt is None else self.plddt[kept]
        return OutputModel(self.model.only(kept), self.amplitudes[atoms], self.widths_angstrom[atoms], plddt)

    def above_plddt(self, least_plddt: float | None, of_start: np.ndarray | None) -> np.ndarray:
        """Residues, (n_residues,) bool, of a pLDDT not below a limit: their own, or else that of the start."""
        plddt = of_start if self.plddt is None else self.plddt
        if plddt is None or least_plddt is None:
            return np.ones(len(self.model.residues), dtype=bool)
        # Of an assembly the start's is that of its subunit.
        return ~(np.resize(plddt, len(self.model.residues)) < least_plddt)
