"""The words that tell one region's openings from the others', in any language.

Class-based TF-IDF, Grootendorst, "BERTopic: Neural topic modeling with a class-based TF-IDF procedure" (2022):
tf · log(1 + A / f), where tf is how often a region has a word, f how often all have, and A the mean number of words a
region. Here a word counts once an opening, so that no opening's repetitions name a region, and a word needs twice
the share of openings that it has on average: so the words that most openings hold are left out without a list of any
language's.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

_CHARACTERS = 2_000
"""Of an opening that are read."""
_READ = 800
"""Openings of a region that are read."""
_LONGEST = 30
_LEAST = 2
"""Openings of a region that hold a word which names it."""
_LIFT = 2.0
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17d3\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
"""Vowels and accents that are no letters to `re`, and the scripts of India, which are full of them."""
_RUN = re.compile(f"[{_UNSPACED}]+|(?:(?![{_UNSPACED}\\d_])[\\w{_MARKS}])(?:(?![{_UNSPACED}])[\\w{_MARKS}])+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def telling_words(texts: Sequence[str], of: np.ndarray, regions: int, words: int, seed: int = 0) -> list[list[str]]:
    """Return up to `words` words for each of `regions`, most telling first. `of` [N] is the region of each text.

    Texts outside of all regions, −1, count as one more region that gets no words. Of a region with more than 800 texts
    as many are read, drawn by `seed`.
    """
    draw = np.random.default_rng(seed)
    counts, read = [], []
    for region in range(-1, regions):
        own = np.flatnonzero(of == region)
        if len(own) > _READ:
            own = np.sort(draw.choice(own, _READ, replace=False))
        counts.append(Counter(word for row in own.tolist() for word in set(words_of(texts[row]))))
        read.append(len(own))
    vocabulary = sorted({word for count in counts for word, times in count.items() if times >= _LEAST})
    table = np.array([[count[word] for word in vocabulary] for count in counts]).reshape(len(counts), len(vocabulary))
    scores = class_tfidf(table) * _is_lifted(table, np.array(read))
    return [_best(scores[1 + region], vocabulary, words) for region in range(regions)]


def class_tfidf(counts: np.ndarray) -> np.ndarray:
    """Return tf · log(1 + A / f) of every class and word; `counts` [C, V] says how often a class has a word."""
    total = counts.sum(axis=0)
    return counts * np.log1p(counts.sum() / max(len(counts), 1) / np.maximum(total, 1))


def _is_lifted(counts: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Tell of every class and word [C, V] whether the word is telling there: often enough, and oftener than elsewhere.

    `read` [C] is the number of openings of a class. Where one class is all there is, nothing is oftener than elsewhere
    and every word that is often enough counts.
    """
    often = counts >= _LEAST
    if np.count_nonzero(read) < 2:
        return often
    share = counts / np.maximum(read, 1)[:, None]
    return often & (share >= _LIFT * share[read > 0].mean(axis=0))


def _best(scores: np.ndarray, vocabulary: Sequence[str], words: int) -> list[str]:
    """Return the words of the highest scores, ties in the order of the alphabet; of two forms of one, the first."""
    chosen: list[str] = []
    for at in np.argsort(-scores, kind="stable").tolist():
        if scores[at] <= 0 or len(chosen) == words:
            break
        if not any(_is_form(vocabulary[at], other) for other in chosen):
            chosen.append(vocabulary[at])
    return chosen


def _is_form(word: str, other: str) -> bool:
    """Tell whether one word is the other with up to two letters at its end, as in cell and cells."""
    short, long = sorted((word, other), key=len)
    if _IS_UNSPACED.match(short):
        return short[0] == long[-1] or short[-1] == long[0]  # two parts of one word, 天气 and 气预 of 天气预报
    return long.startswith(short) and len(long) - len(short) <= 2


def words_of(text: str) -> list[str]:
    """Return the words of two letters and more of a text's beginning, in lower case; no number is one.

    Where a script puts no spaces, each two neighbouring characters are a word, as search engines have it.
    """
    words = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text[:_CHARACTERS]).lower()):
        if _IS_UNSPACED.match(run):
            words += [run[at : at + 2] for at in range(len(run) - 1)]
        elif 2 <= len(run) <= _LONGEST:
            words.append(run)
    return words
