"""``cocofold simulate``: what it writes, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold import __version__
from cocofold.assessment.comparison import assess
from cocofold.commands.demo import open_state
from cocofold.particles import read_particles
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model


def stack_of(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return file.data.astype(float)


def angles_between_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(Rotation.from_matrix(first @ second.transpose(0, 2, 1)).magnitude())


def test_signal_and_noise_are_as_asked(simulate) -> None:
    out = simulate("--clean", "--snr", 0.05)
    clean, noisy = stack_of(out / "clean.mrcs"), stack_of(out / "particles.mrcs")
    noise = noisy - clean
    assert clean.var(axis=(1, 2)).mean() / noise.var() == pytest.approx(0.05, rel=0.02)
    assert json.loads((out / "truth.json").read_text())["signal_variance"] == pytest.approx(0.05, rel=1e-4)
    # White: as strong at low as at high frequency, and no image like another or like the signal.
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0) / noise[0].size
    assert power[:8, :8].mean() == pytest.approx(1, abs=0.1)
    assert power[20:28, 20:28].mean() == pytest.approx(1, abs=0.1)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(noise.ravel(), clean.ravel())[0, 1]) < 0.01


def test_stack_is_a_valid_file_whose_header_has_no_date(simulate, capsys: pytest.CaptureFixture) -> None:
    out = simulate("--count", 5)
    assert mrcfile.validate(out / "particles.mrcs"), capsys.readouterr().out
    with mrcfile.open(out / "particles.mrcs") as file:
        assert file.is_image_stack()
        assert file.voxel_size.x == 3
        assert file.header.rms == pytest.approx(file.data.std(), rel=1e-5)
        assert file.header.dmax == file.data.max()
        assert file.get_labels() == [f"Simulated by cocofold {__version__}"]


def test_star_reads_back(simulate) -> None:
    out = simulate("--defocus", 12000, 18000, "--astigmatism", 600, "--shift-spread", 2, "--amplitude-contrast", 0.07)
    particles = read_particles(out / "particles.star")
    assert (len(particles), particles.box, particles.pixel_size_angstrom) == (60, 48, 3)
    assert particles.optics[0].amplitude_contrast == 0.07
    mean = (particles.defocus_u_angstrom + particles.defocus_v_angstrom) / 2
    astigmatism = particles.defocus_u_angstrom - particles.defocus_v_angstrom
    assert 12000 <= mean.min() < 13000
    assert 17000 < mean.max() <= 18000
    assert 0 <= astigmatism.min() < 150
    assert 450 < astigmatism.max() <= 600
    assert particles.origins_angstrom.std() == pytest.approx(2, rel=0.25)
    assert np.array_equal(particles.images(np.arange(60)), stack_of(out / "particles.mrcs").astype(np.float32))
    assert np.bincount(particles.half_set).tolist() == [0, 30, 30]


def test_images_are_in_the_frame_of_the_model_written_beside_them(simulate) -> None:
    out = simulate("--count", 1)
    assert assess(read_model(out / "truth.cif"), read_model(open_state())).ca_rmsd_in_place < 1e-3


def test_views_are_uniform_unless_a_cone_is_left_out(simulate) -> None:
    few = ("--count", 1500, "--box", 16, "--pixel-size", 9)
    everywhere = read_particles(simulate(*few, name="all") / "particles.star").rotations[:, 2]
    assert np.abs(everywhere.mean(0)).max() < 0.06
    assert (np.abs(everywhere[:, 2]) > np.cos(np.deg2rad(60))).mean() == pytest.approx(0.5, abs=0.05)
    out = simulate(*few, "--views", "missing-cone", "--missing-cone", 60, name="cone")
    views = read_particles(out / "particles.star").rotations[:, 2]
    from_axis = np.degrees(np.arccos(np.abs(views[:, 2])))
    assert 60 <= from_axis.min() < 60.5
    assert (views[:, 2] > 0).mean() == pytest.approx(0.5, abs=0.05)
    # Evenly over the band: as many views in each half of its height, and all around.
    assert (np.abs(views[:, 2]) < 0.25).mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(views[:, :2].mean(0)).max() < 0.08


def test_errors_of_poses_are_in_the_star_and_not_in_the_images(simulate) -> None:
    few = ("--count", 400, "--box", 16, "--pixel-size", 9)
    exact = simulate(*few, name="exact")
    off = simulate(*few, "--pose-noise", 5, "--shift-noise", 1.5, name="off")
    assert (exact / "particles.mrcs").read_bytes() == (off / "particles.mrcs").read_bytes()
    truth, told = read_particles(off / "true_poses.star"), read_particles(off / "particles.star")
    true_rotations = read_particles(exact / "particles.star").rotations
    assert angles_between_deg(truth.rotations, true_rotations).max() < 1e-4
    errors = angles_between_deg(told.rotations, truth.rotations)
    assert np.sqrt((errors**2).mean()) == pytest.approx(5, rel=0.12)
    assert (errors < 5).mean() == pytest.approx(0.683, abs=0.08)
    shifts = told.origins_angstrom - truth.origins_angstrom
    assert shifts.std(axis=0) == pytest.approx([1.5, 1.5], rel=0.12)
    assert np.array_equal(told.defocus_u_angstrom, truth.defocus_u_angstrom)


def test_a_seed_gives_the_same_bytes_and_another_one_others(simulate) -> None:
    first, again = (simulate("--clean", name=name) for name in ("first", "again"))
    other = simulate("--seed", 1, name="other")
    for name in ("particles.mrcs", "clean.mrcs", "truth.cif", "truth.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    # The first line of a STAR has the time of day.
    first_lines, again_lines, other_lines = (
        (folder / "particles.star").read_text().splitlines()[1:] for folder in (first, again, other)
    )
    assert first_lines == again_lines != other_lines
    assert not np.array_equal(stack_of(first / "particles.mrcs"), stack_of(other / "particles.mrcs"))


def test_stack_does_not_depend_on_how_many_images_are_made_at_once(simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate(name="whole")
    monkeypatch.setattr("cocofold.simulation.scene._MAX_PROJECTED_ATOMS", 1656 * 7)
    parts = simulate(name="parts")
    assert np.abs(stack_of(whole / "particles.mrcs") - stack_of(parts / "particles.mrcs")).max() < 1e-4


def test_centre_moves_a_model_from_elsewhere(simulate, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = read_model(open_state())
    write_model(tmp_path / "far.cif", model.moved_to(model.positions - 500))
    out = simulate("--model", tmp_path / "far.cif", "--count", 1, status=2)
    assert "--centre" in capsys.readouterr().err
    assert not out.exists()
    out = simulate("--model", tmp_path / "far.cif", "--count", 1, "--centre")
    assert read_model(out / "truth.cif").positions.mean(0) == pytest.approx([72, 72, 72], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--box", 63), ["63", "even", "62 or 64"]),
        (("--box", 8), ["--box 8", "from 16"]),
        (("--box", 20), ["atoms reach", "--box"]),
        (("--snr", 0), ["--snr 0", "above 0"]),
        (("--snr", -1), ["--snr -1", "above 0"]),
        (("--snr", "nan"), ["--snr nan", "above 0"]),
        (("--pixel-size", 0), ["--pixel-size 0", "from 0.05"]),
        (("--count", 0), ["--count 0", "from 1"]),
        (("--defocus", 0.8, 2.5), ["in Å", "8000 25000"]),
        (("--defocus", 20000, 10000), ["lower value comes first"]),
        (("--views", "missing-cone"), ["--missing-cone DEG"]),
        (("--views", "uniform", "--missing-cone", 30), ["contradict"]),
        (("--missing-cone", 90), ["--missing-cone 90", "89"]),
        (("--amplitude-contrast", 10), ["--amplitude-contrast 10", "to 1"]),
        (("--pose-noise", -1), ["--pose-noise -1", "from 0"]),
        (("--seed", -1), ["--seed -1"]),
        (("--model", "nowhere.cif"), ["nowhere.cif", "no such file"]),
        (("--shift-spread", 100), ["shifted by up to", "--shift-spread"]),
        (("--count", 10**7, "--box", 4096), ["GB are needed", "--count"]),
    ],
)
def test_refuses_what_cannot_work(simulate, capsys: pytest.CaptureFixture, options: tuple, words: list[str]) -> None:
    out = simulate(*options, status=2)
    message = capsys.readouterr().err
    assert message.startswith("cocofold: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert not out.exists() or not any(out.iterdir())


def test_refuses_a_folder_in_use(simulate, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    simulate(name="full", status=2)
    assert "the folder holds notes.txt; give another one" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    simulate(name="file", status=2)
    assert "is a file" in capsys.readouterr().err


def test_nothing_is_left_when_it_is_cut_short(simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocofold.simulation.scene._MAX_PROJECTED_ATOMS", 1656 * 7)

    def end(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cocofold.simulation.particle_simulation._complete_header", end)
    assert not simulate(status=2).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal_it_leaves_no_half_of_a_stack(tmp_path: Path, ending: signal.Signals, status: int) -> None:
    out = tmp_path / "particles"
    options = ["--model", open_state(), "--out", out, "--box", 64, "--pixel-size", 2.5, "--count", 20000, "--snr", 0.1]
    command = [sys.executable, "-m", "cocofold", "simulate", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob(".particles.mrcs.*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(ending)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in complaint
    assert not out.exists()


def test_tilts_of_a_particle_turn_about_one_axis_and_fade(simulate) -> None:
    out = simulate("--count", 3, "--tilts", 7, "--clean", "--shift-spread", 2)
    read = read_particles(out / "particles.star")
    assert len(read) == 21
    assert read.particle_numbers.tolist() == sorted(7 * [0, 1, 2])
    assert read.dose_e_a2 is not None
    assert read.dose_e_a2[:7].tolist() == [3 * number for number in range(7)]
    for particle in range(3):
        turns = read.rotations[7 * particle : 7 * particle + 7]
        from_first = turns @ turns[0].T
        degrees = np.degrees(Rotation.from_matrix(from_first).magnitude())
        np.testing.assert_allclose(np.sort(degrees), [0, 20, 20, 40, 40, 60, 60], atol=1e-3)
        axes = Rotation.from_matrix(from_first[1:]).as_rotvec()
        assert np.linalg.matrix_rank(axes, tol=1e-3) == 1
        # The axis lies in the images.
        np.testing.assert_allclose(axes[:, 2], 0, atol=1e-4)
    power = stack_of(out / "clean.mrcs").var(axis=(1, 2)).reshape(3, 7).mean(0)
    assert power[0] > power[3] > power[6]
