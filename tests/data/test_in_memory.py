"""Rows and texts that a caller holds: read as the same rows in JSON lines are, whatever holds them."""

import json
from collections import namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest
from making import hh, turn

import kat
from kat.config import ReadOptions
from kat.data.in_memory import texts_in_memory
from kat.errors import BadRowsError, FormatError, InputError, OptionError

N = 7


def talk(i, answer):
    return [turn("user", f"question {i}"), turn("assistant", answer)]


FORMATS = {
    "trl-explicit": [
        {"id": f"p{i}", "prompt": f"question {i}", "chosen": "yes", "rejected": "no", "margin": None if i % 2 else 0.5}
        for i in range(N)
    ],
    "trl-implicit": [{"chosen": talk(i, "yes"), "rejected": talk(i, "no"), "src": f"s{i % 2}"} for i in range(N)],
    "kat": [
        {
            "prefix": {"messages": [turn("system", "Be brief."), turn("user", f"q {i}")]},
            "chosen": "yes",
            "rejected": "no",
        }
        for i in range(N)
    ],
    "ultrafeedback": [
        {
            "prompt": f"question {i}",
            "chosen": talk(i, "yes"),
            "rejected": talk(i, "no"),
            "score_chosen": 5.0 + i,
            "score_rejected": 2.5,
            "id": 2**62 + i,
        }
        for i in range(N)
    ],
    "hh": [
        {"chosen": hh(("Human", f"q {i}"), ("Assistant", "y")), "rejected": hh(("Human", f"q {i}"), ("Assistant", "n"))}
        for i in range(N)
    ],
    "question": [
        {"question": f"q {i}", "response_j": "yes", "response_k": "no", "date": None if i == 3 else f"2020-01-0{i + 1}"}
        for i in range(N)
    ],
}


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def frame(rows):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(rows, index=[f"row {i}" for i in range(len(rows))][::-1])


def table(rows):
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def dataset(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


def parquet(rows, folder):
    import pyarrow.parquet as pq

    pq.write_table(table(rows), folder / "rows.parquet", row_group_size=3)
    return folder / "rows.parquet"


def parquet_dataset(rows, folder):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_parquet(str(parquet(rows, folder)), cache_dir=str(folder / "cache"))


def parquet_frame(rows, folder):
    return pytest.importorskip("pandas").read_parquet(parquet(rows, folder))  # lists are arrays of dicts


def polars_frame(rows, _):
    return pytest.importorskip("polars").DataFrame(rows)


@dataclass
class Record:
    """A row as a record of a caller's own."""

    prompt: str
    chosen: str
    rejected: str


class Interchange:
    """What has nothing but the protocol of data frames."""

    def __init__(self, held):
        self.held = held

    def __dataframe__(self, **options):
        return self.held.__dataframe__(**options)


HOLDERS = {
    "list": lambda rows, _: rows,
    "tuple": lambda rows, _: tuple(rows),
    "generator": lambda rows, _: (row for row in rows),
    "columns": lambda rows, _: columns(rows),
    "records": lambda rows, _: [namedtuple("Row", rows[0])(**row) for row in rows],
    "frame": lambda rows, _: frame(rows),
    "table": lambda rows, _: table(rows),
    "batches": lambda rows, _: table(rows).to_reader(max_chunksize=2),
    "dataset": lambda rows, _: dataset(rows),
    "parquet-dataset": parquet_dataset,
    "parquet-frame": parquet_frame,
    "polars": polars_frame,
    "iterable-dataset": lambda rows, _: dataset(rows).to_iterable_dataset(),
    "torch-dataset": lambda rows, _: dataset(rows).with_format("numpy"),
}


def of_lines(rows, folder, max_bad_rows=0, options=None):
    """What a file of the rows gives: `rows` as JSON has them."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return kat.read_pairs(path, max_bad_rows, options)


def listed(reader):
    """The pairs, a source that the row does not name left out: a file's is its name."""
    return [replace(pair, src="") if pair.src in ("memory", "rows.jsonl") else pair for pair in reader]


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_those_of_json_lines(name, holder, tmp_path):
    rows = FORMATS[name]
    reader, lines = kat.read_pairs(HOLDERS[holder](rows, tmp_path)), of_lines(rows, tmp_path)
    pairs, expected = listed(reader), listed(lines)
    assert pairs == expected
    assert [pair.row for pair in pairs] == list(range(1, N + 1))
    theirs = {name: n for name, n in lines.stats.sources.items() if name != "rows.jsonl"}
    assert replace(reader.stats, sources=theirs) == replace(lines.stats, sources=theirs)
    assert reader.stats.format == name


def test_selections_keep_their_order_and_formats_do_not_matter(tmp_path):
    rows = FORMATS["trl-implicit"]
    chosen = dataset(rows).select([5, 1, 3]).with_format("numpy")
    assert listed(kat.read_pairs(chosen)) == listed(of_lines([rows[i] for i in (5, 1, 3)], tmp_path))


def test_the_protocol_of_data_frames_is_enough(tmp_path):
    rows = FORMATS["hh"]
    assert listed(kat.read_pairs(Interchange(table(rows)))) == listed(of_lines(rows, tmp_path))


def test_what_is_missing_is_null(tmp_path):
    pandas = pytest.importorskip("pandas")
    missing = [
        None,
        float("nan"),
        np.float32("nan"),
        np.datetime64("NaT"),
        pandas.NaT,
        pandas.NA,
        pandas.Timestamp("NaT"),
    ]
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [row | {"margin": value, "system": value, "tools": value, "note": [value]} for value in missing]
    lines = [row | {"margin": None, "system": None, "tools": None, "note": [None]} for _ in missing]
    expected = listed(of_lines(lines, tmp_path))
    assert listed(kat.read_pairs(rows)) == expected
    assert listed(kat.read_pairs(columns(rows))) == expected
    floats = [row | {"margin": float("nan")} for _ in range(3)]
    for held in (frame(floats), table(floats), dataset(floats)):
        assert [pair.margin for pair in kat.read_pairs(held)] == [None] * 3
    nullable = frame([row] * 3).assign(margin=pandas.array([1, None, 3], "Int64"))
    assert [pair.margin for pair in kat.read_pairs(nullable)] == [1.0, None, 3.0]


def test_numbers_and_arrays_of_numpy(tmp_path):
    row = {"chosen": "a", "rejected": "b"}
    held = [
        row | {"id": np.int64(7), "prompt": np.str_("q"), "margin": np.float32(0.5), "tools": np.array([{"f": 1}])},
        row | {"id": np.uint8(8), "prompt": np.array([turn("user", "q")], object), "margin": np.array(2), "tools": ()},
    ]
    plain = [
        row | {"id": 7, "prompt": "q", "margin": 0.5, "tools": [{"f": 1}]},
        row | {"id": 8, "prompt": [turn("user", "q")], "margin": 2, "tools": []},
    ]
    assert listed(kat.read_pairs(held)) == listed(of_lines(plain, tmp_path))


def test_dataclasses_are_records(tmp_path):
    rows = [{"prompt": f"q {i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    records = [Record(**row) for row in rows]
    assert listed(kat.read_pairs(records)) == listed(of_lines(rows, tmp_path))
    assert texts_in_memory(records, "prompt", "encode") == ["q 0", "q 1", "q 2"]


def test_times_are_iso_text():
    pandas = pytest.importorskip("pandas")
    rows = frame([{"prompt": f"q {i}", "chosen": "a", "rejected": "b"} for i in range(2)])
    rows = rows.assign(src=pandas.to_datetime(["2020-01-02", None]))
    assert [pair.src for pair in kat.read_pairs(rows)] == ["2020-01-02T00:00:00", "memory"]
    held = {**columns(rows.to_dict("records")), "src": np.array(["2020-01-02", "NaT"], "datetime64[ns]")}
    assert [pair.src[:10] for pair in kat.read_pairs(held)] == ["2020-01-02", "memory"]


def test_categories_are_what_they_stand_for(tmp_path):
    rows = [row | {"src": f"s{i % 2}"} for i, row in enumerate(FORMATS["trl-explicit"])]
    expected = listed(of_lines(rows, tmp_path))
    assert listed(kat.read_pairs(frame(rows).astype({"src": "category", "chosen": "category"}))) == expected
    coded = table(rows)
    coded = coded.set_column(coded.schema.names.index("src"), "src", coded["src"].dictionary_encode())
    assert listed(kat.read_pairs(coded)) == expected
    assert listed(kat.read_pairs({**columns(rows), "src": coded["src"]})) == expected


BAD = [
    {"prompt": "q", "chosen": "same", "rejected": "same"},
    {"prompt": " ", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "chosen": "", "rejected": "b"},
    {"prompt": "q", "chosen": None, "rejected": "b"},
    {"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("inf")},
    {"prompt": "q", "chosen": "a\ud800", "rejected": "b"},
    {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
    {"prompt": "q", "chosen": "a", "rejected": "b", "image": "x.png"},
    {"prompt": "q", "chosen": "a", "rejected": "b", "id": 1.5},
    {"prompt": "q", "chosen": "x" * 2000, "rejected": "b"},
    {"query": "q"},
]


def test_bad_rows_are_bad_for_the_same_reasons(tmp_path):
    rows = [*FORMATS["trl-explicit"], *BAD]
    options = ReadOptions(max_line_bytes=1000)
    reader, lines = kat.read_pairs(rows, "all", options), of_lines(rows, tmp_path, "all", options)
    assert listed(reader) == listed(lines)
    assert {why: n for why, (n, _) in reader.bad_rows.counts.items()} == {
        why: n for why, (n, _) in lines.bad_rows.counts.items()
    }
    assert [first for _, first in reader.bad_rows.counts.values()] == [
        f"row {first.rpartition(':')[2]} of the list" for _, first in lines.bad_rows.counts.values()
    ]
    assert reader.stats.bad == len(BAD)


def test_a_limit_holds_and_its_error_speaks_python():
    rows = [*FORMATS["trl-explicit"], BAD[0], BAD[6]]
    assert len(list(kat.read_pairs(frame(rows), max_bad_rows=2))) == N
    with pytest.raises(BadRowsError) as error:
        list(kat.read_pairs(frame(rows), max_bad_rows=1))
    said = str(error.value)
    assert "row 8 of the DataFrame" in said
    assert "ReadOptions score_conflict keep, swap or drop" in said
    assert 'max_bad_rows="all"' in said
    assert "--" not in said
    assert "written" not in said


def test_what_is_no_dict_is_a_bad_row():
    rows = [*FORMATS["trl-explicit"], None, "text"]
    with pytest.raises(BadRowsError, match="no dict but a NoneType, first at row 8 of the generator"):
        list(kat.read_pairs(row for row in rows))
    assert len(list(kat.read_pairs(rows, max_bad_rows=2))) == N
    with pytest.raises(FormatError, match="the generator holds no dict to read in its first 3 rows; row 1"):
        list(kat.read_pairs(None for _ in range(3)))


def test_values_that_json_lacks():
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    with pytest.raises(BadRowsError, match="column margin holds a complex, which JSON has nothing for"):
        list(kat.read_pairs([row, row | {"margin": 1j}]))
    reader = kat.read_pairs([row | {"note": object(), "blob": [b"x"]}])  # nobody reads these
    assert len(list(reader)) == 1
    assert set(reader.stats.unread) == {"note", "blob"}
    assert [pair.chosen for pair in kat.read_pairs([row | {"chosen": b"bytes"}])] == ["bytes"]
    with pytest.raises(BadRowsError, match="invalid UTF-8"):
        list(kat.read_pairs([row, row | {"chosen": b"\xff"}]))


def test_pictures_are_refused_and_can_be_dropped():
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [row | {"photo": {"bytes": b"\x89PNG", "path": "x.png"}}]
    for held in (rows, table(rows), dataset(rows), frame(rows)):
        with pytest.raises(BadRowsError, match=r"column photo belongs to the prompt .*ReadOptions drop_columns photo"):
            list(kat.read_pairs(held))
        assert len(list(kat.read_pairs(held, options=ReadOptions(drop_columns="photo")))) == 1


@pytest.mark.parametrize("holder", ["frame", "table", "dataset", "columns", "polars"])
def test_an_empty_frame_holds_no_rows(holder, tmp_path):
    rows = FORMATS["trl-explicit"]
    if holder == "columns":
        held = {name: [] for name in rows[0]}
    elif holder == "dataset":
        held = dataset(rows).select([])
    else:
        held = HOLDERS[holder](rows, tmp_path)[:0]
    with pytest.raises(FormatError, match=f"the {type(held).__name__} holds no rows"):
        list(kat.read_pairs(held))


def test_no_rows_at_all():
    for held in ([], {}, pytest.importorskip("pandas").DataFrame()):
        with pytest.raises(FormatError, match="holds no rows"):
            list(kat.read_pairs(held))


def test_columns_are_renamed_as_those_of_files_are(tmp_path):
    rows = [{"ask": f"q {i}", "good": "a", "poor": "b"} for i in range(3)]
    options = ReadOptions(columns="prompt=ask,chosen=good,rejected=poor")
    expected = listed(of_lines(rows, tmp_path, options=options))
    for held in (rows, frame(rows), table(rows), dataset(rows), columns(rows)):
        assert listed(kat.read_pairs(held, options=options)) == expected
        with pytest.raises(FormatError, match=r"row 1 has the keys ask, good, poor(?s:.*)ReadOptions") as error:
            list(kat.read_pairs(held))
        assert "--" not in str(error.value)
    with pytest.raises(InputError, match="the DataFrame has no column asks; its columns are ask, good, poor"):
        list(kat.read_pairs(frame(rows), options=ReadOptions(columns="prompt=asks")))


def test_paths_stay_paths(tmp_path):
    rows = FORMATS["trl-explicit"]
    for name, part in (("a.jsonl", rows[:3]), ("b.jsonl", rows[3:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for named in (files, tuple(files), [str(file) for file in files], str(tmp_path), tmp_path):
        assert [pair.id for pair in kat.read_pairs(named)] == [row["id"] for row in rows]
    with pytest.raises(InputError, match="does not exist"):
        kat.read_pairs([str(tmp_path / "c.jsonl")])


def test_what_cannot_be_rows():
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(train=dataset(FORMATS["hh"]), test=dataset(FORMATS["hh"]))
    with pytest.raises(InputError, match=r"splits: train, test\. Pass one: data\['train'\]"):
        kat.read_pairs(splits)
    with pytest.raises(InputError, match="got bytes"):
        kat.read_pairs(b"{}")
    with pytest.raises(InputError, match="got an int"):
        kat.read_pairs(3)
    with pytest.raises(InputError, match="holds a str under prompt; expected columns"):
        kat.read_pairs(BAD[0])
    with pytest.raises(InputError, match="different lengths: prompt 2, chosen 1"):
        kat.read_pairs({"prompt": ["a", "b"], "chosen": ["c"]})
    with pytest.raises(InputError, match=r"kat\.Pair already"):
        list(kat.read_pairs(list(kat.read_pairs(FORMATS["hh"]))))
    twice = pytest.importorskip("pandas").DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(InputError, match="names the column a twice"):
        kat.read_pairs(twice)
    with pytest.raises(OptionError, match=r"read_pairs has no option 'max_bad_row'\. Did you mean max_bad_rows\?"):
        kat.read_pairs(FORMATS["hh"], max_bad_row=3)


def test_rows_are_no_pairs_yet():
    for held, said in (
        (FORMATS["hh"], "a list whose item 1 is a dict"),
        (frame(FORMATS["hh"]), "a DataFrame whose item 1"),
    ):
        with pytest.raises(InputError, match=f"unique_prefixes was given {said}.*kat.read_pairs"):
            kat.unique_prefixes(held)
    with pytest.raises(InputError, match="train_reward_model was given a list whose item 1 is a dict"):
        kat.train_reward_model(FORMATS["hh"])
    with pytest.raises(InputError, match="unique_prefixes was given an int"):
        kat.unique_prefixes(3)
    assert len(kat.unique_prefixes(kat.read_pairs(frame(FORMATS["hh"])))) == N


TEXTS = [{"text": f"text {i}", "n": i} for i in range(3)]


@pytest.mark.parametrize("holder", sorted(HOLDERS.keys() - {"torch-dataset"}))
def test_texts_of_a_column(holder, tmp_path):
    held = HOLDERS[holder](TEXTS, tmp_path)
    assert texts_in_memory(held, "text", "encode") == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("holder", ["columns", "frame", "table", "dataset", "polars"])
def test_a_table_needs_the_name_of_a_column(holder, tmp_path):
    held = HOLDERS[holder](TEXTS, tmp_path)
    with pytest.raises(InputError, match=r'columns text, n; name that of the texts: column="text"'):
        kat.encode(held)
    with pytest.raises(InputError, match=r"has no column 'txt'\. Did you mean text\? Its columns are text, n"):
        kat.encode(held, column="txt")
    with pytest.raises(InputError, match=r"row 1 of the .*, column n, is an int; expected text"):
        kat.encode(held, column="n")


def test_texts_by_themselves():
    texts = ["a", "b"]
    pandas, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for held in (
        tuple(texts),
        (t for t in texts),
        np.array(texts),
        pandas.Series(texts, index=[5, 9]),
        pa.array(texts),
    ):
        assert texts_in_memory(held, None, "encode") == texts
    assert texts_in_memory(pa.chunked_array([["a"], ["b"]]), None, "encode") == texts
    assert texts_in_memory(dataset(TEXTS)["text"], None, "encode") == ["text 0", "text 1", "text 2"]


def test_series_of_polars():
    assert texts_in_memory(pytest.importorskip("polars").Series(["a", "b"]), None, "encode") == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "column", "said"),
    [
        ("text", None, r"given a str; .*For one text: \[text\]"),
        (b"text", None, "given a bytes"),
        (3, None, "given an int"),
        ({"a": "b"}, None, r"holds a str under a; .*list\(data\.values\(\)\)"),
        (["a", None], None, r"row 2 of the list is missing \(None\)"),
        (["a", float("nan")], None, r"row 2 of the list is missing \(nan\)"),
        ([["a"]], None, "row 1 of the list is a list; expected text"),
        ([b"a"], None, "row 1 of the list is a bytes; expected text"),
        ([{"text": "a"}], None, "row 1 of the list is a dict of text; .*column="),
        (["a"], "text", "row 1 of the list is a str; expected a dict"),
        ([{"text": "a"}], "txt", r"row 1 of the list has no column 'txt'\. Did you mean text\?"),
        ({"text": ["a", None]}, "text", r"row 2 of the dict, column text, is missing"),
    ],
)
def test_what_cannot_be_texts(given, column, said):
    with pytest.raises(InputError, match=said):
        kat.encode(given, column=column)
    with pytest.raises(InputError, match=said):
        kat.Encoder().encode(given, column=column)


def test_pairs_splits_and_missing_texts_are_named():
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"is a Pair; .*kat\.unique_prefixes"):
        kat.encode(kat.read_pairs(FORMATS["hh"]))
    with pytest.raises(InputError, match="splits: train"):
        kat.encode(datasets.DatasetDict(train=dataset(TEXTS)), column="text")
    with pytest.raises(InputError, match="row 2 of the Series is missing"):
        kat.encode(pandas.Series(["a", None, "b"]))
    with pytest.raises(InputError, match="row 1 of the generator is missing"):
        kat.encode(None for _ in range(2))


def test_nothing_is_imported_that_was_not_passed(python):
    code = (
        "import sys, kat\n"
        "from kat.data.in_memory import texts_in_memory\n"
        "rows = [{'prompt': 'q', 'chosen': 'a', 'rejected': 'b'}]\n"
        "columns = {n: [v] for n, v in rows[0].items()}\n"
        "assert len(list(kat.read_pairs(rows))) == len(list(kat.read_pairs(columns))) == 1\n"
        "assert texts_in_memory(rows, 'prompt', 'encode') == ['q']\n"
        "print(sorted({'pandas', 'polars', 'datasets', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    ran = python("-c", code)
    assert ran.rc == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
