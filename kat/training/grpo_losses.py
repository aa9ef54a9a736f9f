"""What group-relative policy optimisation minimises: pure functions of log-probabilities and rewards.

Tokens of all completions of a step stand in one row, [T]; `sequence` [T] numbers the completion of each. How a sum over
them is normalised is a weight for each token (`token_weights`), so that a loss is a plain sum, whatever part of the
step, micro-batch or rank it is computed on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

SMALL = 1e-4
"""Added to a standard deviation before it divides, as TRL does."""


@dataclass(frozen=True)
class Surrogate:
    """How the ratio of new to old probabilities enters the loss.

    `ratio` is "token" (GRPO: Shao et al. 2024, § 4.1), "sequence" (GSPO, the geometric mean over a completion: Zheng et
    al. 2025, § 4.1) or "cispo" (a clipped ratio without gradient weighs log π: MiniMax-M1, § 3.1). Ratios are clipped
    to [1 − clip_low, 1 + clip_high], "cispo" above alone. With `dual_clip` c > 1 a negative advantage weighs c times at
    most (Ye et al. 2020, § 4.2).
    """

    ratio: Literal["token", "sequence", "cispo"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None


def advantages(rewards: torch.Tensor, scale: Literal["batch", "group", "none"] = "batch") -> torch.Tensor:
    """Return each reward less its group's mean, [N, G] for rewards [N, G], scaled.

    By the standard deviation within groups: each group's own ("group", Shao et al. 2024, § 4.1.2), that of all N
    groups together ("batch"), or not at all ("none", Liu et al. 2025, § 3.1). The deviation of all groups together is
    of rewards less their group's mean: what a reward model adds to all completions of a prompt says nothing about
    them. A group's own deviation blows a nearly constant reward's noise up to the size of a signal.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale == "none":
        return centred
    squares = centred.square()
    groups, size = rewards.shape
    if scale == "group":
        deviation = (squares.sum(1, keepdim=True) / max(size - 1, 1)).sqrt()
    else:
        deviation = (squares.sum() / max(groups * (size - 1), 1)).sqrt()
    return centred / (deviation + SMALL)


def token_weights(
    lengths: torch.Tensor,
    normalise: Literal["dapo", "grpo", "dr_grpo"],
    *,
    sequences: int,
    tokens: int,
    longest: int,
) -> torch.Tensor:
    """Return what each token of completions of `lengths` [S] weighs, [S].

    "dapo": 1 / `tokens`, the mean over all tokens (Yu et al. 2025, § 3.3); "grpo": 1 / (`sequences` · length), the
    mean over completions of their means (Shao et al. 2024, eq. 3); "dr_grpo": 1 / (`sequences` · `longest`), which
    does not depend on what was said (Liu et al. 2025, § 3.1). The three numbers are of the whole step: they
    do not change with micro-batches or ranks.
    """
    if normalise == "dapo":
        return torch.full(lengths.shape, 1 / max(tokens, 1))
    if normalise == "grpo":
        return 1 / (max(sequences, 1) * lengths.float())
    return torch.full(lengths.shape, 1 / (max(sequences, 1) * longest))


def policy_loss(
    now: torch.Tensor,
    then: torch.Tensor,
    sequence: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    surrogate: Surrogate = Surrogate(),
    *,
    reference: torch.Tensor | None = None,
    beta: float = 0.0,
    correction: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of tokens [T] and sums over them.

    `now`, `then` and `reference` [T] are their log-probabilities under the policy, the policy that they were drawn from
    and the reference; `advantage` and `weight` [T] are those of their completions. `beta` weighs `kl_penalty` from the
    reference. `correction` [T] multiplies each token's part: see `truncated_importance`.

    The sums: "loss", "policy" (without the penalty), "kl" (k3), "ratio", tokens whose ratio was clipped ("clipped_low",
    "clipped_high") and "tokens".
    """
    objective, low, high, ratio = _objective(now, then, sequence, advantage, surrogate)
    parts = -objective
    k3 = None
    if reference is not None:
        k3 = kl_estimate(now, reference, "k3")
    if beta and reference is not None:
        parts = parts + beta * kl_penalty(now, then, reference)
    if correction is not None:
        parts, objective = parts * correction, objective * correction
    loss = (parts * weight).sum()
    with torch.no_grad():
        sums = {
            "loss": loss.detach(),
            "policy": -(objective * weight).sum(),
            "kl": torch.zeros(()) if k3 is None else k3.sum(),
            "ratio": ratio.sum(),
            "clipped_low": low.sum(),
            "clipped_high": high.sum(),
        }
    return loss, {name: float(value) for name, value in sums.items()} | {"tokens": float(len(now))}


def _objective(
    now: torch.Tensor, then: torch.Tensor, sequence: torch.Tensor, advantage: torch.Tensor, surrogate: Surrogate
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what is maximised, which tokens were clipped below and above, and the ratios, each [T]."""
    log_ratio = now - then
    if surrogate.ratio == "sequence":
        log_ratio = _means(log_ratio, sequence)
    ratio = log_ratio.exp()
    least, most = 1 - surrogate.clip_low, 1 + surrogate.clip_high
    if surrogate.ratio == "cispo":
        none = torch.zeros_like(ratio, dtype=torch.bool)
        return ratio.detach().clamp(max=most) * advantage * now, none, ratio > most, ratio
    clipped = ratio.clamp(least, most)
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    if surrogate.dual_clip is not None:
        bounded = torch.maximum(objective, surrogate.dual_clip * advantage)
        objective = torch.where(advantage < 0, bounded, objective)
    low, high = (ratio < least) & (advantage < 0), (ratio > most) & (advantage > 0)
    return objective, low, high, ratio


def _means(values: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """Return for each token the mean of its completion's values, [T]."""
    count = int(sequence.max()) + 1 if len(sequence) else 0
    sums = values.new_zeros(count).index_add(0, sequence, values)
    lengths = values.new_zeros(count).index_add(0, sequence, torch.ones_like(values))
    return (sums / lengths.clamp(min=1))[sequence]


def kl_estimate(now: torch.Tensor, reference: torch.Tensor, kind: Literal["k1", "k2", "k3"]) -> torch.Tensor:
    """Return estimates [T] of KL(π ‖ reference) from tokens that π drew, by log-probabilities [T] (Schulman 2020).

    With d = log π − log reference: k1 = d and k3 = e^−d − 1 + d are right on average, k2 = d²/2 nearly so; k3 is never
    negative and varies least. They are for measuring. Differentiated as they stand, k1 has the gradient 0 on average,
    k2 has that of the KL, and k3 that of KL(reference ‖ π) (2512.21852): for training there is `kl_penalty`.
    """
    d = now - reference
    if kind == "k1":
        return d
    return d.square() / 2 if kind == "k2" else (-d).exp() - 1 + d


def kl_penalty(now: torch.Tensor, then: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return π/π_old · k3 [T], whose gradient is on average that of KL(π ‖ reference) at each token, given its prefix.

    The ratio carries the gradient of the distribution that is averaged over (2512.02556, § 3.1). What a token does to
    the KL of later ones is left out: it would need the sum of what follows as an advantage.
    """
    return (now - then).exp() * kl_estimate(now, reference, "k3")


def truncated_importance(then: torch.Tensor, drawn: torch.Tensor, cap: float) -> torch.Tensor:
    """Return min(π_old / π_engine, cap) [T] of log-probabilities: tokens that another engine drew, or this one in lower
    precision, weigh by how likely the trainer's own policy was to draw them (Yao et al. 2025, truncated importance
    sampling)."""
    return (then - drawn).exp().clamp(max=cap)


def adapted_beta(beta: float, kl: float, target: float, gain: float) -> float:
    """Return β · exp(gain · clip(kl / target − 1, −1, 1)): a KL above its target makes its penalty heavier (after
    Ziegler et al. 2019, § 2.2, in the exponent). All per token."""
    return beta * math.exp(gain * min(max(kl / target - 1, -1.0), 1.0))
