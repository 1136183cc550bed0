"""Confidence of a predicted model's residues, and which of them are unlikely to be ordered.

B factors hold either pLDDT, which is high where a prediction is sure, or displacements, which are high where an
experiment is not: what a file says of itself tells them apart, or else how they go with the packing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import gemmi
import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from cocofold.structure.model import Model
from cocofold.structure.modelcif import residues_of
from cocofold.system.errors import InputError

AUTO, PLDDT, EXPERIMENTAL = "auto", "plddt", "experimental"
B_FACTOR_KINDS = (AUTO, PLDDT, EXPERIMENTAL)
# Below 50 pLDDT predicts disorder (Tunyasuvunakool et al., Nature 596, 590, 2021), from 70 on a right backbone.
_DISORDERED_PLDDT, _CONFIDENT_PLDDT = 50.0, 70.0
# CA atoms within a distance (Å) and at least so many residues apart, averaged over nine residues, and their number
# below both of which a residue touches nothing. Folded residues have at least 4.9 and 15 (adenylate kinase, a T-cell
# receptor, a complex of 2,395 residues), a helix by itself 8 and 12, extended chains next to none, and coils of the
# radius of gyration of unfolded proteins 3.7 and 7 in the median.
_CONTACT_WINDOW = 9
_NEAR_ANGSTROM, _NEAR_SEPARATION, _FEWEST_NEAR = 10.0, 3, 6.0
_FAR_ANGSTROM, _FAR_SEPARATION, _FEWEST_FAR = 15.0, 5, 12.0
# Atoms other than hydrogen of an amino acid, on average
_ATOMS_PER_RESIDUE = 8
_WATER = ("HOH", "WAT", "DOD", "H2O", "TIP", "SOL")
# Shorter stretches are loops like those of ordered proteins; ordered pieces as short between disordered ones, or at a
# chain's end, are not folded by themselves.
_SHORTEST_STRETCH, _SHORTEST_ORDERED = 10, 8
# With fewer ordered residues a model cannot be placed: then all of it counts.
_FEWEST_ORDERED = 30
# Rank correlation of B factors with contacts from which it is said what they are: pLDDT of predictions has 0.24 to
# 0.65, displacements of crystal structures -0.5 to -0.6.
_TELLING_CORRELATION = 0.2
_FEWEST_TO_CORRELATE = 30
# B factors of the atoms of a residue, or of all residues, that differ by less than this (two decimals) are the same.
_SAME_B_FACTOR = 0.011
_PREDICTORS = re.compile(
    r"alphafold|colabfold|openfold|esmfold|boltz|\bchai-?\d|\bchai\b|rosettafold|omegafold|protenix|\bAF-\w+-F\d",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ResidueOrder:
    """Which residues of a model are unlikely to be ordered, and how that is known.

    Attributes
    ----------
    disordered : (n_residues,) bool
    plddt : (n_residues,) float or None
        Predicted lDDT-CA, 0 to 100, NaN where there is none; None where B factors are none.
    known_from : str
        What B factors are, and what says so.
    stretches : tuple of str
        The disordered residues, such as "A 1-50".
    """

    disordered: np.ndarray
    plddt: np.ndarray | None
    known_from: str
    stretches: tuple[str, ...]

    def require_plddt(self, least: float | None) -> None:
        """Raise an ``InputError`` where residues below a pLDDT are to be left out and none is known."""
        if least is not None and self.plddt is None:
            raise InputError(
                f"--remove-below {least:g}: the model has no pLDDT ({self.known_from}); leave the option out, or say "
                "that its B factors are pLDDT: --b-factors plddt"
            )

    def describe(self) -> str:
        """A sentence that follows what is said of a source of atoms; empty where all residues are ordered."""
        if not self.stretches:
            return ""
        return f" Residues {', '.join(self.stretches)}, unlikely to be ordered, were carried along without weight."

    def tell(self, report_line: Callable[[str], None]) -> None:
        """Hand ``lines`` over one by one."""
        for line in self.lines():
            report_line(line)

    def lines(self) -> list[str]:
        """What to tell the user; nothing where all residues are ordered."""
        if not self.stretches:
            return []
        return [
            f"residues {', '.join(self.stretches)} ({int(self.disordered.sum())}) are unlikely to be ordered: they are "
            f"carried along, and neither a map nor images are asked about them ({self.known_from}; else give "
            "--b-factors experimental)"
        ]


def judge_order(
    model: Model, b_factors: str = AUTO, plddt: np.ndarray | None = None, name: str = "model"
) -> ResidueOrder:
    """Find residues that are unlikely to be ordered.

    These are stretches of at least ten residues whose pLDDT is below 50, or that touch nothing and have a pLDDT below
    70 or none; and residues whose atoms all have the occupancy 0. Where B factors are displacements, only the latter.

    Parameters
    ----------
    model : Model
        As it was read.
    b_factors : str
        What they are: ``plddt``, ``experimental``, or ``auto`` to find out.
    plddt : (n_residues,) float, optional
        0 to 100; in place of B factors.
    name : str
        What messages call the model.

    Raises
    ------
    InputError
        If B factors cannot be pLDDT though they are said to be, or if it cannot be told what they are and it matters.
    """
    if b_factors not in B_FACTOR_KINDS:
        raise InputError(f"--b-factors {b_factors}: give {', '.join(B_FACTOR_KINDS[:-1])} or {B_FACTOR_KINDS[-1]}")
    alone = _touches_nothing(model)
    known_from = "pLDDT of the prediction"
    kind = PLDDT
    if plddt is None or b_factors == EXPERIMENTAL:
        kind, plddt, known_from = _identify(model, b_factors, name)
    doubtful = None
    if kind == AUTO:
        doubtful, plddt = plddt, None
    found = _find_disordered(model, alone, plddt, kind)
    if doubtful is not None:
        _refuse_unless_alike(model, found, doubtful, name)
    return ResidueOrder(found, plddt, known_from, tuple(_format_stretches(model, found)))


def read_order(
    model: Model, b_factors: str = AUTO, plddt: np.ndarray | None = None, name: str = "model"
) -> tuple[Model, ResidueOrder]:
    """The model with its disordered residues marked, and what is known of them; parameters as ``judge_order`` has."""
    order = judge_order(model, b_factors, plddt, name)
    return with_order(model, order), order


def with_order(model: Model, order: ResidueOrder) -> Model:
    """The model with occupancy 0 in its disordered residues, by which ``ordered_residues`` knows them."""
    if np.array_equal(order.disordered, ~ordered_residues(model)):
        return model
    structure = model.structure.clone()
    for residue, is_disordered in zip(residues_of(structure), order.disordered):
        for atom in residue:
            if is_disordered or all(one.occ == 0 for one in residue):
                atom.occ = 0.0 if is_disordered else 1.0
    return replace(model, structure=structure)


def ordered_residues(model: Model) -> np.ndarray:
    """Residues that a map and images are asked about, (n_residues,) bool: those with an atom of occupancy above 0.

    A file in which all atoms have the occupancy 0 says nothing: all residues count.
    """
    occupied = np.array([any(atom.occ > 0 for atom in residue) for residue in residues_of(model.structure)], dtype=bool)
    return occupied if occupied.any() else ~occupied


def ordered_atoms(model: Model) -> np.ndarray:
    """Atoms of ``ordered_residues``, (n_atoms,) bool."""
    return ordered_residues(model)[model.residue_of_atom]


def only_ordered(model: Model) -> Model:
    """The model without its disordered residues."""
    kept = ordered_residues(model)
    return model if kept.all() else model.only(kept)


def _identify(model: Model, b_factors: str, name: str) -> tuple[str, np.ndarray | None, str]:
    """What B factors are (``auto`` where nothing tells), pLDDT of residues as far as they may be that, and why."""
    metrics = _local_metrics(model)
    if b_factors != EXPERIMENTAL and metrics is not None:
        return PLDDT, metrics, "pLDDT by the file's _ma_qa_metric_local"
    values, spread = _b_factors_of_residues(model)
    if not np.isfinite(values).any():
        return AUTO, None, "no protein; nucleic acids take part whole"
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    as_plddt = values * 100 if highest <= 1 else values
    if b_factors == EXPERIMENTAL:
        return EXPERIMENTAL, None, "B factors are experimental, as given"
    may_be_plddt = lowest >= 0 and 0 < highest <= 100
    if b_factors == PLDDT:
        if not may_be_plddt:
            raise InputError(
                f"--b-factors plddt: {name} has B factors from {lowest:g} to {highest:g}; pLDDT goes from 0 to 1 or "
                "from 0 to 100: leave the option out, or give experimental"
            )
        return PLDDT, as_plddt, "B factors are pLDDT, as given"
    experiment = _experiment(model.structure)
    if experiment is not None:
        return EXPERIMENTAL, None, f"B factors are experimental: the file names {experiment}"
    if highest - lowest < _SAME_B_FACTOR:
        return AUTO, None, "all B factors are equal; by what touches nothing"
    if not may_be_plddt:
        return EXPERIMENTAL, None, f"B factors go from {lowest:g} to {highest:g}, which pLDDT does not"
    predictor = _predictor(model.structure)
    if predictor is not None:
        return PLDDT, as_plddt, f"B factors are pLDDT: the file names {predictor}"
    return _identify_by_packing(as_plddt, spread, _count_contacts(model, _NEAR_ANGSTROM, _NEAR_SEPARATION))


def _identify_by_packing(
    values: np.ndarray, spread: np.ndarray, contacts: np.ndarray
) -> tuple[str, np.ndarray | None, str]:
    """By whether B factors are high in the core (pLDDT) or at the surface (displacements)."""
    known = np.isfinite(values)
    together = 0.0
    if known.sum() >= _FEWEST_TO_CORRELATE and np.ptp(contacts[known]) > 0:
        together = float(spearmanr(values[known], contacts[known])[0])
    if together >= _TELLING_CORRELATION:
        return PLDDT, values, f"B factors are pLDDT: they rise with the packing, correlation {together:.2f}"
    if together <= -_TELLING_CORRELATION:
        return EXPERIMENTAL, None, f"B factors are experimental: they fall with the packing, correlation {together:.2f}"
    if np.nanmax(spread) >= _SAME_B_FACTOR:
        return EXPERIMENTAL, None, "B factors are experimental: they differ within residues"
    return AUTO, values, "what B factors are cannot be told; by what touches nothing"


def _refuse_unless_alike(model: Model, found: np.ndarray, values: np.ndarray, name: str) -> None:
    """Ask what B factors are if they would show more disordered residues, were they pLDDT, than are found without."""
    by_plddt = _find_disordered(model, np.zeros_like(found), values, PLDDT)
    if (by_plddt & ~found).any():
        listed = ", ".join(_format_stretches(model, by_plddt))
        raise InputError(
            f"{name}: whether its B factors ({np.nanmin(values):g} to {np.nanmax(values):g}) are pLDDT or experimental "
            f"cannot be told, and it matters: if they are pLDDT, residues {listed} are unlikely to be ordered and take "
            "no part; give --b-factors plddt or --b-factors experimental"
        )


def _local_metrics(model: Model) -> np.ndarray | None:
    """pLDDT by residue of ModelCIF's local metrics, 0 to 100, of the first model; None if there is none."""
    metrics = model.described.get("_ma_qa_metric.", {})
    kinds = {
        str(number)
        for number, kind, mode in zip(metrics.get("id", ()), metrics.get("type", ()), metrics.get("mode", ()))
        if str(kind).lower().startswith("plddt") and str(mode).startswith("local")
    }
    rows = model.described.get("_ma_qa_metric_local.", {})
    names = ("label_asym_id", "label_seq_id", "metric_id", "metric_value", "model_id")
    if not kinds or any(name not in rows for name in names[:4]):
        return None
    columns = [rows.get(name, [None] * len(rows["metric_id"])) for name in names]
    first = columns[4][0] if columns[4] else None
    given = {
        (str(chain), str(place)): float(value)
        for chain, place, metric, value, number in zip(*columns)
        if str(metric) in kinds and number == first and _is_number(value)
    }
    values = np.array(
        [given.get((one.subchain, str(one.label_seq)), np.nan) for one in residues_of(model.structure)], dtype=float
    )
    if not np.isfinite(values).any():
        return None
    return values * 100 if np.nanmax(values) <= 1 else values


def _is_number(value: object) -> bool:
    try:
        return bool(np.isfinite(float(str(value))))
    except ValueError:
        return False


def _b_factors_of_residues(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Mean B factor of each residue with a backbone, NaN of others, and its range within the residue."""
    mean, spread = (np.full(len(model.residues), np.nan) for _ in range(2))
    with_backbone = set(model.backbone()[0].tolist())
    for row, residue in enumerate(residues_of(model.structure)):
        if row in with_backbone:
            values = [atom.b_iso for atom in residue if not atom.is_hydrogen()]
            mean[row], spread[row] = np.mean(values), np.ptp(values)
    return mean, spread


def _experiment(structure: gemmi.Structure) -> str | None:
    """The experiment or refinement that a file names, if it does."""
    method = dict(structure.info).get("_exptl.method", "")
    if method and "theoretical" not in method.lower() and "predict" not in method.lower():
        return str(method)
    if structure.resolution > 0:
        return f"a resolution of {structure.resolution:g} Å"
    if any(atom.aniso.nonzero() for residue in residues_of(structure) for atom in residue):
        return "anisotropic displacements"
    kinds = gemmi.SoftwareItem.Classification
    refined_by = [one.name for one in structure.meta.software if one.classification == kinds.Refinement]
    return next((f"refinement by {name}" for name in refined_by if name.lower() != "cocofold"), None)


def _predictor(structure: gemmi.Structure) -> str | None:
    """The program that predicted a model, if its file names one."""
    texts = [structure.name, *(one.name for one in structure.meta.software), *structure.raw_remarks]
    texts += [text for item, text in dict(structure.info).items() if item in ("_struct.title", "_struct_keywords.text")]
    found = next((match for text in texts if (match := _PREDICTORS.search(text))), None)
    return None if found is None else found[0]


def _chains_of_backbone(model: Model) -> Iterator[np.ndarray]:
    """Rows of residues with a backbone, chain by chain."""
    rows = model.backbone()[0]
    chains = np.array([model.residues[row].chain for row in rows])
    for chain in dict.fromkeys(chains.tolist()):
        yield rows[chains == chain]


def _count_contacts(model: Model, within_angstrom: float, separation: int) -> np.ndarray:
    """Number of CA atoms near that of each residue, ``separation`` apart or more in a chain; 0 without a backbone.

    Of nucleic acids, ligands and whatever else has no backbone, but for water, each eight atoms count as a residue.
    """
    rows, atoms = model.backbone()
    place, chain = np.zeros(len(model.residues), dtype=int), np.zeros(len(model.residues), dtype=int)
    for number, of_chain in enumerate(_chains_of_backbone(model)):
        place[of_chain], chain[of_chain] = np.arange(len(of_chain)), number
    pairs = cKDTree(model.positions[atoms[:, 1]]).query_pairs(within_angstrom, output_type="ndarray")
    one, other = rows[pairs[:, 0]], rows[pairs[:, 1]]
    counted = (chain[one] != chain[other]) | (np.abs(place[one] - place[other]) >= separation)
    count = np.bincount(np.r_[one[counted], other[counted]], minlength=len(model.residues)).astype(float)
    water = np.array([residue.name in _WATER for residue in model.residues])
    others = (~np.isin(model.residue_of_atom, rows)) & ~water[model.residue_of_atom] & (model.atomic_numbers > 1)
    if others.any():
        reached = cKDTree(model.positions[others]).query_ball_point(
            model.positions[atoms[:, 1]], within_angstrom, return_length=True
        )
        count[rows] += reached / _ATOMS_PER_RESIDUE
    return count


def _touches_nothing(model: Model) -> np.ndarray:
    """Residues of a chain that bends back on nothing, (n_residues,) bool."""
    near = _count_contacts(model, _NEAR_ANGSTROM, _NEAR_SEPARATION)
    far = _count_contacts(model, _FAR_ANGSTROM, _FAR_SEPARATION)
    found = np.zeros(len(model.residues), dtype=bool)
    for rows in _chains_of_backbone(model):
        few_near, few_far = (
            uniform_filter1d(count[rows], _CONTACT_WINDOW, mode="nearest") < fewest
            for count, fewest in ((near, _FEWEST_NEAR), (far, _FEWEST_FAR))
        )
        found[rows] = few_near & few_far
    return found


def _find_disordered(model: Model, alone: np.ndarray, plddt: np.ndarray | None, kind: str) -> np.ndarray:
    """Disordered residues, (n_residues,) bool, if B factors are of a kind; none where too few would be left."""
    marked = ~ordered_residues(model)
    if kind == EXPERIMENTAL:
        return marked
    confidence = np.full(len(alone), np.nan) if plddt is None else plddt
    unsupported = alone & ~(confidence >= _CONFIDENT_PLDDT)
    doubtful = unsupported | (confidence < _DISORDERED_PLDDT)
    found = marked.copy()
    for rows in _chains_of_backbone(model):
        found[rows] |= _long_stretches(doubtful[rows])
    ordered = ~found[model.backbone()[0]]
    return found if ordered.sum() >= _FEWEST_ORDERED else marked


def _long_stretches(doubtful: np.ndarray) -> np.ndarray:
    """Stretches of doubtful residues of a chain, short ordered pieces in and beside them included."""
    joined = doubtful.copy()
    for first, last in runs_of(~doubtful):
        is_beside = first > 0 or last < len(doubtful)
        if last - first < _SHORTEST_ORDERED and is_beside:
            joined[first:last] = True
    kept = np.zeros_like(doubtful)
    for first, last in runs_of(joined):
        if doubtful[first:last].sum() >= _SHORTEST_STRETCH:
            kept[first:last] = True
    return kept


def runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last of each run of true values."""
    ends = np.flatnonzero(np.diff(np.r_[0, flags.astype(int), 0])).reshape(-1, 2)
    return [(int(first), int(last)) for first, last in ends]


def _format_stretches(model: Model, chosen: np.ndarray) -> Iterator[str]:
    for rows in _chains_of_backbone(model):
        for first, last in runs_of(chosen[rows]):
            one, other = (model.residues[rows[row]] for row in (first, last - 1))
            yield f"{one.chain} {one.number}-{other.number}"
