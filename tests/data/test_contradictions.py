"""Contradictions, against brute force over texts."""

import itertools
import random

import pytest

from kat.data.contradictions import ContradictionFinder
from kat.records import Pair, Prefix


def pair(context, chosen, rejected, row):
    messages = [{"role": "user", "content": context}]
    return Pair(str(row), Prefix(context, messages), chosen, rejected, "s", row=row, context=messages)


def brute(pairs):
    """Everything that `Contradictions` counts, by comparing every two pairs' texts."""
    told = [p for p in pairs if p.chosen != p.rejected]
    say = [(p.context[0]["content"], p.chosen, p.rejected) for p in told]
    turned = [p for p, (c, a, b) in zip(told, say, strict=True) if (c, b, a) in say]
    chosen, rejected = {(c, a) for c, a, _ in say}, {(c, b) for c, _, b in say}
    mixed = chosen & rejected
    holding = [s for s in say if (s[0], s[1]) in mixed or (s[0], s[2]) in mixed]
    return len(pairs), len(turned), len(mixed), len(holding), len(pairs) - len(told)


def counted(pairs, examples=5):
    finder = ContradictionFinder()
    assert list(finder.watch(pairs)) == pairs
    return finder.result(examples)


@pytest.mark.parametrize("seed", range(40))
def test_counts_are_those_of_brute_force(seed):
    draw = random.Random(seed)
    texts = "abc"[: draw.randint(1, 3)]
    rows = sorted(draw.sample(range(1, 200), 60))
    pairs = [pair(draw.choice("xyz"), draw.choice(texts), draw.choice(texts), row) for row in rows]
    one = counted(pairs, examples=1000)
    assert (one.pairs, one.reversed_pairs, one.mixed, one.mixed_pairs, one.identical) == brute(pairs)
    by_row = {p.row: p for p in pairs}
    for first, second in one.reversed_examples:
        a, b = by_row[first], by_row[second]
        assert (a.context, a.chosen, a.rejected) == (b.context, b.rejected, b.chosen)
        assert first < second
    for chooses, rejects in one.mixed_examples:
        a, b = by_row[chooses], by_row[rejects]
        assert (a.context, a.chosen) == (b.context, b.rejected)
    assert len(one.mixed_examples) == one.mixed
    kinds = {(p.context[0]["content"], *sorted((p.chosen, p.rejected))) for p in pairs}
    turned = {(c, a, b) for c, a, b in kinds if a != b and both_ways(pairs, c, a, b)}
    assert len(one.reversed_examples) == len(turned)


def both_ways(pairs, context, a, b):
    told = {(p.chosen, p.rejected) for p in pairs if p.context[0]["content"] == context}
    return {(a, b), (b, a)} <= told


def test_the_first_examples_are_named_by_row():
    texts = [("q", "a", "b"), ("other", "b", "a"), ("q", "b", "c"), ("q", "b", "a"), ("q", "a", "b"), ("q", "s", "s")]
    pairs = [pair(*text, row=10 * i) for i, text in enumerate(texts, 1)]
    one = counted(pairs)
    assert (one.reversed_pairs, one.identical) == (3, 1)
    assert one.reversed_examples == ((10, 40),)
    assert one.mixed_examples == ((30, 10), (10, 40))  # b is chosen in row 30; a is rejected only in row 40
    assert one.mixed_pairs == 4


def test_a_ranking_reverses_nothing():
    pairs = [pair("q", a, b, row) for row, (a, b) in enumerate(itertools.combinations("abc", 2), 1)]
    one = counted(pairs)
    assert (one.reversed_pairs, one.mixed) == (0, 1)
    assert one.reversed_examples == ()


def test_nothing_met():
    assert counted([]) == type(counted([]))(0, 0, 0, 0, 0)


def test_a_turn_of_tools_is_no_plain_text():
    """The same text with another call is another completion."""
    call = {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    one, other = pair("q", "a", "b", 1), pair("q", "b", "a", 2)
    one.chosen_messages.append(call)
    assert counted([one, other]).reversed_pairs == 0
