"""Masks of blocks against the rule of every query and key, and that they are made once."""

import numpy as np
import pytest
import torch

from kat.packing.block_masks import BLOCK, block_mask, tree_blocks
from kat.packing.layout import AttentionRule
from kat.packing.trunks import TrunkLayout

TREES = {
    "no branches": ([300, 500], [-1, -1]),
    "branches": ([400, 100, 100, 200, 3, 700, 256, 9], [-1, 0, 0, 0, -1, 4, 4, 4]),
    "deep": ([200, 130, 300, 1, 140, 500], [-1, 0, 1, 1, 0, -1]),
}
WINDOWS = [None, 1, 7, 128, 300]


def by_blocks(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks hold something that is seen, and which are seen in all, and whole, [B, B], of [T, T]."""
    missing = -len(seen) % BLOCK
    tiles = np.pad(seen, (0, missing)).reshape(-(-len(seen) // BLOCK), BLOCK, -1, BLOCK)
    return tiles.any((1, 3)), tiles.all((1, 3))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", TREES)
def test_blocks_of_trunks_and_branches(name, window):
    layout = TrunkLayout(*map(np.asarray, TREES[name]))
    i, until = np.arange(layout.total), np.repeat(layout.until, layout.lengths)
    seen = (i[:, None] >= i) & (i[:, None] < until)
    seen &= layout.positions[:, None] - layout.positions < (window or layout.total)
    some, every = tree_blocks(layout, window)
    expected_some, expected_every = by_blocks(seen)
    assert not (expected_some & ~some).any()
    assert some.sum() <= np.tri(len(some)).sum()
    assert not (every & ~expected_every).any()
    assert every.any() == expected_every.any()


def test_a_mask_is_made_once_for_a_rule():
    layout = TrunkLayout(*map(np.asarray, TREES["branches"]))
    device = torch.device("cpu")
    mask = block_mask(layout, AttentionRule(1.0, True, None), device)
    assert block_mask(layout, AttentionRule(0.5, True, None), device) is mask
    assert block_mask(layout, AttentionRule(1.0, True, 7), device) is not mask
    assert mask.seq_lengths == (layout.total, layout.total)
