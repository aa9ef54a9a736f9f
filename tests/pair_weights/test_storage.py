"""The file of pair weights: written like a table of Python lists at once, read without a Python object a row."""

import copy
import io
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making_sections import pair_table

from kat.data.texts import TextColumn, arrow_texts, coded_texts
from kat.errors import InputError
from kat.pair_weights import storage
from kat.pair_weights.storage import COLUMNS, PairWeights, read_pair_weights, write_pair_weights

TEXT = ("pair_id", "opening_id", "src", "split", "left_out")


def written_at_once(table, row_group):
    """The bytes of a file whose strings went through lists, all rows in one table."""
    columns = {}
    for name in COLUMNS:
        values = getattr(table, name)
        if values is None:
            continue
        if name in TEXT:
            columns[name] = pa.array([v if v or name not in storage._NULLS else None for v in values], pa.string())
        elif name in storage._INTEGERS:
            mask = values == storage._NULLS[name] if name in storage._NULLS else None
            columns[name] = pa.array(values.astype(storage._INTEGERS[name]), mask=mask)
        else:
            columns[name] = pa.array(values.astype(np.float64), mask=np.isnan(values))
    file = io.BytesIO()
    rows = pa.table(columns).replace_schema_metadata({"kat": "{}"})
    pq.write_table(rows, file, compression="zstd", row_group_size=row_group)
    return file.getvalue()


def written(table):
    file = io.BytesIO()
    write_pair_weights(table, file, "{}")
    return file.getvalue()


def some_table(pairs, **more):
    """A table of which some pairs are left out."""
    one = pair_table(openings=max(pairs // 2, 1), pairs=pairs)
    out = np.arange(pairs) % 7 == 3
    one.split[out], one.left_out[out] = "", "é"
    for name in ("u", "v"):
        getattr(one, name)[out] = np.nan
    return replace(one, bin=np.where(out, -1, one.bin), **more)


def compact(table):
    """The same table with its strings in columns of text."""
    held = {"pair_id": arrow_texts(table.pair_id), "opening_id": arrow_texts(table.opening_id).coded()}
    held["src"] = arrow_texts(table.src).coded()
    for name, names in (("split", ["", "train", "validation"]), ("left_out", ["", "other", "é"])):
        held[name] = coded_texts(np.asarray([names.index(one) for one in getattr(table, name)], np.int8), names)
    return replace(table, **held)


@pytest.mark.parametrize("pairs", [10, 1024, 5000])
@pytest.mark.parametrize("row_group", [1024, 1 << 20])
def test_a_file_has_the_bytes_of_a_table_written_at_once(pairs, row_group, monkeypatch):
    monkeypatch.setattr(storage, "_ROW_GROUP", row_group)
    plain = some_table(pairs, cluster=np.arange(pairs) % 4 - 1)
    assert written(plain) == written(compact(plain)) == written_at_once(plain, row_group)
    empty = replace(plain, **{name: getattr(plain, name)[:0] for name in COLUMNS})
    assert written(empty) == written_at_once(empty, row_group)


def test_a_file_of_several_blocks_has_them_too():
    plain = some_table(150_000)
    assert written(compact(plain)) == written_at_once(plain, 1 << 20)


def test_strings_are_made_when_they_are_read(tmp_path):
    plain = some_table(40)
    (tmp_path / "w.parquet").write_bytes(written(plain))
    held = read_pair_weights(tmp_path / "w.parquet")
    for table in (held, compact(plain)):
        for copied in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table), table):
            assert all(isinstance(copied.text(name), TextColumn) for name in TEXT)
            assert copied.training_weights() == plain.training_weights()
            assert list(copied.training_weights()) == list(plain.training_weights())
            assert copied.draw_weights() == plain.draw_weights()
            assert list(copied.draw_weights()) == sorted(set(plain.opening_id[plain.split != ""]))
            assert isinstance(copied.__dict__["pair_id"], TextColumn)  # none of it asked for an array
            for name in TEXT:
                assert getattr(copied, name).dtype == object
                assert getattr(copied, name).tolist() == getattr(plain, name).tolist() == list(copied.text(name))
                assert getattr(copied, name) is getattr(copied, name)
            with pytest.raises(FrozenInstanceError):
                copied.pair_id = plain.pair_id
    held.pair_id[1] = "another"  # an array that was read is what counts
    assert held.text("pair_id")[1] == replace(held).pair_id[1] == "another"


def test_ids_of_every_type_of_string_are_read(tmp_path):
    plain = some_table(40)
    rows = pq.read_table(io.BytesIO(written(plain)))
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        cast = rows
        for name in TEXT:
            cast = cast.set_column(cast.column_names.index(name), name, rows[name].cast(kind))
        pq.write_table(cast, tmp_path / "w.parquet")
        held = read_pair_weights(tmp_path / "w.parquet")
        assert [getattr(held, name).tolist() for name in TEXT] == [getattr(plain, name).tolist() for name in TEXT]


def test_bytes_that_are_no_text_are_refused(tmp_path):
    rows = pq.read_table(io.BytesIO(written(some_table(10))))
    bad = pa.array([b"\xff" * 2] * 10, pa.binary()).view(pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("src"), "src", bad), tmp_path / "w.parquet")
    with pytest.raises(InputError, match="is no parquet file, or damaged"):
        read_pair_weights(tmp_path / "w.parquet")


def test_the_columns_are_those_of_the_record():
    assert set(TEXT) == set(storage._TEXT)
    assert PairWeights.__dataclass_fields__["cluster"].default is None
