"""Files to rows: formats, places, faults by name, and bytes that come through unchanged."""

import contextlib
import gzip
import json
from random import Random

import pytest
from making import jsonl, random_text, write, zstd

from kat.data.rows import BadRows, Row, parse_line, read_rows
from kat.errors import BadRowsError, InputError

FORMATS = [".jsonl", ".jsonl.gz", ".jsonl.zst"]


def read(path):
    return list(read_rows(path))


@pytest.mark.parametrize("suffix", FORMATS)
def test_same_rows_from_every_text_format(tmp_path, suffix):
    rows = [{"n": i, "text": "“curly” é漢😀\0\u2028" * i} for i in range(200)]
    path = write(tmp_path / f"rows{suffix}", jsonl(*rows))
    found = read(path)
    assert [r.value for r in found] == rows
    assert [r.number for r in found] == list(range(1, 201))


def test_same_rows_from_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"n": i, "messages": [{"role": "user", "content": f"“{i}”"}]} for i in range(2500)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    found = read(path)
    assert [r.value for r in found] == rows
    assert [r.number for r in found] == list(range(1, 2501))
    assert [json.loads(r.raw) for r in found] == rows


def test_compressed_files_in_several_parts_are_read_to_the_end(tmp_path):
    one, two = jsonl({"n": 1}), jsonl({"n": 2})
    for name, data in (("a.jsonl.gz", gzip.compress(one) + gzip.compress(two)), ("a.jsonl.zst", zstd(one) + zstd(two))):
        path = tmp_path / name
        path.write_bytes(data)
        assert [r.value["n"] for r in read(path)] == [1, 2]


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_file_has_no_rows(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    path.write_bytes(b"")
    assert read(path) == []
    assert read(write(tmp_path / f"blank{suffix}", b"\n\r\n  \n")) == []


def test_byte_order_mark_line_ends_and_blank_lines_are_silent(tmp_path):
    rows = [{"n": i} for i in range(4)]
    plain = read(write(tmp_path / "plain.jsonl", jsonl(*rows)))
    for name, data in {
        "bom": b"\xef\xbb\xbf" + jsonl(*rows),
        "crlf": jsonl(*rows, end="\r\n"),
        "bom_crlf": b"\xef\xbb\xbf" + jsonl(*rows, end="\r\n"),
        "no_last_end": jsonl(*rows).rstrip(),
    }.items():
        assert read(write(tmp_path / f"{name}.jsonl", data)) == plain, name
    spaced = read(write(tmp_path / "spaced.jsonl", b"\n  \n" + jsonl(*rows, end="\n\r\n\t\n")))
    assert [r.value for r in spaced] == rows
    assert [r.number for r in spaced] == [3, 6, 9, 12]  # places count blank lines, as editors do


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    rows = [{"t": "a\u2028b\u2029c\u0085d\u000be\u000cf"}]
    assert [r.value for r in read(write(tmp_path / "x.jsonl", jsonl(*rows)))] == rows


FAULTS = {
    b'{"a": NaN}': "NaN",
    b'{"a": -Infinity}': "Infinity",
    b'{"a": Infinity}': "Infinity",
    b'{"a": "\\ud83d"}': "surrogate",
    b'{"\\udc00": 1}': "surrogate",
    b'{"a": ["\\ude00\\ud83d"]}': "surrogate",
    b'{"a": "\xff"}': "UTF-8",
    b'{"a": "\xed\xa0\x80"}': "UTF-8",
    "é".encode("latin-1"): "UTF-8",
    b'{"a": 1': "JSON",
    b"{'a': 1}": "JSON",
    b'{"a": "raw \x00 NUL"}': "JSON",
    b'{"a": 1} {"b": 2}': "JSON",
    b"hello": "JSON",
    b"[" * 5000 + b"]" * 5000: "JSON",
    b'{"a":' * 5000 + b"1" + b"}" * 5000: "JSON",
    b"[]": "object",
    b'"text"': "object",
    b"3": "object",
    b"null": "object",
}


@pytest.mark.parametrize("line", FAULTS, ids=lambda b: repr(b[:24]))
def test_a_fault_is_named_and_its_bytes_are_kept(line):
    row = parse_line(7, line + b"\n")
    assert row.value is None
    assert FAULTS[line] in row.fault
    assert (row.number, row.raw) == (7, line)


def test_a_cut_last_line_is_called_so():
    whole = '{"a": "“curly”"}'.encode()
    for end in range(1, len(whole)):
        row = parse_line(2, whole[:end])
        assert row.value is None
        assert row.fault in ("cut last line", "invalid UTF-8")  # a cut may split a character
    assert parse_line(2, whole).value == {"a": "“curly”"}
    assert parse_line(2, whole[:8] + b"\n").fault != "cut last line"


def test_a_pair_of_surrogates_is_a_character():
    assert parse_line(1, b'{"a": "\\ud83d\\ude00"}\n').value == {"a": "\U0001f600"}


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_integers_of_64_bits_stay_exact(number):
    assert parse_line(1, b'{"id": %d}\n' % number).value == {"id": number}


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30 + 1])
def test_longer_integers_stay_exact(number):
    value = parse_line(1, b'{"id": %d}\n' % number).value
    assert value == {"id": number}
    assert isinstance(value["id"], int)


def test_random_lines_good_and_bad(tmp_path):
    """What is good and what is bad is known from how each line was made."""
    rng = Random(11)
    faults = list(FAULTS)
    for trial in range(20):
        data, want = b"", []
        for number in range(1, 60):
            kind = rng.random()
            if kind < 0.6:
                value = {random_text(rng): random_text(rng, 30), "n": rng.choice([1, 1.5, None, True, [], {}])}
                line = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8")
                want.append((number, value))
            elif kind < 0.8:
                line = rng.choice(faults)
                want.append((number, None))
            else:
                line = rng.choice([b"", b"  ", b"\t"])
            data += line + rng.choice([b"\n", b"\r\n"])
        path = write(tmp_path / f"{trial}{rng.choice(FORMATS)}", data)
        assert [(r.number, r.value) for r in read(path)] == want


def test_it_streams(tmp_path):
    """The first rows arrive before the damaged end is met, whose place the error does not hide."""
    rng = Random(3)
    rows = [{"n": i, "noise": rng.randbytes(400).hex()} for i in range(20_000)]
    packed = gzip.compress(jsonl(*rows), 1)
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    stream = iter(read_rows(path))
    assert next(stream).value == rows[0]
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz"):
        list(stream)


def damaged(data: bytes, rng: Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(3):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_damage_is_an_input_error(tmp_path, suffix):
    rows = [{"n": i, "t": "text " * (i % 7)} for i in range(3000)]
    good = write(tmp_path / f"good{suffix}", jsonl(*rows)).read_bytes()
    path = tmp_path / f"bad{suffix}"
    rng, errors = Random(5), 0
    for spoilt in [good[:-20], good[: len(good) // 2], *(damaged(good, rng) for _ in range(40))]:
        path.write_bytes(spoilt)
        try:
            read(path)
        except InputError as error:
            errors += str(path) in str(error)
    assert errors >= 20


def parquet_file(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "good.parquet"
    pq.write_table(pa.table({name: [f"{name[0]}{i}" for i in range(500)] for name in ("prompt", "chosen")}), path)
    return path


def test_a_file_that_is_no_parquet_is_an_input_error(tmp_path):
    good = parquet_file(tmp_path).read_bytes()
    path = tmp_path / "bad.parquet"
    for spoilt in (b"", b"hello", good[:-1], good[: len(good) // 2], b"PAR1" + b"\0" * 50 + b"PAR1"):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"bad\.parquet"):
            read(path)


def test_a_damaged_parquet_page_is_an_input_error(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"prompt": ["one", "two", "three"] * 50}), path, compression="none")
    good = path.read_bytes()
    for place in range(4, 120):  # the first pages: dictionary, then the places in it
        path.write_bytes(good[:place] + b"\xff" + good[place + 1 :])
        with contextlib.suppress(InputError):
            read(path)


def test_parquet_text_that_is_no_utf8_is_a_bad_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"fine", b"\xff"], pa.binary())
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 2, raw.buffers())})
    pq.write_table(table, tmp_path / "x.parquet")
    good, bad = read(tmp_path / "x.parquet")
    assert good.value == {"prompt": "fine"}
    assert (bad.value, bad.fault) == (None, "invalid UTF-8")


def test_a_missing_file_names_near_ones(tmp_path):
    (tmp_path / "pairs_all.jsonl").touch()
    with pytest.raises(InputError, match=r"pairs_al\.jsonl does not exist.*pairs_all\.jsonl"):
        read_rows(tmp_path / "pairs_al.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without"):
        read_rows(tmp_path / "empty")


def test_a_pipe_is_not_said_to_be_missing(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / "pipe.jsonl")
    assert "does not exist" not in str(caught.value)


def test_a_compressed_file_under_a_plain_name_is_recognised_or_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(jsonl({"n": 1})))
    try:
        found = [r.value for r in read(path)]
    except InputError as error:
        found = "gzip" in str(error) or ".gz" in str(error)
    assert found in ([{"n": 1}], True)


class TestBadRows:
    def bad(self, limit, reasons, tmp_path, sink=None):
        rows = BadRows(tmp_path / "f.jsonl", limit, sink)
        for number, reason in enumerate(reasons, 1):
            rows.add(Row(number, b"raw", None), reason)
        return rows

    @pytest.mark.parametrize("limit", [0, 1, 2, 3, "all"])
    def test_the_limit_is_the_number_allowed(self, limit, tmp_path):
        rows = self.bad(limit, ["a", "b", "a"], tmp_path)
        if limit == "all" or limit >= 3:
            rows.check()
        else:
            with pytest.raises(BadRowsError):
                rows.check()

    def test_none_is_no_error(self, tmp_path):
        self.bad(0, [], tmp_path).check()

    def test_one_line_a_reason_with_count_and_first_place(self, tmp_path):
        with pytest.raises(BadRowsError) as caught:
            self.bad(0, ["odd", "even", "odd"], tmp_path).check()
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert sum("odd" in line for line in lines) == 1
        assert f"2 × odd, first at {tmp_path / 'f.jsonl'}:1" in lines
        assert f"1 × even, first at {tmp_path / 'f.jsonl'}:2" in lines
        assert caught.value.counts == {"odd": (2, f"{tmp_path}/f.jsonl:1"), "even": (1, f"{tmp_path}/f.jsonl:2")}

    def test_the_sink_gets_rows_unchanged(self, tmp_path):
        import base64

        got = []
        rows = BadRows(tmp_path / "f.jsonl", "all", got.append)
        rows.add(Row(3, '{"a": "“\\ud800”"'.encode(), None), "cut")
        rows.add(Row(9, b"\xff\xfe", None), "bytes")
        first, second = map(json.loads, got)
        assert first == {"file": str(tmp_path / "f.jsonl"), "line": 3, "reason": "cut", "raw": '{"a": "“\\ud800”"'}
        assert (second["line"], base64.b64decode(second["raw"])) == (9, b"\xff\xfe")
        assert second["raw_encoding"] == "base64"


def test_a_fault_with_an_option_of_its_own_names_it(kat_cli, tmp_path):
    """Where most rows have one fault, what is advised fits it: an option, a conversion, or a look at the row."""
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "image": "x.png"} for i in range(5)]
    said = kat_cli("prefixes", write(tmp_path / "p.jsonl", jsonl(*rows)), "--out", tmp_path / "o.jsonl").failed()
    assert "Say what to do with the others: --drop_columns image" in said
    assert "--max_bad_rows" not in said
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "a"} for i in range(5)]
    said = kat_cli("prefixes", write(tmp_path / "p.jsonl", jsonl(*rows)), "--out", tmp_path / "o.jsonl").failed()
    assert f"Look at {tmp_path / 'p.jsonl'}:1 and convert the file." in said


def test_bad_rows_are_said_to_be_in_a_file_only_where_one_is_written(tmp_path):
    advice = []
    for sink in (None, [].append):
        bad = BadRows(tmp_path / "pairs.jsonl", 0, sink)
        bad.add(Row(3, b"{", None), "no JSON")
        with pytest.raises(BadRowsError) as raised:
            bad.check()
        advice.append(str(raised.value))
    assert ["OUT.rejected.jsonl" in one for one in advice] == [False, True]
    assert all("--max_bad_rows all" in one for one in advice)
