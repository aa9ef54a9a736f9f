"""Compact sketches against the plain way: a padded table of all hashes, counted and sorted by numpy at once."""

import hashlib
import re
import unicodedata
from random import Random

import numpy as np
import pytest

from kat.pair_weights import duplicates
from kat.pair_weights.duplicates import BOILERPLATE, LETTERS, SKETCH, WINDOW, Sketches, shingles
from kat.pair_weights.id_numbers import IdNumbers

NONE = np.uint32(0xFFFFFFFF)
ODD = ("", " ", "a", "?", "🙂", "🙂🙁", "\ud800 broken", "你好吗，世界", "ﬁne ＷＩＤＥ ß", "a\0b", "\n\t", "x" * 3000)


def plain_mix(numbers):
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def plain_shingles(text):
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", folded) or folded.split()
    letters = np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    letters = np.pad(letters, (0, max(LETTERS - len(letters), 0)))
    mixed = np.zeros(len(letters) - LETTERS + 1, np.uint64)
    for offset in range(LETTERS):
        mixed = plain_mix(mixed + letters[offset : len(letters) - LETTERS + 1 + offset])
    return np.minimum((mixed >> np.uint64(32)).astype(np.uint32), NONE - np.uint32(1))


class PlainTable:
    """What SketchTable says, from rows [X, SKETCH] that are filled up with the largest number."""

    def __init__(self, texts, ids):
        self.ids, self.shares = ids, {}
        sketches = [np.unique(plain_shingles(text))[:SKETCH] for text in texts]
        self.size = np.asarray([len(one) for one in sketches], np.int64)
        self.hashes = np.full((len(sketches), SKETCH), NONE, np.uint32)
        for row, one in enumerate(sketches):
            self.hashes[row, : len(one)] = one
        self.reach = np.where(self.size == SKETCH, self.hashes[:, -1], NONE - np.uint32(1))
        known = self.hashes != NONE
        _, place, counts = np.unique(self.hashes[known], return_inverse=True, return_counts=True)
        common = np.zeros(self.hashes.shape, bool)
        common[known] = (counts > max(BOILERPLATE * len(ids), 2))[place]
        common[common.sum(axis=1) == self.size] = False
        self.hashes[common] = NONE
        self.hashes.sort(axis=1)
        self.size = self.size - common.sum(axis=1)

    def sets(self):
        return [set(row[row != NONE].tolist()) for row in self.hashes]

    def jaccard(self, a, b):
        return np.asarray([self.share(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)])

    def share(self, i, j):
        if (i, j) not in self.shares:
            limit = min(self.reach[i], self.reach[j])
            one, other = (set(row[row <= limit].tolist()) for row in (self.hashes[i], self.hashes[j]))
            self.shares[i, j] = len(one & other) / max(len(one | other), 1)
        return self.shares[i, j]

    def near_duplicates(self, least):
        element, row = self.rare(least)
        near = [np.empty(0, np.int64)]
        n = len(self.ids)
        for step in range(1, WINDOW + 1):
            same = np.flatnonzero(element[step:] == element[:-step])
            a, b = row[same], row[same + step]
            small, large = np.minimum(self.size[a], self.size[b]), np.maximum(self.size[a], self.size[b])
            ends = np.unique((np.minimum(a, b) * n + np.maximum(a, b))[small >= least * large])
            near.append(ends[self.jaccard(ends // n, ends % n) >= least])
        ends = np.unique(np.concatenate(near))
        a, b = ends // n, ends % n
        return np.concatenate([a, b]), np.concatenate([b, a])

    def rare(self, least):
        row, column = np.nonzero(self.hashes != NONE)
        hashes = self.hashes[row, column]
        _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        order = np.lexsort((hashes, counts[place], row))
        rank = np.arange(len(row)) - np.repeat(np.cumsum(self.size) - self.size, self.size)
        prefix = self.size - np.ceil(least * self.size - 1e-9).astype(np.int64) + 1
        order = order[(rank < prefix[row]) & (counts[place[order]] > 1)]
        position = np.empty(len(self.ids), np.int64)
        position[np.lexsort((np.asarray(self.ids), *self.hashes.T[7::-1]))] = np.arange(len(self.ids))
        order = order[np.lexsort((position[row[order]], place[order]))]
        return place[order], row[order]


def words_of(rng, n):
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randrange(2, 9))) for _ in range(n)]


def mixed_texts(seed):
    """Families of near-copies, exact copies, odd texts, and long ones, of which some lack their beginning or end."""
    rng = Random(seed)
    words = words_of(rng, 400)
    texts = list(ODD)
    for length in [rng.randrange(1, 40) for _ in range(70)] + [rng.randrange(60, 400) for _ in range(12)]:
        first = rng.choices(words, k=length)
        for _ in range(rng.randrange(1, 5)):
            other = [rng.choice(words) if rng.random() < 0.04 else word for word in first]
            start, stop = (rng.randrange(1 + length // 12) for _ in range(2))
            texts.append(" ".join(other[start : length - stop]))
    texts += rng.choices(texts, k=20)
    rng.shuffle(texts)
    return texts


def templated(seed):
    """An instruction before most texts; some have nothing else, and some only half of it."""
    rng = Random(seed)
    words = words_of(rng, 200)
    task = " ".join(words[:25])
    own = [" ".join(rng.choices(words[25:], k=rng.randrange(0, 12))) for _ in range(120)]
    own += [f"{text}s" for text in own[:40]]
    texts = [f"{task} {text}" if rng.random() < 0.8 else text for text in own]
    long = [f"{task} {' '.join(words_of(rng, 120))}" for _ in range(5)]
    return [*texts, task, task, f"{task[:40]} x", *long]


def crowd(seed):
    """More texts of one template than a window holds, among others that are long."""
    rng = Random(seed)
    base = " ".join(words_of(rng, 30))
    texts = [f"{base} {''.join(rng.choices('abcd', k=3))}" for _ in range(4 * WINDOW)]
    long = " ".join(words_of(rng, 300))
    return texts + [long[rng.randrange(60) : -1 - rng.randrange(60)] for _ in range(2 * WINDOW)] + words_of(rng, 200)


def beginnings(seed):
    """Long texts and their beginnings: what is known of the longer ends at a smaller hash."""
    rng = Random(seed)
    texts = words_of(rng, 40)
    for _ in range(4):
        words = words_of(rng, 500)
        texts += [" ".join(words[: rng.randrange(350, 500)]) for _ in range(25)]
    return texts


def ids_of(texts):
    """Ids whose order is not that of the rows."""
    return [hashlib.md5(str(i).encode()).hexdigest()[:16] for i in range(len(texts))]


def tables(texts):
    sketches, ids = Sketches(), ids_of(texts)
    for one, text in zip(ids, texts, strict=True):
        sketches.add(one, text)
    return sketches.table(ids), PlainTable(texts, ids)


def same_edges(compact, plain, least):
    got, expected = compact.near_duplicates(least), plain.near_duplicates(least)
    assert [ends.tolist() for ends in got] == [ends.tolist() for ends in expected]
    return len(got[0])


@pytest.fixture(params=[{}, {"BLOCK": 64, "PARTS": 300, "PENDING": 8}], ids=["one", "many"])
def parts(request, monkeypatch):
    """All hashes at once, and in many parts."""
    for name, number in request.param.items():
        monkeypatch.setattr(duplicates, name, number)


@pytest.mark.parametrize("make", [mixed_texts, templated, crowd, beginnings])
@pytest.mark.parametrize("seed", range(2))
def test_edges_and_shares_are_those_of_the_plain_table(make, seed, parts):
    texts = make(seed)
    compact, plain = tables(texts)
    for least in (0.4, 0.8, 0.9, 1.0):
        assert same_edges(compact, plain, least) > 20 or least == 1
    a, b = np.random.default_rng(seed).integers(0, len(texts), (2, 1500))
    expected = plain.jaccard(a, b)
    assert compact.jaccard(a, b).tolist() == expected.tolist()
    bounded = compact.jaccard(a, b, 0.8)
    assert (bounded == expected)[expected >= 0.8].all()
    assert ((bounded == expected) | (bounded == 0))[expected < 0.8].all()


@pytest.mark.parametrize("make", [mixed_texts, templated, crowd])
def test_boilerplate_is_what_the_plain_table_drops(make):
    compact, plain = tables(make(5))
    rows, bits = compact.rows, np.unpackbits(compact.rows.dropped, bitorder="little")
    for row, (expected, start) in enumerate(zip(plain.sets(), rows.start, strict=True)):
        places = np.arange(start, start + rows.length[row])
        assert set(rows.hashes[places[bits[places] == 0]].tolist()) == expected
    assert rows.size.tolist() == plain.size.tolist()
    assert bits.any() == (make is templated)


@pytest.mark.parametrize(
    "texts", [[], ["alone"], ["two", "two"], ["same"] * 3, ["same"] * 40, list(ODD), ["", "a", "b c"]]
)
def test_few_openings(texts):
    compact, plain = tables(texts)
    for least in (0.1, 0.8, 1.0):
        same_edges(compact, plain, least)


def test_hashes_are_those_of_numpy():
    rng = Random(3)
    texts = [*ODD, *mixed_texts(1), *("".join(chr(rng.randrange(1, 0xD000)) for _ in range(n)) for n in range(40))]
    for text in texts:
        assert shingles(text).tolist() == plain_shingles(text).tolist()
        assert shingles(text).dtype == np.uint32


def test_a_table_of_some_rows_and_sketches_that_grow_after_it():
    texts, more = mixed_texts(2), mixed_texts(8)
    ids = ids_of(texts + more)
    sketches = Sketches()
    for one, text in zip(ids, texts, strict=False):
        sketches.add(one, text)
    chosen = Random(0).sample(range(len(texts)), len(texts) // 2)
    some = sketches.table([ids[i] for i in chosen])
    for one, text in zip(ids[len(texts) :], more, strict=True):
        sketches.add(one, text)
    sketches.add(ids[0], "another text, which comes too late")
    assert len(sketches) == len(ids)
    assert same_edges(some, PlainTable([texts[i] for i in chosen], [ids[i] for i in chosen]), 0.8) > 20
    assert same_edges(sketches.table(ids), PlainTable(texts + more, ids), 0.8) > 20
    with pytest.raises(KeyError, match="nobody"):
        sketches.table([ids[0], "nobody"])


def test_ids_are_numbered_as_a_dict_does():
    rng = Random(0)
    ids = [f"{rng.randrange(30_000):x}" for _ in range(40_000)] + ["", "é", "\ud800", "a\0", "a"]
    numbers, expected = IdNumbers(), dict[str, int]()
    for one in ids:
        assert (one in numbers) == (one in expected)
        assert numbers.add(one) == (one not in expected)
        expected.setdefault(one, len(expected))
    assert len(numbers) == len(expected) > 20_000
    assert numbers.numbers(ids).tolist() == [expected[one] for one in ids]
    assert numbers.numbers([]).tolist() == []
