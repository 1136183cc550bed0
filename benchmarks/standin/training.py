"""Training the full-size structure module to fold one chain: ``python -m benchmarks.standin.training FOLDER``."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch

from benchmarks.accuracy import ROOT
from benchmarks.standin.representations import Representations
from cocofold.alphafold import load_structure_module
from cocofold.alphafold.invariant_attention import Rigid
from cocofold.alphafold.pair_representation import normalise_pair
from cocofold.alphafold.prediction import Prediction, Provenance
from cocofold.alphafold.rebuild import write_prediction
from cocofold.alphafold.sequences import ATOM14_NAMES, ONE_LETTER_CODES, RESIDUE_NAMES, Chains
from cocofold.alphafold.structure_network import StructureModuleOutput
from cocofold.alphafold.weight_layout import random_weights
from cocofold.alphafold.weights import official_weights
from cocofold.sources.motion_field import move_frames, spread_nodes
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone, residue_frames

STEPS, RATE, WARM_UP, LAST_RATE = 1000, 4e-4, 50, 0.02
_DEFORMED_SHARE = 0.25
_RADII_ANGSTROM = (8.0, 12.0, 20.0)
_TURN, _SHIFT_ANGSTROM = 0.35, 3.0
_CLAMP_ANGSTROM = 10.0
_LINK_WEIGHT = 0.05
_LONGEST_GRADIENT = 1.0
_SAID_EVERY = 50


@dataclass(frozen=True)
class Shape:
    """One chain: backbone frames (Å) and where its atoms are.

    Attributes
    ----------
    frames : Rigid
        Of n residues, the x axis from CA to C.
    atoms : (n_atoms, 3) float
        Å.
    """

    frames: Rigid
    atoms: torch.Tensor


class Chain:
    """A chain that is to be folded, and random deformations of it.

    Parameters
    ----------
    model : Model
        One protein chain without gaps.
    """

    def __init__(self, model: Model) -> None:
        backbone = Backbone.of(model)
        kinds = [RESIDUE_NAMES.index(model.residues[row].name) for row in backbone.residues]
        sequence = "".join(ONE_LETTER_CODES[kind] for kind in kinds)
        self.chains = Chains(names=(model.residues[0].chain,), sequences=(sequence,))
        self.numbers = torch.tensor([model.residues[row].number for row in backbone.residues])
        self.aatype = torch.as_tensor(self.chains.aatype())
        names = [ATOM14_NAMES[kind] for kind in self.aatype.tolist()]
        known = [row for row, name in enumerate(model.atom_names) if name in names[model.residue_of_atom[row]]]
        self.model = model
        self.residue = torch.as_tensor(model.residue_of_atom[known])
        self.slot = torch.tensor([names[model.residue_of_atom[row]].index(model.atom_names[row]) for row in known])
        self.rows = torch.tensor(known)
        axes = torch.as_tensor(residue_frames(model.positions[backbone.atoms]), dtype=torch.float32)
        positions = torch.as_tensor(model.positions, dtype=torch.float32)
        origins = positions[backbone.atoms[:, 1]]
        self.shape = Shape(Rigid(axes, origins), positions[known])
        self._local = torch.einsum("nji,nj->ni", axes[self.residue], positions[known] - origins[self.residue])

    def deformed(self, generator: np.random.Generator) -> Shape:
        """The chain under a smooth random field of motions."""
        origins = self.shape.frames.translation
        nodes = spread_nodes(origins.double().numpy(), float(generator.choice(_RADII_ANGSTROM)), len(origins))
        turns, shifts = (
            torch.as_tensor(size * generator.standard_normal((len(nodes.centres), 3)), dtype=torch.float32)
            for size in (_TURN, _SHIFT_ANGSTROM)
        )
        rotations, origins = move_frames(nodes, turns, shifts, self.shape.frames.rotation, origins)
        atoms = torch.einsum("nij,nj->ni", rotations[self.residue], self._local) + origins[self.residue]
        return Shape(Rigid(rotations, origins), atoms)

    def places(self, folded: StructureModuleOutput) -> torch.Tensor:
        """The module's positions of the chain's atoms, (n_atoms, 3) Å."""
        return folded.atom14[self.residue, self.slot]

    def in_model(self, folded: StructureModuleOutput) -> torch.Tensor:
        """The same in the model's rows; atoms that the module does not make are at the origin."""
        return torch.zeros(len(self.model), 3).index_copy(0, self.rows, self.places(folded))


def aligned_error(reached: Rigid, atoms: torch.Tensor, wanted: Shape, wanted_atoms: torch.Tensor) -> torch.Tensor:
    """Frame-aligned point error (Jumper et al., alg. 28), clamped at 10 Å and divided by that."""
    difference = _seen(reached, atoms) - _seen(wanted.frames, wanted_atoms)
    distance = torch.sqrt((difference**2).sum(-1) + 1e-4)
    return distance.clamp_max(_CLAMP_ANGSTROM).mean() / _CLAMP_ANGSTROM


def _seen(frames: Rigid, atoms: torch.Tensor) -> torch.Tensor:
    return torch.matmul(atoms[None] - frames.translation[:, None], frames.rotation)


def loss_of(folded: StructureModuleOutput, chain: Chain, wanted: Shape) -> torch.Tensor:
    """Error of the backbone after each iteration, and of all atoms after the last."""
    steps = [Rigid(*step.split([3, 1], dim=2)) for step in folded.trajectory]
    steps = [Rigid(step.rotation, step.translation[..., 0]) for step in steps]
    backbone = [aligned_error(step, step.translation, wanted, wanted.frames.translation) for step in steps]
    return torch.stack(backbone).mean() + aligned_error(steps[-1], chain.places(folded), wanted, wanted.atoms)


def train(chain: Chain, seed: int, steps: int) -> Prediction:
    """The prediction of a module that was trained to give the chain's structure from its representations.

    In a quarter of the steps it is shown the representations of a deformed structure and is to give that: it learns to
    read them, not to know one structure by heart.
    """
    generator = np.random.default_rng(seed)
    known = Representations(chain.aatype, seed)
    pair = known.pair(chain.shape.frames).half()
    own = normalise_pair(pair)
    module = load_structure_module(random_weights(seed))
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    restraints = Restraints(chain.model, Backbone.of(chain.model), 0.0)
    mask = torch.ones(len(chain.aatype), dtype=torch.bool)
    began = time.monotonic()
    for step in range(steps):
        falling = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = RATE * falling * min(1.0, (step + 1) / WARM_UP)
        is_deformed = generator.random() < _DEFORMED_SHARE
        wanted = chain.deformed(generator) if is_deformed else chain.shape
        shown = normalise_pair(known.pair(wanted.frames)) if is_deformed else own
        folded = module(known.single, shown, chain.aatype, mask)
        loss = loss_of(folded, chain, wanted)
        if not is_deformed and step > steps // 2:
            loss = loss + _LINK_WEIGHT * restraints.energy(chain.in_model(folded))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), _LONGEST_GRADIENT)
        optimiser.step()
        if step % _SAID_EVERY == 0 or step == steps - 1:
            with torch.no_grad():
                rmsd = superposed_rmsd(module(known.single, own, chain.aatype, mask).frames[..., 3], chain)
            seconds = time.monotonic() - began
            print(
                f"step {step:5d}  loss {float(loss.detach()):.4f}  CA RMSD {rmsd:6.2f} Å  {seconds:.0f} s", flush=True
            )
    return Prediction(
        single=known.single,
        pair=pair,
        aatype=chain.aatype,
        mask=mask,
        chain_index=torch.as_tensor(chain.chains.chain_index()),
        residue_numbers=chain.numbers,
        chains=chain.chains,
        weights=official_weights(module),
        origin=Provenance("stand-in", None, job=chain.model.structure.name, model_number=1, seed=seed),
    )


def superposed_rmsd(alpha: torch.Tensor, chain: Chain) -> float:
    """CA RMSD (Å) from the chain's own structure, superposed."""
    own = chain.shape.frames.translation
    rotation, translation = roma.rigid_points_registration(alpha, own)
    return float(((alpha @ rotation.T + translation - own) ** 2).sum(1).mean().sqrt())


def main() -> None:
    """Train, and write the prediction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    prediction = train(Chain(read_model(options.data / "adk/start_closed.cif")), options.seed, options.steps)
    write_prediction(prediction, options.folder)


if __name__ == "__main__":
    main()
