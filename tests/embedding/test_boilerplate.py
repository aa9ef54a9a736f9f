"""Boilerplate against its definition, word by word: what more than half of all conversations share."""

import random

import pytest
from making import turn

from kat.embedding.boilerplate import (
    LEAST_WORDS,
    Boilerplate,
    WithoutBoilerplate,
    find_boilerplate,
    shared_start,
)
from kat.records import Prefix

RULES = "You are a careful assistant who answers in one short paragraph and never guesses. "
ENDING = "\n\nAnswer in English, step by step, and say how sure you are of it."


def prefixes(count, *, shared=1.0, system="", leading="", trailing=""):
    made = []
    for i in range(count):
        has = i < shared * count
        messages = [turn("system", system)] if system and has else []
        text = f"question {i} about {i * 7 % 13}"
        messages.append(turn("user", (leading if has else "") + text + (trailing if has else "")))
        made.append(Prefix(f"id{i}", messages))
    return made


def brute_start(texts):
    """The definition, for every length from the longest down."""
    for length in range(max(map(len, texts)), 0, -1):
        for start in {text[:length] for text in texts if len(text) >= length}:
            if sum(text.startswith(start) for text in texts) > len(texts) / 2:
                return start
    return ""


@pytest.mark.parametrize("seed", range(40))
def test_the_longest_shared_start_is_found(seed):
    draw = random.Random(seed)
    words = ["a ", "b ", "c ", "ab ", "\n"]
    stem = "".join(draw.choice(words) for _ in range(draw.randint(8, 30)))
    texts = []
    for _ in range(draw.randint(3, 40)):
        length = draw.choice([len(stem), draw.randint(0, len(stem))])
        texts.append(stem[:length] + "".join(draw.choice(words) for _ in range(6)))
    found, true = shared_start(texts), brute_start(texts)
    assert true.startswith(found)
    assert sum(text.startswith(found) for text in texts) > len(texts) / 2
    if len(true.split()) > LEAST_WORDS + 1:
        assert len(true) - len(found) <= max(map(len, true.split()))  # a word's part at most is given up
    else:
        assert found == "" or len(found.split()) >= LEAST_WORDS


def test_each_kind_is_found_and_left_out():
    rows = prefixes(50, shared=0.8, system="Be brief, be kind.", leading=RULES, trailing=ENDING)
    found = find_boilerplate(rows)
    assert found == Boilerplate("Be brief, be kind.", RULES + "question ", ENDING) or found.leading == RULES.rstrip(" ")
    stripped = list(WithoutBoilerplate(rows, found))
    assert [p.id for p in stripped] == [p.id for p in rows]
    assert all(RULES not in p.text and ENDING not in p.text and "kind" not in p.text for p in stripped)
    assert all(str(i) in p.text for i, p in enumerate(stripped))
    assert rows[0].messages[0]["content"] == "Be brief, be kind."  # what came in stays


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_what_half_or_fewer_share_stays(share):
    assert not find_boilerplate(prefixes(60, shared=share, system="Be brief.", leading=RULES))


def test_ways_of_asking_are_no_boilerplate():
    rows = prefixes(60, leading="What is the best way to ")
    assert not find_boilerplate(rows)


def test_few_rows_share_by_chance():
    assert not find_boilerplate(prefixes(10, leading=RULES))


def test_a_message_of_nothing_else_is_kept():
    rows = [*prefixes(40, leading=RULES), Prefix("bare", [turn("user", RULES)])]
    found = find_boilerplate(rows)
    assert found.without(rows[-1]).messages == rows[-1].messages


def test_the_order_of_rows_changes_nothing():
    rows = prefixes(300, shared=0.6, system="S", leading=RULES, trailing=ENDING)
    found = find_boilerplate(rows)
    random.Random(0).shuffle(rows)
    assert find_boilerplate(rows) == found


def test_a_word_is_never_cut():
    rows = [Prefix(str(i), [turn("user", f"{RULES}quest{'ion' if i % 2 else 'ing'} {i}")]) for i in range(60)]
    assert find_boilerplate(rows).leading == RULES


def test_a_manifest_holds_it():
    found = Boilerplate(leading=RULES)
    assert found.as_dict() == {"leading": RULES}
    assert Boilerplate.from_dict(found.as_dict()) == found
    assert Boilerplate().as_dict() == {}
    assert not Boilerplate()


def test_only_the_ends_of_the_users_words_are_cut():
    messages = [turn("user", RULES + "one"), turn("assistant", RULES + "two"), turn("user", "three" + ENDING)]
    cut = Boilerplate(leading=RULES, trailing=ENDING).without(Prefix("i", messages)).messages
    assert [m["content"] for m in cut] == ["one", RULES + "two", "three"]


def test_a_system_prompt_that_ends_in_a_name():
    rows = [Prefix(str(i), [turn("system", f"{RULES}The user is U{i}."), turn("user", f"q{i}")]) for i in range(60)]
    found = find_boilerplate(rows)
    assert found.system == RULES + "The user is "
    assert [m["content"] for m in found.without(rows[3]).messages] == ["U3.", "q3"]


def test_of_very_many_some_are_looked_at(monkeypatch):
    """The same ones whatever their order, and enough of them."""
    monkeypatch.setattr("kat.embedding.boilerplate.SAMPLED", 40)
    rows = prefixes(3000, shared=0.7, system="S", leading=RULES)
    found = find_boilerplate(rows)
    assert found == find_boilerplate(rows[::-1])
    assert found.leading.startswith(RULES)
