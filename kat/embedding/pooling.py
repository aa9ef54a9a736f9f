"""Token vectors to one vector a text. Padding never enters: every pooling reads through the mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pool(hidden_btd: torch.Tensor, mask_bt: torch.Tensor, how: str) -> torch.Tensor:
    """Unit vectors [B, D] float32 from last hidden states [B, T, D] and a mask [B, T] of real tokens.

    `mean` over the real tokens, `cls` the first, `last` the last real one (right padding assumed).
    """
    import torch

    hidden_btd = hidden_btd.float()
    if how == "mean":
        weights = mask_bt.unsqueeze(-1).to(hidden_btd.dtype)
        pooled = (hidden_btd * weights).sum(1) / weights.sum(1)
    elif how == "cls":
        pooled = hidden_btd[:, 0]
    else:
        last = mask_bt.sum(1) - 1
        pooled = hidden_btd[torch.arange(len(hidden_btd), device=hidden_btd.device), last]
    return torch.nn.functional.normalize(pooled, dim=-1)
