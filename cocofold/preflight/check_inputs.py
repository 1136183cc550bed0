"""The check: particles and a model, asked whether they belong together before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cocofold.likelihood.particle_optics import unsupported_aberrations
from cocofold.mapfit.bodies import molecule_of
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.rigid_refinement import RigidMolecule, RigidPoses, correlations_at_poses, make_molecule_template
from cocofold.mapfit.search_pipeline import (
    TRUSTED_STANDARD_ERRORS,
    difference_in_standard_errors,
    find_placements,
    refine_at_full_resolution,
)
from cocofold.mapfit.target_map import TargetMap, resolution_from_noise
from cocofold.particles import without_bad_images
from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.check_report import AGREES, UNDECIDED, WRONG, Alternative, CheckReport, CheckVerdict
from cocofold.preflight.judging import (
    CLEAR_STANDARD_ERRORS,
    HypothesisComparer,
    MeanWithError,
    check_identity,
    find_best_hypotheses,
    is_above_chance,
    is_clearly_better,
    scores_at_best_defoci,
)
from cocofold.preflight.questions import (
    CTF,
    SHIFTS,
    SMALL_SHIFTS_ANGSTROM,
    Question,
    answer_question,
    check_pixel_size,
    make_alternative,
    questions_of,
)
from cocofold.preflight.scoring import GIVEN, Hypothesis, HypothesisScorer
from cocofold.structure.geometry import radius_of_gyration
from cocofold.structure.model import Model
from cocofold.system.errors import InputError, require_within

# Finer rings of single images hold little but noise, and errors of the model.
CHECK_RESOLUTION_ANGSTROM = 7.0
# So many images tell faults that concern all of them; more take longer.
DEFAULT_COUNT = 200
# The larger the model, the farther its rim moves with what may be wrong.
_RESOLUTION_PER_RADIUS = 0.2


@dataclass(frozen=True)
class CheckSettings:
    """How to check.

    Attributes
    ----------
    count : int
        Particles that are drawn.
    seed : int
        Of the draw.
    resolution_angstrom : float
        Finer rings are not looked at, nor those finer than a fifth of the radius of gyration of a large model.
    contrast : str
        What protein is said to be in the images: white, dark, or auto, where either is fine.
    skip_bad_images : bool
        Leave those of the drawn particles out whose images are empty or no signal.
    """

    count: int = DEFAULT_COUNT
    seed: int = 0
    resolution_angstrom: float = CHECK_RESOLUTION_ANGSTROM
    contrast: str = "white"
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        require_within("--count", self.count, 10, 100_000)
        require_within("--seed", self.seed, 0, 2**63 - 1)
        require_within("resolution_angstrom", self.resolution_angstrom, 1, 30)
        if self.contrast not in ("white", "dark", "auto"):
            raise InputError(f"--contrast {self.contrast}: give white, dark or auto")


def check(
    particles: ParticleSet,
    model: Model,
    settings: CheckSettings | None = None,
    density: DensityMap | None = None,
    device: torch.device | str = "cpu",
) -> CheckReport:
    """Ask of some particles whether contrast, poses, hand, shifts, CTF and pixel size agree with a model in place.

    Each alternative is scored with everything else as it was found, so that one fault does not hide another.

    Parameters
    ----------
    particles : ParticleSet
        Of them ``settings.count`` are read.
    model : Model
        In the map's frame.
    settings : CheckSettings, optional
    density : DensityMap, optional
        The particles' map: whether model and particles go with it is asked too.
    device

    Raises
    ------
    InputError
        If images cannot be read, or their optics cannot be applied.
    """
    settings = settings or CheckSettings()
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError("; ".join(aberrations))
    if len(particles) == 0:
        raise InputError("there are no particles; give a file that lists some")
    drawn = _draw_subset(particles, settings)
    if settings.skip_bad_images:
        drawn, _ = without_bad_images(drawn)
    resolution = max(settings.resolution_angstrom, _RESOLUTION_PER_RADIUS * radius_of_gyration(model.positions))
    comparer_of = _ComparerFactory(resolution, device, settings.seed)
    comparer = comparer_of(drawn, model)
    best = find_best_hypotheses(comparer)
    doubt = _reason_for_doubt(comparer, best.accepted)
    pixel_size, corrected = check_pixel_size(comparer, best.likely, model, comparer_of, doubt)
    if corrected is not None:
        comparer = comparer_of(corrected.particles, corrected.model)
        best = find_best_hypotheses(comparer)
        doubt = _reason_for_doubt(comparer, best.accepted)
    verdicts = [
        _answer(question, comparer, best.accepted, doubt, settings.contrast) for question in questions_of(drawn)
    ]
    facts = {
        "particles": len(drawn),
        "of_particles": len(particles),
        "seed": settings.seed,
        "resolution_angstrom": round(float(comparer.scorer.resolutions_angstrom[-1]), 3),
        "fine_below_angstrom": round(comparer.fine_angstrom, 3),
        "model_explains_fine_rings": not doubt,
    }
    if settings.skip_bad_images:
        facts["images_left_out"] = drawn.notes[-1]
    verdicts.append(pixel_size)
    if all(verdict.verdict != WRONG for verdict in verdicts):
        verdicts.insert(0, check_identity(comparer, best.accepted, device))
    of_map = [] if density is None else check_map(drawn, model, density, device, settings.seed)
    return CheckReport((*verdicts, *of_map), facts)


@dataclass(frozen=True)
class _ComparerFactory:
    """Makes comparers of particles and a model at one resolution."""

    resolution_angstrom: float
    device: torch.device | str
    seed: int

    def __call__(self, particles: ParticleSet, model: Model) -> HypothesisComparer:
        return HypothesisComparer(
            HypothesisScorer.read(particles, model, self.resolution_angstrom, self.device), self.seed
        )


def _answer(
    question: Question, comparer: HypothesisComparer, accepted: Hypothesis, doubt: str, stated_contrast: str
) -> CheckVerdict:
    """The verdict on a question, with what is asked further where it is undecided."""
    verdict = answer_question(question, comparer, accepted, doubt, stated_contrast)
    if verdict.verdict != UNDECIDED:
        return verdict
    if question.name == CTF:
        return _try_other_defoci(comparer, accepted, verdict)
    return _note_small_shifts(verdict, comparer) if question.name == SHIFTS else verdict


def _draw_subset(particles: ParticleSet, settings: CheckSettings) -> ParticleSet:
    if settings.contrast == "dark":
        particles = replace(particles, contrast=-particles.contrast)
    if len(particles) <= settings.count:
        return particles
    rows = np.random.default_rng(settings.seed).choice(len(particles), settings.count, replace=False)
    return particles.subset(np.sort(rows))


def _reason_for_doubt(comparer: HypothesisComparer, accepted: Hypothesis) -> str:
    """Why a better alternative may mean nothing; empty if there is no reason."""
    coarse = MeanWithError.of(comparer.scores(accepted).coarse)
    if abs(coarse.z_score) < CLEAR_STANDARD_ERRORS:
        return "the images show nothing of the model"
    if not comparer.is_supported(accepted):
        return f"the model explains nothing finer than {comparer.fine_angstrom:.0f} Å where it is"
    return ""


# Random rotations of the model that are compared, half of the usual ones, as each is scored at all defoci.
_CHANCE_TURNS = 6


def _try_other_defoci(comparer: HypothesisComparer, accepted: Hypothesis, verdict: CheckVerdict) -> CheckVerdict:
    """The verdict on the CTF, with the defocus that each image shows best as a further alternative.

    An image's defocus is chosen on half of its Fourier pixels and scored on the others, so that it gains nothing from
    the choice.
    """
    accepted = replace(accepted, ctf=GIVEN)
    given = comparer.scores(accepted)
    scores, defoci = scores_at_best_defoci(comparer, accepted, None)
    margin = MeanWithError.of(scores.whole - given.whole)
    row = make_alternative("defoci as the images show", scores, margin.z_score)
    verdict = replace(verdict, alternatives=(*verdict.alternatives, row))
    if not is_clearly_better(scores, given):
        return verdict
    by_chance = [scores_at_best_defoci(comparer, accepted, turn)[0] for turn in comparer.random_turns[:_CHANCE_TURNS]]
    if not is_above_chance(scores, by_chance):
        return verdict
    low, middle, high = np.percentile(defoci, (10, 50, 90)) / 1e4
    stated = np.percentile(comparer.scorer.particles.defocus_u_angstrom, 50) / 1e4
    return replace(
        verdict,
        verdict=WRONG,
        line=(
            f"the defoci look wrong: the score is {given.whole.mean():.2f} with those of the file ({stated:.2f} µm), "
            f"and {row.score:.2f} with about {middle:.1f} µm ({low:.1f} to {high:.1f})."
        ),
        advice="give the particles their defoci (rlnDefocusU, rlnDefocusV, in Å), or estimate the CTFs again",
        figures={"defocus_shown_angstrom": [round(1e4 * float(value)) for value in (low, middle, high)]},
    )


def _note_small_shifts(verdict: CheckVerdict, comparer: HypothesisComparer) -> CheckVerdict:
    """The undecided verdict on the shifts, which says so where they are small."""
    spread = float(np.sqrt((comparer.scorer.particles.origins_angstrom**2).mean()))
    if spread >= SMALL_SHIFTS_ANGSTROM:
        return verdict
    return replace(verdict, line=f"undecided: they are too small to tell, {spread:.1f} Å on average.")


MAP, MODEL_IN_MAP, MAP_HAND = "map", "model in map", "hand of map"
# Relative difference of pixel sizes that is a slip of rounding, and distance of rotation centres that does no harm.
_SAME_SIZE = 0.005
_SAME_PLACE_ANGSTROM = 0.5
# Random rotations of the model about its centroid, the best of which stands for chance.
_TURNS = 24
# Resolution of a search everywhere, which confirms a mirrored map: coarse, so that it takes seconds.
_SEARCHED_ANGSTROM = 12.0
# Resolution, in voxels, at which a map is compared that has no noise by which its resolution could be told.
_OTHER_RESOLUTION_IN_PIXELS = 3.0
# Half turns about the principal axes, by which a mirror image's orientation is known from the model's.
_HALF_TURNS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
_FIT_ADVICE = "cocofold fit --map places it"


def check_map(
    particles: ParticleSet, model: Model, density: DensityMap, device: torch.device | str, seed: int
) -> list[CheckVerdict]:
    """Verdicts on the map's grid, on the model's place in it, and on its hand."""
    resolution = resolution_from_noise(density) or _OTHER_RESOLUTION_IN_PIXELS * density.pixel_size_angstrom
    target = TargetMap(density, resolution, torch.device(device))
    atoms = molecule_of(model)
    return [
        _check_map_frame(particles, density),
        _check_place_in_map(atoms, target, seed),
        _check_hand_of_map(atoms, target),
    ]


def _check_map_frame(particles: ParticleSet, density: DensityMap) -> CheckVerdict:
    """Whether the map's rotation centre, and so the model's frame, is that of the particles."""
    size, pixel = particles.pixel_size_angstrom, density.pixel_size_angstrom
    sides = " x ".join(map(str, density.values.shape[::-1]))
    line = f"{sides} voxels of {pixel:.4g} Å, and images of {particles.box} pixels of {size:.4g} Å."
    centre = (particles.box // 2) * size
    away = np.abs(density.centre_angstrom - centre).max()
    if away < _SAME_PLACE_ANGSTROM:
        return CheckVerdict(MAP, AGREES, f"has the particles' frame: {line}")
    if abs(pixel / size - 1) > _SAME_SIZE:
        advice = "give the map that was reconstructed from these particles, or repair the pixel size that is wrong"
    else:
        advice = (
            f"the map was cut or padded: a model placed in it lies {away:.1f} Å off in the particles' frame; place the "
            "model in a map of the particles' box"
        )
    return CheckVerdict(MAP, WRONG, f"its rotation centre is not the particles': {line}", advice)


def _check_place_in_map(atoms: RigidMolecule, target: TargetMap, seed: int) -> CheckVerdict:
    """Whether the model correlates with the map where it lies, better than rotated at random about its centroid."""
    resolution, origin = target.resolution_angstrom, np.array(target.density.header_origin_angstrom)
    template, grid = make_molecule_template(atoms, resolution, target.device), target.grid(resolution)
    rotations = Rotation.random(_TURNS, random_state=seed).as_matrix()

    def correlations(rotations: np.ndarray, centre: np.ndarray) -> np.ndarray:
        poses = RigidPoses.unscored(rotations, np.repeat(centre[None], len(rotations), 0))
        return correlations_at_poses(grid, template, poses)

    here = float(correlations(np.eye(3)[None], atoms.centroid)[0])
    less_origin = float(correlations(np.eye(3)[None], atoms.centroid - origin)[0])
    by_chance = float(correlations(rotations, atoms.centroid).max())
    points = torch.as_tensor(atoms.positions, dtype=torch.float32, device=target.device)
    density = float((grid.interpolate(points).mean() - grid.values.mean()) / grid.values.std())
    table = (
        Alternative("in place", here, 0.0, here, 0.0),
        Alternative("less the header's origin", less_origin, 0.0, less_origin, 0.0),
        Alternative("turned at random, best", by_chance, 0.0, by_chance, 0.0),
    )
    figures = {"density_at_atoms_sigma": round(density, 3), "compared_at_angstrom": round(resolution, 3)}
    found = f"the correlation is {here:.2f} at {resolution:.1f} Å, and the density at its atoms {density:.1f} sigma"
    if difference_in_standard_errors(atoms, resolution, here, by_chance) >= TRUSTED_STANDARD_ERRORS:
        return CheckVerdict(MODEL_IN_MAP, AGREES, f"it lies in the map: {found}.", "", table, figures)
    gain = difference_in_standard_errors(atoms, resolution, less_origin, max(here, by_chance))
    if target.density.has_origin and gain >= TRUSTED_STANDARD_ERRORS:
        x, y, z = origin
        line = f"it lies at the header's origin: the correlation is {less_origin:.2f} there, and {here:.2f} as given."
        advice = f"take ({x:g}, {y:g}, {z:g}) Å off its coordinates: particles' poses do without that origin"
        return CheckVerdict(MODEL_IN_MAP, WRONG, line, advice, table, figures)
    line = f"undecided: {found}; turned at random the model correlates by up to {by_chance:.2f}."
    return CheckVerdict(MODEL_IN_MAP, UNDECIDED, line, f"if it is not placed yet, {_FIT_ADVICE}", table, figures)


def _check_hand_of_map(atoms: RigidMolecule, target: TargetMap) -> CheckVerdict:
    """Whether the model fits better into the map's mirror image, near where it lies."""
    mirror = TargetMap(target.density.mirrored(), target.resolution_angstrom, target.device)
    beyond = np.array([0, 0, 2 * target.density.centre_angstrom[2]])
    centre = atoms.centroid
    as_it_lies = _half_turn_poses(atoms, centre)
    # It may have been placed in the map as it is, or in its mirror image.
    across = _half_turn_poses(atoms, centre * np.array([1, 1, -1]) + beyond, mirrored=True)
    as_is = float(refine_at_full_resolution(atoms, target, as_it_lies).scores.max())
    mirrored = float(
        refine_at_full_resolution(atoms, mirror, RigidPoses.concatenated([as_it_lies, across])).scores.max()
    )
    margin = difference_in_standard_errors(atoms, target.resolution_angstrom, as_is, mirrored)
    if margin <= -TRUSTED_STANDARD_ERRORS:
        # A model that lies elsewhere may come nearer to the mirror image by chance: only a search everywhere tells.
        searched = zip((target, mirror), _search_both_hands(atoms, target))
        anywhere = [float(refine_at_full_resolution(atoms, one, motions).scores.max()) for one, motions in searched]
        as_is, mirrored = max(as_is, anywhere[0]), max(mirrored, anywhere[1])
        margin = difference_in_standard_errors(atoms, target.resolution_angstrom, as_is, mirrored)
    against = f"the correlation is {as_is:.2f}, and {mirrored:.2f} with its mirror image"
    table = (Alternative("as is", as_is, 0.0, as_is, 0.0), Alternative("mirrored", mirrored, 0.0, mirrored, -margin))
    if margin >= TRUSTED_STANDARD_ERRORS:
        return CheckVerdict(MAP_HAND, AGREES, f"agrees with the model: {against}.", "", table)
    if margin <= -TRUSTED_STANDARD_ERRORS:
        advice = "run cocofold fit --map: it mirrors the map, and fine-tuning then transforms the poses"
        return CheckVerdict(MAP_HAND, WRONG, f"the map looks mirrored: {against}.", advice, table)
    why = (
        f"the difference is {abs(margin):.1f} standard errors at {target.resolution_angstrom:.1f} Å, and "
        f"{TRUSTED_STANDARD_ERRORS:g} are needed"
    )
    return CheckVerdict(MAP_HAND, UNDECIDED, f"undecided: {against}; {why}.", "", table)


def _search_both_hands(atoms: RigidMolecule, target: TargetMap) -> list[RigidPoses]:
    """Placements in the map and in its mirror image, by a search at low resolution."""
    resolution = max(_SEARCHED_ANGSTROM, target.resolution_angstrom)
    maps = (target.density, target.density.mirrored())
    return find_placements(atoms, [TargetMap(one, resolution, target.device) for one in maps])


def _half_turn_poses(atoms: RigidMolecule, centre: np.ndarray, mirrored: bool = False) -> RigidPoses:
    """The model as it lies, turned by half about its principal axes; or the same of its mirror image along z.

    A mirror image is superposed best by a rotation that mirrors it once more along one of its principal axes.
    """
    axes = np.linalg.svd(atoms.positions - atoms.centroid, full_matrices=False)[2]
    if mirrored:
        flips = np.concatenate([-_HALF_TURNS[1:], -_HALF_TURNS[:1]])
        turns = np.diag([1.0, 1.0, -1.0]) @ np.einsum("ji,mj,jk->mik", axes, flips, axes)
    else:
        turns = np.einsum("ji,mj,jk->mik", axes, _HALF_TURNS, axes)
    return RigidPoses.unscored(turns, np.repeat(centre[None], len(turns), 0))
