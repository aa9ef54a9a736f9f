"""One preference told in every format comes back the same; what is no preference is a bad row with its reason."""

import contextlib
import json
from collections import Counter
from random import Random

import pytest
from making import hh, pair, random_text, turn

from kat.data.conversations import HH_TURN, parse_hh
from kat.data.formats import expected_formats, format_of, formats, parse_row
from kat.data.rows import BadRow
from kat.plugins import FORMATS, load_all

USER, ASSISTANT = "user", "assistant"
WHO = {USER: "Human", ASSISTANT: "Assistant"}
BY_NAME = {row_format.name: row_format for row_format in formats()}


def parse(row, name):
    """A row taken apart, with completions of one plain turn as their text."""
    history, *ends = parse_row(row, BY_NAME[name])
    assert all(end[0] == turn(ASSISTANT, end[0]["content"]) and len(end) == 1 for end in ends)
    return (history, *(end[0]["content"] for end in ends))


def name_of(row):
    row_format = format_of(row)
    return None if row_format is None else row_format.name


def told(name, history, chosen, rejected):
    """A preference in a format; the test's own rendering."""
    ends = [turn(ASSISTANT, chosen)], [turn(ASSISTANT, rejected)]
    text = hh(*((WHO.get(m["role"], "?"), m["content"]) for m in history))
    value = {USER: "human", ASSISTANT: "gpt"}
    shared = [{"from": value.get(m["role"], m["role"]), "value": m["content"]} for m in history]
    return {
        "alpaca": {"instruction": history[-1]["content"], "input": "", "output": [chosen, rejected]},
        "question": {"question": history[-1]["content"], "response_j": chosen, "response_k": rejected},
        "sharegpt": {
            "conversations": shared,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
        },
        "swift": {"messages": history + ends[0], "rejected_response": rejected},
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
    }[name]


def conversation(rng, *, system):
    first = [turn("system", random_text(rng))] if system and rng.random() < 0.3 else []
    lead = [turn(ASSISTANT, random_text(rng))] if rng.random() < 0.2 else []
    body = [turn(USER, random_text(rng))]
    for _ in range(rng.randint(0, 3)):
        body.append(turn(ASSISTANT, random_text(rng)))
        body.append(turn(USER, random_text(rng)))
    return [*first, *lead, *body]


def test_names_are_those_on_disk_and_those_of_the_files():
    assert list(load_all(FORMATS)) == [name.replace("-", "_") for name in BY_NAME]
    old = {"kat", "hh", "hh-prompt", "trl-explicit", "trl-implicit", "ultrafeedback"}
    assert set(BY_NAME) == old | {"alpaca", "question", "sharegpt", "swift"}


@pytest.mark.parametrize("name", BY_NAME)
def test_every_format_tells_the_same_preference(name):
    rng = Random(name)
    for _ in range(150):
        history = conversation(rng, system=not name.startswith("hh"))
        if name in ("alpaca", "question"):
            history = [turn(USER, random_text(rng))]
        chosen, rejected = "a" + random_text(rng), "b" + random_text(rng)
        row = told(name, history, chosen, rejected)
        assert name_of(row) == name
        assert parse(row, name) == (history, chosen, rejected)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_example_is_of_its_own_format_alone_and_says_the_same_in_all(name):
    row = BY_NAME[name].example
    assert [each.name for each in formats() if each.matches(row)] == [name]
    assert parse(row, name) == ([turn(USER, "Why?")], "So.", "No.")


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_expected_shows_every_example(name):
    lines = expected_formats()
    place = next(i for i, line in enumerate(lines) if line.split()[0] == name)
    assert BY_NAME[name].help in lines[place]
    assert json.loads(lines[place + 1]) == BY_NAME[name].example


def test_strings_of_trl_explicit():
    row = {"prompt": "What\n\nnow?", "chosen": " x ", "rejected": "y"}
    assert name_of(row) == "trl-explicit"
    assert parse(row, "trl-explicit") == ([turn(USER, "What\n\nnow?")], " x ", "y")


@pytest.mark.parametrize(
    "row", [{}, {"text": "hi"}, {"chosen": "a", "rejected": "b"}, {"prompt": 3, "chosen": "a", "rejected": "b"}]
)
def test_other_rows_have_no_format(row):
    assert format_of(row) is None


def decided(row):
    """The format of a row as one decision tree, from the top: what the formats' own predicates have to agree with."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    texts = [isinstance(side, str) for side in (chosen, rejected)]
    lists = isinstance(chosen, list) and isinstance(rejected, list)
    if isinstance(row.get("prefix"), dict):
        return "kat"
    if "prompt" not in row:
        if lists and any(isinstance(m, dict) and m.get("role") == "user" for m in [*chosen, *rejected]):
            return "trl-implicit"
        if all(texts) and (HH_TURN.match(chosen) or HH_TURN.match(rejected)):
            return "hh"
        if isinstance(row.get("conversations"), list):
            return "sharegpt" if "chosen" in row and (any(texts) or lists) else None
        if isinstance(row.get("instruction"), str):
            answers = "chosen" not in row and isinstance(row.get("output"), list)
            return "alpaca" if any(texts) or lists or answers else None
        if isinstance(row.get("question"), str):
            return "question" if any(texts) or lists else None
        if isinstance(row.get("messages"), list):
            if "chosen" in row:
                return "sharegpt" if any(texts) or lists else None
            return "swift" if row.get("rejected_response") is not None else None
        return "trl-implicit" if lists else None
    if isinstance(row["prompt"], list):
        return "trl-explicit"
    if not isinstance(row["prompt"], str):
        return None
    if any(texts):
        return "hh-prompt" if HH_TURN.match(row["prompt"]) else "trl-explicit"
    if not lists:
        return None
    users = [m for m in [*chosen, *rejected] if isinstance(m, dict) and m.get("role") == "user"]
    return "ultrafeedback" if users else "trl-explicit"


def test_formats_exclude_each_other_on_random_rows():
    rng = Random(21)
    texts = ["", "q", "q\n\nHuman: x", hh(("Human", "q")), hh(("Human", "q"), ("Assistant", "a")), "\n\nAssistant:"]
    messages = [turn(USER, "q"), turn(ASSISTANT, "a"), turn("system", "s"), {}, {"role": None}, "user", 3, None]
    others = ("conversations", "instruction", "question", "messages", "output", "rejected_response")
    met = Counter()

    def value():
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(texts)
        if kind < 0.8:
            return rng.choices(messages, k=rng.randint(0, 3))
        return rng.choice([None, 3, 2.5, True, {}, {"messages": []}, {"role": USER}])

    for _ in range(20_000):
        keys = [key for key in ("prompt", "chosen", "rejected", "text", "score_chosen") if rng.random() < 0.75]
        if rng.random() < 0.2:
            keys = [key for key in keys if key not in ("prompt", "chosen")]
        keys += [key for key in others if rng.random() < 0.1]
        row = {key: value() for key in keys}
        if rng.random() < 0.2:
            row["prefix"] = value()
        matching = [each.name for each in formats() if each.matches(row)]
        want = decided(row)
        assert matching == ([want] if want else []), row
        assert name_of(row) == want
        met[want] += 1
    assert set(met) == {*BY_NAME, None}
    assert min(met.values()) >= 5, met


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
        assert parse(row, "hh") == ([turn(USER, "Well?")], chosen, rejected)

    @pytest.mark.parametrize("end", ["\n\nAssistant: ", "\n\nAssistant:", "\n\nAssistant:  \n"])
    def test_an_empty_last_answer(self, end):
        good, bad = hh(("Human", "q"), ("Assistant", "a")), hh(("Human", "q")) + end
        for chosen, rejected, name in ((good, bad, "rejected"), (bad, good, "chosen")):
            with pytest.raises(BadRow, match=f"{name} is empty"):
                parse({"chosen": chosen, "rejected": rejected}, "hh")

    def test_histories_that_part_before_the_last_turn(self):
        row = {
            "chosen": hh(("Human", "q"), ("Assistant", "a"), ("Human", "x"), ("Assistant", "b")),
            "rejected": hh(("Human", "q"), ("Assistant", "A"), ("Human", "x"), ("Assistant", "c")),
        }
        with pytest.raises(BadRow, match="histories"):
            parse(row, "hh")

    @pytest.mark.parametrize("text", ["no turn", "x\n\nHuman: q\n\nAssistant: a", None, 7, ["x"], "", "  "])
    def test_text_that_starts_without_a_turn(self, text):
        with pytest.raises(BadRow):
            parse({"chosen": text, "rejected": hh(("Human", "q"), ("Assistant", "a"))}, "hh")

    def test_a_conversation_that_ends_on_the_human(self):
        row = {"chosen": hh(("Human", "q"), ("Assistant", "a"), ("Human", "b")), "rejected": hh(("Human", "q"))}
        with pytest.raises(BadRow, match="assistant"):
            parse(row, "hh")


BAD_COMPLETIONS = [None, "", " \n\t\u00a0\u2003", 3, 2.5, True, [], {}, ["x"]]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("value", BAD_COMPLETIONS, ids=repr)
@pytest.mark.parametrize("name", ["kat", "trl-explicit"])
def test_a_completion_that_is_no_text(name, value, side):
    row = {"kat": pair(), "trl-explicit": {"prompt": "q", "chosen": "a", "rejected": "b"}}[name] | {side: value}
    with pytest.raises(BadRow, match=side):
        parse(row, name)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("message", [turn(ASSISTANT, ""), turn(ASSISTANT, " \n"), {"role": ASSISTANT, "content": None}])
@pytest.mark.parametrize("name", ["trl-explicit", "trl-implicit", "ultrafeedback"])
def test_a_last_message_without_text(name, message, side):
    row = told(name, [turn(USER, "q")], "a", "b")
    row[side] = [*row[side][:-1], message]
    with pytest.raises(BadRow, match=side):
        parse(row, name)


@pytest.mark.parametrize("name", BY_NAME)
def test_chosen_equal_to_rejected(name):
    with pytest.raises(BadRow, match="equals"):
        parse(told(name, [turn(USER, "q")], "same", "same"), name)
    parse(told(name, [turn(USER, "q")], "same", "same "), name)  # text is compared as it is


class TestScores:
    """Preferences stored as floats, ties and nulls."""

    @pytest.mark.parametrize("scores", [(8.5, 3), (1, 0.5), (None, None), (None, 3.0), (2.0, None)], ids=str)
    def test_kept(self, scores):
        row = pair(score_chosen=scores[0], score_rejected=scores[1])
        assert parse(row, "kat")[1] == "good"

    @pytest.mark.parametrize("scores", [(7, 7), (7, 7.0), (0.5, 0.5), (0, 0), (-1.0, -1)], ids=str)
    def test_a_tie(self, scores):
        for name in ("kat", "ultrafeedback"):
            row = told(name, [turn(USER, "q")], "a", "b") | {"score_chosen": scores[0], "score_rejected": scores[1]}
            with pytest.raises(BadRow, match="tie"):
                parse(row, name)

    @pytest.mark.parametrize("score", ["7", [], {}, float("nan"), float("inf")], ids=repr)
    def test_no_number(self, score):
        with pytest.raises(BadRow, match="score"):
            parse(pair(score_chosen=score, score_rejected=1), "kat")

    def test_a_number_beyond_floats_is_no_crash(self):
        with contextlib.suppress(BadRow):
            parse(pair(score_chosen=10**400, score_rejected=1), "kat")


CALL = {"role": ASSISTANT, "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "content": "17", "name": "f", "tool_call_id": "1"}


class TestSeveralTurns:
    """Completions of several turns, and contexts that go on after the last user message."""

    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "q", "chosen": [CALL, RESULT, turn(ASSISTANT, "17")], "rejected": [turn(ASSISTANT, "no")]},
            {"prompt": [turn(USER, "q"), CALL, RESULT], "chosen": turn(ASSISTANT, "17"), "rejected": "no"},
            {"prefix": {"messages": [turn(USER, "q"), CALL]}, "chosen": [turn(ASSISTANT, "17")], "rejected": "no"},
        ],
    )
    def test_the_source_s_own_turns_come_back(self, row):
        history, chosen, rejected = parse_row(row, format_of(row))
        prompt = row.get("prompt") or row["prefix"]["messages"]
        assert history == ([turn(USER, prompt)] if isinstance(prompt, str) else prompt)
        for got, given in ((chosen, row["chosen"]), (rejected, row["rejected"])):
            given = turn(ASSISTANT, given) if isinstance(given, str) else given
            assert got == (given if isinstance(given, list) else [given])

    def test_without_a_prompt_what_both_share_is_the_context(self):
        """Against TRL's extract_prompt: the common beginning, in whole turns."""
        rng = Random(5)
        for _ in range(300):
            shared = [turn(USER, "q"), *rng.choices([CALL, RESULT, turn(ASSISTANT, "well")], k=rng.randint(0, 3))]
            ends = [[turn(ASSISTANT, side), *rng.choice([[], [CALL, RESULT, turn(ASSISTANT, "end")]])] for side in "ab"]
            row = {"chosen": shared + ends[0], "rejected": shared + ends[1]}
            assert parse_row(row, format_of(row)) == (shared, *ends)

    def test_histories_that_differ_in_their_calls_alone_differ(self):
        other = CALL | {"tool_calls": [{"type": "function", "function": {"name": "g"}}]}
        ends = [turn(USER, "and?"), turn(ASSISTANT, "a")], [turn(USER, "and?"), turn(ASSISTANT, "b")]
        row = {"chosen": [turn(USER, "q"), CALL, *ends[0]], "rejected": [turn(USER, "q"), other, *ends[1]]}
        with pytest.raises(BadRow, match="histories"):
            parse_row(row, format_of(row))

    def test_completions_that_differ_in_their_calls_alone_are_two(self):
        other = CALL | {"tool_calls": [{"type": "function", "function": {"name": "g"}}]}
        parse_row(row := {"prompt": "q", "chosen": [CALL], "rejected": [other]}, format_of(row))
        with pytest.raises(BadRow, match="equals"):
            parse_row(row := {"prompt": "q", "chosen": [CALL], "rejected": [CALL]}, format_of(row))


SO, NO = turn(ASSISTANT, "So."), turn(ASSISTANT, "No.")
SHAREGPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}, {"from": "gpt", "value": "No."}
WRITTEN = {
    "alpaca, no input": {"instruction": "Why?", "chosen": "So.", "rejected": "No."},
    "alpaca with its input": {"instruction": "Why", "input": "?", "output": ["So.", "No."]},
    "orca": {"question": "Why?", "chosen": "So.", "rejected": "No."},
    "sharegpt, lists": {"conversations": [SHAREGPT[0]], "chosen": [SHAREGPT[1]], "rejected": [SHAREGPT[2]]},
    "sharegpt, text": {"conversations": [SHAREGPT[0]], "chosen": "So.", "rejected": "No."},
    "sharegpt, whole": {"chosen": list(SHAREGPT[:2]), "rejected": [SHAREGPT[0], SHAREGPT[2]]},
    "messages beside": {"messages": [turn(USER, "Why?")], "chosen": SO, "rejected": NO},
    "swift, messages": {"messages": [turn(USER, "Why?"), SO], "rejected_messages": [turn(USER, "Why?"), NO]},
    "swift, a list": {"messages": [turn(USER, "Why?"), SO], "rejected_response": [NO]},
    "swift, query": {"query": "Why?", "response": "So.", "rejected_response": "No."},
    "names of roles": {"chosen": [turn("human", "Why?"), turn("gpt", "So.")], "rejected": [turn("User", "Why?"), NO]},
    "a message alone": {"prompt": turn(USER, "Why?"), "chosen": SO, "rejected": NO},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_as_others_write_them(name):
    row = WRITTEN[name]
    assert [each.name for each in formats() if each.matches(row)] == [(found := name_of(row))]
    question = "Why\n?" if "input" in row else "Why?"
    assert parse(row, found) == ([turn(USER, question)], "So.", "No.")


def test_earlier_turns_of_a_history_column():
    row = {"instruction": "c", "history": [["a", "b"]], "output": ["x", "y"]}
    assert parse(row, "alpaca")[0] == [turn(USER, "a"), turn(ASSISTANT, "b"), turn(USER, "c")]
    with pytest.raises(BadRow, match="history"):
        parse(row | {"history": [["a"]]}, "alpaca")
