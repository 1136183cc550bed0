"""Particles from CryoSPARC .cs files: what their columns mean, and the two forms in which tables are stored."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lz4.block
import numpy as np

from cocofold.particles.particle_set import (
    IDENTITY_MAGNIFICATION,
    NEGLIGIBLE_ABERRATION,
    OpticsGroup,
    ParticleSet,
    join_pixel_sizes,
    require_usable_optics,
)
from cocofold.particles.poses import matrices_from_cryosparc
from cocofold.particles.stack_files import check_stacks, find_stacks
from cocofold.particles.star_tables import require_half_sets
from cocofold.system.errors import InputError, require_finite

IMAGE_COLUMNS = ("blob/path", "blob/idx", "blob/shape", "blob/psize_A")
CTF_COLUMNS = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
OPTICS_COLUMNS = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "blob/psize_A")
MAGNIFICATION_COLUMN = "ctf/anisomag"
ABERRATION_COLUMNS = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", MAGNIFICATION_COLUMN)
ALIGNMENT_PARTS = ("pose", "shift", "psize_A")
OLD_CLASS_PREFIX = re.compile(r"alignments_class_?(\d+)$")


def read_cryosparc(path: Path, particles_dir: Path | None = None, passthrough: Sequence[Path] = ()) -> ParticleSet:
    """Read a .cs file and its passthrough files.

    An anisotropic magnification is applied; other aberrations are kept as they are stored, since public programs do not
    agree on their signs. Columns of the file itself win over those of passthrough files, and poses come from the first
    file that has any.
    Of several classes (``alignments3D_multi``, ``alignments_class_0`` and so on) each particle's most probable one
    is taken. Where columns are absent: phase shift and B factor are 0, the CTF's scale is 1, images are stored white,
    and there are no half sets.

    Parameters
    ----------
    path : Path
    particles_dir : Path, optional
        Folder from which the stacks' paths count.
    passthrough : sequence of Path
        Joined by ``uid``.

    Raises
    ------
    InputError
        For every file that cannot be used, with the reason and the remedy.
    """
    columns = _join_passthrough(path, passthrough)
    n = len(columns["uid"])
    alignment = next(iter(_alignment_prefixes(columns)), None)
    missing = [name for name in (*IMAGE_COLUMNS, *CTF_COLUMNS) if name not in columns]
    if alignment is None:
        missing.append("alignments3D/pose, shift and psize_A")
    if missing:
        raise InputError(f"{path}: missing {', '.join(missing)}; {_remedy(path, columns, alignment, passthrough)}")
    if n == 0:
        raise InputError(f"{path}: has no particles; give a file with at least one")
    groups, optics_index = _optics_groups(columns, path)
    require_usable_optics(groups, path)
    groups, scale, notes = join_pixel_sizes(groups, optics_index, path)
    poses = _read_alignment(columns, str(alignment), path)
    ctf = _ctf_columns(columns, path)
    contrast = np.where(_numeric_column(columns, "blob/sign", path, 1.0) < 0, -1.0, 1.0)
    if columns["blob/path"].dtype.kind != "U" or columns["blob/path"].ndim != 1:
        raise InputError(f"{path}: blob/path is of type {columns['blob/path'].dtype}, not text; export it again")
    names, stack_index = np.unique(columns["blob/path"], return_inverse=True)
    slice_index = _numeric_column(columns, "blob/idx", path).astype(int)
    stacks = find_stacks([str(name).lstrip(">") for name in names], path, particles_dir)
    check_stacks(stacks, stack_index, slice_index, groups[0].box, path)
    return ParticleSet(
        optics=groups,
        optics_index=optics_index,
        rotations=matrices_from_cryosparc(poses.rotation_vectors),
        origins_angstrom=poses.shifts * poses.pixel_sizes[:, None] * scale[optics_index, None],
        half_set=poses.half_set,
        stacks=stacks,
        stack_index=stack_index,
        slice_index=slice_index,
        contrast=contrast,
        notes=notes,
        **ctf,
    )


def _join_passthrough(path: Path, passthrough: Sequence[Path]) -> dict[str, np.ndarray]:
    """Columns of the file and, for its particles, further columns of passthrough files."""
    columns = _table(path)
    for other_path in passthrough:
        other = _table(other_path)
        rows = _rows_by_uid(columns["uid"], other["uid"], path, other_path)
        has_poses = bool(_alignment_prefixes(columns))
        for name, values in other.items():
            if name not in columns and not (has_poses and name.startswith("alignments")):
                columns[name] = values[rows]
    return columns


def _table(path: Path) -> dict[str, np.ndarray]:
    columns = read_cs_table(path)
    if "uid" not in columns or columns["uid"].ndim != 1 or columns["uid"].dtype.kind not in "iu":
        raise InputError(f"{path}: has no column uid of integers, by which CryoSPARC names particles; export it again")
    return columns


def _rows_by_uid(uid: np.ndarray, other: np.ndarray, path: Path, other_path: Path) -> np.ndarray:
    order = np.argsort(other, kind="stable")
    ordered = other[order]
    if len(ordered) and (ordered[1:] == ordered[:-1]).any():
        raise InputError(
            f"{other_path}: some uids occur twice, so rows cannot be joined; give it as CryoSPARC wrote it"
        )
    at = np.minimum(np.searchsorted(ordered, uid), max(len(ordered) - 1, 0))
    lost = int((ordered[at] != uid).sum()) if len(ordered) else len(uid)
    if lost:
        raise InputError(
            f"{other_path}: {lost} of the {len(uid)} particles of {path} are not in it (by uid); "
            "give the passthrough file of the same job"
        )
    return order[at]


def _alignment_prefixes(columns: dict[str, np.ndarray]) -> list[str]:
    """Prefixes of complete 3D alignments, best first; old classes are all under the first one's name."""
    prefixes = [name[: -len("/pose")] for name in columns if name.endswith("/pose")]
    whole = [
        prefix
        for prefix in prefixes
        if all(
            f"{prefix}/{part}" in columns and columns[f"{prefix}/{part}"].dtype.kind == "f" for part in ALIGNMENT_PARTS
        )
        and columns[f"{prefix}/pose"].shape[1:][-1:] == (3,)
    ]
    wanted = ["alignments3D", "alignments3D_multi"]
    return [prefix for prefix in wanted if prefix in whole] + [
        prefix for prefix in whole if OLD_CLASS_PREFIX.match(prefix)
    ]


class _Alignment(NamedTuple):
    """Rotation vectors (n, 3) rad, shifts (n, 2) pixels, their pixel sizes (n,) Å, and half sets (n,) or None."""

    rotation_vectors: np.ndarray
    shifts: np.ndarray
    pixel_sizes: np.ndarray
    half_set: np.ndarray | None


def _read_alignment(columns: dict[str, np.ndarray], prefix: str, path: Path) -> _Alignment:
    """The alignment under a prefix; of several classes that of each particle's most probable one."""
    if OLD_CLASS_PREFIX.match(prefix):
        classes = sorted(
            (name for name in _alignment_prefixes(columns) if OLD_CLASS_PREFIX.match(name)),
            key=lambda name: int(name.split("_")[-1]),
        )
        parts = {part: np.stack([columns[f"{name}/{part}"] for name in classes], axis=1) for part in ALIGNMENT_PARTS}
        posteriors = [columns[name] for name in (f"{name}/class_posterior" for name in classes) if name in columns]
        posterior = np.stack(posteriors, axis=1) if posteriors else None
    else:
        parts = {part: columns[f"{prefix}/{part}"] for part in ALIGNMENT_PARTS}
        posterior = columns.get(f"{prefix}/class_posterior")
    pose, shift, psize = (np.asarray(parts[part], dtype=float) for part in ALIGNMENT_PARTS)
    if shift.shape != (*pose.shape[:-1], 2) or psize.shape not in (pose.shape[:1], pose.shape[:-1]):
        raise InputError(
            f"{path}: {prefix} has poses {pose.shape}, shifts {shift.shape} and pixel sizes {psize.shape}, which do "
            "not belong together; export the particles again"
        )
    if pose.ndim == 3:
        best = _most_probable_class(pose.shape[:2], posterior, prefix, path)
        rows = np.arange(len(pose))
        pose, shift = pose[rows, best], shift[rows, best]
        psize = psize[rows, best] if psize.ndim == 2 else psize
    require_finite(pose, f"{prefix}/pose", path)
    require_finite(shift, f"{prefix}/shift", path)
    require_finite(psize, f"{prefix}/psize_A", path)
    split = columns.get(f"{prefix}/split")
    if split is not None and split.ndim == 1:
        split = require_half_sets(split.astype(float) + 1, f"{prefix}/split", path)
    else:
        split = None
    return _Alignment(pose, shift, psize, split)


def _most_probable_class(shape: tuple[int, ...], posterior: np.ndarray | None, prefix: str, path: Path) -> np.ndarray:
    """Each particle's class, (n,) int, for ``shape`` (n, classes)."""
    if shape[1] <= 1:
        return np.zeros(shape[0], dtype=int)
    if posterior is None or posterior.shape != shape:
        raise InputError(
            f"{path}: {shape[1]} classes in {prefix} without class_posterior; export the particles of one class"
        )
    return require_finite(posterior, f"{prefix}/class_posterior", path).argmax(axis=1)


def _ctf_columns(columns: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    """CTF parameters of each particle, by the names and in the units of ``ParticleSet``."""
    degrees = 180 / np.pi
    return {
        "defocus_u_angstrom": _numeric_column(columns, "ctf/df1_A", path),
        "defocus_v_angstrom": _numeric_column(columns, "ctf/df2_A", path),
        "defocus_angle_deg": _numeric_column(columns, "ctf/df_angle_rad", path) * degrees,
        "phase_shift_deg": _numeric_column(columns, "ctf/phase_shift_rad", path, 0.0) * degrees,
        "ctf_bfactor_a2": _numeric_column(columns, "ctf/bfactor", path, 0.0),
        "ctf_scale": _numeric_column(columns, "ctf/scale", path, 1.0),
    }


def _optics_groups(columns: dict[str, np.ndarray], path: Path) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Groups of particles with the same optics, exposure group, box and aberrations."""
    n = len(columns["uid"])
    box = _numeric_column(columns, "blob/shape", path, vector=True)
    if box.shape[1] != 2 or (box[:, 0] != box[:, 1]).any():
        raise InputError(f"{path}: blob/shape is {box[0].tolist()}; square two-dimensional images are needed")
    exposure = _numeric_column(columns, "ctf/exp_group_id", path, 0.0)
    known = [name for name in ABERRATION_COLUMNS if name in columns]
    aberrations = [_numeric_column(columns, name, path, vector=True) for name in known]
    keys = [exposure, box[:, 0], *(_numeric_column(columns, name, path) for name in OPTICS_COLUMNS)]
    table = np.concatenate([np.stack(keys, axis=1), *aberrations], axis=1)
    unique, index = np.unique(table, axis=0, return_inverse=True)
    edges = np.cumsum([len(keys)] + [values.shape[1] for values in aberrations])
    groups = []
    for row in unique:
        key = dict(zip(("group", "box", *OPTICS_COLUMNS), row.tolist()))
        found = [(name, row[begin:end]) for name, begin, end in zip(known, edges[:-1], edges[1:])]
        groups.append(
            OpticsGroup(
                name=f"exposureGroup{key['group']:.0f}",
                voltage_kv=_rounded(key["ctf/accel_kv"]),
                cs_mm=_rounded(key["ctf/cs_mm"]),
                amplitude_contrast=_rounded(key["ctf/amp_contrast"]),
                pixel_size_angstrom=_rounded(key["blob/psize_A"]),
                box=int(key["box"]),
                magnification_matrix=_magnification(dict(found).get(MAGNIFICATION_COLUMN), path),
                cryosparc_aberrations=tuple(
                    (name, tuple(_rounded(value) for value in values))
                    for name, values in found
                    if name != MAGNIFICATION_COLUMN and np.any(np.abs(values) > NEGLIGIBLE_ABERRATION)
                ),
            )
        )
    return tuple(groups), index.reshape(n)


def _numeric_column(
    columns: dict[str, np.ndarray], name: str, path: Path, default: float | None = None, vector: bool = False
) -> np.ndarray:
    """A column as float64, all finite: (n,), or (n, k) if a vector is wanted."""
    if name not in columns and default is not None:
        return np.full(len(columns["uid"]), default)
    values = columns[name]
    if values.ndim != 1 + vector or values.dtype.kind not in "fiu":
        wanted = "a vector of numbers" if vector else "one number"
        raise InputError(
            f"{path}: {name} is of type {values.dtype} {values.shape[1:]}, but {wanted} a particle is needed; "
            "export the particles again"
        )
    return require_finite(values.astype(float), name, path)


def _magnification(stored: np.ndarray | None, path: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """RELION's matrix: CryoSPARC stores the same, of coordinates in Fourier space, less the identity, row by row."""
    if stored is None or not np.any(np.abs(stored) > NEGLIGIBLE_ABERRATION):
        return IDENTITY_MAGNIFICATION
    if stored.shape != (4,):
        raise InputError(f"{path}: {MAGNIFICATION_COLUMN} has {len(stored)} values, of which it needs 4; export again")
    xx, xy, yx, yy = (_rounded(value) for value in stored)
    return (1 + xx, xy), (yx, 1 + yy)


def _rounded(value: float) -> float:
    """The decimal number that single precision stands for: 2.7, not 2.70000005."""
    return float(f"{value:.7g}")


def _remedy(path: Path, columns: dict[str, np.ndarray], alignment: str | None, passthrough: Sequence[Path]) -> str:
    remedies = []
    if alignment is None:
        flat = " (only 2D alignments)" if "alignments2D/pose" in columns else ""
        remedies.append(f"no poses{flat}: give the particles of a 3D refinement")
    beside = sorted(other.name for other in path.parent.glob("*passthrough*.cs") if other not in (path, *passthrough))
    found = f" (found beside it: {', '.join(beside)})" if beside else ""
    remedies.append(f"CryoSPARC often keeps such columns in a second file: give it with --passthrough{found}")
    return "; ".join(remedies)


# Length of a header at most, which lists the columns: 16 classes need 11,000, a thousand 700,000. NumPy's own limit of
# 10,000 protects from headers that take long to parse.
MAX_HEADER_BYTES = 1 << 22
NUMPY_MAGIC = b"\x93NUMPY"
COLUMNS_MAGIC = b"\x95CSDAT"


def read_cs_table(path: Path) -> dict[str, np.ndarray]:
    """All columns of a .cs file by name; text as ``str``.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of neither form.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if magic not in (NUMPY_MAGIC, COLUMNS_MAGIC):
        raise InputError(
            f"{path}: not a CryoSPARC file (it starts with {magic!r}); give a .cs file as CryoSPARC wrote it"
        )
    try:
        columns = _read_numpy(path) if magic == NUMPY_MAGIC else _read_columns(path)
    except Exception as error:  # NumPy's and JSON's readers raise whatever their pieces raise
        raise InputError(f"{path}: damaged or not a particle table ({error}); export it again") from error
    return {name: _decode_text(values) if values.dtype.kind == "S" else values for name, values in columns.items()}


def _read_numpy(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        limit: dict[str, Any] = {"max_header_size": MAX_HEADER_BYTES}
        table = np.lib.format.read_array(file, allow_pickle=False, **limit)
    if table.dtype.names is None:
        raise ValueError("an array without named columns")
    if table.ndim != 1:
        raise ValueError(f"an array of {table.ndim} dimensions")
    return {name: table[name] for name in table.dtype.names}


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read the column-wise form.

    After the magic: a JSON header preceded by its length (uint32, little-endian), which lists length, columns and
    those compressed; each column, preceded by its length in bytes; to the end, texts ended by zero bytes. A column of
    texts holds the places of its texts there as uint64. Compression is that of LZ4 blocks.
    """
    content = path.read_bytes()
    at = len(COLUMNS_MAGIC)

    def take() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("<I", content, at)
        part = content[at + 4 : at + 4 + size]
        if len(part) < size:
            raise ValueError("the file is cut short")
        at += 4 + size
        return part

    header = json.loads(take())
    length = int(header["length"])
    compression = header.get("compression")
    if compression not in (None, "lz4"):
        raise ValueError(f"compression {compression}, of which only lz4 is read")
    compressed = set(header.get("compressed_fields") or ())
    raw = {}
    for name, kind, *shape in header["dtype"] if length else ():
        is_text = kind.endswith("O")
        dtype = np.dtype("<u8" if is_text else kind)
        full_shape = (length, *np.atleast_1d(shape[0] if shape else []).astype(int).tolist())
        size = int(np.prod(full_shape)) * dtype.itemsize
        stored = take()
        data = lz4.block.decompress(stored, uncompressed_size=size) if name in compressed else stored
        if len(data) != size:
            raise ValueError(f"column {name} has {len(data)} bytes instead of {size}")
        raw[name] = (is_text, np.frombuffer(data, dtype).reshape(full_shape))
    texts = content[at:]
    return {name: _texts_at_offsets(texts, values) if is_text else values for name, (is_text, values) in raw.items()}


def _texts_at_offsets(texts: bytes, places: np.ndarray) -> np.ndarray:
    unique, inverse = np.unique(places, return_inverse=True)
    if len(unique) and unique[-1] >= len(texts):
        raise ValueError("a text lies beyond the end of the file")
    values = [texts[place : texts.index(b"\x00", place)].decode() for place in unique.tolist()]
    return np.array(values, dtype=str)[inverse.reshape(places.shape)]


def _decode_text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8", "replace")
