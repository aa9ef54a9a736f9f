"""Losses as pure functions of rewards: a scalar to differentiate, and plain numbers to report."""

from __future__ import annotations

import torch


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
    losses = torch.nn.functional.softplus(margins - difference)
    weighted = weights * losses
    loss = weighted.sum() / nominal
    if center:
        loss = loss + center * (chosen.float() + rejected.float()).square().sum() / nominal
    with torch.no_grad():
        sums = {
            "loss": losses.sum(),
            "weighted_loss": weighted.sum(),
            "weight": weights.sum(),
            "correct": (difference > 0).sum() + 0.5 * (difference == 0).sum(),
            "margin": difference.sum(),
        }
    # One tensor: each number fetched by itself would be a wait for the device.
    return loss, dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))
