"""The mean over a text's real tokens."""

from __future__ import annotations

import torch

from kat.embedding.pooling import Pooling
from kat.packing.layout import Layout


def _padded(hidden_btd: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
    weights = mask_bt.unsqueeze(-1).to(hidden_btd.dtype)
    # Not hidden · weights: padding may hold NaN, and NaN · 0 is NaN.
    return torch.where(weights > 0, hidden_btd, 0).sum(1) / weights.sum(1)


def _packed(hidden_td: torch.Tensor, layout: Layout) -> torch.Tensor:
    if hidden_td.is_cuda:
        return segment_means(hidden_td, layout)
    runs = [hidden_td[run.start : run.stop].view(run.count, run.length, -1) for run in layout.runs]
    return torch.cat([run.float().mean(1) for run in runs])


def segment_means(hidden_td: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the mean of each text by one call: on a graphics device a call for each run takes longer than its sum."""
    lengths = torch.from_numpy(layout.lengths).to(hidden_td.device)
    return torch.segment_reduce(hidden_td.float(), "mean", lengths=lengths, axis=0, unsafe=True)


PLUGIN = Pooling(name="mean", help="The mean over the text's tokens.", padded=_padded, packed=_packed)
