"""A line, a record and an item have a limit in memory; one bad value of a table is one bad row; depth has an end."""

import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from making import jsonl

from kat.config import MAX_LINE_BYTES, ReadOptions, RunOptions
from kat.data.completions import CompletionReader
from kat.data.pairs import PairReader, read_pairs
from kat.data.prompts import PromptFile
from kat.data.readers.bounded import LongLine, bounded_lines
from kat.data.rows import read_rows
from kat.errors import BadRowsError, InputError, OptionError
from kat.evaluation.scores import read_scores

ROOT = Path(__file__).parents[2]
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def faults(rows):
    return [(row.number, row.line, row.fault, row.value) for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_lines_against_splitting_all_of_it(seed):
    rng = Random(seed)
    limit = rng.choice((1, 5, 50))
    data = b"".join(
        b"x" * rng.choice((0, 1, limit - 1, limit, limit + 1, 3 * limit)) + rng.choice((b"\n", b"\r\n", b"\r"))
        for _ in range(50)
    )
    data = data[: -rng.randrange(1, 3)]
    begun = rng.randrange(len(data.split(b"\n")[0]) + 1)
    lines = list(bounded_lines(io.BytesIO(data[begun:]), limit, data[:begun]))
    for line, whole in zip(lines, io.BytesIO(data).readlines(), strict=True):
        long = len(whole[:-2] + whole[-2:].rstrip(b"\r\n")) > limit
        assert isinstance(line, LongLine) == long
        assert long or line == whole


def long_rows(n=9, long=(2, 5), size=500):
    return [PAIR | {"n": i, "chosen": "x" * (size if i in long else 3)} for i in range(n)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_long_row_is_a_bad_one_and_the_others_are_read(tmp_path, kind, indent):
    rows = long_rows()
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(
            json.dumps(rows, indent=indent) if kind == "json" else "".join(json.dumps(r) + "\n" for r in rows)
        )
    read = list(read_rows(path, 300))
    assert [row.fault for row in read] == [
        "line longer than 300 bytes (--max_line_bytes)" if i in (2, 5) else None for i in range(9)
    ]
    assert [int(row.value["n"]) for row in read if row.value] == [0, 1, 3, 4, 6, 7, 8]
    whole = list(read_rows(path))
    assert [(row.number, row.line) for row in read] == [(row.number, row.line) for row in whole]


def test_an_item_of_many_chunks_is_passed_over(tmp_path, monkeypatch):
    """Strings with quotes and backslashes at every place of a chunk's end."""
    from kat.data.readers import arrays

    monkeypatch.setattr(arrays, "_CHUNK", 7)
    monkeypatch.setattr(arrays, "_LARGEST_CHUNK", 16)
    rng = Random(4)
    rows = [{"n": i, "t": "".join(rng.choice('a"\\[]{},\n') for _ in range(rng.choice((3, 90))))} for i in range(200)]
    items = [json.dumps(row) for row in rows]
    path = tmp_path / "x.json"
    path.write_text("[" + ",\n".join(items) + "]")
    read = list(read_rows(path, 60))
    assert [row.value for row in read] == [
        row if len(item) <= 60 else None for row, item in zip(rows, items, strict=True)
    ]
    assert [row.line or row.number for row in read] == list(range(1, 201))
    assert any(row.fault for row in read)


def test_a_record_whose_quote_is_never_closed_ends_at_the_limit(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('prompt,chosen,rejected\nq,"a,b\n' + "q,a,b\n" * 200)
    read = list(read_rows(path, 100))
    assert "longer than 100" in read[0].fault
    assert read[0].number == 2
    assert [row.value for row in read[1:]] == [PAIR] * len(read[1:])
    assert len(read) > 150


def test_blank_lines_before_and_between(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n" * 3000 + json.dumps(PAIR) + "\n" * 3000 + json.dumps(PAIR) + "\n")
    assert [row.number for row in read_rows(path)] == [3001, 6001]


BOMB = """
import resource, sys
from pathlib import Path
from kat.data.rows import read_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = list(read_rows(Path(sys.argv[1]), 10_000_000))
assert [bool(r.fault) for r in rows] == eval(sys.argv[2]), [r.fault for r in rows]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_a_bomb_is_never_held(tmp_path, name):
    """300 MB in one line, of 30 kB: beyond the limit of 10 MB no more than some buffers are taken."""
    start, end = {
        "x.jsonl": (b'{"a":"', b'"}\n{}\n'),
        "x.json": (b'[{"a":"', b'"},{}]'),
        "x.csv": (b'a,b\n1,2\n"', b'",1\n1,2\n'),
    }[name]
    path = tmp_path / f"{name}.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(start)
        for _ in range(300):
            out.write(b"x" * 1_000_000)
        out.write(end)
    expected = [False, True, False] if name == "x.csv" else [True, False]
    argv = [sys.executable, "-c", BOMB, str(path), str(expected)]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 90


def test_every_reader_has_the_limit(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(jsonl(*long_rows(4, (1,))))
    assert len(list(read_pairs(path, 1, ReadOptions(max_line_bytes=300)))) == 3
    with pytest.raises(BadRowsError, match=r"p.jsonl:2"):
        list(read_pairs(path, 0, ReadOptions(max_line_bytes=300)))
    assert len(PromptFile(path, "all", max_line_bytes=300)) == 1  # the others repeat the first
    assert len(PromptFile(path, "all").without) == 0
    path.write_bytes(jsonl(*({"prompt": "q", "completion": "x" * n} for n in (9, 400))))
    reader = CompletionReader(path, "all", max_line_bytes=300)
    assert (len(list(reader)), reader.bad) == (1, 1)
    path.write_bytes(jsonl(*({"id": str(n), "chosen": 1, "rejected": 0, "text": "x" * n} for n in (9, 400))))
    assert read_scores(path, "all", max_line_bytes=300).ids == ["9"]
    whole = tmp_path / "bench.json"
    whole.write_text(json.dumps({"id": ["a" * 400], "scores_chosen": [1], "scores_rejected": [0]}))
    with pytest.raises(InputError, match="max_line_bytes"):
        read_scores(whole, max_line_bytes=300)
    for options in (ReadOptions, RunOptions):
        assert options().max_line_bytes == MAX_LINE_BYTES
        with pytest.raises(OptionError, match="max_line_bytes"):
            options(max_line_bytes=0)


DAY = 253_402_300_800  # seconds: the first moment of the year 10,000


def odd_columns():
    """Columns of four rows of which the second cannot be held by Python, by name."""
    words = pa.array(["x"] * 4)
    late = pa.array([0, DAY * 10, 0, 0], pa.int64())
    return {
        "date": (pa.array([0, 2**30, 0, 0], pa.int32()).cast(pa.date32()), [1]),
        "timestamp": (late.view(pa.timestamp("s")), [1]),
        "duration": (pa.array([0, 2**62, 0, 0], pa.int64()).view(pa.duration("s")), [1]),
        "zone": (pa.array([0] * 4, pa.int64()).view(pa.timestamp("s", "Nowhere/City")), [0, 1, 2, 3]),
        "text": (pa.array([b"a", b"\xff", b"c", b"d"]).view(pa.string()), [1]),
        "struct": (pa.StructArray.from_arrays([words, words], ["a", "a"]), [0, 1, 2, 3]),
    }


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("name", list(odd_columns()))
def test_a_value_that_python_cannot_hold_is_a_bad_row_where_it_is_read(tmp_path, name, suffix):
    column, bad = odd_columns()[name]
    path = tmp_path / f"x.{suffix}"
    table = pa.table({k: [f"{v}{i}" for i in range(4)] for k, v in PAIR.items()}).append_column("odd", column)
    write = pq.write_table if suffix == "parquet" else pyarrow.feather.write_feather
    if (name, suffix) == ("struct", "parquet"):
        pytest.skip("parquet has no such type")
    if suffix == "parquet" and name == "duration":
        pq.write_table(table, path, store_schema=True)
    else:
        write(table, path)
    assert len(list(read_pairs(path))) == 4  # nobody needs it
    sunk = []
    reader = PairReader(path, "all", sunk.append, labels=("odd",))
    if len(bad) == 4:
        with pytest.raises(InputError):
            list(reader)
    else:
        assert [pair.row for pair in reader if pair] == [i + 1 for i in range(4) if i not in bad]
        assert [json.loads(line)["line"] for line in sunk] == [i + 1 for i in bad]
        expected = "invalid UTF-8" if name == "text" else "column odd holds a value that Python cannot hold"
        assert expected in json.loads(sunk[0])["reason"]


def test_nanoseconds_without_pandas(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({k: [v + str(i) for i in range(2)] for k, v in PAIR.items()})
    pq.write_table(table.append_column("when", pa.array([0, 1], pa.int64()).view(pa.timestamp("ns"))), path)
    code = (
        "import sys; sys.modules['pandas'] = None\nfrom kat.data.pairs import PairReader\n"
        "print(len(list(PairReader(sys.argv[1]))))\n"
        "r = PairReader(sys.argv[1], 'all', labels=('when',)); print([p.labels for p in r], r.stats.bad)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "2\n", ran.stderr
    assert "FormatError" in ran.stderr
    assert "of type timestamp[ns]" in ran.stderr


def test_what_nobody_needs_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    day = datetime.date(2020, 1, 1)
    pq.write_table(pa.Table.from_pylist([PAIR | {"n": 1, "day": day, "note": "text", "margin": 1.5}]), path)
    asked = []
    inner = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: asked.append(k["columns"]) or inner(*a, **k))
    reader = read_pairs(path)
    [pair] = reader
    # A note may show a picture, and is looked at.
    assert asked
    assert all(set(names) == {*PAIR, "note", "margin"} for names in asked)
    assert (pair.margin, reader.stats.unread) == (1.5, {"n": 1, "day": 1, "note": 1})


@pytest.mark.parametrize("number", ["1" * 400, "9" * 5000, "1e400"])
def test_a_number_that_no_float_holds(tmp_path, number):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"id": "a", "chosen": 1, "rejected": 0}}\n{{"id": "b", "chosen": {number}, "rejected": 0}}\n')
    assert read_scores(path, 1).ids == ["a"]
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR)[:-1] + f', "margin": {number}}}\n')
    assert len(list(read_pairs(path, 1))) == 1


@pytest.mark.parametrize("deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 700 + "1" + "}" * 700])
@pytest.mark.parametrize("where", ["tools", "message", "text", "extra"])
def test_depth_is_one_bad_row_where_it_is_read(tmp_path, deep, where):
    path = tmp_path / "x.jsonl"
    rows = {
        "tools": json.dumps(PAIR)[:-1] + f', "tools": {deep}}}',
        "message": f'{{"prompt": [{{"role": "user", "content": "q", "x": {deep}}}], "chosen": "a", "rejected": "b"}}',
        "text": json.dumps(PAIR | {"tools": deep}),
        "extra": json.dumps(PAIR)[:-1] + f', "extra": {deep}}}',
    }
    good = {"message": {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}}.get(where, PAIR)
    path.write_text(json.dumps(good) + "\n" + rows[where] + "\n")
    harmless = where == "extra" and len(deep) < 10_000
    reader = read_pairs(path, "all")
    assert (len(list(reader)), reader.stats.bad) == ((2, 0) if harmless else (1, 1))
