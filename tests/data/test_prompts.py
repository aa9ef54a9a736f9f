"""Rows to embed: prefixes and prompts, each id once."""

from random import Random

import pytest
from making import jsonl, md5_id, random_text, read_prompts, turn, write

from kat.errors import BadRowsError, DuplicateIdError, InputError, OptionError


def prompts(tmp_path, *rows, allowed=0):
    return read_prompts(write(tmp_path / "prompts.jsonl", jsonl(*rows)), allowed)


def test_prefixes_and_prompts(tmp_path):
    conversation = [turn("system", "s"), turn("user", "q\0“”"), turn("assistant", "a"), turn("user", " z ")]
    found = prompts(tmp_path, {"id": "a", "prefix": {"messages": conversation}}, {"id": "b", "prompt": " text\n"})
    assert [p.messages for p in found.prefixes] == [conversation, [turn("user", " text\n")]]
    assert found.ids == [p.id for p in found.prefixes] == ["a", "b"]
    assert found.prefixes[0].text == "s\nq\0“”\na\n z "  # contents in order, one newline between, no roles
    assert found.prefixes[0].opening == "q\0“”"


def test_prompts_of_messages(tmp_path):
    """As TRL and verl write them; embedded is what `kat prefixes` would keep: up to the last user message."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    conversation = [turn("user", "q"), call, turn("tool", "17"), turn("user", "z"), turn("assistant", "Sure:")]
    rows = [{"id": "a", "prompt": conversation}, {"prompt": [turn("user", "x")], "system": "s"}]
    found = prompts(tmp_path, *rows, {"prompt": turn("user", "alone")}, {"prompt": "y", "system_prompt": "t"})
    assert [p.messages for p in found.prefixes] == [
        conversation[:4],
        [turn("system", "s"), turn("user", "x")],
        [turn("user", "alone")],
        [turn("system", "t"), turn("user", "y")],
    ]
    assert found.ids == ["a", md5_id("x"), md5_id("alone"), md5_id("y")]
    assert found.prefixes[0].text == "q\nf({})\n17\nz"


def test_ids_as_numbers_become_text_and_missing_ones_are_computed(tmp_path):
    found = prompts(
        tmp_path, {"id": 3, "prompt": "a"}, {"prompt": " b  c"}, {"id": None, "prompt": "d"}, {"id": 0, "prompt": "e"}
    )
    assert found.ids == ["3", md5_id("b c"), md5_id("d"), "0"]
    assert found.made_ids == 2


def test_one_id_for_two_openings_names_both_lines(tmp_path):
    rows = [{"id": "x", "prompt": "one"}, {"id": "y", "prompt": "two"}, b"", {"id": "x", "prompt": "three"}]
    for allowed in (0, "all"):
        with pytest.raises(DuplicateIdError, match=r"lines 1 and 4.* x "):
            prompts(tmp_path, *rows, allowed=allowed)
    with pytest.raises(DuplicateIdError, match="lines 1 and 2"):
        prompts(tmp_path, {"id": 7, "prompt": "one"}, {"id": "7", "prompt": "two"})


def test_the_same_prompt_again_is_a_bad_row(tmp_path):
    rows = [{"id": "x", "prompt": "one two"}, {"id": "x", "prompt": "one  two "}, {"prompt": "z"}, {"prompt": " z"}]
    with pytest.raises(BadRowsError, match="repeats"):
        prompts(tmp_path, *rows)
    found = prompts(tmp_path, *rows, allowed="all")
    assert (found.ids, found.bad) == (["x", md5_id("z")], 2)
    assert found.prefixes[0].opening == "one two"


BAD = {
    "no text": {"id": "b"},
    "null prompt": {"id": "b", "prompt": None},
    "prompt of no messages": {"id": "b", "prompt": ["x"]},
    "prompt without a user": {"id": "b", "prompt": [turn("assistant", "x")]},
    "white prompt": {"id": "b", "prompt": " \n"},
    "empty prompt": {"id": "b", "prompt": ""},
    "no user": {"id": "b", "prefix": {"messages": [turn("assistant", "x")]}},
    "no messages": {"id": "b", "prefix": {}},
    "null content": {"id": "b", "prefix": {"messages": [{"role": "user", "content": None}]}},
    "id a float": {"id": 1.5, "prompt": "x"},
    "no object": [1],
    "cut": b'{"id": "b", "pro',
    "NaN": '{"id": "b", "prompt": "x", "score": NaN}',
    "surrogate": '{"id": "b", "prompt": "\\ud800"}',
    "invalid UTF-8": b'{"id": "b", "prompt": "\xff"}',
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows(tmp_path, name):
    rows = [{"id": "a", "prompt": "x"}, BAD[name], {"id": "c", "prompt": "y"}]
    found = prompts(tmp_path, *rows, allowed=1)
    assert (found.ids, found.bad) == (["a", "c"], 1)
    with pytest.raises(BadRowsError, match=r"prompts\.jsonl:2"):
        prompts(tmp_path, *rows)


def test_no_rows(tmp_path):
    for rows in ([], [b"", b" "]):
        with pytest.raises(InputError, match="no rows"):
            prompts(tmp_path, *rows)
    with pytest.raises(InputError):
        prompts(tmp_path, b"{", allowed="all")


def test_a_limit_that_is_none(tmp_path):
    with pytest.raises(OptionError, match="max_bad_rows"):
        prompts(tmp_path, {"prompt": "x"}, allowed=-1)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_random_files(tmp_path, suffix):
    rng = Random(suffix)
    rows = [{"id": rng.choice([i, str(i), f"id {i}"]), "prompt": random_text(rng)} for i in range(300)]
    path = write(tmp_path / f"prompts{suffix}", b"\xef\xbb\xbf" + jsonl(*rows, end="\r\n"))
    found = read_prompts(path)
    assert found.ids == [str(r["id"]) for r in rows]
    assert [p.opening for p in found.prefixes] == [r["prompt"] for r in rows]


@pytest.mark.parametrize(
    ("more", "bad"),
    [
        ({"images": ["x.png"]}, "images"),
        ({"extra": {"image": "x.png"}}, "extra"),
        ({"photo": {"bytes": None, "path": "x.png"}}, "photo"),
        ({"images": [], "extra": {"image": None}}, None),
        ({"tools": [{"function": {"name": "f", "parameters": {"properties": {"image": {"type": "x"}}}}}]}, None),
    ],
)
def test_a_picture_beside_a_prompt_is_a_bad_row_that_names_its_column(tmp_path, more, bad):
    path = write(tmp_path / "p.jsonl", jsonl({"id": "1", "prompt": "x"}, {"id": "2", "prompt": "y"} | more))
    assert read_prompts(path, 1).ids == (["1"] if bad else ["1", "2"])
    if bad:
        with pytest.raises(BadRowsError, match=rf"column {bad} belongs to the prompt.*p\.jsonl:2"):
            read_prompts(path)
