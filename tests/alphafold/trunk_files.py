"""What ColabFold and OpenFold leave behind, written around arrays of DeepMind's own code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import gemmi
import numpy as np

LETTERS = "ARNDCQEGHILKMFPSTWYVX"
NAMES = {letter: gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA) for letter in LETTERS}
BACKBONE = ("N", "CA", "C", "CB", "O")
MULTIMER = "alphafold2_multimer_v3"
EVOFORMER = "alphafold/alphafold_iteration/evoformer/single_activations//"


@dataclass
class DeepMind:
    """What DeepMind's code took and gave."""

    sequence: str
    single: np.ndarray
    pair: np.ndarray
    atom37: np.ndarray
    atom37_mask: np.ndarray
    plddt: np.ndarray
    pae: np.ndarray
    msa_first_row: np.ndarray
    parameters: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> DeepMind:
        """Of a chain of 22 residues; the MSA's first row is made up, and its weights follow from the single one."""
        with np.load(folder / "sm_n22.npz") as arrays:
            a = dict(arrays)
        with np.load(folder / "sm_params.npz") as arrays:
            parameters = dict(arrays)
        first_row = np.random.default_rng(0).normal(size=(22, 256)).astype(np.float16)
        bias = np.linspace(-0.1, 0.1, 384, dtype=np.float32)
        weights = np.linalg.lstsq(first_row.astype(float), a["single"].astype(float) - bias, rcond=None)[0]
        parameters[EVOFORMER + "weights"] = weights.astype(np.float32)
        parameters[EVOFORMER + "bias"] = bias
        # What else a real weight file holds is none of ours.
        parameters["alphafold/alphafold_iteration/distogram_head/half_logits//bias"] = np.zeros(64, np.float32)
        sequence = "".join(LETTERS[number] for number in a["aatype"])
        return cls(
            sequence, a["single"], a["pair"], a["atom37"], a["atom37_mask"], a["plddt"], a["pae"], first_row, parameters
        )


def write_pdb(path: Path, chains: list[str], atom37: np.ndarray, plddt: np.ndarray) -> None:
    """Backbones, in the columns of the PDB format; X has no atoms."""
    lines = ["MODEL     1"]
    row = serial = 0
    for chain, sequence in zip("ABCDEFGH", chains):
        for number, letter in enumerate(sequence, start=1):
            for column, name in enumerate(BACKBONE):
                if letter != "X" and not (letter == "G" and name == "CB"):
                    serial += 1
                    x, y, z = atom37[row, column]
                    lines.append(
                        f"ATOM  {serial:5d}  {name:<3} {NAMES[letter]} {chain}{number:4d}    "
                        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00{plddt[row]:6.2f}          {name[0]:>2}"
                    )
            row += 1
        lines.append("TER")
    path.write_text("\n".join([*lines, "ENDMDL", "END", ""]))


@dataclass
class ColabFoldFolder:
    """Writes what ``colabfold_batch`` leaves behind."""

    folder: Path
    deepmind: DeepMind

    def write(
        self,
        chains: list[str],
        job: str = "job",
        rank: int = 1,
        model: int = 1,
        seed: int = 0,
        model_type: str = MULTIMER,
        padding: int = 0,
        without: tuple[str, ...] = (),
    ) -> Path:
        self.folder.mkdir(exist_ok=True)
        d, n = self.deepmind, len(self.deepmind.sequence)
        assert sum(map(len, chains)) == n
        tag = f"rank_{rank:03d}_{model_type}_model_{model}_seed_{seed:03d}"
        garbage = np.random.default_rng(1)
        single = garbage.normal(size=(n + padding, 256)).astype(np.float16)
        single[:n] = d.msa_first_row
        pair = garbage.normal(size=(n + padding, n + padding, 128)).astype(np.float16)
        pair[:n, :n] = d.pair
        np.save(self.folder / f"{job}_single_repr_{tag}.npy", single)
        np.save(self.folder / f"{job}_pair_repr_{tag}.npy", pair)
        write_pdb(self.folder / f"{job}_unrelaxed_{tag}.pdb", chains, d.atom37, d.plddt)
        scores = {"plddt": d.plddt.round(2).tolist(), "max_pae": 31.0, "pae": d.pae.round(2).tolist(), "ptm": 0.1}
        (self.folder / f"{job}_scores_{tag}.json").write_text(json.dumps(scores))
        unique = list(dict.fromkeys(chains))
        copies = ",".join(str(chains.count(sequence)) for sequence in unique)
        a3m = [f"#{','.join(str(len(sequence)) for sequence in unique)}\t{copies}"]
        for number, sequence in enumerate(unique):
            gaps = ["-" * len(other) for other in unique]
            gaps[number] = sequence
            a3m += [f">{101 + number}", "".join(gaps)]
        (self.folder / f"{job}.a3m").write_text("\n".join(a3m))
        config = {"model_type": model_type, "num_recycles": None, "version": "1.6.3"}
        (self.folder / "config.json").write_text(json.dumps(config))
        with open(self.folder / "log.txt", "a") as log:
            log.write(f"2026-11-23 12:05:24,764 Query 1/1: {job} (length {n})\n")
            log.write(f"2026-11-23 12:06:10,995 {tag[9:]} took 28.7s (3 recycles)\n")
        (self.folder / f"{job}.done.txt").touch()
        for kind in without:
            for path in self.folder.glob(f"{job}_{kind}_{tag}*"):
                path.unlink()
        return self.folder
