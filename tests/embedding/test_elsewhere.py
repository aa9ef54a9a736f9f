"""Vectors of others: every form gives what NumPy made of them, and a row without a density is named by its id."""

import json
import pickle

import numpy as np
import pytest

from kat.embedding.storage import load_embeddings
from kat.errors import InputError, MismatchError

IDS = [f"t{i}" for i in range(60)]


@pytest.fixture
def vectors():
    x = np.random.default_rng(4).normal(size=(60, 8)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def parquet(path, vectors, kind, id_name="id", vector_name="embedding", ids=IDS):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {vector_name: pa.array(list(vectors), kind)} | ({id_name: ids} if id_name else {})
    pq.write_table(pa.table(columns), path, row_group_size=17)
    return path


def same(path, ids, vectors):
    embeddings, origin = load_embeddings(path)
    assert list(embeddings.ids) == ids
    np.testing.assert_array_equal(np.asarray(embeddings.vectors), vectors)
    return origin


def test_npy_with_ids_beside_it_and_without(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors)
    assert same(tmp_path / "x.npy", [str(i) for i in range(60)], vectors)["ids"] == "row numbers"
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    assert "ids" not in same(tmp_path / "x.npy", IDS, vectors)
    (tmp_path / "ids.json").write_text(json.dumps(IDS[:-1]))
    with pytest.raises(MismatchError, match="59 ids for 60 rows"):
        load_embeddings(tmp_path / "x.npy")


@pytest.mark.parametrize("width", [-1, 8])
@pytest.mark.parametrize("number", ["float32", "float64", "float16"])
@pytest.mark.parametrize("names", [("id", "embedding"), ("id", "vector"), ("opening_id", "emb")])
def test_parquet_of_lists(tmp_path, vectors, width, number, names):
    import pyarrow as pa

    given = vectors.astype(number)
    path = parquet(tmp_path / "x.parquet", given, pa.list_(pa.type_for_alias(number), width), *names)
    same(path, IDS, given)


def test_parquet_without_ids_and_with_numbers(tmp_path, vectors):
    import pyarrow as pa

    kind = pa.list_(pa.float32())
    origin = same(parquet(tmp_path / "a.parquet", vectors, kind, None), [str(i) for i in range(60)], vectors)
    assert origin["ids"] == "row numbers"
    same(
        parquet(tmp_path / "b.parquet", vectors, kind, ids=range(100, 160)), [str(i) for i in range(100, 160)], vectors
    )


def test_what_is_no_table_of_vectors_is_said(tmp_path, vectors):
    import pyarrow as pa

    kind = pa.list_(pa.float32())
    with pytest.raises(MismatchError, match=r"columns values, id.*embedding, vector"):
        load_embeddings(parquet(tmp_path / "a.parquet", vectors, kind, vector_name="values"))
    ragged = [v[: 7 if i == 3 else 8] for i, v in enumerate(vectors)]
    with pytest.raises(MismatchError, match="row 3 has 7 numbers, and the first 8"):
        load_embeddings(parquet(tmp_path / "b.parquet", ragged, kind))
    with pytest.raises(MismatchError, match="no id in row 5"):
        load_embeddings(parquet(tmp_path / "c.parquet", vectors, kind, ids=[*IDS[:5], None, *IDS[6:]]))
    with pytest.raises(MismatchError, match="of string; expected a list of numbers"):
        load_embeddings(parquet(tmp_path / "d.parquet", ["x"] * 60, pa.string()))
    with pytest.raises(InputError, match="does not exist"):
        load_embeddings(tmp_path / "none.npy")


def test_no_message_advises_to_unpickle(tmp_path, vectors):
    import torch

    (tmp_path / "a.pt").write_bytes(pickle.dumps({"ids": IDS, "emb": vectors}))
    torch.save({"ids": IDS, "emb": vectors.astype(object)}, tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"hello")
    (tmp_path / "d.pt").write_bytes(b"")
    np.save(tmp_path / "e.npy", vectors.astype(object), allow_pickle=True)
    torch.save({"names": IDS, "emb": torch.tensor(vectors)}, tmp_path / "f.pt")
    torch.save(torch.tensor(vectors), tmp_path / "g.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(MismatchError, match=path.name) as caught:
            load_embeddings(path)
        text = str(caught.value)
        assert not any(word in text for word in ("weights_only", "allow_pickle", "torch.load", "Re-running")), text
    with pytest.raises(MismatchError, match="the keys names, emb"):
        load_embeddings(tmp_path / "f.pt")


@pytest.mark.parametrize("suffix", ["pt", "npy", "parquet"])
def test_bad_rows_are_named_by_id_and_can_be_left_out(tmp_path, vectors, suffix, kat_cli):
    import pyarrow as pa
    import torch

    vectors[7], vectors[9], vectors[30] = np.nan, 0, np.inf
    path = tmp_path / f"x.{suffix}"
    if suffix == "pt":
        torch.save({"ids": IDS, "emb": torch.tensor(vectors)}, path)
    elif suffix == "npy":
        np.save(path, vectors)
        (tmp_path / "ids.json").write_text(json.dumps(IDS))
    else:
        parquet(path, vectors, pa.list_(pa.float32()))
    message = kat_cli("density", path, "--out", tmp_path / "d").failed()
    assert "3 unusable vectors of 60" in message
    assert "--max_bad_rows all" in message
    for row, word in ((7, "NaN"), (9, "zeros"), (30, "infinity")):
        assert any(f"id t{row}:" in line and word in line for line in message.splitlines())
    assert kat_cli("density", path, "--out", tmp_path / "d", "--max_bad_rows", "2").rc == 2
    ran = kat_cli("density", path, "--out", tmp_path / "d", "--max_bad_rows", "all")
    assert ran.rc == 0, ran.stderr
    assert "left out 3 vectors" in ran.stdout
    kept = [i for n, i in enumerate(IDS) if n not in (7, 9, 30)]
    assert json.loads((tmp_path / "d" / "ids.json").read_bytes()) == kept
    assert kat_cli("verify", tmp_path / "d").rc == 0
    # Weights are those of the rows without them.
    good = [i not in (7, 9, 30) for i in range(60)]
    torch.save({"ids": kept, "emb": torch.tensor(vectors[good])}, tmp_path / "good.pt")
    assert kat_cli("density", tmp_path / "good.pt", "--out", tmp_path / "g").rc == 0
    both = (np.load(tmp_path / name / "density_weights.npy") for name in "dg")
    np.testing.assert_array_equal(*both)


def test_a_row_of_zeros_is_a_vector_where_distances_are_euclidean(tmp_path, vectors, kat_cli):
    vectors[9] = 0
    np.save(tmp_path / "x.npy", vectors.astype(np.float64))
    ran = kat_cli("density", tmp_path / "x.npy", "--out", tmp_path / "d", "--metric", "euclidean")
    assert ran.rc == 0, ran.stderr
    assert "ids are row numbers" in ran.stdout
    assert kat_cli("verify", tmp_path / "d").rc == 0


def test_other_ids_beside_the_vectors_are_another_input(tmp_path, vectors, kat_cli):
    np.save(tmp_path / "x.npy", vectors)
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    assert kat_cli("density", tmp_path / "x.npy", "--out", tmp_path / "d").rc == 0
    (tmp_path / "ids.json").write_text(json.dumps(IDS[::-1]))
    assert "another embeddings" in kat_cli("density", tmp_path / "x.npy", "--out", tmp_path / "d").failed()
