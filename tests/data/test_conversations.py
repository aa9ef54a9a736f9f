"""Messages, openings and ids, as rows of preference files hold them."""

from random import Random

import pytest
from making import turn

from kat.data.conversations import messages_of, opening_of, prefix_messages, row_id, trim
from kat.data.rows import BadRow


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
            [{"role": "user", "content": [{"type": "text", "text": 3}]}],
            [{"role": "user", "content": [{"type": "image", "image": "x"}]}],
            [{"role": "user", "content": None, "tool_calls": [{}]}],
            [{"role": "assistant", "content": None, "tool_calls": []}],
            [turn("user", "fine"), {"role": "user", "content": 3}],
        ],
        ids=repr,
    )
    def test_no_messages(self, value):
        with pytest.raises(BadRow, match="here"):
            messages_of(value, "here")

    def test_other_keys_are_kept_and_nulls_are_none(self):
        message = turn("user", "x") | {"name": "Ann", "tool_call_id": "7", "extra": {"a": [1, None]}}
        assert messages_of([message | {"tool_calls": None}], "here") == [message]

    @pytest.mark.parametrize("content", [None, "", "text"])
    def test_a_turn_that_calls_may_say_nothing(self, content):
        call = {"role": "assistant", "content": content, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        assert messages_of([call], "here") == [call]
        missing = {k: v for k, v in call.items() if k != "content"}
        assert messages_of([missing], "here") == [missing | {"content": None}]

    def test_from_and_value_and_other_names_of_roles(self):
        """Against datasets of LLaMA-Factory: human, gpt, system, function_call and observation."""
        turns = [("system", "s"), ("human", "q"), ("function_call", '{"name": "f", "arguments": {"a": 1}}')]
        turns += [("observation", "17"), ("gpt", "x")]
        call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
        want = [turn("system", "s"), turn("user", "q"), {"role": "assistant", "content": None, "tool_calls": [call]}]
        want += [turn("tool", "17"), turn("assistant", "x")]
        assert messages_of([{"from": who, "value": text} for who, text in turns], "here") == want
        named = [turn("Human", "a"), turn("GPT", "b"), turn("User", "c"), turn("developer", "d")]
        assert [m["role"] for m in messages_of(named, "here")] == ["user", "assistant", "user", "developer"]

    def test_parts_of_text_are_joined_and_a_message_alone_is_a_list(self):
        parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "image": None}]
        assert messages_of({"role": "user", "content": parts}, "here") == [turn("user", "a b")]

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


@pytest.mark.parametrize(
    "beside", [{"note": {"image": {"bytes": "x", "path": "p.png"}}}, {"more": [{"type": "image_url"}]}]
)
def test_a_picture_inside_of_what_stands_beside_a_prefixs_messages_is_refused(beside):
    messages = [{"role": "user", "content": "How?"}]
    assert prefix_messages({"messages": messages, "note": {"language": "en"}, "tools": [{"image": "x"}]}) == messages
    with pytest.raises(BadRow, match=f"prefix holds {next(iter(beside))}"):
        prefix_messages({"messages": messages} | beside)
