"""Linear reward heads on features that are computed once: weighted Bradley–Terry models, many of them fitted together.

A head gives a completion of features φ the reward θ·φ, so that a pair of differences x = φ(chosen) − φ(rejected) is a
logistic regression without intercept whose label is always "chosen". Heads that differ in weights or in the strength of
their L2 share every product with x: 4 · P · D operations a head and iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_HISTORY, _MOST = 8, 300
_ROUGH = 1e-3
"""The same where heads are fitted to choose a strength: losses are then right to about its square."""
_TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-9}
"""Norm of the scaled gradient at which a head is done: in units in which the loss curves by about 1, so that the
parameters are about as near to their optimum."""
STRENGTHS = np.logspace(-5, 0, 9)
"""L2 strengths that are tried, in units of the mean square of a pair's difference; the best is found between them."""


@dataclass(frozen=True, eq=False)
class Differences:
    """Differences of features of P pairs in the axes of their own second moments: `z` [P, D] = x Q / scale.

    `axes` [D, D] are Q, the eigenvectors of xᵀx, and `curvature` [D] the diagonal of zᵀz / 4P: of the loss at θ = 0.
    `scale` is the root of the mean square of x, so that a strength of L2 means the same for every encoder.
    """

    z: torch.Tensor
    axes: torch.Tensor
    curvature: torch.Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, rows: np.ndarray) -> Differences:
        """Return some pairs in the same axes."""
        z = self.z[torch.from_numpy(rows)]
        return Differences(z, self.axes, z.square().mean(0) / 4, self.scale)


def differences(x: np.ndarray, among: np.ndarray | None = None, *, dtype: torch.dtype = torch.float32) -> Differences:
    """Return differences x [P, D] in the axes of those `among` [P] bool that train, all by default."""
    every = torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
    train = every if among is None else every[torch.from_numpy(among)]
    scale = float(train.double().square().sum(1).mean().sqrt()) or 1.0
    _, axes = torch.linalg.eigh((train.T @ train / (scale**2 * len(train))).double())
    z = every @ (axes / scale).to(dtype)
    own = z if among is None else z[torch.from_numpy(among)]
    return Differences(z, axes, own.square().mean(0) / 4, scale)


def fit_heads(
    data: Differences, weights: torch.Tensor, l2: torch.Tensor, tolerance: float | None = None
) -> torch.Tensor:
    """Return heads [A, D], in the axes of the data, each of which minimises its own weighted loss.

    Σ_p v·softplus(−θ·z) / Σ v + l2/2 · |θ|² for the weights v [P, A] and strengths l2 [A] > 0 of A heads. L-BFGS
    (Nocedal, Mathematics of Computation 35, 1980) in units of the unweighted curvature, all heads in one product; a
    head that is done leaves the batch. The tolerance, of the gradient's norm, is that of the data's precision.
    """
    weights = weights / weights.sum(0)
    unit = (data.curvature[None] + l2[:, None]).sqrt().to(data.z.dtype)
    heads = torch.zeros(unit.shape, dtype=data.z.dtype)
    live = torch.arange(len(l2))
    problem = _Problem(data.z, weights, l2.to(data.z.dtype), unit)
    search = _Search(problem, torch.zeros_like(unit))
    least = tolerance or _TOLERANCE[data.z.dtype]
    for _ in range(_MOST):
        done = search.gradient.norm(dim=1) <= least
        if done.sum() > len(live) // 4:  # to leave one by one would copy what the others hold each time
            heads[live[done]] = (search.place / search.problem.unit)[done]
            live = live[~done]
            if not len(live):
                return heads
            search.keep(~done)
        if not search.step():
            break
    heads[live] = search.place / search.problem.unit
    return heads


class _Problem:
    """The losses of some heads at θ = place / unit, and their gradients there."""

    def __init__(self, z: torch.Tensor, weights: torch.Tensor, l2: torch.Tensor, unit: torch.Tensor) -> None:
        self.z, self.weights, self.l2, self.unit = z, weights, l2, unit

    def at(self, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses [A] and the gradients [A, D] by `place`."""
        theta = place / self.unit
        margin = self.z @ theta.T
        loss = torch.nn.functional.softplus(-margin).mul_(self.weights).sum(0, dtype=torch.float64)
        slope = torch.sigmoid(margin.neg_()).mul_(self.weights)
        gradient = (self.l2[:, None] * theta - slope.T @ self.z) / self.unit
        return loss + (self.l2 / 2 * theta.square().sum(1)).double(), gradient

    def only(self, kept: torch.Tensor) -> _Problem:
        """Return the same of some heads."""
        return _Problem(self.z, self.weights[:, kept], self.l2[kept], self.unit[kept])


class _Search:
    """A search for the lowest loss of every head, by its own history of steps and changes of the gradient."""

    def __init__(self, problem: _Problem, place: torch.Tensor) -> None:
        self.problem, self.place = problem, place
        self.loss, self.gradient = problem.at(place)
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(self, kept: torch.Tensor) -> None:
        """Go on with some heads."""
        self.problem = self.problem.only(kept)
        self.place, self.loss, self.gradient = self.place[kept], self.loss[kept], self.gradient[kept]
        self._steps = [(s[kept], y[kept]) for s, y in self._steps]

    def step(self) -> bool:
        """Take a step of all heads, each as long as its loss falls enough (Armijo); False if none moves any more."""
        direction = -self._inverse_times(self.gradient)
        slope = (direction * self.gradient).sum(1).double()
        length = torch.ones(len(slope), dtype=self.place.dtype)
        for _ in range(12):
            place = self.place + length[:, None] * direction
            loss, gradient = self.problem.at(place)
            # Rounding: near the optimum a loss may rise by its own last digits.
            slack = 1e-7 if self.place.dtype == torch.float32 else 1e-14
            short = loss > self.loss + 1e-4 * length * slope + slack * self.loss.abs()
            if not short.any():
                break
            length[short] /= 2
        length[short] = 0
        if not length.any():
            return False
        place = self.place + length[:, None] * direction
        gradient[short] = self.gradient[short]
        loss[short] = self.loss[short]
        self._steps = [*self._steps[1 - _HISTORY :], (place - self.place, gradient - self.gradient)]
        self.place, self.loss, self.gradient = place, loss, gradient
        return True

    def _inverse_times(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the approximate inverse of the curvature times a gradient, by the two loops of L-BFGS."""
        direction, held = gradient.clone(), []
        for s, y in reversed(self._steps):
            along = (s * y).sum(1)
            rho = torch.where(along > 0, 1 / along, torch.zeros_like(along))  # no step was taken: no part in it
            share = rho * (s * direction).sum(1)
            direction -= share[:, None] * y
            held.append((s, y, rho, share))
        if self._steps:
            s, y = self._steps[-1]
            along = (s * y).sum(1)
            direction *= torch.where(along > 0, along / y.square().sum(1).clamp_min(1e-30), torch.ones_like(along))[
                :, None
            ]
        for s, y, rho, share in reversed(held):
            direction += (share - rho * (y * direction).sum(1))[:, None] * s
        return direction


def choose_strengths(
    data: Differences,
    weights: torch.Tensor,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    scored: Sequence[np.ndarray],
    pooled: np.ndarray,
) -> np.ndarray:
    """Return the L2 strength of each arm, tuned on unweighted losses of pairs that did not train.

    `weights` [P, A] are of A weightings; `folds` are rows that train and rows that are measured. Column a belongs to
    the arm `pooled` [A] int, whose strength is that of the lowest mean loss over its columns, on the pairs `scored`
    [arms] of which are True [P]. Strengths are searched between those of STRENGTHS, by a parabola in the logarithm.
    """
    losses = np.zeros((len(scored), len(STRENGTHS)))
    l2 = torch.from_numpy(np.tile(STRENGTHS, weights.shape[1]))
    for train, held in folds:
        part = data.rows(train)
        each = weights[torch.from_numpy(train)].repeat_interleave(len(STRENGTHS), dim=1)
        heads = fit_heads(part, each, l2, _ROUGH)
        loss = torch.nn.functional.softplus(-(data.z[torch.from_numpy(held)] @ heads.T)).double().numpy()
        for arm, counts in enumerate(scored):
            own = loss[counts[held]].sum(0).reshape(weights.shape[1], len(STRENGTHS))
            losses[arm] += own[pooled == arm].sum(0)
    return np.asarray([_lowest(loss) for loss in losses])


def _lowest(losses: np.ndarray) -> float:
    """Return the strength of the lowest loss: the bottom of a parabola through the best tried and its sides."""
    best = int(np.argmin(losses))
    logs = np.log(STRENGTHS)
    if not 0 < best < len(losses) - 1:
        return float(STRENGTHS[best])
    left, here, right = losses[best - 1 : best + 2]
    bend = left - 2 * here + right
    moved = (left - right) / (2 * bend) if bend > 0 else 0.0
    return float(np.exp(logs[best] + np.clip(moved, -1, 1) * (logs[best + 1] - logs[best])))
