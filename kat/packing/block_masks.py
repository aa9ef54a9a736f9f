"""Which blocks of queries see which blocks of keys, in a row of trunks: FlexAttention's masks.

FlexAttention's own way to find it out evaluates the rule for every query and key, a number each: a row of 32,768 tokens
would take gigabytes, layer by layer. Here it follows from the bounds of segments, a block at a time, and is
kept with the layout.

This module loads torch; it is imported where a row is on a device that FlexAttention serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kat.packing.layout import AttentionRule
from kat.packing.trunks import TrunkLayout

BLOCK = 128
"""Queries, and keys, of a block: FlexAttention's own."""


def block_mask(layout: TrunkLayout, rule: AttentionRule, device: torch.device) -> Any:
    """Return the mask of a row, made when it is first asked for."""
    key = (rule.causal, rule.window, str(device))
    if key not in layout.masks:
        layout.masks[key] = _made(layout, rule, device)
    return layout.masks[key]


def _made(layout: TrunkLayout, rule: AttentionRule, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    some, every = tree_blocks(layout, rule.window)
    until, positions = layout.on(device)
    sees = _in_tree(until) if rule.window is None else _in_near_tree(until, positions, positions - rule.window)
    parts = (torch.from_numpy(x)[None, None].to(device) for blocks in (some & ~every, every) for x in _ordered(blocks))
    return BlockMask.from_kv_blocks(*parts, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(layout.total, layout.total))


def tree_blocks(layout: TrunkLayout, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return [B, B] bool which blocks of keys are seen in part or whole by blocks of queries, and which are by all.

    A block that is seen in part may turn out to be seen by none.
    """
    starts, ends = _block_bounds(layout.total)
    until = np.repeat(layout.until, layout.lengths)
    some = (ends[:, None] > starts) & (starts[:, None] < _most(until))
    every = (starts[:, None] >= ends - 1) & (ends[:, None] <= _least(until)) & _filled(ends - starts)
    if window is not None:
        first, last = _least(layout.positions), _most(layout.positions)
        some &= first[:, None] - last < window
        every &= last[:, None] - first < window
    return some, every


def _block_bounds(total: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.arange(0, total, BLOCK)
    return starts, np.minimum(starts + BLOCK, total)


def _filled(sizes: np.ndarray) -> np.ndarray:
    """Return [B, B] which pairs of blocks have all their tokens: FlexAttention looks at the others token by token."""
    return (sizes == BLOCK)[:, None] & (sizes == BLOCK)


def _least(x: np.ndarray) -> np.ndarray:
    return np.minimum.reduceat(x, np.arange(0, len(x), BLOCK))


def _most(x: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(x, np.arange(0, len(x), BLOCK))


def _ordered(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many blocks of keys each block of queries sees [B], and their numbers [B, B], these first."""
    return blocks.sum(1).astype(np.int32), np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)


Sees = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


# A rule reads tensors alone: a number would be compiled into the kernel, and every other number take another kernel.


def _in_tree(until: torch.Tensor) -> Sees:
    def sees(batch: torch.Tensor, head: torch.Tensor, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return (asking >= seen) & (asking < until[seen])

    return sees


def _in_near_tree(until: torch.Tensor, positions: torch.Tensor, behind: torch.Tensor) -> Sees:
    """`behind` [T] are the positions that each query no longer sees."""

    def sees(batch: torch.Tensor, head: torch.Tensor, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return (asking >= seen) & (asking < until[seen]) & (positions[seen] > behind[asking])

    return sees
