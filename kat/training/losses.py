"""Losses as pure functions of rewards: a scalar to differentiate, and plain numbers to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softplus


def bradley_terry(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    weights: torch.Tensor,
    margins: torch.Tensor,
    nominal: int,
    center: float = 0.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return Σ v · softplus(−(chosen − rejected − margin)) / nominal of rewards, weights and margins [P], and sums.

    −log σ(r_c − r_r − m) of Bradley and Terry 1952 as reward models take it (Stiennon et al. 2020, § 3.4; the margin
    of Touvron et al. 2023, § 3.2.2), weighed pair by pair. `nominal` is the number of pairs of a whole step, so that a
    pair's part never depends on which others are computed with it. `center` weighs Σ (chosen + rejected)² / nominal,
    which keeps rewards near 0 (Eisenstein et al. 2023) and takes no weights: it prefers nothing.

    The sums, over the P pairs: "loss" unweighted, "weighted_loss", "weight", "correct" (ties ½) and "margin", the
    difference of rewards.
    """
    difference = chosen.float() - rejected.float()
    loss, sums = _weighed(softplus(margins - difference), difference, weights, nominal)
    if center:
        loss = loss + center * (chosen.float() + rejected.float()).square().sum() / nominal
    return loss, sums


def unweighted(
    loss: Callable[..., tuple[torch.Tensor, dict[str, float]]],
    chosen: np.ndarray,
    rejected: np.ndarray,
    margins: np.ndarray,
) -> float:
    """Return the mean of a loss over pairs [P] of these rewards and margins, every weight 1."""
    sides = (torch.from_numpy(np.asarray(side, np.float32)) for side in (chosen, rejected))
    return float(loss(*sides, torch.ones(len(chosen)), torch.from_numpy(margins), len(chosen))[0])


def sigmoid(difference: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    """Return −(1 − ε) · log σ(z) − ε · log σ(−z) of z = `difference`: DPO (Rafailov et al. 2023, eq. 7), with labels
    that are wrong with probability ε (Mitchell, "A note on DPO with noisy preferences", 2023)."""
    loss = softplus(-difference)
    return loss if not smoothing else (1 - smoothing) * loss + smoothing * softplus(difference)


def ipo(difference: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    """Return (h − 1 / 2β)² of the log-ratios' difference h = z / β: IPO (Azar et al. 2023, eq. 17)."""
    return (difference / beta - 1 / (2 * beta)).square()


def hinge(difference: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    """Return max(0, 1 − z): SLiC's calibration loss (Zhao et al. 2023) on implicit rewards, as Liu et al. 2023 compare
    it."""
    return torch.relu(1 - difference)


PREFERENCES: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
}
"""What a pair loses by the difference of its implicit rewards, less its margin."""


@dataclass(frozen=True)
class PreferenceLoss:
    """A row of `PREFERENCES` with its β and label smoothing, in the form of `bradley_terry`."""

    kind: str
    beta: float
    smoothing: float = 0.0

    def __call__(
        self,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        weights: torch.Tensor,
        margins: torch.Tensor,
        nominal: int,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return Σ v · loss(β·(log-ratio of chosen − of rejected) − margin) / nominal, and sums. `chosen` and
        `rejected` [P] are implicit rewards, β · log-ratio."""
        difference = chosen.float() - rejected.float()
        losses = PREFERENCES[self.kind](difference - margins, self.beta, self.smoothing)
        return _weighed(losses, difference, weights, nominal)


def _weighed(
    losses: torch.Tensor, difference: torch.Tensor, weights: torch.Tensor, nominal: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return Σ v · loss / nominal of losses [P], and the sums."""
    weighted = weights * losses
    with torch.no_grad():
        sums = {
            "loss": losses.sum(),
            "weighted_loss": weighted.sum(),
            "weight": weights.sum(),
            "correct": (difference > 0).sum() + 0.5 * (difference == 0).sum(),
            "margin": difference.sum(),
        }
    # One tensor: each number fetched by itself would be a wait for the device.
    told = dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))
    return weighted.sum() / nominal, told
