"""Token vectors to one vector a text, in float32. Padding never enters: every pooling reads through mask or layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from kat.packing.layout import Layout

_ROWS = 8192
"""Vectors normalised at once: a bounded copy, however many there are."""


def pool(hidden_btd: torch.Tensor, mask_bt: torch.Tensor, how: str) -> torch.Tensor:
    """Vectors [B, D] float32, not yet of unit length, from hidden states [B, T, D] and a mask [B, T] of real tokens.

    `mean` over the real tokens, `cls` the first, `last` the last real one (right padding assumed).
    """
    import torch

    hidden_btd = hidden_btd.float()
    if how == "mean":
        weights = mask_bt.unsqueeze(-1).to(hidden_btd.dtype)
        return torch.where(weights > 0, hidden_btd, 0).sum(1) / weights.sum(1)
    if how == "cls":
        return hidden_btd[:, 0]
    last = mask_bt.sum(1) - 1
    return hidden_btd[torch.arange(len(hidden_btd), device=hidden_btd.device), last]


def pool_packed(hidden_td: torch.Tensor, layout: Layout, how: str) -> torch.Tensor:
    """The same [B, D] from a packed row of hidden states [T, D], texts in the row's order."""
    import torch

    if how != "mean":
        rows = layout.bounds[:-1] if how == "cls" else layout.bounds[1:] - 1
        return hidden_td[torch.from_numpy(rows).to(hidden_td.device)].float()
    runs = [hidden_td[run.start : run.stop].view(run.count, run.length, -1) for run in layout.runs]
    return torch.cat([run.float().mean(1) for run in runs])


def normalise(vectors: np.ndarray) -> None:
    """Give vectors [N, D] float32 unit length, in place; one of zeros stays."""
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
