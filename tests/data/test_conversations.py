"""Messages, openings and ids, as rows of preference files hold them."""

from random import Random

import pytest
from making import turn

from kat.data.conversations import messages_of, opening_of, row_id, trim
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
