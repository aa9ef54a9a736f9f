"""Rows to parquet: what is written is what was given, whatever the first rows hold."""

import pyarrow.parquet as pq

from kat.integrations.files import BATCH, PLAIN, write_parquet


def test_weights_that_are_null_at_first_are_numbers_later(tmp_path):
    """A source may begin with more validation pairs than are written at a time."""
    rows = [{"pair_id": f"p{i}", "weight": None, "split": "validation"} for i in range(BATCH + 10)]
    rows += [{"pair_id": "t", "weight": 1.5, "split": "train"}]
    write_parquet(tmp_path / "w.parquet", rows, PLAIN)
    assert pq.read_table(tmp_path / "w.parquet").to_pylist() == rows


def test_no_rows_make_no_file(tmp_path):
    write_parquet(tmp_path / "none.parquet", [], PLAIN)
    assert not (tmp_path / "none.parquet").exists()
