"""One judgement told in every shape comes back the same; what is no judgement is a bad row with its reason."""

import contextlib
from random import Random

import pytest
from making import hh, pair, random_text, turn

from kat.data.formats import SHAPES, judgement, messages_of, opening_of, parse_hh, row_id, shape_of, trim
from kat.data.rows import BadRow

USER, ASSISTANT = "user", "assistant"
WHO = {USER: "Human", ASSISTANT: "Assistant"}


def told(shape, history, chosen, rejected):
    """A judgement in the words of a shape; the test's own rendering."""
    ends = [turn(ASSISTANT, chosen)], [turn(ASSISTANT, rejected)]
    text = hh(*((WHO.get(m["role"], "?"), m["content"]) for m in history))
    return {
        "kat": {"prefix": {"messages": history}, "chosen": chosen, "rejected": rejected},
        "hh": {"chosen": text + hh(("Assistant", chosen)), "rejected": text + hh(("Assistant", rejected))},
        "hh-prompt": {"prompt": text + "\n\nAssistant:", "chosen": chosen, "rejected": rejected},
        "trl-explicit": {"prompt": history, "chosen": ends[0], "rejected": ends[1]},
        "trl-implicit": {"chosen": history + ends[0], "rejected": history + ends[1]},
        "ultrafeedback": {
            "prompt": next(m["content"] for m in history if m["role"] == USER),
            "chosen": history + ends[0],
            "rejected": history + ends[1],
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
    }[shape]


def conversation(rng, *, system):
    first = [turn("system", random_text(rng))] if system and rng.random() < 0.3 else []
    lead = [turn(ASSISTANT, random_text(rng))] if rng.random() < 0.2 else []
    body = [turn(USER, random_text(rng))]
    for _ in range(rng.randint(0, 3)):
        body.append(turn(ASSISTANT, random_text(rng)))
        body.append(turn(USER, random_text(rng)))
    return [*first, *lead, *body]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_tells_the_same_judgement(shape):
    rng = Random(shape)
    for _ in range(150):
        history = conversation(rng, system=not shape.startswith("hh"))
        chosen, rejected = "a" + random_text(rng), "b" + random_text(rng)
        row = told(shape, history, chosen, rejected)
        assert shape_of(row) == shape
        assert judgement(row, shape) == (history, chosen, rejected)


def test_strings_of_trl_explicit():
    row = {"prompt": "What\n\nnow?", "chosen": " x ", "rejected": "y"}
    assert shape_of(row) == "trl-explicit"
    assert judgement(row, "trl-explicit") == ([turn(USER, "What\n\nnow?")], " x ", "y")


@pytest.mark.parametrize(
    "row", [{}, {"text": "hi"}, {"chosen": "a", "rejected": "b"}, {"prompt": 3, "chosen": "a", "rejected": "b"}]
)
def test_other_rows_have_no_shape(row):
    assert shape_of(row) is None


class TestHH:
    def test_the_bare_words_stand_inside_answers(self):
        answer = "He said:\nHuman: hello\n Assistant: yes.\n\nHumans: a\n\nHuman:b\n\n Assistant: c"
        text = hh(("Human", "Human: hi Assistant: no"), ("Assistant", answer))
        assert parse_hh(text, "chosen") == [turn(USER, "Human: hi Assistant: no"), turn(ASSISTANT, answer)]

    def test_text_is_kept_exactly(self):
        text = hh(("Human", "  two  spaces \n"), ("Assistant", "\n\n answer\t"))
        assert parse_hh(text, "chosen") == [turn(USER, "  two  spaces \n"), turn(ASSISTANT, "\n\n answer\t")]

    def test_thirty_five_turns_and_two_in_a_row(self):
        turns = [("Human" if i % 2 == 0 else "Assistant", f"turn {i}") for i in range(34)]
        turns.append(("Assistant", "again"))
        found = parse_hh(hh(*turns), "chosen")
        assert [m["content"] for m in found] == [text for _, text in turns]
        assert [m["role"] for m in found[-3:]] == [USER, ASSISTANT, ASSISTANT]

    def test_the_completion_is_the_last_turn_not_what_differs(self):
        """A common beginning of both answers belongs to the answers."""
        chosen, rejected = "I think that yes", "I think that no"
        row = told("hh", [turn(USER, "Well?")], chosen, rejected)
        assert judgement(row, "hh") == ([turn(USER, "Well?")], chosen, rejected)

    @pytest.mark.parametrize("end", ["\n\nAssistant: ", "\n\nAssistant:", "\n\nAssistant:  \n"])
    def test_an_empty_last_answer(self, end):
        good, bad = hh(("Human", "q"), ("Assistant", "a")), hh(("Human", "q")) + end
        for chosen, rejected, name in ((good, bad, "rejected"), (bad, good, "chosen")):
            with pytest.raises(BadRow, match=f"{name} is empty"):
                judgement({"chosen": chosen, "rejected": rejected}, "hh")

    def test_histories_that_part_before_the_last_turn(self):
        row = {
            "chosen": hh(("Human", "q"), ("Assistant", "a"), ("Human", "x"), ("Assistant", "b")),
            "rejected": hh(("Human", "q"), ("Assistant", "A"), ("Human", "x"), ("Assistant", "c")),
        }
        with pytest.raises(BadRow, match="histories"):
            judgement(row, "hh")

    @pytest.mark.parametrize("text", ["no turn", "x\n\nHuman: q\n\nAssistant: a", None, 7, ["x"], "", "  "])
    def test_text_that_starts_without_a_turn(self, text):
        with pytest.raises(BadRow):
            judgement({"chosen": text, "rejected": hh(("Human", "q"), ("Assistant", "a"))}, "hh")

    def test_a_conversation_that_ends_on_the_human(self):
        row = {"chosen": hh(("Human", "q"), ("Assistant", "a"), ("Human", "b")), "rejected": hh(("Human", "q"))}
        with pytest.raises(BadRow, match="assistant"):
            judgement(row, "hh")


BAD_COMPLETIONS = [None, "", " \n\t\u00a0\u2003", 3, 2.5, True, [], {}, ["x"]]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("value", BAD_COMPLETIONS, ids=repr)
@pytest.mark.parametrize("shape", ["kat", "trl-explicit"])
def test_a_completion_that_is_no_text(shape, value, side):
    row = {"kat": pair(), "trl-explicit": {"prompt": "q", "chosen": "a", "rejected": "b"}}[shape] | {side: value}
    with pytest.raises(BadRow, match=side):
        judgement(row, shape)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("message", [turn(ASSISTANT, ""), turn(ASSISTANT, " \n"), {"role": ASSISTANT, "content": None}])
@pytest.mark.parametrize("shape", ["trl-explicit", "trl-implicit", "ultrafeedback"])
def test_a_last_message_without_text(shape, message, side):
    row = told(shape, [turn(USER, "q")], "a", "b")
    row[side] = [*row[side][:-1], message]
    with pytest.raises(BadRow, match=side):
        judgement(row, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_chosen_equal_to_rejected(shape):
    with pytest.raises(BadRow, match="equals"):
        judgement(told(shape, [turn(USER, "q")], "same", "same"), shape)
    judgement(told(shape, [turn(USER, "q")], "same", "same "), shape)  # text is compared as it is


class TestScores:
    """Preferences stored as floats, ties and nulls."""

    @pytest.mark.parametrize("scores", [(8.5, 3), (1, 0.5), (None, None), (None, 3.0), (2.0, None)], ids=str)
    def test_kept(self, scores):
        row = pair(score_chosen=scores[0], score_rejected=scores[1])
        assert judgement(row, "kat").chosen == "good"

    @pytest.mark.parametrize("scores", [(7, 7), (7, 7.0), (0.5, 0.5), (0, 0), (-1.0, -1)], ids=str)
    def test_a_tie(self, scores):
        for shape in ("kat", "ultrafeedback"):
            row = told(shape, [turn(USER, "q")], "a", "b") | {"score_chosen": scores[0], "score_rejected": scores[1]}
            with pytest.raises(BadRow, match="tie"):
                judgement(row, shape)

    @pytest.mark.parametrize("score", ["7", [], {}, float("nan"), float("inf")], ids=repr)
    def test_no_number(self, score):
        with pytest.raises(BadRow, match="score"):
            judgement(pair(score_chosen=score, score_rejected=1), "kat")

    def test_a_number_beyond_floats_is_no_crash(self):
        with contextlib.suppress(BadRow):
            judgement(pair(score_chosen=10**400, score_rejected=1), "kat")


class TestMessages:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            "text",
            {},
            [None],
            ["text"],
            [{}],
            [{"role": "user"}],
            [{"role": None, "content": "x"}],
            [{"content": "x"}],
            [{"role": "user", "content": None}],
            [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
            [turn("user", "fine"), {"role": "user", "content": 3}],
        ],
        ids=repr,
    )
    def test_no_messages(self, value):
        with pytest.raises(BadRow, match="here"):
            messages_of(value, "here")

    def test_other_keys_are_left_behind(self):
        assert messages_of([turn("user", "x") | {"name": "Ann"}], "here") == [turn("user", "x")]

    def test_trim_is_the_longest_head_that_ends_on_a_user(self):
        rng = Random(2)
        for _ in range(300):
            history = [
                turn(rng.choice(["system", "user", "assistant", "tool"]), str(i)) for i in range(rng.randint(0, 6))
            ]
            heads = [history[:n] for n in range(len(history) + 1) if n and history[n - 1]["role"] == "user"]
            if heads:
                assert trim(history) == max(heads, key=len)
            else:
                with pytest.raises(BadRow, match="no user message"):
                    trim(history)

    @pytest.mark.parametrize("content", ["", " ", "\n\t", "\u00a0\u2003\u3000"])
    def test_an_opening_of_white_space(self, content):
        with pytest.raises(BadRow, match="opening"):
            opening_of([turn("user", content), turn("assistant", "a"), turn("user", "real")])

    def test_the_opening_is_the_first_user_message_exactly(self):
        assert (
            opening_of([turn("system", "s"), turn("assistant", "a"), turn("user", " x "), turn("user", "y")]) == " x "
        )


@pytest.mark.parametrize(("value", "want"), [(7, "7"), (0, "0"), (-3, "-3"), ("x", "x"), (2**63 - 1, str(2**63 - 1))])
def test_ids_become_text(value, want):
    assert row_id({"id": value}) == want


def test_missing_ids_are_none():
    assert row_id({}) is None
    assert row_id({"id": None}) is None


@pytest.mark.parametrize("value", [1.5, True, [], {}, ["x"]], ids=repr)
def test_other_ids_are_bad(value):
    with pytest.raises(BadRow, match="id"):
        row_id({"id": value})
