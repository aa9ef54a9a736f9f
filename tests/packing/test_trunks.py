"""Rows of trunks and branches, and the blocks of their attention, against each sequence and pair of tokens."""

import numpy as np
import pytest

from kat.packing import blocks as blocks_module
from kat.packing.blocks import LANES, Block, blocks
from kat.packing.trunks import Prompt, Row, TrunkLayout, plant


def ids(*tokens: int) -> np.ndarray:
    return np.asarray(tokens, np.int64)


def prompt(trunk: tuple, *branches: tuple) -> Prompt:
    return Prompt(ids(*trunk), [ids(*branch) for branch in branches])


def random_prompts(draw: np.random.Generator, *, longest: int = 6, letters: int = 2) -> list[Prompt]:
    """Of few different tokens, so that trunks and branches often begin alike, or are equal, or empty."""

    def tokens(least: int) -> np.ndarray:
        return draw.integers(0, letters, draw.integers(least, longest + 1))

    return [Prompt(tokens(0), [tokens(1) for _ in range(draw.integers(1, 5))]) for _ in range(draw.integers(1, 8))]


def random_rows(count: int, **options: int) -> list[Row]:
    return [plant(random_prompts(np.random.default_rng(seed), **options)) for seed in range(count)]


def sequences_of(layout: TrunkLayout) -> list[list[int]]:
    """What the docstring of TrunkLayout says, segment by segment: the tokens from the root to each segment's end."""
    starts = np.cumsum(layout.lengths) - layout.lengths
    sequences: list[list[int]] = []
    for start, length, parent in zip(starts, layout.lengths, layout.parents, strict=True):
        before = sequences[parent] if parent >= 0 else []
        sequences.append([*before, *range(int(start), int(start + length))])
    return sequences


def seen_by_definition(layout: TrunkLayout) -> np.ndarray:
    """[T, T] bool: a token sees what stands before it in a sequence through it, and itself."""
    seen = np.zeros((layout.total, layout.total), bool)
    for sequence in sequences_of(layout):
        for place, token in enumerate(sequence):
            seen[token, sequence[: place + 1]] = True
    return seen


def test_a_trunk_with_two_branches():
    row = plant([prompt((5, 6, 7), (1, 2, 3), (4,))])
    assert row.tokens.tolist() == [5, 6, 7, 4, 1, 2, 3]  # the shorter branch first
    assert row.tokens.dtype == np.int64
    layout = row.layout
    assert layout.lengths.tolist() == [3, 1, 3]
    assert layout.parents.tolist() == [-1, 0, 0]
    assert layout.positions.tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert layout.previous.tolist() == [-1, 0, 1, 2, 2, 4, 5]
    assert layout.until.tolist() == [7, 4, 7]
    assert layout.trees.tolist() == [0, 7]
    assert layout.longest == 6
    assert [end.tolist() for end in row.ends] == [[6, 3]]  # as the branches were given
    assert layout.sequence(6).tolist() == [0, 1, 2, 4, 5, 6]
    assert layout.sequence(3).tolist() == [0, 1, 2, 3]
    assert layout.sequence(1).tolist() == [0, 1]


def test_a_trunk_that_begins_with_another_continues_it():
    row = plant([prompt((5, 6, 7), (1,)), prompt((5, 6), (2,)), prompt((5, 6, 7, 8), (3,)), prompt((5, 9), (4,))])
    # [5 6] 2 [7] 1 [8] 3, and [5 9] is no continuation of [5 6]
    assert row.tokens.tolist() == [5, 6, 2, 7, 1, 8, 3, 5, 9, 4]
    assert row.layout.parents.tolist() == [-1, 0, 0, 2, 2, 4, -1, 6]
    assert row.layout.until.tolist() == [7, 3, 7, 5, 7, 7, 10, 10]
    assert row.layout.trees.tolist() == [0, 7, 10]
    assert [end.tolist() for end in row.ends] == [[4], [2], [6], [9]]


def test_equal_trunks_are_one_and_equal_branches_are_as_many_as_were_given():
    row = plant([prompt((5, 6), (1,)), prompt((8,), (2,)), prompt((5, 6), (1,), (1,))])
    assert row.tokens.tolist() == [5, 6, 1, 1, 1, 8, 2]
    assert [end.tolist() for end in row.ends] == [[2], [6], [3, 4]]


def test_empty_trunks_share_nothing():
    row = plant([prompt((), (1, 2), (1, 2)), prompt((1, 2), (3,)), prompt((), (1,))])
    assert row.layout.trees.tolist() == [0, 2, 4, 7, 8]
    assert row.layout.parents.tolist() == [-1, -1, -1, 2, -1]  # an equal trunk is none for what has no trunk
    assert row.layout.previous[[0, 2, 4, 7]].tolist() == [-1, -1, -1, -1]


def test_the_order_of_trees_is_the_callers():
    row = plant([prompt((9,), (1,)), prompt((3,), (1,)), prompt((9, 4), (2,)), prompt((1,), (1,))])
    assert row.tokens[row.layout.trees[:-1]].tolist() == [9, 3, 1]


@pytest.mark.parametrize("prompts", [[], [prompt((1, 2))], [prompt((1,), (2,)), prompt((1,), (2,), ())]])
def test_nothing_to_plant_is_an_error(prompts):
    with pytest.raises(ValueError, match="at least one prompt, each with branches of at least one token"):
        plant(prompts)


def test_every_end_gives_back_its_trunk_and_branch():
    shared = 0
    for seed in range(300):
        prompts = random_prompts(np.random.default_rng(seed))
        row = plant(prompts)
        assert len(row.tokens) == row.layout.total
        every_end = np.concatenate(row.ends)
        assert len(set(every_end.tolist())) == len(every_end)  # a branch each, equal ones too
        for given, ends in zip(prompts, row.ends, strict=True):
            for branch, end in zip(given.branches, ends, strict=True):
                sequence = row.layout.sequence(int(end))
                assert row.tokens[sequence].tolist() == [*given.trunk, *branch]
        shared += sum(p.tokens for p in prompts) - row.layout.total
        distinct = {tuple(p.trunk[:n]) for p in prompts for n in range(1, len(p.trunk) + 1)}
        known = {tuple(p.trunk) for p in prompts}
        # Tokens of trunks: those of each distinct one, less the longest other that it begins with.
        trunks = sum(len(t) - max((len(k) for k in known if k != t and t[: len(k)] == k), default=0) for t in known)
        assert trunks >= len(distinct)
        assert row.layout.total == trunks + sum(len(b) for p in prompts for b in p.branches)
    assert shared > 300  # the draws do share


def test_properties_of_the_layout_are_those_of_its_sequences():
    for row in random_rows(100):
        layout, sequences = row.layout, sequences_of(row.layout)
        assert layout.longest == max(map(len, sequences))
        for sequence in sequences:
            assert layout.positions[sequence].tolist() == list(range(len(sequence)))
            assert layout.previous[sequence].tolist() == [-1, *sequence[:-1]]
            for place, token in enumerate(sequence):
                assert layout.sequence(token).tolist() == sequence[: place + 1]
        until = np.repeat(layout.until, layout.lengths)
        i = np.arange(layout.total)
        by_rule = (i <= i[:, None]) & (i[:, None] < until)
        assert (by_rule == seen_by_definition(layout)).all()
        for start, stop in zip(layout.trees[:-1], layout.trees[1:], strict=True):
            assert not by_rule[start:stop, :start].any()


def test_masks_read_until_and_positions_once_a_device():
    import torch

    (row,) = random_rows(1)
    until, positions = row.layout.on(torch.device("cpu"))
    assert until.tolist() == np.repeat(row.layout.until, row.layout.lengths).tolist()
    assert positions.tolist() == row.layout.positions.tolist()
    assert row.layout.on(torch.device("cpu"))[0] is until


def times_seen(layout: TrunkLayout, parts: tuple[Block, ...]) -> np.ndarray:
    """[T, T] int: how many blocks hold each pair of a query and a key."""
    times = np.zeros((layout.total, layout.total), int)
    for block in parts:
        keys = zip(block.keys.starts, block.keys.lengths, strict=True)
        queries = zip(block.queries.starts, block.queries.lengths, strict=True)
        for (q, rows), (k, columns) in zip(queries, keys, strict=True):
            inside = np.arange(rows)[:, None] >= np.arange(columns) if block.causal else np.ones((rows, columns), bool)
            times[q : q + rows, k : k + columns] += inside
    return times


@pytest.mark.parametrize("scores", [blocks_module.SCORES, 3 * 40 * 40, 1])
def test_blocks_hold_every_pair_that_is_seen_once_and_no_other(scores, monkeypatch):
    monkeypatch.setattr(blocks_module, "SCORES", scores)
    heads, cut = 3, 0
    rows = [*random_rows(40), *random_rows(20, longest=70)]
    for row in rows:
        layout = row.layout
        parts = blocks(layout, heads)
        assert (times_seen(layout, parts) == seen_by_definition(layout)).all()
        parents = int((layout.until > layout.bounds[1:]).sum())
        cut += sum(not block.causal for block in parts) - parents
        for block in parts:
            for spans in (block.queries, block.keys):
                assert spans.filled % LANES == 0
                assert (spans.lengths <= spans.filled).all()
                assert (spans.lengths > spans.filled - LANES).all()  # never filled up by more than is needed
            size = heads * len(block.queries.starts) * block.queries.filled * block.keys.filled
            # One segment's own scores are never cut; else no fewer than LANES queries stand in a product.
            smallest = len(block.queries.starts) == 1 and (block.causal or block.queries.filled == LANES)
            assert size <= scores or smallest
    assert (cut > 0) == (scores < blocks_module.LANES**4)


def test_segments_of_one_filled_length_share_a_product():
    branches = [np.zeros(n, np.int64) for n in (1, 5, 16, 17, 20, 31)]
    row = plant([Prompt(np.zeros(40, np.int64), branches)])
    own = [block for block in blocks(row.layout, 2) if block.causal]
    assert sorted((block.queries.filled, len(block.queries.starts)) for block in own) == [(16, 3), (32, 3), (48, 1)]
