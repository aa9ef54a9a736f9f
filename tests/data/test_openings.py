"""Openings: ids, and the prefix kept for each."""

import itertools
import json
from random import Random

import pytest
from making import jsonl, kept_prefix, md5_id, pair, random_text, turn, write

from kat import opening_id, read_pairs, unique_prefixes
from kat.data.openings import collect_openings
from kat.data.prefix_file import prefix_line
from kat.records import Pair, Prefix


def as_pairs(conversations):
    first = [next(m["content"] for m in c if m["role"] == "user") for c in conversations]
    return [
        Pair(str(i), Prefix(md5_id(o), c), "a", "b", "s")
        for i, (o, c) in enumerate(zip(first, conversations, strict=True))
    ]


class TestIds:
    def test_a_known_id(self):
        assert opening_id("hello") == "5d41402abc4b2a76"  # md5 of "hello", a number in every textbook

    @pytest.mark.parametrize("text", ["hello ", " hello", "\n\thello\u00a0", "hello\r\n"])
    def test_white_space_around_does_not_matter(self, text):
        assert opening_id(text) == "5d41402abc4b2a76"

    def test_white_space_inside_is_one_space(self):
        for gap in (" ", "  ", "\n", "\t \r\n", "\u2003", "\u00a0\u3000"):
            assert opening_id(f"a{gap}b") == md5_id("a b")
        assert opening_id("ab") != opening_id("a b")
        assert opening_id("a\u200bb") == md5_id("a\u200bb") != md5_id("a b")  # of no width, but no white space

    def test_random_text(self):
        rng = Random(1)
        for _ in range(2000):
            text = random_text(rng, 20)
            assert opening_id(text) == md5_id(text)
            assert len(opening_id(text)) == 16


class TestKept:
    def test_fewest_messages_first(self):
        short, long = [turn("user", "q"), turn("assistant", "a"), turn("user", "x" * 99)], [turn("user", "q")] * 5
        assert unique_prefixes(as_pairs([long, short]))[0].messages == short

    def test_then_fewest_bytes_not_characters(self):
        bytes_, characters = [turn("user", "q"), turn("user", "aaa")], [turn("user", "q"), turn("user", "éé")]
        assert unique_prefixes(as_pairs([characters, bytes_]))[0].messages == bytes_

    def test_then_smallest_bytes(self):
        one, two = [turn("user", "q"), turn("user", "ab")], [turn("user", "q"), turn("user", "aa")]
        assert unique_prefixes(as_pairs([one, two]))[0].messages == two
        assert unique_prefixes(as_pairs([[turn("user", "q ")], [turn("user", " q")]]))[0].messages[0]["content"] == " q"

    def test_any_order_keeps_the_same(self):
        conversations = [
            [turn("user", "q")],
            [turn("user", " q")],
            [turn("user", "q"), turn("assistant", "x"), turn("user", "y")],
            [turn("user", "q"), turn("assistant", "xy"), turn("user", "")],
            [turn("system", "q"), turn("user", "q")],
            [turn("assistant", "q"), turn("user", "q")],
        ]
        for some in (conversations, conversations[2:], conversations[4:]):
            kept = [unique_prefixes(as_pairs(list(order))) for order in itertools.permutations(some)]
            assert all(k == kept[0] for k in kept)
            assert len(kept[0]) == 1

    def test_random_pairs_against_sorting_them_all(self):
        rng = Random(6)
        for _ in range(60):
            conversations = []
            for _ in range(rng.randint(1, 40)):
                opening = rng.choice(["q", "q ", " q", "é", "z\nz", "z  z"])
                tail = [
                    turn(rng.choice(["user", "assistant"]), rng.choice(["", "a", "b", "é", "aa"]))
                    for _ in range(rng.randint(0, 3))
                ]
                conversations.append([turn("user", opening), *tail, turn("user", "end")])
            groups = {}
            for c in conversations:
                groups.setdefault(md5_id(c[0]["content"]), []).append(c)
            found, stats = collect_openings(as_pairs(conversations))
            assert [p.id for p in found] == list(groups)  # in order of first appearance
            for prefix in found:
                best = kept_prefix(groups[prefix.id])
                assert [len(prefix.messages), "".join(m["content"] for m in prefix.messages)] == [
                    len(best),
                    "".join(m["content"] for m in best),
                ]
                assert prefix.messages in groups[prefix.id]
            assert (stats.pairs, stats.openings) == (len(conversations), len(groups))
            assert stats.several == sum(len({json.dumps(c) for c in g}) > 1 for g in groups.values())
            assert stats.removed == pytest.approx(1 - len(groups) / len(conversations))

    def test_text_is_kept_exactly(self, tmp_path):
        rng = Random(9)
        rows = [
            pair(random_text(rng, 40), after=(turn("assistant", random_text(rng)), turn("user", " ")))
            for _ in range(99)
        ]
        rows.append(pair("big " * 100_000))
        found = unique_prefixes(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
        want = {}
        for row in rows:
            messages = row["prefix"]["messages"]
            want.setdefault(md5_id(messages[0]["content"]), []).append(messages)
        assert [p.messages for p in found] == [kept_prefix(group) for group in want.values()]

    def test_continue_two_hundred_and_twelve_times(self):
        conversations = [
            [turn("user", "continue"), turn("assistant", f"{i:04}"), turn("user", "more")] for i in range(212)
        ]
        Random(0).shuffle(conversations)
        [kept], stats = collect_openings(as_pairs(conversations))
        assert kept.messages[1]["content"] == "0000"
        assert (stats.pairs, stats.openings, stats.several) == (212, 1, 1)

    def test_no_pairs(self):
        found, stats = collect_openings([])
        assert (found, stats.pairs, stats.openings, stats.removed) == ([], 0, 0, 0.0)


def test_permuting_the_file_changes_nothing_but_line_order(tmp_path):
    rng = Random(12)
    rows = [
        pair(f"q {rng.randrange(40)}", f"a{i}", f"b{i}", after=((turn("user", random_text(rng)),) * rng.randint(0, 3)))
        for i in range(300)
    ]
    outcomes = []
    for _ in range(4):
        rng.shuffle(rows)
        reader = read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows)))
        prefixes, stats = collect_openings(reader)
        outcomes.append((sorted(map(prefix_line, prefixes)), stats, reader.stats.kept, reader.stats.sources))
    assert all(o == outcomes[0] for o in outcomes)


def test_twenty_thousand_rows(tmp_path):
    """Scale: the counts of a file of 20,000 rows and 3,300 openings, against a dictionary."""
    rng = Random(20)
    rows = [pair(f"opening {rng.randrange(3300)} {'x' * 300}", f"a {i}", f"b {i}") for i in range(20_000)]
    first = list(dict.fromkeys(md5_id(r["prefix"]["messages"][0]["content"]) for r in rows))
    found, stats = collect_openings(read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows))))
    assert [p.id for p in found] == first
    assert (stats.pairs, stats.openings, stats.several) == (20_000, len(first), 0)
