"""CryoSPARC files: both forms, passthrough, classes, contrast, and defects."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
import torch
from particle_project import Project

from cocofold.imaging.fourier import antisymmetric_phase, electron_wavelength_angstrom, symmetric_phase
from cocofold.likelihood.particle_optics import cryosparc_phase_deg, leave_out_aberrations, unsupported_aberrations
from cocofold.particles import read_particles
from cocofold.particles.cryosparc import read_cs_table
from cocofold.particles.particle_set import OpticsGroup
from cocofold.particles.star_write import write_star
from cocofold.system.errors import InputError

N = 3
BLOB = {
    "uid": np.array([30, 10, 20], dtype="<u8"),
    "blob/path": np.array([b">stacks/a.mrcs", b"stacks/b.mrcs", b"stacks/a.mrcs"]),
    "blob/idx": np.array([1, 0, 2], dtype="<u4"),
    "blob/shape": np.full((N, 2), 8, dtype="<u4"),
    "blob/psize_A": np.full(N, 1.5, dtype="<f4"),
    "blob/sign": np.array([1, -1, 1], dtype="<f4"),
}
CTF = {
    "ctf/exp_group_id": np.array([4, 4, 5], dtype="<u4"),
    "ctf/accel_kv": np.full(N, 300, dtype="<f4"),
    "ctf/cs_mm": np.full(N, 2.7, dtype="<f4"),
    "ctf/amp_contrast": np.full(N, 0.1, dtype="<f4"),
    "ctf/df1_A": np.array([15000, 12000, 9000], dtype="<f4"),
    "ctf/df2_A": np.array([14000, 11500, 9000], dtype="<f4"),
    "ctf/df_angle_rad": np.array([np.pi / 4, 0, 1], dtype="<f4"),
    "ctf/phase_shift_rad": np.array([np.pi / 2, 0, 0], dtype="<f4"),
    "ctf/tilt_A": np.zeros((N, 2), dtype="<f4"),
}
ALIGNMENT = {
    "pose": np.array([[0, 0, np.pi / 2], [0.1, 0.2, 0.3], [0, 0, 0]], dtype="<f4"),
    "shift": np.array([[2, -1], [0, 0], [1, 1]], dtype="<f4"),
    "psize_A": np.full(N, 3, dtype="<f4"),
    "split": np.array([0, 1, 0], dtype="<u4"),
}
POSES = {f"alignments3D/{name}": values for name, values in ALIGNMENT.items()}
QUARTER_TURN = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]


def cs_bytes(columns: dict[str, np.ndarray]) -> bytes:
    n = len(columns["uid"]) if "uid" in columns else N
    table = np.zeros(n, dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    buffer = io.BytesIO()
    np.save(buffer, table)
    return buffer.getvalue()


def write(project: Project, columns: dict[str, np.ndarray], name: str = "particles.cs") -> Path:
    path = project.folder / name
    path.write_bytes(cs_bytes(columns))
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_particles(path, **options)
    return str(caught.value)


def test_values(project: Project) -> None:
    particles = read_particles(write(project, {**BLOB, **CTF, **POSES}))
    np.testing.assert_allclose(particles.rotations[0], QUARTER_TURN, atol=1e-7)
    np.testing.assert_allclose(particles.origins_angstrom, [[6, -3], [0, 0], [3, 3]])
    np.testing.assert_allclose(particles.defocus_angle_deg[:2], [45, 0], atol=1e-5)
    np.testing.assert_allclose(particles.phase_shift_deg, [90, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(particles.half_set, [1, 2, 1])
    np.testing.assert_array_equal(particles.contrast, [1, -1, 1])
    assert [group.name for group in particles.optics] == ["exposureGroup4", "exposureGroup5"]
    assert (particles.optics[0].cs_mm, particles.optics[0].amplitude_contrast) == (2.7, 0.1)
    assert particles.pixel_size_angstrom == 1.5
    assert particles.half_set is not None
    expected = np.stack([project.a[1], -project.b[0], project.a[2]])
    np.testing.assert_array_equal(particles.images(np.arange(N)), expected)
    assert unsupported_aberrations(particles) == []


def test_passthrough_is_joined_by_uid_and_may_hold_more(project: Project) -> None:
    order = np.array([2, 0, 1])
    shuffled = {name: values[order] for name, values in {"uid": BLOB["uid"], **CTF, **POSES}.items()}
    longer = {name: np.concatenate([values[:1], values]) for name, values in shuffled.items()}
    longer["uid"][0] = 99
    plain = read_particles(write(project, {**BLOB, **CTF, **POSES}))
    joined = read_particles(write(project, BLOB, "blob.cs"), passthrough=[write(project, longer, "passthrough.cs")])
    for name in ("rotations", "origins_angstrom", "defocus_u_angstrom", "half_set", "optics_index"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(plain, name))
    np.testing.assert_array_equal(joined.images(np.arange(N)), plain.images(np.arange(N)))


def test_columns_of_the_file_win_over_passthrough(project: Project) -> None:
    stale = {name: values * 0 for name, values in {**CTF, **POSES}.items()}
    path = write(project, {**BLOB, **CTF, **POSES})
    joined = read_particles(path, passthrough=[write(project, {"uid": BLOB["uid"], **stale}, "passthrough.cs")])
    np.testing.assert_allclose(joined.rotations[0], QUARTER_TURN, atol=1e-7)
    assert joined.optics[0].voltage_kv == 300


def classes(prefix_form: str) -> dict[str, np.ndarray]:
    """Three classes, of which the particles' best are 1, 2 and 0; the right pose is there, others elsewhere."""
    best = [1, 2, 0]
    posterior = np.full((N, 3), 0.1, dtype="<f4")
    posterior[np.arange(N), best] = 0.8
    many = {}
    for name in ("pose", "shift"):
        values = np.full((N, 3, *ALIGNMENT[name].shape[1:]), 0.77, dtype="<f4")
        values[np.arange(N), best] = ALIGNMENT[name]
        many[name] = values
    many["class_posterior"] = posterior
    if prefix_form == "multi":
        columns = {f"alignments3D_multi/{name}": values for name, values in many.items()}
        return {**columns, "alignments3D_multi/psize_A": ALIGNMENT["psize_A"]}
    columns = {f"alignments_class_{k}/{name}": values[:, k] for name, values in many.items() for k in range(3)}
    return {**columns, **{f"alignments_class_{k}/psize_A": ALIGNMENT["psize_A"] for k in range(3)}}


@pytest.mark.parametrize("form", ["multi", "numbered"])
def test_most_probable_class_is_taken(project: Project, form: str) -> None:
    plain = read_particles(write(project, {**BLOB, **CTF, **POSES}))
    stale = {"uid": BLOB["uid"], **{name: values * 0 for name, values in POSES.items()}}
    path = write(project, {**BLOB, **CTF, **classes(form)})
    chosen = read_particles(path, passthrough=[write(project, stale, "passthrough.cs")])
    np.testing.assert_array_equal(chosen.rotations, plain.rotations)
    np.testing.assert_array_equal(chosen.origins_angstrom, plain.origins_angstrom)
    assert chosen.half_set is None


@pytest.mark.parametrize("count", [16, 40, 100])
@pytest.mark.parametrize("place", ["file", "passthrough"])
def test_headers_of_many_classes(project: Project, count: int, place: str) -> None:
    plain = read_particles(write(project, {**BLOB, **CTF, **POSES}))
    many = {"uid": BLOB["uid"]}
    for number in range(count):
        many.update({f"alignments_class_{number}/{name}": values for name, values in ALIGNMENT.items()})
        posterior = np.full(N, 0.8 if number == count - 1 else 0.01, dtype="<f4")
        many[f"alignments_class_{number}/class_posterior"] = posterior
    if place == "file":
        found = read_particles(write(project, {**BLOB, **CTF, **many}))
    else:
        passthrough = write(project, many, "passthrough.cs")
        found = read_particles(write(project, {**BLOB, **CTF}), passthrough=[passthrough])
    np.testing.assert_array_equal(found.rotations, plain.rotations)


def test_case_of_sixteen_classes(cases: Path) -> None:
    folder = cases / "particles" / "C_cs_header_16_classes"
    read = read_particles(folder / "particles.cs", passthrough=[folder / "particles_passthrough.cs"])
    assert len(read) == 300


def test_aberrations_are_carried_as_stored(project: Project) -> None:
    tilted = {**CTF, "ctf/tilt_A": np.array([[5e4, -1], [5e4, -1], [0, 0]], dtype="<f4")}
    particles = read_particles(write(project, {**BLOB, **tilted, **POSES}))
    assert particles.optics[0].cryosparc_aberrations == (("ctf/tilt_A", (5e4, -1.0)),)
    (message,) = unsupported_aberrations(particles)
    for word in ("exposureGroup4", "ctf/tilt_A", "--ignore-aberrations"):
        assert word in message
    assert unsupported_aberrations(particles.subset(np.array([2]))) == []
    ignored = read_particles(project.folder / "particles.cs", ignore_aberrations=True)
    assert unsupported_aberrations(ignored) == []
    assert "left out, as asked" in ignored.notes[0]


# What global CTF refinement writes that changes nothing: zeros in their columns, rounded ones, and small aberrations
HARMLESS = {
    "all zero": {
        "tilt_A": [0, 0],
        "shift_A": [0, 0],
        "trefoil_A": [0, 0],
        "tetra_A": [0, 0, 0, 0],
        "anisomag": [0] * 4,
    },
    "rounded": {"tilt_A": [1e-9, -1e-9], "tetra_A": [1e-12, 0, 0, -1e-12], "anisomag": [1e-8, 0, 0, 1e-8]},
    "tilt": {"tilt_A": [210, -95]},
    "trefoil": {"trefoil_A": [120, 40]},
    "tetrafoil": {"tetra_A": [900, -300, 500, 200]},
    "shift": {"shift_A": [0.02, -0.01]},
    "all small": {"tilt_A": [50, -20], "trefoil_A": [20, 30], "tetra_A": [90, 0, -50, 0], "shift_A": [0.01, 0]},
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_small_aberrations_are_left_out_and_told(project: Project, kind: str) -> None:
    columns = {f"ctf/{name}": np.tile(np.array(values, "<f4"), (N, 1)) for name, values in HARMLESS[kind].items()}
    plain = read_particles(write(project, {**BLOB, **CTF, **POSES}))
    found = leave_out_aberrations(read_particles(write(project, {**BLOB, **CTF, **columns, **POSES})), "particles.cs")
    assert found.optics == plain.optics
    assert unsupported_aberrations(found) == []
    if kind in ("all zero", "rounded"):
        assert found.notes == ()
    else:
        (note,) = found.notes
        assert "left out" in note
        assert all(f"ctf/{name}" in note for name in HARMLESS[kind])


LARGE = {"tilt_A": [9000, 0], "trefoil_A": [0, 30000], "tetra_A": [0, 2e6, 0, 0], "shift_A": [0, 0.3]}


@pytest.mark.parametrize("name", LARGE)
def test_large_aberrations_stop_unless_coarse_rings_are_compared(project: Project, name: str) -> None:
    columns = {f"ctf/{name}": np.tile(np.array(LARGE[name], "<f4"), (N, 1))}
    large = read_particles(write(project, {**BLOB, **CTF, **columns, **POSES}))
    with pytest.raises(InputError, match=rf"particles\.cs: .*ctf/{name} .* degrees; .*--ignore-aberrations"):
        leave_out_aberrations(large, "particles.cs")
    assert "left out" in leave_out_aberrations(large, "particles.cs", 30.0).notes[0]


def test_a_star_of_the_same_particles_is_refused_alike(project: Project) -> None:
    columns = {"ctf/tilt_A": np.tile(np.array(LARGE["tilt_A"], "<f4"), (N, 1))}
    large = read_particles(write(project, {**BLOB, **CTF, **columns, **POSES}))
    write_star(project.folder / "same.star", large)
    assert unsupported_aberrations(read_particles(project.folder / "same.star")) == unsupported_aberrations(large)


def test_phases_are_those_of_relions_aberrations() -> None:
    # Each term as RELION has it, whose formulas its own images have confirmed
    group = OpticsGroup("a", 300, 2.7, 0.1, 1.0, 64)
    wavelength, k = electron_wavelength_angstrom(300), 0.25
    turns = torch.linspace(0, 2 * np.pi, 721, dtype=torch.float64)
    kx, ky = k * torch.cos(turns), k * torch.sin(turns)
    cs = 2.7e7

    def largest(phase: torch.Tensor) -> float:
        return np.degrees(float(phase.abs().max()))

    tilt = antisymmetric_phase(kx, ky, (0.3e3 * 1e-3, 0.4e3 * 1e-3), (), cs, wavelength)
    in_angstrom = (0.3e-3 * cs, 0.4e-3 * cs)
    assert cryosparc_phase_deg(group, "ctf/tilt_A", in_angstrom, k) == pytest.approx(largest(tilt), rel=1e-3)
    third = 2 * np.pi * wavelength**2
    trefoil = antisymmetric_phase(kx, ky, (0, 0), (0, 0, 300 * third / 3, 0, 0, 400 * third / 3), cs, wavelength)
    assert cryosparc_phase_deg(group, "ctf/trefoil_A", (400, 300), k) == pytest.approx(largest(trefoil), rel=1e-3)
    fourth = wavelength**3
    # k^4 cos 2t is a quarter of Zernike's (4, 2) and three quarters of its (2, 2).
    twofold = 2 * np.pi * fourth * 5000 / 4
    even = symmetric_phase(kx, ky, (0, 0, 0, 3 * twofold, 0, 0, 0, twofold, 0))
    assert cryosparc_phase_deg(group, "ctf/tetra_A", (5000, 0, 0, 0), k) == pytest.approx(largest(even), rel=1e-3)
    fourfold = symmetric_phase(kx, ky, (0, 0, 0, 0, np.pi / 2 * fourth * 5000, 0, 0, 0, 0))
    assert cryosparc_phase_deg(group, "ctf/tetra_A", (0, 0, 0, 5000), k) == pytest.approx(largest(fourfold), rel=1e-3)
    shift = 2 * np.pi * (0.3 * kx - 0.4 * ky)
    assert cryosparc_phase_deg(group, "ctf/shift_A", (0.3, -0.4), k) == pytest.approx(largest(shift), rel=1e-3)


def test_anisotropic_magnification_is_relions_less_the_identity(project: Project) -> None:
    stored = np.array([[0.01, 0.002, 0.003, -0.02], [0.01, 0.002, 0.003, -0.02], [0, 0, 0, 0]], "<f4")
    found = read_particles(write(project, {**BLOB, **CTF, "ctf/anisomag": stored, **POSES}))
    np.testing.assert_allclose(found.optics[0].magnification_matrix, [[1.01, 0.002], [0.003, 0.98]])
    assert found.optics[1].magnification_matrix == ((1, 0), (0, 1))
    assert unsupported_aberrations(found) == []
    (message,) = unsupported_aberrations(
        read_particles(write(project, {**BLOB, **CTF, "ctf/anisomag": stored - 0.5, **POSES}))
    )[:1]
    assert "far from 1" in message
    assert "has 3 values" in refusal(write(project, {**BLOB, **CTF, "ctf/anisomag": stored[:, :3], **POSES}))


def test_case_of_global_ctf_refinement(cases: Path) -> None:
    read = read_particles(cases / "particles" / "D_cs_global_ctf_refinement" / "particles.cs")
    (note,) = leave_out_aberrations(read, "particles.cs").notes
    assert "ctf/tilt_A 0.23 degrees, ctf/trefoil_A 0.043 degrees" in note


def csdat_bytes(columns: dict[str, np.ndarray], compressed: tuple[str, ...] = ()) -> bytes:
    dtype: list[list[object]] = []
    parts, texts = [], b""
    for name, values in columns.items():
        stored = values
        kind = values.dtype.str
        if values.dtype.kind == "S":
            kind = "|O"
            places = []
            for value in values.tolist():
                places.append(len(texts))
                texts += value + b"\0"
            stored = np.array(places, dtype="<u8")
        dtype.append([name, kind, *([list(values.shape[1:])] if values.ndim > 1 else [])])
        raw = stored.tobytes()
        raw = lz4.block.compress(raw, store_size=False) if name in compressed else raw
        parts.append(struct.pack("<I", len(raw)) + raw)
    header = {"length": N, "dtype": dtype, "compression": "lz4" if compressed else None}
    text = json.dumps({**header, "compressed_fields": list(compressed)}).encode()
    return b"\x95CSDAT" + struct.pack("<I", len(text)) + text + b"".join(parts) + texts


@pytest.mark.parametrize("compressed", [(), ("blob/path", "alignments3D/pose", "ctf/tilt_A")])
def test_column_wise_form(project: Project, compressed: tuple[str, ...]) -> None:
    columns = {**BLOB, **CTF, **POSES}
    path = project.folder / "columns.cs"
    path.write_bytes(csdat_bytes(columns, compressed))
    for name, values in read_cs_table(path).items():
        expected = np.char.decode(columns[name]) if columns[name].dtype.kind == "S" else columns[name]
        np.testing.assert_array_equal(values, expected)
    assert len(read_particles(path)) == N


@pytest.mark.independent
def test_both_forms_of_one_file_hold_the_same(shared_data: Path) -> None:
    folder = shared_data / "adk/small300/cs"
    one, two = read_cs_table(folder / "particles.cs"), read_cs_table(folder / "particles_csdat.cs")
    assert set(one) == set(two)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


def test_a_compressed_column_that_is_damaged_or_of_another_length_is_refused(project: Project) -> None:
    path = project.folder / "columns.cs"
    head = {"length": N, "dtype": [["uid", "<u8"]], "compression": "lz4", "compressed_fields": ["uid"]}
    text = json.dumps(head).encode()
    start = b"\x95CSDAT" + struct.pack("<I", len(text)) + text
    whole = lz4.block.compress(BLOB["uid"].tobytes(), store_size=False)
    longer, shorter = (lz4.block.compress(b"\0" * size, store_size=False) for size in (32, 16))
    path.write_bytes(start + struct.pack("<I", len(whole)) + whole)
    np.testing.assert_array_equal(read_cs_table(path)["uid"], BLOB["uid"])
    for stored in (whole[:-3], longer, shorter, b"\xf0"):
        path.write_bytes(start + struct.pack("<I", len(stored)) + stored)
        with pytest.raises(InputError, match="damaged or not a particle table"):
            read_cs_table(path)


def without(columns: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in columns.items() if name not in names}


ALL = {**BLOB, **CTF, **POSES}


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (without(ALL, "ctf/df1_A", "blob/psize_A"), ["missing blob/psize_A, ctf/df1_A", "--passthrough"]),
        ({**BLOB, **CTF}, ["no poses", "--passthrough"]),
        (without(ALL, "alignments3D/shift"), ["no poses", "--passthrough"]),
        (without(ALL, "uid"), ["uid"]),
        ({**ALL, "blob/shape": np.full((N, 2), 9, dtype="<u4")}, ["9 pixels", "odd"]),
        ({**ALL, "blob/shape": np.full((N, 2), 16, dtype="<u4")}, ["8 pixels", "metadata say 16"]),
        ({**ALL, "blob/shape": np.array([[8, 6]] * N, dtype="<u4")}, ["blob/shape", "square"]),
        ({**ALL, "blob/idx": np.array([1, 2, 0], dtype="<u4")}, ["image 3", "the stack has 2"]),
        ({**ALL, "blob/psize_A": np.array([1.5, 1.5, 1.6], dtype="<f4")}, ["pixel size", "exposureGroup5 1.6"]),
        ({**ALL, "ctf/df1_A": np.array([1, np.nan, 1], dtype="<f4")}, ["row 2", "ctf/df1_A = nan"]),
        ({**ALL, "alignments3D/pose": np.full((N, 3), np.inf, dtype="<f4")}, ["row 1", "alignments3D/pose"]),
        ({**ALL, "alignments3D/split": np.array([0, 1, 2], dtype="<u4")}, ["row 3", "alignments3D/split"]),
        ({**ALL, "blob/path": np.array([b"none.mrcs"] * N)}, ["stacks not found", "none.mrcs", "--particles-dir"]),
        ({**ALL, "ctf/df1_A": np.ones((N, 2), dtype="<f4")}, ["ctf/df1_A is of type", "one number"]),
        ({name: values[:0] for name, values in ALL.items()}, ["no particles"]),
        (without({**BLOB, **CTF, **classes("multi")}, "alignments3D_multi/class_posterior"), ["class_posterior"]),
    ],
)
def test_defects_are_refused(project: Project, columns: dict[str, np.ndarray], parts: list[str]) -> None:
    message = refusal(write(project, columns))
    for part in parts:
        assert part in message


def test_passthrough_files_that_are_refused(project: Project) -> None:
    path = write(project, BLOB)
    rest = {"uid": BLOB["uid"], **CTF, **POSES}
    other_job = {**rest, "uid": np.array([30, 11, 20], dtype="<u8")}
    assert "1 of the 3 particles" in refusal(path, passthrough=[write(project, other_job, "p.cs")])
    doubled = {**rest, "uid": np.array([30, 10, 10], dtype="<u8")}
    assert "some uids occur twice" in refusal(path, passthrough=[write(project, doubled, "p.cs")])
    assert "uid" in refusal(path, passthrough=[write(project, CTF, "p.cs")])
    assert "cannot be opened" in refusal(path, passthrough=[project.folder / "none.cs"])


def test_damaged_files_are_refused(project: Project) -> None:
    path = project.folder / "particles.cs"
    table, columns = cs_bytes(ALL), csdat_bytes(ALL, ("blob/path",))
    plain = io.BytesIO()
    np.save(plain, np.zeros((3, 3)))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object))
    for content in (table[:-9], table[:40], columns[:40], columns[:900], plain.getvalue(), objects.getvalue()):
        path.write_bytes(content)
        assert "damaged or not a particle table" in refusal(path)
    for content in (b"", b"text", b"PK\x03\x04zip file"):
        path.write_bytes(content)
        assert "not a CryoSPARC file" in refusal(path)
