"""What is read back is what was written, in the types that embedding-atlas documents."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kat.errors import InputError
from kat.neighbors.find import find_neighbors
from kat.projection import map_file
from kat.projection.map_file import write_map


def written(*args, **kwargs):
    file = io.BytesIO()
    write_map(file, *args, **kwargs)
    file.seek(0)
    return pq.read_table(file)


def test_columns_and_types(monkeypatch):
    monkeypatch.setattr(map_file, "_ROWS", 7)  # several row groups
    rng = np.random.default_rng(0)
    n = 40
    neighbors = find_neighbors(rng.normal(size=(n, 5)), 20)
    xy = rng.normal(size=(n, 2)).astype(np.float32)
    density = rng.normal(size=n)
    density[3] = np.nan
    columns = {"density": density, "bin": np.arange(n) % 4, "source": ["a", None] * (n // 2)}
    table = written([f"{i:016x}" for i in range(n)], ["text"] * n, xy, neighbors=neighbors, columns=columns)
    names = ["id", "text", "projection_x", "projection_y", "density", "bin", "source", "neighbors"]
    assert table.column_names == names
    assert (np.stack([table["projection_x"], table["projection_y"]], axis=1) == xy).all()
    assert table["density"].null_count == 1
    assert table["density"][3].as_py() is None
    assert table["density"][4].as_py() == density[4]
    assert table["source"].to_pylist() == ["a", None] * (n // 2)
    assert table["bin"].type == pa.int64()
    for i, near in enumerate(table["neighbors"].to_pylist()):
        assert near["ids"] == neighbors.indices[i, :15].tolist()
        assert near["distances"] == neighbors.distances[i, :15].tolist()


def test_texts_of_every_kind():
    texts = ["", "</script>\x00\u202e", "\ud800 half", "x" * 400_000]
    table = written(list("abcd"), texts, np.zeros((4, 2)))
    assert table["text"].to_pylist() == ["", "</script>\x00\u202e", "? half", "x" * 400_000]


def test_no_rows_and_compression():
    assert written([], [], np.zeros((0, 2))).num_rows == 0
    file = io.BytesIO()
    write_map(file, ["a"] * 100, ["b"] * 100, np.zeros((100, 2)))
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.skipif(importlib.util.find_spec("embedding_atlas") is None, reason="embedding-atlas is not installed")
def test_embedding_atlas_opens_it(tmp_path):
    """It exports what it would show: the same rows, the coordinates and neighbours under our names."""
    x = np.random.default_rng(0).normal(size=(30, 5))
    with open(tmp_path / "map.parquet", "wb") as file:
        write_map(file, list(map(str, range(30))), ["a text"] * 30, x[:, :2], neighbors=find_neighbors(x, 5))
    names = ["--text", "text", "--x", "projection_x", "--y", "projection_y", "--neighbors", "neighbors"]
    command = [sys.executable, "-m", "embedding_atlas.cli", "map.parquet", *names, "--export-application", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    shown = json.loads((tmp_path / "out" / "data" / "metadata.json").read_text())["props"]["data"]
    assert shown["projection"] == {"x": "projection_x", "y": "projection_y"}
    assert (shown["text"], shown["neighbors"]) == ("text", "neighbors")
    theirs, ours = pq.read_table(tmp_path / "out/data/dataset.parquet"), pq.read_table(tmp_path / "map.parquet")
    assert theirs.select(ours.column_names).to_pylist() == ours.to_pylist()


def test_what_is_refused():
    with pytest.raises(InputError, match="column text of its own"):
        written(["a"], ["b"], np.zeros((1, 2)), columns={"text": ["c"]})
    with pytest.raises(InputError, match="Column density has 2 values; expected 1"):
        written(["a"], ["b"], np.zeros((1, 2)), columns={"density": np.zeros(2)})
    with pytest.raises(InputError, match="one value a row"):
        written(["a"], ["b"], np.zeros((1, 2)), columns={"density": np.zeros((1, 2))})
