"""Numbers in files whose cells are text, and of types that are not Python's: the same pairs as from JSON lines."""

import csv
import json
from decimal import Decimal
from random import Random

import numpy as np
import pytest
from making import jsonl, write

from kat import read_pairs
from kat.config import ReadOptions
from kat.data.readers.values import plain as plain_value
from kat.data.scores import number_in_text
from kat.errors import BadRowsError

ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}


def table(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def said(path, **options):
    """All that a file's scores and margins come to: the pairs with their margins, and what was counted."""
    reader = read_pairs(path, "all", ReadOptions(**options))
    pairs = [(p.prefix.opening, p.chosen, p.rejected, p.margin) for p in reader]
    bad = {reason: n for reason, (n, _) in reader.bad_rows.counts.items()}
    return pairs, bad, reader.stats.kept, reader.stats.dropped


@pytest.mark.parametrize("choice", ["error", "keep", "swap", "drop"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_scores_and_margins_of_a_table_of_text_are_those_of_json(tmp_path, suffix, delimiter, choice):
    rng = Random(4)
    names = ["score_chosen", "score_rejected", "chosen_rating", "rejected_rating", "margin"]
    numbers = [None, 0, 3, -2, 1.5, -0.25, 1e-7, 1e22, 2**62, 2**62 + 1]
    rows = [
        ROW | {"prompt": f"q{i}", "chosen": f"a{i}"} | {name: rng.choice(numbers) for name in names} for i in range(400)
    ]
    lines = write(tmp_path / "p.jsonl", jsonl(*rows))
    want = said(lines, score_conflict=choice)
    assert len(want[0]) > 100
    assert said(table(tmp_path / f"p{suffix}", rows, delimiter), score_conflict=choice) == want


@pytest.mark.parametrize(
    "number", ["5", "+5", "-5", "0.5", ".5", "5.", "1e3", "-1.5E-3", " 2 ", "007", "1" + "0" * 400]
)
def test_texts_that_are_numbers(number):
    assert number_in_text("margin", number) == (float(number) if len(number) < 300 else int(number))


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_cell_holds_no_number(text):
    assert number_in_text("margin", text) is None


@pytest.mark.parametrize("name", ["margin", "score_chosen", "chosen_rating"])
@pytest.mark.parametrize(
    "text", ["n/a", "nan", "inf", "-Infinity", "1e999", "0,5", "1_000", "٣", "five", "[1]", "1" * 5000]
)
def test_a_text_that_is_no_number_is_a_bad_row_naming_column_value_and_place(tmp_path, name, text):
    more = {name: "1", name.replace("chosen", "rejected"): "0.5"}
    path = table(tmp_path / "p.csv", [ROW | more, ROW | more | {name: text}, ROW | more])
    with pytest.raises(BadRowsError) as caught:
        list(read_pairs(path))
    shown = ascii(text)[1:-1][:30]
    assert f"column {name} holds '{shown}" in str(caught.value)
    assert f"no finite number (--drop_columns {name}), first at {path}:3" in str(caught.value)
    assert len(list(read_pairs(path, options=ReadOptions(drop_columns=name)))) == 3


def test_renamed_columns_and_other_columns(tmp_path):
    path = table(tmp_path / "p.csv", [ROW | {"delta": "0.5", "score_model": "gpt", "margin_note": "x"}])
    [pair] = read_pairs(path, options=ReadOptions(columns="margin=delta"))
    assert pair.margin == 0.5


def test_many_different_values_are_not_all_listed(tmp_path):
    path = table(tmp_path / "p.csv", [ROW | {"margin": f"v{i}"} for i in range(200)] + [ROW | {"margin": 1}] * 900)
    with pytest.raises(BadRowsError, match="and 180 other reasons") as caught:
        list(read_pairs(path))
    assert len(str(caught.value).splitlines()) < 25
    assert len(caught.value.counts) == 200
    path = table(tmp_path / "all.csv", [ROW | {"margin": "n/a"}] * 200)  # and what is wrong is not the format
    with pytest.raises(BadRowsError, match="Say what to do with the others: --drop_columns margin"):
        list(read_pairs(path))


def test_decimals_and_half_floats_of_a_table(tmp_path):
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq

    scores = [("1.50", "4.25"), ("4.25", "1.50"), (None, "1.00"), ("-3.00", "-7.75")]
    columns = {name: [f"{value}{i}" for i in range(4)] for name, value in ROW.items()}
    kinds = [pa.decimal128(6, 2), pa.decimal256(40, 2), pa.float16()]
    rows = [
        {name: values[i] for name, values in columns.items()}
        | {"id": i, "score_chosen": x and float(x), "score_rejected": float(y), "margin": float(x or 0) - float(y)}
        for i, (x, y) in enumerate(scores)
    ]
    want = said(write(tmp_path / "p.jsonl", jsonl(*rows)), score_conflict="swap")
    assert [margin for *_, margin in want[0]] == [2.75, 2.75, -1.0, 4.75]
    for kind in kinds:
        number = (lambda x: x and np.float16(x)) if kind == pa.float16() else (lambda x: x and Decimal(x))
        made = pa.table(
            columns
            | {
                "id": pa.array([Decimal(i) for i in range(4)], pa.decimal128(5, 0)),
                "score_chosen": pa.array([number(x) for x, _ in scores], kind),
                "score_rejected": pa.array([number(y) for _, y in scores], kind),
                "margin": pa.array([number(str(row["margin"])) for row in rows], kind),
            }
        )
        pq.write_table(made, tmp_path / "p.parquet")
        pyarrow.feather.write_feather(made, tmp_path / "p.arrow")
        for name in ("p.parquet", "p.arrow"):
            assert said(tmp_path / name, score_conflict="swap") == want, (kind, name)
            assert [p.id for p in read_pairs(tmp_path / name, options=ReadOptions(score_conflict="keep"))] == list(
                "0123"
            )


def test_numbers_inside_of_something_become_plain_ones():
    odd = {"a": [Decimal("1.5"), np.float16(0.5), {"b": np.int64(3), "c": Decimal(7)}], "t": "text", "n": None}
    plain = plain_value(odd)
    assert plain == {"a": [1.5, 0.5, {"b": 3, "c": 7}], "t": "text", "n": None}
    assert json.dumps(plain) == '{"a": [1.5, 0.5, {"b": 3, "c": 7}], "t": "text", "n": null}'
