"""Near-duplicates by text against sets of Python's, against the demo's known truth, and whatever the encoder."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

import kat.demo.grammar
from kat.data.openings import opening_id
from kat.pair_weights.duplicates import JACCARD, LETTERS, SKETCH, WINDOW, Sketches, asked_text, shingles
from kat.pair_weights.split import connected
from kat.records import Prefix

WORDS = [f"{a}{b}" for a in ("mo", "ka", "ri", "tesu", "nof") for b in ("lin", "dar", "op", "egi", "", "stra")]


def letters(text: str) -> set[str]:
    """The shingles as strings."""
    words = " ".join(re.findall(r"\w+", text.casefold()))
    plain = f" {words} ".ljust(LETTERS)
    return {plain[i : i + LETTERS] for i in range(len(plain) - LETTERS + 1)}


def jaccard(a: str, b: str) -> float:
    return share(letters(a), letters(b))


def share(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def telling(made: list[str]) -> list[set[str]]:
    """The shingles of each text without those that more than half of all hold."""
    sets = [letters(text) for text in made]
    counts = Counter(shingle for one in sets for shingle in one)
    common = {shingle for shingle, n in counts.items() if n > max(len(made) / 2, 2)}
    return [one - common or one for one in sets]


def texts(seed: int, families: int = 60, words: int = 14) -> list[str]:
    """Families of texts that differ in a word or a few."""
    rng = Random(seed)
    made = []
    for _ in range(families):
        first = rng.choices(WORDS, k=rng.randrange(1, 2 * words))
        for _ in range(rng.randrange(1, 5)):
            other = [rng.choice(WORDS) if rng.random() < 0.06 else word for word in first]
            made.append(" ".join(other))
    return sorted(set(made))


def table(made, ids=None):
    sketches = Sketches()
    ids = ids or [f"id{i}" for i in range(len(made))]
    for one, text in zip(ids, made, strict=True):
        sketches.add(one, text)
    return sketches.table(ids)


def found_pairs(made, least=JACCARD) -> set[tuple[int, int]]:
    return set(zip(*(ends.tolist() for ends in table(made).near_duplicates(least)), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [0.5, 0.8, 1.0])
def test_pairs_are_those_of_all_comparisons(seed, least):
    made = texts(seed)
    n, sets = len(made), telling(made)
    wanted = {(i, j) for i in range(n) for j in range(n) if i != j and share(sets[i], sets[j]) >= least}
    assert found_pairs(made, least) == wanted
    assert least == 1 or len(wanted) > 10
    a, b = np.divmod(np.arange(n * n), n)
    wanted_shares = [share(sets[i], sets[j]) for i, j in zip(a, b, strict=True)]
    np.testing.assert_allclose(table(made).jaccard(a, b), wanted_shares)


def test_long_texts_are_compared_by_a_sample():
    rng = Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    made = [" ".join(words[start : start + 900]) for start in range(0, 600, 40)]
    a, b = np.triu_indices(len(made), 1)
    wanted = np.asarray([jaccard(made[i], made[j]) for i, j in zip(a, b, strict=True)])
    assert min(len(letters(text)) for text in made) > 10 * SKETCH
    made += [f"{' '.join(rng.choices('abcdefghij', k=4))} {i}" for i in range(30)]  # so that nothing is shared by most
    error = table(made).jaccard(a, b) - wanted
    spread = np.sqrt(wanted * (1 - wanted) / SKETCH)
    assert abs(error / spread).max() < 4
    near = found_pairs(made)
    assert all(
        ((i, j) in near) == (w >= JACCARD) for i, j, w in zip(a, b, wanted, strict=True) if abs(w - JACCARD) > 0.1
    )


def test_marks_case_and_spacing_are_no_difference_and_other_scripts_are_letters():
    same = ("Don’t  stop!", "don't stop", "DON'T\tSTOP…")
    assert len({shingles(text).tobytes() for text in same}) == 1
    assert len({shingles(text).tobytes() for text in ("你好吗", "再见了", "привет", "🙂", "🙁", "?", "")}) == 7
    assert len(shingles("a")) == len(shingles("")) == 1
    assert len(shingles("\ud800 broken")) > 1  # a lone surrogate is a letter like any other


def test_a_crowd_larger_than_the_window_is_one_group():
    rng = Random(0)
    base = " ".join(rng.choices(WORDS, k=30))
    crowd = [f"{base} {''.join(rng.choices('abcdefghij', k=3))}" for _ in range(20 * WINDOW)]
    others = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=60)) for _ in range(25 * WINDOW)]
    made = sorted(set(crowd)) + others
    group = connected(*table(made).near_duplicates(), len(made))
    assert set(group[: len(set(crowd))].tolist()) == {0}
    assert (group[len(set(crowd)) :] != 0).all()


def test_what_most_openings_share_makes_no_near_duplicates():
    rng = Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(400)]
    task = " ".join(words[:18])
    own = [" ".join(rng.choices(words[60:], k=9)) for _ in range(100)]
    own += [own[0] + " k", own[1] + "s"]
    assert jaccard(f"{task} {own[5]}", f"{task} {own[6]}") > 0.5
    for made in ([f"{task} {text}" for text in own], [f"{text} {task}" for text in own], own):
        assert found_pairs(made) == {(0, 100), (100, 0), (1, 101), (101, 1)}
        assert table(made).jaccard(np.asarray([5]), np.asarray([6]))[0] < 0.2


def test_the_order_of_rows_changes_no_pair():
    made = texts(7, families=200, words=5)
    ids = [f"id{i}" for i in range(len(made))]
    a, b = table(made, ids).near_duplicates()
    order = np.random.default_rng(0).permutation(len(made))
    c, d = table([made[i] for i in order], [ids[i] for i in order]).near_duplicates()
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(zip(order[c].tolist(), order[d].tolist(), strict=True))


def test_nothing_and_one_opening_have_no_pairs():
    for made in ([], ["alone"], ["two", "three"]):
        assert found_pairs(made) == set()


def test_an_opening_is_compared_by_what_its_id_stands_for():
    messages = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "How?")]
    context = [{"role": role, "content": content} for role, content in messages]
    assert asked_text(Prefix(opening_id("Hi"), context)) == "Hi"
    assert asked_text(Prefix("f" * 16, context)) == "Hi\nHow?"


def test_the_demo_s_slips_are_found_and_little_else(monkeypatch):
    slips = []
    near = kat.demo.grammar._near

    def told(rng, ask):
        changed = near(rng, ask)
        slips.append((opening_id(ask.text), opening_id(changed.text)))
        return changed

    monkeypatch.setattr(kat.demo.grammar, "_near", told)
    openings = {}
    for row in kat.demo.grammar.demo_pairs(1500):
        text = next(m["content"] for m in row["prefix"]["messages"] if m["role"] == "user")
        openings.setdefault(opening_id(text), text)
    place = {one: i for i, one in enumerate(openings)}
    truth = np.asarray([(place[a], place[b]) for a, b in slips if a in place and b in place]).T
    wanted = connected(*truth, len(place))
    found = connected(*table(list(openings.values()), list(openings)).near_duplicates(), len(place))
    pairs = np.triu_indices(len(place), 1)
    true, said = ((g[:, None] == g)[pairs] for g in (wanted, found))
    assert true.sum() > 150
    assert (true & said).sum() / true.sum() > 0.97  # recall
    assert (true & said).sum() / said.sum() > 0.99  # precision
