"""Prefixes files, read one line at a time."""

import json
from random import Random

import pytest
from making import jsonl, md5_id, random_text, read_jsonl, turn, write

from kat import open_prefixes
from kat.data.prefix_file import prefix_line
from kat.errors import InputError, MismatchError
from kat.records import Prefix


@pytest.fixture
def prefixes():
    rng = Random(13)
    texts = [f"{i} {random_text(rng, 30)}" for i in range(200)]
    return [Prefix(md5_id(text), [turn("user", text)]) for text in texts]


def test_a_mapping_by_id(tmp_path, prefixes):
    path = tmp_path / "prefixes.jsonl"
    path.write_bytes(b"".join(map(prefix_line, prefixes)))
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()] == [p.id for p in prefixes]
    with open_prefixes(path) as file:
        assert len(file) == 200
        assert list(file) == [p.id for p in prefixes]
        for i in Random(0).sample(range(200), 200):
            assert file[prefixes[i].id] == prefixes[i]
        assert "nothing" not in file
        with pytest.raises(KeyError):
            file["nothing"]


def test_a_line_is_id_and_prefix(tmp_path, prefixes):
    path = tmp_path / "prefixes.jsonl"
    path.write_bytes(b"".join(map(prefix_line, prefixes)))
    assert read_jsonl(path) == [{"id": p.id, "prefix": {"messages": p.messages}} for p in prefixes]


def test_bytes_between_lines_do_not_shift_it(tmp_path, prefixes):
    path = tmp_path / "prefixes.jsonl"
    lines = b"\r\n\n \n".join(prefix_line(p).strip() for p in prefixes)
    path.write_bytes(b"\xef\xbb\xbf" + lines)
    with open_prefixes(path) as file:
        assert dict(file) == {p.id: p for p in prefixes}


def test_prompts_and_ids_as_numbers_or_missing(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl({"id": 5, "prompt": "a"}, {"prompt": "b"}))
    with open_prefixes(path) as file:
        assert list(file) == ["5", md5_id("b")]
        assert file["5"].messages == [turn("user", "a")]


def test_an_id_that_appears_twice(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl({"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}))
    with pytest.raises(MismatchError, match=r"p\.jsonl:2.*x"):
        open_prefixes(path)


@pytest.mark.parametrize("line", [b"{", b"3", b'{"id": 1}', b'{"prompt": " "}', b'{"prompt": "\xff"}'], ids=repr)
def test_a_line_that_is_no_prefix(tmp_path, line):
    path = write(tmp_path / "p.jsonl", jsonl({"prompt": "a"}, line))
    with pytest.raises(InputError, match="line 2"):
        open_prefixes(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "x.jsonl.gz", "."])
def test_files_that_cannot_be_read_by_offset(tmp_path, name):
    write(tmp_path / "x.jsonl.gz", jsonl({"prompt": "a"}))
    with pytest.raises(InputError):
        open_prefixes(tmp_path / name)
