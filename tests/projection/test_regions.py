"""Regions against planted ones, words against a table worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kat.errors import InputError
from kat.projection.regions import Regions, basins, find_regions
from kat.projection.words import class_tfidf, telling_words, words_of

TOPICS = {
    "whales": ["whale", "ocean", "plankton", "krill", "blubber"],
    "bread": ["dough", "yeast", "flour", "oven", "crust"],
    "stars": ["nebula", "quasar", "galaxy", "comet", "orbit"],
}
COMMON = ["the", "what", "how", "please", "tell", "me", "about", "of", "and", "in"]


def openings(n=900, seed=0):
    """Three topics at three corners of a map; every text has common words and two of its topic's."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 9.0]])
    topic = rng.integers(3, size=n)
    xy = corners[topic] + rng.normal(size=(n, 2))
    words = list(TOPICS.values())
    texts = [
        " ".join(rng.permutation([*rng.choice(COMMON, 8, replace=False), *rng.choice(words[t], 2, replace=False)]))
        for t in topic
    ]
    return xy.astype(np.float32), texts, topic


def test_planted_regions_and_their_words():
    xy, texts, topic = openings()
    regions = find_regions(xy, texts)
    assert len(regions.labels) == 3
    for number, region in enumerate(regions.labels):
        inside = regions.of == number
        own = np.bincount(topic[inside]).argmax()
        assert (topic[inside] == own).mean() > 0.99
        assert set(region.words) <= set(list(TOPICS.values())[own])
        assert len(region.words) == 3
        assert region.size == inside.sum() > 200
        assert np.hypot(*(np.array([region.x, region.y]) - [[0, 0], [10, 0], [5, 9]][own])) < 1.0
    sizes = [region.size for region in regions.labels]
    assert sizes == sorted(sizes, reverse=True)


def test_the_order_of_rows_changes_nothing():
    xy, texts, _ = openings()
    order = np.random.default_rng(5).permutation(len(xy))
    one, other = find_regions(xy, texts), find_regions(xy[order], [texts[i] for i in order])
    assert one.labels == other.labels
    assert (one.of[order] == other.of).all()


def test_far_rows_are_in_no_region_and_do_not_hide_the_others():
    xy, texts, _ = openings()
    xy[0] = (1e6, -1e6)
    xy[1] = (5.0, 3.0)  # between the corners
    regions = find_regions(xy, texts)
    assert len(regions.labels) == 3
    assert regions.of[:2].tolist() == [-1, -1]


def test_at_most_so_many():
    xy, texts, _ = openings()
    regions = find_regions(xy, texts, most=2, words=1)
    assert [len(region.words) for region in regions.labels] == [1, 1]
    assert set(regions.of.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(("saddle", "peaks"), [(3.9, 2), (4.1, 1)])
def test_two_peaks_are_one_over_a_high_pass(saddle, peaks):
    """0.8 of the lower peak, 5, is 4; there are so many openings that nothing is chance."""
    density = np.zeros((3, 7))
    density[1] = np.array([0, 6, saddle, 5, 1, 0, 0]) * 1e6
    of = basins(density)
    assert len(set(of[density.ravel() > 0].tolist())) == peaks
    assert of[7 + 1] == 8
    assert of[7 + 4] == (8 if peaks == 1 else 10)
    assert of[0] == 0  # an empty cell is alone


@pytest.mark.parametrize(("saddle", "peaks"), [(7.9, 2), (8.1, 1)])
def test_a_peak_that_may_be_chance_is_none(saddle, peaks):
    """16 − 2·√16 = 8: what stands out of a pass of more than that by so little is no peak."""
    of = basins(np.array([[20.0, saddle, 16.0]]))
    assert len(set(of.tolist())) == peaks


def test_class_tfidf_by_hand():
    """Two classes of 6 and 4 words: A = 5; f = 4, 5 and 1."""
    counts = np.array([[3, 3, 0], [1, 2, 1]])
    log = [math.log(1 + 5 / 4), math.log(1 + 5 / 5), math.log(1 + 5 / 1)]
    expected = [[3 * log[0], 3 * log[1], 0], [1 * log[0], 2 * log[1], 1 * log[2]]]
    assert class_tfidf(counts) == pytest.approx(np.array(expected))


def test_words_that_most_openings_hold_name_nothing():
    """Even where nothing else is as frequent, and in a language of which nobody made a list."""
    texts = ["ba du lo"] * 20 + ["ba du kwiba lo"] * 3 + ["ba du lo"] * 20 + ["lo ba zumra du"] * 3
    of = np.repeat([0, 1], 23)
    assert telling_words(texts, of, 2, 3) == [["kwiba"], ["zumra"]]


def test_a_repeated_word_counts_once_an_opening():
    texts = ["spam " * 300, "fish chips"] + ["fish chips"] * 5 + ["rain wind"] * 6
    assert telling_words(texts, np.repeat([0, 1], [7, 6]), 2, 2) == [["chips", "fish"], ["rain", "wind"]]


def test_one_region_alone_has_words():
    assert telling_words(["red fox"] * 4, np.zeros(4, int), 1, 3) == [["fox", "red"]]


def test_forms_of_a_word_stand_once():
    texts = ["cell cells biology"] * 5 + ["stone"] * 5
    assert telling_words(texts, np.repeat([0, 1], 5), 2, 3)[0] == ["biology", "cell"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC: 42 is x_1!", ["don", "panic", "is", "x_1"]),
        ("天气预报", ["天气", "气预", "预报"]),
        ("Wie heißt größer?", ["wie", "heißt", "größer"]),
        ("ПРИВЕТ мир", ["привет", "мир"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Python中文mix", ["python", "中文", "mix"]),
        ("a\x00b\x1b[31mred\u202egnp\u202c", ["mred", "gnp"]),
        ("\ud800 half", ["half"]),
        ("", []),
    ],
)
def test_words_of_any_language(text, words):
    assert words_of(text) == words


def test_a_text_is_read_up_to_2000_characters():
    assert words_of("ab " * 666 + "cd" + "ef") == ["ab"] * 666 + ["cd"]


def test_hostile_texts():
    """Nothing but letters in a label, and a text of 400,000 letters costs what 2,000 do."""
    xy, texts, _ = openings()
    bad = ["<script>alert(1)</script> \u202e\u0000\x1b[2J", "x" * 400_000, "\ud83d" * 50, "а" * 400_000, "𝕋" * 9000]
    texts = [f"{text} {bad[i % len(bad)]}" for i, text in enumerate(texts)]
    regions = find_regions(xy, texts)
    words = [word for region in regions.labels for word in region.words]
    assert len(words) == 9
    assert all(word.isalpha() and len(word) <= 30 for word in words)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_rows(n):
    regions = find_regions(np.zeros((n, 2)), ["one two"] * n)
    assert isinstance(regions, Regions)
    assert regions.of.tolist() == [-1] * n
    assert regions.labels == []


def test_all_in_one_place():
    regions = find_regions(np.full((50, 2), 7.0), ["red fox"] * 50)
    assert [(region.size, region.words) for region in regions.labels] == [(50, ("fox", "red"))]
    assert abs(regions.labels[0].x - 7) < 1e-6


def test_what_is_refused():
    with pytest.raises(InputError, match="expected"):
        find_regions(np.zeros((3, 2)), ["a"])
    with pytest.raises(InputError, match="row 1"):
        find_regions(np.array([[0, 0], [np.nan, 0]]), ["a", "b"])
