"""A key that stands twice in one object, against the json module, which hands over every pair of key and value."""

import json
from random import Random

import pytest
from making import jsonl, random_text, read_prompts, turn, write

from kat import read_pairs
from kat.data.repeated_keys import _may_repeat, repeated_key
from kat.data.rows import parse_line, read_rows
from kat.errors import BadRowsError, InputError


def repeats(text):
    """Whether a key stands twice, by the json module."""
    repeated = []

    def keep(pairs):
        repeated.extend(pairs[: len(pairs) - len({key for key, _ in pairs})])
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return bool(repeated)


PIECES = ['"', '":', '" :', "\\", '\\":', "{", "}", ",", ":", "é", "😀", "\n", "\\u0022", "key", "[", "\0"]


class Writer:
    """Writes random JSON by hand: any spaces, any escapes, and now and then a key that stood before."""

    def __init__(self, seed, share):
        self.rng, self.share = Random(seed), share

    def space(self):
        return self.rng.choice(["", "", "", " ", "\t", "  "])

    def string(self, text):
        written = json.dumps(text, ensure_ascii=self.rng.random() < 0.5)
        if self.rng.random() < 0.2:
            written = '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 128 else c for c in text) + '"'
        return written

    def text(self):
        return "".join(self.rng.choice(PIECES) for _ in range(self.rng.randrange(5))) + random_text(self.rng, 4)

    def value(self, depth=0):
        kind = self.rng.random()
        if depth < 4 and kind < 0.25:
            return self.object(depth + 1)
        if depth < 4 and kind < 0.4:
            return "[" + ",".join(self.value(depth + 1) for _ in range(self.rng.randrange(3))) + "]"
        return self.string(self.text()) if kind < 0.8 else self.rng.choice(["null", "3", "1.5e3", "true", str(10**30)])

    def object(self, depth=0):
        keys = list(dict.fromkeys(self.text() for _ in range(self.rng.randrange(6))))
        if keys and self.rng.random() < self.share:
            keys.insert(self.rng.randrange(len(keys) + 1), self.rng.choice(keys))
        items = [f"{self.string(k)}{self.space()}:{self.space()}{self.value(depth)}" for k in keys]
        return "{" + f"{self.space()},{self.space()}".join(items) + "}"


@pytest.mark.parametrize("share", [0, 0.1])
def test_random_objects_against_the_json_module(share):
    counts = [0, 0]
    for seed in range(4_000):
        text = Writer(seed, share).object()
        row = parse_line(1, text.encode() + b"\n")
        assert row.fault is None or "stands twice" in row.fault, text
        assert (row.fault is not None) == repeats(text), text
        counts[row.fault is not None] += 1
    assert counts[0] > 2_000
    assert (counts[1] > 500) == bool(share)


def test_lines_of_ordinary_writers_do_not_need_the_walk():
    """What is fast stays fast: no text without an escaped quote by number is suspected for nothing."""
    rng = Random(1)
    for _ in range(500):
        value = {random_text(rng): {'":': random_text(rng, 40), '" :': ['{"a": 1, "a": 2}', rng.random()]}}
        for text in (
            json.dumps(value),
            json.dumps(value, ensure_ascii=False, indent=2),
            json.dumps(value, separators=(" , ", " : ")),
        ):
            if "\\u0022" not in text:
                assert not _may_repeat(text.encode(), json.loads(text))


def test_an_object_nested_deeper_than_python_walks():
    text = '{"a": ' * 1000 + '{"b": 1, "b": 2}' + "}" * 1000
    assert repeated_key(text.encode(), None) == "b"
    assert repeated_key(text.replace('"b": 2', '"c": 2').encode(), None) is None


GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}
TOP = '{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}'
NESTED = '{"prompt": [{"role": "user", "content": "x", "content": "y"}], "chosen": "c", "rejected": "d"}'


@pytest.mark.parametrize(("line", "key"), [(TOP, "prompt"), (NESTED, "content")], ids=["top", "nested"])
def test_a_bad_row_that_names_the_key_its_place_and_what_to_do(tmp_path, line, key):
    good = GOOD if key == "prompt" else GOOD | {"prompt": [turn("user", "q")]}
    path = write(tmp_path / "p.jsonl", jsonl(good, line, good | {"chosen": "z"}))
    with pytest.raises(BadRowsError, match=rf"1 × the key '{key}' stands twice.*rename or remove.*p\.jsonl:2"):
        list(read_pairs(path))
    reader = read_pairs(path, 1)
    assert [p.row for p in reader] == [1, 3]
    assert reader.stats.bad == 1


def test_in_an_array_in_prompts_and_in_a_file_of_nothing_else(tmp_path):
    path = write(tmp_path / "p.json", f"[\n{json.dumps(GOOD)},\n{TOP}\n]\n".encode())
    good, bad = read_rows(path)
    assert (good.value, bad.value, bad.number, bad.line) == (GOOD, None, 2, 3)
    assert "'prompt' stands twice" in bad.fault
    prompts = write(tmp_path / "q.jsonl", b'{"id": "1", "prompt": "x"}\n{"id": "2", "prompt": "x", "prompt": "y"}\n')
    assert read_prompts(prompts, 1).ids == ["1"]
    with pytest.raises(BadRowsError, match="'prompt' stands twice"):
        read_prompts(prompts)
    with pytest.raises(InputError, match="line 1: the key 'prompt' stands twice"):
        list(read_pairs(write(tmp_path / "only.jsonl", jsonl(TOP))))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_inside_a_conversation_held_as_text(tmp_path, suffix):
    import csv

    prompts = [json.dumps([turn("user", f"q{i}")]) for i in range(3)]
    prompts[1] = '[{"role": "user", "content": "x", "content": "y"}]'
    rows = [GOOD | {"prompt": prompt} for prompt in prompts]
    path = tmp_path / f"p{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(GOOD))
            writer.writeheader()
            writer.writerows(rows)
    else:
        write(path, jsonl(*rows))
    reader = read_pairs(path, "all")
    assert [p.prefix.opening for p in reader] == ["q0", "q2"]
    assert ["prompt: the key 'content' stands twice" in reason for reason in reader.bad_rows.counts] == [True]


def test_inside_tools_and_calls_held_as_text(tmp_path):
    tools = '[{"type": "function", "function": {"name": "f", "name": "g"}}]'
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1, "x": 2}}'}
    talk = [{"from": "human", "value": "q"}, call]
    for row, key in (
        (GOOD | {"tools": tools}, "tools: the key 'name'"),
        ({"conversations": talk, "chosen": "a", "rejected": "b"}, "function_call: the key 'x'"),
    ):
        with pytest.raises(BadRowsError, match=key):
            list(read_pairs(write(tmp_path / "p.jsonl", jsonl(row))))


def test_a_key_of_any_length_and_characters_is_shown_safely(tmp_path):
    key = json.dumps("\x1b[31m" + "k" * 500)
    fault = parse_line(1, f"{{{key}: 1, {key}: 2}}\n".encode()).fault
    assert fault.isascii()
    assert "\x1b" not in fault
    assert len(fault) < 250
