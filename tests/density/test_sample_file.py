"""A sample holds one id a line, and gives back the same ids."""

import re
from random import Random

import pytest

from kat.density.sample_file import id_line, read_sample
from kat.errors import InputError
from kat.terminal import escaped

ODD = ["", " a", "a ", '"a"', '"', "a\nb", "a\r", "\x1b[2J", "\u2028", "\u202e", "\u3000a", "a\ufeff", "é\tb", "\x85"]


@pytest.mark.parametrize("opening", ["0f3a", "12", "é漢", "a b", 'a"b', "back\\slash", "{}", "👩\u200d💻"], ids=ascii)
def test_an_ordinary_id_stands_as_it_is(opening):
    assert id_line(opening) == f"{opening}\n".encode()


@pytest.mark.parametrize("opening", ODD, ids=ascii)
def test_another_is_a_json_string_in_ascii(opening):
    assert re.fullmatch(rb'"[ -~]*"\n', id_line(opening))


def test_what_is_read_is_what_was_drawn(tmp_path):
    rng = Random(0)
    pieces = [*ODD, "a", "0", "é", "\\", "\\n", "漢", "\u200d", "💻"]
    ids = [*ODD, *("".join(rng.choices(pieces, k=rng.randint(1, 5))) for _ in range(2000))]
    path = tmp_path / "ids.txt"
    path.write_bytes(b"".join(map(id_line, ids)))
    assert read_sample(path) == ids
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(ids)
    assert all(escaped(line) == line for line in lines)


@pytest.mark.parametrize("data", [b'a\n"b\n', b'a\n"b" c\n'])
def test_a_line_that_is_no_id_is_named(tmp_path, data):
    path = tmp_path / "ids.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"ids\.txt:2"):
        read_sample(path)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="kat sample"):
        read_sample(path)
