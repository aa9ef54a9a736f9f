"""Steps as partitions of the pairs, rows as the same sequences, counts against their expectation."""

from collections import Counter

import numpy as np
import pytest
from making_training import random_tokens

from kat.training.steps import rows_of_rank, rows_of_step, steps_of_pass, systematic_counts, token_counts

SIZES = [1, 1, 1, 2, 3, 5, 5, 8, 21, 1, 4, 2]
PROMPT = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES))


def steps(seed, batch=8, counts=None):
    return steps_of_pass(PROMPT, batch, np.random.default_rng(seed), counts)


@pytest.mark.parametrize("batch", [1, 4, 8, 64])
def test_every_pair_stands_once_and_prompts_stay_whole_up_to_a_batch(batch):
    made = steps(0, batch)
    assert sorted(np.concatenate(made).tolist()) == list(range(len(PROMPT)))
    assert all(0 < len(pairs) <= batch for pairs in made)
    places = Counter(p for pairs in made for p in set(PROMPT[pairs].tolist()))
    assert places == {n: -(-size // batch) for n, size in enumerate(SIZES)}


def test_order_follows_the_seed_alone():
    first, again, other = (steps(seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert [p.tolist() for p in first] != [p.tolist() for p in other]


def test_repeats_of_a_pair_are_in_different_steps():
    counts = np.random.default_rng(1).integers(0, 4, len(PROMPT))
    made = steps(2, 8, counts)
    assert all(len(set(p.tolist())) == len(p) <= 8 for p in made)
    stood = Counter(np.concatenate(made).tolist())
    assert stood == Counter(dict(enumerate(counts.tolist())))


def test_counts_are_the_whole_numbers_beside_v_and_v_on_average():
    v = np.exp(np.random.default_rng(0).normal(size=40))
    v /= v.mean()
    draw = np.random.default_rng(1)
    drawn = np.stack([systematic_counts(v, draw) for _ in range(4000)])
    assert ((drawn == np.floor(v)) | (drawn == np.ceil(v))).all()
    assert (drawn.sum(1) == 40).all()
    part = v - np.floor(v)  # a count is ⌊v⌋ and one more with this chance
    off = (drawn.mean(0) - v) / np.sqrt(np.maximum(part * (1 - part), 1e-9) / 4000)
    assert np.abs(off).max() < 4.5


def test_weights_of_one_are_every_pair_once():
    assert (systematic_counts(np.ones(50), np.random.default_rng(5)) == 1).all()


def test_many_float32_weights_are_cumulated_without_rounding():
    """In float32, 131,072.998 is 131,073: a pair of weight 1 would stand twice."""
    assert (systematic_counts(np.ones(200_000, np.float32), np.random.default_rng(2)) == 1).all()


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_rows_hold_the_sequences_of_their_pairs(budget):
    data = random_tokens(0, [1, 3, 2, 6, 1])
    pairs = np.random.default_rng(0).permutation(len(data))[:9]
    rows = list(rows_of_step(data, pairs, budget))
    assert sorted(np.concatenate([r.pairs for r in rows]).tolist()) == sorted(pairs.tolist())
    for r in rows:
        assert r.row.layout.total <= budget or len(set(data.prompt[r.pairs].tolist())) == 1
        for pair, *ends in zip(r.pairs, r.chosen, r.rejected, strict=True):
            prompt = data.prompts[data.prompt[pair]]
            for end, branch in zip(ends, (data.chosen[pair], data.rejected[pair]), strict=True):
                tokens = r.row.tokens[r.row.layout.sequence(int(end))]
                assert tokens.tolist() == [*prompt.trunk, *prompt.branches[branch]]
    assert (len(rows) == 1) == (budget == 10_000)


def test_tokens_are_counted_as_they_are_computed():
    data = random_tokens(1, [2, 1, 3])
    made = [np.asarray([0, 1, 2]), np.asarray([3, 4, 5])]
    counts = token_counts(data, made)
    assert counts["tokens"] == sum(tokens_of(data, step) for step in made)
    lengths = [[len(data.prompts[p].branches[b]) for b in (c, r)] for p, c, r in columns(data)]
    trunks = [len(data.prompts[p].trunk) for p, _, _ in columns(data)]
    assert counts["separate"] == sum(map(sum, lengths)) + 2 * sum(trunks)
    assert counts["pair_trunk"] == sum(map(sum, lengths)) + sum(trunks)
    sequences = {
        (s, p, b) for s, step in enumerate(made) for p, *both in (columns(data)[i] for i in step) for b in both
    }
    alone = sum(len(data.prompts[p].trunk) + len(data.prompts[p].branches[b]) for _, p, b in sequences)
    assert token_counts(data, made, shared=False) == counts | {"tokens": alone}
    assert counts["tokens"] < alone < counts["separate"]


def columns(data):
    return list(zip(data.prompt.tolist(), data.chosen.tolist(), data.rejected.tolist(), strict=True))


def tokens_of(data, step):
    """The tokens of the distinct trunks and branches that some pairs name."""
    named = [columns(data)[i] for i in step]
    branches = {(p, b) for p, *both in named for b in both}
    trunks = {p for p, *_ in named}
    return sum(len(data.prompts[p].branches[b]) for p, b in branches) + sum(len(data.prompts[p].trunk) for p in trunks)


def test_processes_share_the_rows_of_a_step_out():
    class Ranks:
        def __init__(self, rank, count):
            self.rank, self.count = rank, count

    data = random_tokens(0, [1, 3, 2, 6, 1])
    pairs = np.arange(len(data))
    every = [row.pairs.tolist() for row in rows_of_step(data, pairs, 20)]
    shares = [[row.pairs.tolist() for row in rows_of_rank(data, pairs, 20, Ranks(rank, 3))] for rank in range(3)]
    assert len(every) > 3
    assert shares == [every[rank::3] for rank in range(3)]
