"""Outputs of programs from which no representations can be had, recognised by their files."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

FROM_A_MODEL = "start from its model instead: cocofold finetune --model MODEL.cif (no weights and no GPU needed)"

_ALPHAFOLD_2 = (
    "DeepMind's AlphaFold does not write the single and pair representations. Predict again with ColabFold "
    "(cocofold predict --fasta) or OpenFold (--save_outputs), or start from the model: cocofold finetune --model MODEL"
)


def _other_network(program: str) -> str:
    return f"these are files of {program}, whose network has no structure module of AlphaFold-Multimer; {FROM_A_MODEL}"


# The first pattern that a name of the folder fits decides.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("ranking_scores.csv", _other_network("AlphaFold 3")),
    ("*_ranking_scores.csv", _other_network("AlphaFold 3")),
    ("fold_*_full_data_*.json", _other_network("the AlphaFold server (AlphaFold 3)")),
    ("*_summary_confidences*.json", _other_network("AlphaFold 3")),
    ("*_data.json", _other_network("AlphaFold 3")),
    ("boltz_results_*", _other_network("Boltz")),
    ("plddt_*_model_*.npz", _other_network("Boltz")),
    ("confidence_*_model_*.json", _other_network("Boltz")),
    ("pred.model_idx_*.cif", _other_network("Chai")),
    ("scores.model_idx_*.npz", _other_network("Chai")),
    ("result_model_*.pkl", _ALPHAFOLD_2),
    ("ranking_debug.json", _ALPHAFOLD_2),
)

_OUTPUTS_OF_ALPHAFOLD_2 = {"structure_module", "distogram", "predicted_lddt", "masked_msa"}


def advice_on_folder(folder: Path) -> str | None:
    """What to do with the output of another program, or None if the folder does not look like one."""
    names = [entry.name for entry in folder.iterdir()]
    return _first_match([folder.name, *names])


def advice_on_file(path: Path) -> str | None:
    """What to do with a file of another program, or None if its name does not look like one."""
    if path.suffix in (".cif", ".pdb", ".mmcif"):
        return f"this is a model, without representations; {FROM_A_MODEL}"
    return _first_match([path.name, path.parent.name])


def advice_on_outputs(names: Collection[str]) -> str | None:
    """What to do with a pickle that has these entries, or None if they are not AlphaFold's."""
    return _ALPHAFOLD_2 if _OUTPUTS_OF_ALPHAFOLD_2 & set(names) else None


def _first_match(names: list[str]) -> str | None:
    for pattern, advice in _PATTERNS:
        if any(fnmatch(name, pattern) for name in names):
            return advice
    return None
