"""Bodies of a model: chains and ranges of residues, by the author's names and numbers."""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial import cKDTree

from cocofold.errors import InputError
from cocofold.structure import Model

_PART = re.compile(r"(?P<chain>[^:]+?)(?::(?P<first>-?\d+)-(?P<last>-?\d+))?")
_SHOWN = 5


def all_of(model: Model) -> str:
    """The selection of a whole model."""
    return describe(model, np.ones(len(model.residues), dtype=bool))


def bodies_of(model: Model, text: str) -> list[str]:
    """Selections of the bodies that ``--bodies`` names, so that every residue is in one of them.

    Parameters
    ----------
    model : Model
    text : str
        Bodies separated by ``;``, each of chains (``A``) and ranges of residues (``A:1-120``, both ends included)
        separated by ``,``; or ``auto``: each chain with a protein's backbone is a body.

    Returns
    -------
    list of str
        Ligands, waters and nucleic acids that are in none follow the body whose atoms are nearest to them.

    Raises
    ------
    InputError
        Of chains that are not there, residues in two bodies, protein residues in none, and bodies without a backbone.
    """
    has_backbone = np.zeros(len(model.residues), dtype=bool)
    has_backbone[model.backbone()[0]] = True
    chains = _chains(model)
    if text.strip().lower() == "auto":
        texts = [chain for chain in dict.fromkeys(chains) if has_backbone[chains == chain].any()]
    else:
        texts = [part.strip() for part in text.split(";")]
    owner = np.full(len(model.residues), -1)
    for number, part in enumerate(texts):
        chosen = select(model, part, "--bodies")
        twice = chosen & (owner >= 0)
        if twice.any():
            raise InputError(
                f"--bodies {text}: {_named(model, twice)} in two bodies, '{texts[owner[twice][0]]}' and '{part}'; give "
                "each residue to one"
            )
        if not (chosen & has_backbone).any():
            raise InputError(f"--bodies {text}: '{part}' has no residue with a protein's backbone; join it to a body")
        owner[chosen] = number
    left = has_backbone & (owner < 0)
    if left.any():
        raise InputError(f"--bodies {text}: {_named(model, left)} in no body; add them to one")
    _follow_nearest(model, owner)
    return [describe(model, owner == number) for number in range(len(texts))]


def select(model: Model, selection: str, what: str = "selection") -> np.ndarray:
    """Residues of a selection such as ``A:1-120,B``; (n_residues,) bool.

    Raises
    ------
    InputError
        If it cannot be read or selects nothing.
    """
    chains = _chains(model)
    numbers = np.array([residue.number for residue in model.residues])
    chosen = np.zeros(len(model.residues), dtype=bool)
    for part in selection.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise InputError(f"{what}: '{part.strip()}' is no chain (A) and no range of residues (A:1-120)")
        of_chain = chains == match["chain"]
        if not of_chain.any():
            there = ", ".join(dict.fromkeys(chains))
            raise InputError(f"{what}: there is no chain {match['chain']} in the model; its chains are {there}")
        if match["first"] is not None:
            first, last = int(match["first"]), int(match["last"])
            inside = of_chain & (numbers >= first) & (numbers <= last)
            if not inside.any():
                own = numbers[of_chain]
                raise InputError(
                    f"{what}: no residue in {part.strip()}; chain {match['chain']} goes from {own.min()} to {own.max()}"
                )
            of_chain = inside
        chosen |= of_chain
    return chosen


def describe(model: Model, chosen: np.ndarray) -> str:
    """The selection of some residues, chains as a whole where all of them are in it."""
    chains = _chains(model)
    parts = []
    for chain in dict.fromkeys(chains):
        of_chain = chains == chain
        if chosen[of_chain].all():
            parts.append(chain)
            continue
        runs: list[list[int]] = []
        for number, is_chosen in sorted(
            {model.residues[row].number: chosen[row] for row in np.flatnonzero(of_chain)}.items()
        ):
            if not is_chosen:
                runs.append([])
            elif runs and runs[-1]:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        parts += [f"{chain}:{run[0]}-{run[1]}" for run in runs if run]
    return ",".join(parts)


def _follow_nearest(model: Model, owner: np.ndarray) -> None:
    """Give residues in no body to the nearest, all of one number in a chain to the same."""
    of_atom = owner[model.residue_of_atom]
    free = of_atom < 0
    if not free.any():
        return
    distance, nearest = cKDTree(model.positions[~free]).query(model.positions[free])
    nearest_owner = of_atom[~free][nearest]
    keys = [(residue.chain, residue.number) for residue in model.residues]
    given = {keys[row]: body for row, body in enumerate(owner) if body >= 0}
    rows = model.residue_of_atom[free]
    for atom in np.argsort(distance, kind="stable"):
        given.setdefault(keys[rows[atom]], int(nearest_owner[atom]))
    owner[:] = [given[key] for key in keys]


def _chains(model: Model) -> np.ndarray:
    return np.array([residue.chain for residue in model.residues])


def _named(model: Model, chosen: np.ndarray) -> str:
    rows = np.flatnonzero(chosen)
    names = [
        f"{model.residues[row].name} {model.residues[row].number} of chain {model.residues[row].chain}"
        for row in rows[:_SHOWN]
    ]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(names) + more + (" is" if len(rows) == 1 else " are")
