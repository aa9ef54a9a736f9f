"""The first token: where models of BERT's kind put a token of their own, [CLS], that stands for the text."""

from __future__ import annotations

import torch

from kat.embedding.pooling import Pooling
from kat.packing.layout import Layout


def _padded(hidden_btd: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
    return hidden_btd[:, 0]


def _packed(hidden_td: torch.Tensor, layout: Layout) -> torch.Tensor:
    return hidden_td[torch.from_numpy(layout.bounds[:-1]).to(hidden_td.device)].float()


PLUGIN = Pooling(name="cls", help="The text's first token.", padded=_padded, packed=_packed)
