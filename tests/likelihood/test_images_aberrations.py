"""Aberrations, magnification, phase flips and premultiplied CTFs: the model explains such images, and only as told."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from literal_images import BOX, PIXEL, Scene

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.system.errors import InputError

ODD = [8.0, -5.0, 20.0, -15.0, 15.0, 25.0, 300.0, 0.0, -200.0]
ODD_TERMS = [(1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3), (5, -5), (5, -3), (5, -1)]
EVEN = [0.2, 3.0, -5.0, 4.0, 30.0, -50.0, 60.0, 40.0, -30.0, 500.0]
EVEN_TERMS = [(0, 0), (2, -2), (2, 0), (2, 2), (4, -4), (4, -2), (4, 0), (4, 2), (4, 4), (6, -6)]
TILT = (1.2, -0.7)
MATRIX = ((1.05, 0.012), (0.035, 0.96))
NO_3_1 = [value if index not in (3, 4) else 0.0 for index, value in enumerate(ODD)]
ODD_WITH_TILT = dict(zip(ODD_TERMS, NO_3_1))


def in_brackets(values: list[float]) -> str:
    return "[" + ",".join(str(value) for value in values) + "]"


def explained(star: Path, positions: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Mean ring correlation of each image with its prediction."""
    particles = read_particles(star)
    observations = Observations(particles, BOX // 2 - 1)
    gaussians = AtomGaussians(
        torch.as_tensor(amplitudes, dtype=torch.float32), torch.full((len(positions),), REFERENCE_WIDTH_ANGSTROM)
    )
    rows, rings = torch.arange(len(particles)), observations.rings(BOX // 2 - 1)
    return (
        correlate_in_chunks(torch.as_tensor(positions, dtype=torch.float32), gaussians, observations, rows, rings, 4)
        .mean(1)
        .numpy()
    )


TOLD = {
    "tilt": {"rlnBeamTiltX": TILT[0], "rlnBeamTiltY": TILT[1]},
    "odd": {"rlnOddZernike": in_brackets(ODD)},
    "even": {"rlnEvenZernike": in_brackets(EVEN)},
    "matrix": {f"rlnMagMat{i}{j}": MATRIX[i][j] for i in (0, 1) for j in (0, 1)},
}
DONE = {
    "tilt": {"tilt": TILT},
    "odd": {"odd": dict(zip(ODD_TERMS, ODD))},
    "even": {"even": dict(zip(EVEN_TERMS, EVEN))},
    "matrix": {"matrix": MATRIX},
}


def all_of(table: dict[str, dict[str, object]], names: str) -> dict[str, object]:
    merged: dict[str, object] = {}
    for name in names.split():
        merged.update(table[name])
    return merged


@pytest.mark.parametrize("names", ["tilt", "odd", "even", "matrix", "matrix tilt even", "matrix odd even"])
def test_aberrations_are_applied_as_relion_defines_them(tmp_path: Path, names: str) -> None:
    scene = Scene(4)
    planes, ctf = scene.transforms(**all_of(DONE, names))
    told, identity = all_of(TOLD, names), {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0} if "matrix" in names else {}
    plain = {**identity, **{label: "[]" for label in ("rlnOddZernike", "rlnEvenZernike") if label in told}}
    # The last two images are of a group without aberrations, and are not explained.
    star = scene.write(tmp_path, planes * ctf, [told, plain], [1, 1, 2, 2])
    right_right, wrong = np.split(explained(star, scene.positions, scene.charges), 2)
    assert (right_right > 0.99).all()
    assert (wrong < 0.9).all()


def test_beam_tilt_and_odd_terms_add_up(tmp_path: Path) -> None:
    scene = Scene(2)
    planes, ctf = scene.transforms(tilt=TILT, odd=dict(zip(ODD_TERMS, NO_3_1)))
    told = {**TOLD["tilt"], "rlnOddZernike": in_brackets(NO_3_1)}
    assert (explained(scene.write(tmp_path, planes * ctf, [told], [1, 1]), scene.positions, scene.charges) > 0.99).all()


@pytest.mark.parametrize("names", ["tilt", "odd", "both"])
def test_antisymmetric_aberrations_are_taken_out_as_relion_does(tmp_path: Path, names: str) -> None:
    # relion_reconstruct 3.1.3 was given this one image, and its map was summed along z.
    relion = np.fft.rfft2(np.load(Path(__file__).with_name("relion_demodulated.npz"))[names].astype(float))
    scene = Scene(1)
    scene.angles[:], scene.origins[:] = 0, 0
    chosen = "tilt odd" if names == "both" else names
    planes, ctf = scene.transforms(**{**all_of(DONE, chosen), **({"odd": ODD_WITH_TILT} if "odd" in chosen else {})})
    told = {**all_of(TOLD, chosen), **({"rlnOddZernike": in_brackets(NO_3_1)} if "odd" in chosen else {})}
    means = []
    for group in (told, {}):
        observations = Observations(read_particles(scene.write(tmp_path, planes * ctf, [group], [1])), BOX // 2 - 1)
        rings = observations.rings(BOX // 2 - 1)
        taken_out = torch.view_as_complex(observations.batch(torch.tensor([0]), rings).transforms)[0].numpy()
        at = rings.flat_indices_in(BOX).numpy()
        expected = (relion * ctf[0]).ravel()[at]
        product = (taken_out * expected.conj()).real
        weights = np.abs(taken_out * expected)
        means.append(product.sum() / weights.sum())
    assert means[0] > 0.98
    assert means[1] < 0.9


def test_even_aberrations_match_relions_images(tmp_path: Path) -> None:
    stored = np.load(Path(__file__).with_name("relion_even_zernike.npz"))
    scene = Scene(2)
    scene.angles, scene.origins = stored["poses"], stored["origins"]
    scene.defocus, scene.defocus_angle = stored["defocus"][:, 0], stored["defocus"][:, 2]
    np.testing.assert_array_equal(stored["defocus"][:, 1], scene.defocus - 2500)
    positions = stored["positions"] + BOX // 2 * PIXEL
    told = {"rlnEvenZernike": in_brackets(stored["even"].tolist())}
    star = scene.write_images(tmp_path, stored["images"], [told], [1, 1])
    assert (explained(star, positions, stored["amplitudes"]) > 0.99).all()
    star = scene.write_images(tmp_path, stored["images"], [{}], [1, 1])
    assert (explained(star, positions, stored["amplitudes"]) < 0.5).all()


def test_flags_of_phase_flipped_and_premultiplied_images(tmp_path: Path) -> None:
    scene = Scene(6)
    planes, ctf = scene.transforms()
    done = np.concatenate([np.ones_like(ctf[:2]), np.sign(ctf[2:4]), ctf[4:]])
    flags = [{"rlnCtfDataArePhaseFlipped": 0}, {"rlnCtfDataArePhaseFlipped": 1}, {"rlnCtfDataAreCtfPremultiplied": 1}]
    star = scene.write(tmp_path, planes * ctf * done, flags, [1, 1, 2, 2, 3, 3])
    assert (explained(star, scene.positions, scene.charges) > 0.99).all()
    star = scene.write(tmp_path, planes * ctf * done, flags[:1], [1] * 6)
    without = explained(star, scene.positions, scene.charges)
    assert (without[:2] > 0.99).all()
    assert (without[2:] < 0.7).all()
    star = scene.write(tmp_path, planes * ctf * done, flags, [1, 1, 3, 3, 2, 2])
    assert (explained(star, scene.positions, scene.charges)[2:] < 0.995).all()


@pytest.mark.independent
def test_noisy_images_flipped_afterwards_are_explained_as_before(shared_data: Path, tmp_path: Path) -> None:
    star = shared_data / "adk/two_optics/particles.star"
    model = gemmi.read_structure(str(shared_data / "adk/truth_open.cif"))[0]
    atoms = [atom for chain in model for residue in chain for atom in residue]
    positions = torch.tensor([atom.pos.tolist() for atom in atoms], dtype=torch.float32)
    charges = torch.tensor([float(atom.element.atomic_number) for atom in atoms])
    gaussians = AtomGaussians(charges, torch.full_like(charges, REFERENCE_WIDTH_ANGSTROM))
    particles = read_particles(star).subset(np.arange(12))
    kx, ky = (axis.ravel() / (64 * 2.5) for axis in np.meshgrid(np.arange(33), np.fft.fftfreq(64) * 64))
    flipped = np.fft.rfft2(particles.images(np.arange(12))).reshape(12, -1)
    for row in range(12):
        group = particles.optics[particles.optics_index[row]]
        wavelength = {300: 0.0196875, 200: 0.0250793}[round(group.voltage_kv)]
        u, v = particles.defocus_u_angstrom[row], particles.defocus_v_angstrom[row]
        turned = 2 * (np.arctan2(ky, kx) - np.radians(particles.defocus_angle_deg[row]))
        k2 = kx**2 + ky**2
        phase = np.pi * wavelength * ((u + v) / 2 + (u - v) / 2 * np.cos(turned)) * k2
        phase -= np.pi / 2 * group.cs_mm * 1e7 * wavelength**3 * k2**2
        phase += np.arcsin(group.amplitude_contrast) + np.radians(particles.phase_shift_deg[row])
        flipped[row] *= np.sign(np.sin(phase))
    text = star.read_text().replace(
        "rlnImageDimensionality #8", "rlnImageDimensionality #8\n_rlnCtfDataArePhaseFlipped #9"
    )
    lines = [line.rstrip() + " 1" if "  2.500000  " in line else line for line in text.splitlines()]
    (tmp_path / "particles.star").write_text("\n".join(lines) + "\n")
    import mrcfile

    images = np.zeros((300, 64, 64), dtype=np.float32)
    images[:12] = np.fft.irfft2(flipped.reshape(12, 64, 33), s=(64, 64))
    with mrcfile.new(tmp_path / "particles.mrcs") as file:
        file.set_data(images)
    means = []
    for given in (particles, read_particles(tmp_path / "particles.star", tmp_path).subset(np.arange(12))):
        observations = Observations(given, 31)
        scores = correlate_in_chunks(positions, gaussians, observations, torch.arange(12), observations.rings(31), 12)
        means.append(scores.mean(1).numpy())
    np.testing.assert_allclose(means[1], means[0], atol=0.01)
    assert means[0].mean() > 0.2


def test_what_relion_would_read_differently_is_refused(tmp_path: Path, shared_data: Path) -> None:
    scene = Scene(2)
    planes, ctf = scene.transforms()
    star = scene.write(tmp_path, planes * ctf, [{**TOLD["tilt"], **TOLD["odd"]}], [1, 1])
    options = Options(particles=str(star), model=str(shared_data / "adk/truth_open.cif"))
    with pytest.raises(InputError, match="RELION would use the beam tilt only"):
        finetune(options, tmp_path / "run")


@pytest.mark.parametrize(
    ("label", "value", "part"), [("rlnImagePixelSize", 1.3, "pixel size"), ("rlnImageSize", 66, "box")]
)
def test_groups_of_other_boxes_or_pixel_sizes_are_named(tmp_path: Path, label: str, value: float, part: str) -> None:
    scene = Scene(2)
    planes, ctf = scene.transforms()
    star = scene.write(tmp_path, planes * ctf, [{}, {label: value}], [1, 2])
    with pytest.raises(InputError, match=f"optics groups differ in {part}: opticsGroup1 .* opticsGroup2 {value}"):
        read_particles(star)
