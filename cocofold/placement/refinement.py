"""Candidates moved uphill: the correlation with the map at the template's points, by gradient."""

from __future__ import annotations

import math

import numpy as np
import roma
import torch

from cocofold.placement.grids import Grid
from cocofold.placement.motions import Motions
from cocofold.placement.template import Template

_POINTS_AT_ONCE = 200_000
_RATE_IN_RESOLUTIONS = 0.06
_LAST_RATE = 0.03


def refine(grid: Grid, template: Template, motions: Motions, steps: int) -> Motions:
    """Move each candidate to the nearest maximum of its correlation, by Adam with a rate that falls as a cosine.

    Rotations are varied by a vector in units of the template's radius, so that a step in each of the six parameters
    moves the model about as far.

    Returns
    -------
    Motions
        In the order given, with the correlations reached.
    """
    at_once = max(1, _POINTS_AT_ONCE // len(template.points))
    parts = [
        _refine(grid, template, motions[start : start + at_once], steps) for start in range(0, len(motions), at_once)
    ]
    return Motions.in_turn(parts)


def correlations(grid: Grid, template: Template, motions: Motions) -> np.ndarray:
    """Pearson's correlation of map and template at the template's points, (n,)."""
    rotations, centres = _tensors(motions, grid)
    with torch.no_grad():
        parts = [_correlation(grid, template, turn[None], centre[None]) for turn, centre in zip(rotations, centres)]
    return torch.cat(parts).double().cpu().numpy()


def _refine(grid: Grid, template: Template, motions: Motions, steps: int) -> Motions:
    rotations, centres = _tensors(motions, grid)
    moves = torch.zeros(len(motions), 6, device=centres.device, requires_grad=True)
    rate = _RATE_IN_RESOLUTIONS * template.resolution_angstrom
    optimiser = torch.optim.Adam([moves], lr=rate, betas=(0.8, 0.95))
    best = torch.full((len(motions),), -math.inf, device=centres.device)
    best_moves = torch.zeros_like(moves)
    for step in range(steps + 1):
        turns, places = _moved(rotations, centres, moves, template.radius_angstrom)
        correlation = _correlation(grid, template, turns, places)
        with torch.no_grad():
            better = correlation > best
            best = torch.where(better, correlation, best)
            best_moves = torch.where(better[:, None], moves, best_moves)
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimiser.zero_grad()
        (-correlation.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        turns, places = _moved(rotations, centres, best_moves, template.radius_angstrom)
    return Motions(
        _orthonormal(turns.double().cpu().numpy()), places.double().cpu().numpy(), best.double().cpu().numpy()
    )


def _tensors(motions: Motions, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    device = grid.values.device
    return (
        torch.as_tensor(motions.rotations, dtype=torch.float32, device=device),
        torch.as_tensor(motions.centres, dtype=torch.float32, device=device),
    )


def _moved(
    rotations: torch.Tensor, centres: torch.Tensor, moves: torch.Tensor, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    turn, shift = moves.split(3, dim=1)
    return torch.matmul(roma.rotvec_to_rotmat(turn / radius), rotations), centres + shift


def _correlation(grid: Grid, template: Template, rotations: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    points = torch.matmul(template.points, rotations.mT) + centres[:, None]
    value = grid.at(points)
    value = value - value.mean(1, keepdim=True)
    return (value * template.values).mean(1) / value.square().mean(1).clamp(min=1e-20).sqrt()


def _orthonormal(rotations: np.ndarray) -> np.ndarray:
    """The nearest rotations, so that single precision leaves no trace."""
    left, _, right = np.linalg.svd(rotations)
    return left @ right
