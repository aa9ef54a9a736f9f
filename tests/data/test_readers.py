"""Every way of writing rows gives the same rows, told by content; json, csv and pandas wrote them."""

import bz2
import csv
import gzip
import io
import json
import lzma
from random import Random

import pytest
from making import jsonl, random_text, zstd

from kat.data.rows import read_rows
from kat.errors import BadRowsError, InputError

ROWS = [{"prompt": f"Why {i}?\nReally, “{i}”?", "chosen": f'a, "b" [{i}]', "rejected": "{\\\t'"} for i in range(300)]
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "": bytes}


def written(path, data):
    path.write_bytes(data)
    return path


def values(path):
    rows = list(read_rows(path))
    assert [r.fault for r in rows if r.fault] == []
    return [r.value for r in rows]


def csv_text(rows, delimiter=",", end="\r\n"):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def array_lines(rows):
    return "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n"


TEXTS = {
    "jsonl": jsonl(*ROWS).decode(),
    "array": json.dumps(ROWS),
    "pretty": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "array_lines": array_lines(ROWS),
    "commas_first": "[" + "\n, ".join(map(json.dumps, ROWS)) + "]",
    "csv": csv_text(ROWS),
    "tsv": csv_text(ROWS, "\t", "\n"),
}
SUFFIX = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl"}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_any_kind_in_any_encoding(tmp_path, kind, encoding):
    path = tmp_path / f"x{SUFFIX.get(kind, '.json')}"
    assert values(written(path, TEXTS[kind].encode(encoding))) == ROWS


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["x", "x.jsonl", "x.txt"])
def test_kinds_and_compression_are_told_by_content(tmp_path, kind, packed, name):
    assert values(written(tmp_path / name, PACK[packed](TEXTS[kind].encode()))) == ROWS


def test_lines_of_rows_are_where_an_editor_shows_them(tmp_path):
    for kind in ("pretty", "array_lines", "csv", "tsv", "jsonl"):
        text = TEXTS[kind].replace("\r\n", "\n")
        path = written(tmp_path / f"{kind}{SUFFIX.get(kind, '.json')}", text.encode())
        lines = text.split("\n")
        for n, row in enumerate(read_rows(path)):
            line = lines[(row.line or row.number) - 1]
            shown = {"pretty": "  {", "csv": f'"Why {n}?', "tsv": f'"Why {n}?'}.get(kind, f'{{"prompt": "Why {n}?')
            assert line.startswith(shown), (kind, n, line)
            assert row.number == (n + 1 if kind not in ("csv", "tsv") else row.number)
    assert [r.number for r in read_rows(tmp_path / "array_lines.json")] == list(range(1, 301))


def test_random_arrays_with_faults_against_the_json_module(tmp_path):
    rng = Random(2)
    faults = {'{"a": NaN}': "NaN", "3": "object", '"text"': "object", "[1, [2, {}]]": "object", "{'a': 1}": "JSON"}
    for trial in range(60):
        items, want = [], []
        for _ in range(rng.randrange(1, 30)):
            if rng.random() < 0.8:
                value = {random_text(rng): random_text(rng, 40), "m": [{"b": ["]", "}", '"'], "n": rng.random()}]}
                indent = rng.choice([None, 1, 4])
                items.append(json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=indent))
                want.append((value, None))
            else:
                items.append(fault := rng.choice(list(faults)))
                want.append((None, faults[fault]))
        items.insert(0, '{"first": 1}')  # an array of objects is told by its first
        want.insert(0, ({"first": 1}, None))
        space = rng.choice(["", " ", "\n", "\r\n  "])
        text = f"{space}[{space}{f'{space},{space}'.join(items)}{space}]{space}"
        rows = list(read_rows(written(tmp_path / f"{trial}.json", text.encode())))
        assert [r.number for r in rows] == list(range(1, len(want) + 1))
        for row, (value, fault) in zip(rows, want, strict=True):
            assert row.value == value
            assert (fault or "") in (row.fault or "")


def test_an_array_is_streamed_also_in_one_line(tmp_path, monkeypatch):
    import kat.data.readers.arrays as arrays

    monkeypatch.setattr(arrays, "_CHUNK", 1000)
    rows = [{"n": i, "text": "x" * (i % 1700) + '"\\' * (i % 7)} for i in range(900)]
    data = json.dumps(rows).encode()
    path = written(tmp_path / "x.json.gz", gzip.compress(data, 1))
    assert values(path) == rows
    cut = written(tmp_path / "cut.json", data[: len(data) // 2] + b"\0" * 100)
    stream = read_rows(cut)
    assert next(stream).value == rows[0]  # though the end is damaged


@pytest.mark.parametrize("end", ["", ",", ' {"prompt": "x", "cho', "]]", '] {"a": 1}', "] trailing"])
def test_an_array_that_is_cut_or_goes_on_is_no_silence(tmp_path, end):
    rows = list(read_rows(written(tmp_path / "x.json", (json.dumps(ROWS[:3])[:-1] + end).encode())))
    *good, bad = rows
    assert [r.value for r in good] == ROWS[: 3 if end[:1] in (",", "]") else 2]  # else the third is cut
    assert bad.value is None
    assert "cut" in bad.fault or "after the end" in bad.fault


def test_empty_arrays_and_tables_hold_no_rows(tmp_path):
    for name, data in {"a.json": b"[\n]\n", "b.csv": b"", "c.csv": b"prompt,chosen\r\n", "d.json": b"[]"}.items():
        assert list(read_rows(written(tmp_path / name, data))) == [], name


def test_a_list_in_a_file_of_lines_is_a_bad_row_of_it(tmp_path):
    rows = list(read_rows(written(tmp_path / "x.jsonl", b'[{"a": 1}]\n{"a": 2}\n')))
    assert [(r.number, r.value) for r in rows] == [(1, None), (2, {"a": 2})]
    rows = list(read_rows(written(tmp_path / "y.jsonl", b'prompt, chosen\n{"a": 2}\n')))
    assert [(r.number, r.value) for r in rows] == [(1, None), (2, {"a": 2})]


class TestCsv:
    def faults(self, tmp_path, text, name="x.csv"):
        rows = list(read_rows(written(tmp_path / name, text if isinstance(text, bytes) else text.encode())))
        return [(r.number, r.fault) for r in rows]

    def test_random_tables_against_the_csv_module(self, tmp_path):
        rng = Random(8)
        for trial in range(40):
            names = ["prompt", "chosen", "rejected"][: rng.randrange(2, 4)]
            rows = [{n: random_text(rng).replace("\0", "") for n in names} for _ in range(rng.randrange(1, 30))]
            text = csv_text(rows, rng.choice(",;\t"), rng.choice(["\n", "\r\n"]))
            assert values(written(tmp_path / f"{trial}.csv", text.encode())) == rows

    def test_as_pandas_writes_and_reads_it(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(ROWS)
        frame.to_csv(tmp_path / "x.csv", index=False)
        frame.to_csv(tmp_path / "x.tsv", index=False, sep="\t", encoding="utf-16")
        frame.to_json(tmp_path / "x.json", orient="records", indent=1)
        frame.to_csv(tmp_path / "x.csv.bz2", index=False)
        for name in ("x.csv", "x.tsv", "x.json", "x.csv.bz2"):
            assert values(tmp_path / name) == ROWS, name

    def test_a_record_of_another_width_is_a_bad_row(self, tmp_path):
        text = 'prompt,chosen\n"a\nb",c\nd\n\ne,f,g\nh,i\n'
        want = [(2, None), (4, "fewer values than columns"), (6, "more values than columns"), (7, None)]
        assert self.faults(tmp_path, text) == want

    def test_broken_quotes_are_named_with_their_line(self, tmp_path):
        faults = self.faults(tmp_path, 'prompt,chosen\na,b\n"c"d,e\nf,g\n"h,i\nj,k\n')
        assert [n for n, fault in faults if fault] == [3, 5]
        assert "not doubled" in faults[1][1]
        assert "never closed" in faults[-1][1]

    def test_bytes_that_are_no_utf8(self, tmp_path):
        assert self.faults(tmp_path, b"prompt,chosen\na,\xff\nb,c\n") == [(2, "invalid UTF-8"), (3, None)]

    def test_long_values_and_empty_ids(self, tmp_path):
        text = f"id,prompt\n,{'x' * 500_000}\n7,y\n"
        assert values(written(tmp_path / "x.csv", text.encode())) == [
            {"id": None, "prompt": "x" * 500_000},
            {"id": "7", "prompt": "y"},
        ]

    def test_a_column_named_twice(self, tmp_path):
        with pytest.raises(InputError, match=r"x\.csv:1 names the column 'prompt' twice"):
            self.faults(tmp_path, "prompt,prompt\na,b\n")


def test_damaged_compression_is_an_input_error(tmp_path):
    data = jsonl(*ROWS)
    for suffix, pack in PACK.items():
        if not suffix:
            continue
        packed = pack(data)
        for spoilt in (packed[: len(packed) // 2], b"\0\0" + packed[2:], packed[:40] + b"\xff" * 40 + packed[80:]):
            with pytest.raises(InputError, match=r"x\.jsonl"):
                list(read_rows(written(tmp_path / f"x.jsonl.{suffix}", spoilt)))
    with pytest.raises(InputError, match="damaged"):
        list(read_rows(written(tmp_path / "x.jsonl", jsonl(*ROWS).decode().encode("utf-16")[:-1])))


def test_a_lone_surrogate_in_utf16_spoils_its_row_alone(tmp_path):
    text = '{"a": 1}\n{"a": "\ud800"}\n{"a": 3}\n'.encode("utf-16", "surrogatepass")
    rows = list(read_rows(written(tmp_path / "x.jsonl", text)))
    assert [(r.number, r.value) for r in rows] == [(1, {"a": 1}), (2, None), (3, {"a": 3})]


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"PK\x03\x04rest", "unzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"SQLite format 3\0", "sqlite3"),
        (b"\x80\x04\x95", "pickle"),
        (b"name" + b"\0" * 253 + b"ustar\0", "tar xf"),
        (b"\x93NUMPY", "NumPy"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_holds_no_rows_is_named(tmp_path, head, word, pack):
    with pytest.raises(InputError, match=word):
        list(read_rows(written(tmp_path / "x.jsonl", pack(head))))


class TestMostRowsBad:
    """Where one reason holds for most rows, to step over them is no advice."""

    GOOD = b'{"prompt": "p", "chosen": "c", "rejected": "r"}\n'

    @pytest.mark.parametrize(
        ("bad", "word"),
        [
            (b"{'prompt': 'p', 'chosen': 'c', 'rejected': 'r'}\n", "repr"),
            (b'{\n "prompt": "p",\n "chosen": "c",\n "rejected": "r"\n}\n', "jq -c"),
            (b"<html>\n<body>\n</body>\n", "web page"),
            ('{"prompt": "é", "chosen": "c", "rejected": "r"}\n'.encode("latin-1"), "iconv"),
            (b"just words\nand more\n", "text without a format"),
        ],
    )
    def test_the_file_is_named_and_its_conversion(self, tmp_path, bad, word):
        from kat import read_pairs

        for data in (bad * 20 + self.GOOD * 3, bad * 20):
            path = written(tmp_path / "x.jsonl", data)
            with pytest.raises(InputError, match=word) as caught:
                list(read_pairs(path))
            assert "--max_bad_rows" not in str(caught.value)

    @pytest.mark.parametrize(("good", "bad", "advised"), [(9, 3, True), (3, 9, False), (5, 5, True), (0, 1, False)])
    def test_the_advice_follows_the_share(self, tmp_path, good, bad, advised):
        from kat import read_pairs

        path = written(
            tmp_path / "x.jsonl", self.GOOD * good + b'{"prompt": "p", "chosen": "", "rejected": "r"}\n' * bad
        )
        with pytest.raises(BadRowsError) as caught:
            list(read_pairs(path))
        assert ("--max_bad_rows" in str(caught.value)) == advised


class TestTables:
    def table(self, rows, picture=b"x" * 2000):
        import pyarrow as pa

        pictures = [{"bytes": picture, "path": f"{i}.jpg"} for i in range(len(rows))]
        return pa.Table.from_pylist(rows).append_column("image", pa.array(pictures))

    def test_columns_of_bytes_are_named_and_not_read(self, tmp_path):
        import pyarrow as pa
        import pyarrow.feather
        import pyarrow.parquet as pq

        table = self.table(ROWS)
        table = table.append_column("raw", pa.array([bytes(i % 251 for i in range(70_000 + n)) for n in range(300)]))
        table = table.append_column("many", pa.array([[b"x"]] * 300))
        table = table.append_column("deep", pa.array([[{"a": {"b": b"x"}}]] * 300))
        table = table.append_column("margin", pa.array([0.5] * 300))
        pq.write_table(table, tmp_path / "x.parquet", row_group_size=70)
        pyarrow.feather.write_feather(table, tmp_path / "x.arrow")
        with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as out:
            out.write_table(table, max_chunksize=70)
        for name in ("x.parquet", "x.arrow", "stream.arrow"):
            rows = list(read_rows(tmp_path / name))
            assert {r.skipped for r in rows} == {("image", "raw", "many", "deep")}, name
            assert [r.value for r in rows] == [r | {"margin": 0.5} for r in ROWS]
            assert [r.number for r in rows] == list(range(1, 301))

    def test_parquet_under_any_name_and_compressed(self, tmp_path):
        import pyarrow.parquet as pq

        pq.write_table(self.table(ROWS[:5]), tmp_path / "x.jsonl")
        assert values(tmp_path / "x.jsonl") == ROWS[:5]
        written(tmp_path / "x.parquet.gz", gzip.compress((tmp_path / "x.jsonl").read_bytes()))
        with pytest.raises(InputError, match="unpack it first"):
            values(tmp_path / "x.parquet.gz")

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_batch_is_bounded_by_its_bytes(self, tmp_path, shared):
        """Long values, also one that all rows share, which the file holds once: a batch stays near the limit."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from kat.data.readers import tables

        rng = Random(1)
        texts = [("a" if shared else rng.choice("abc")) * 200_000 for _ in range(400)]
        pq.write_table(pa.table({"prompt": texts}), tmp_path / "x.parquet")
        with pq.ParquetFile(tmp_path / "x.parquet") as file:
            sizes = [batch.nbytes for batch in tables._parquet_batches(file, ["prompt"])]
        assert max(sizes) <= 1.1 * tables._MOST_BYTES
        assert values(tmp_path / "x.parquet") == [{"prompt": t} for t in texts]

    def test_damaged_arrow_is_an_input_error(self, tmp_path):
        import pyarrow as pa

        table = pa.Table.from_pylist(ROWS)
        with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as out:
            out.write_table(table, max_chunksize=50)
        good = (tmp_path / "x.arrow").read_bytes()
        for spoilt in (b"", b"hello", good[: len(good) // 2], good[:100]):
            with pytest.raises(InputError, match=r"x\.arrow"):
                list(read_rows(written(tmp_path / "x.arrow", spoilt)))
