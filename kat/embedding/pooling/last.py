"""The last real token: the one that has read the whole text, in models that read from left to right."""

from __future__ import annotations

import torch

from kat.embedding.pooling import Pooling
from kat.packing.layout import Layout


def _padded(hidden_btd: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
    last = mask_bt.sum(1) - 1
    return hidden_btd[torch.arange(len(hidden_btd), device=hidden_btd.device), last]


def _packed(hidden_td: torch.Tensor, layout: Layout) -> torch.Tensor:
    return hidden_td[torch.from_numpy(layout.bounds[1:] - 1).to(hidden_td.device)].float()


PLUGIN = Pooling(name="last", help="The text's last token.", padded=_padded, packed=_packed)
