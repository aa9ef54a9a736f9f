"""Records that hold arrays: what they say of themselves, when they are equal, and the tables that they become."""

import dataclasses
import html
import pickle
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from kat.array_records import same, span
from kat.density.weights import weigh
from kat.errors import InputError, MismatchError, MissingExtraError
from kat.records import Density, Embeddings, Halves, Neighbors

N, K, D = 6, 2, 4
IDS = [f"id{i}" for i in range(N)]
HOSTILE = ["<script>alert(1)</script>", "\x1b[31mred", "a\nb", "\u202egnp.exe", "\"&'", "x" * 100_000]


def embeddings(ids=IDS, **fields):
    vectors = np.random.default_rng(0).normal(size=(len(ids), D)).astype(np.float32)
    return Embeddings(list(ids), **({"vectors": vectors, "meta": {"name": "minilm", "limit": 512}} | fields))


def neighbors(ids=IDS, **fields):
    rng = np.random.default_rng(1)
    indices = np.array([rng.permutation(len(ids))[:K] for _ in ids])
    distances = np.sort(rng.random((len(ids), K)).astype(np.float32), axis=1)
    halves = Halves(np.arange(2), distances[:2, :1].copy(), distances[2:4, :1].copy())
    whole = {"indices": indices, "distances": distances, "distinct_distances": distances.copy(), "halves": halves}
    whole |= {"multiplicity": np.ones(len(ids), np.int64), "source": embeddings(ids)}
    return Neighbors(list(ids), **(whole | fields))


def density(ids=IDS, **fields):
    values = np.linspace(-1.5, 2, len(ids))
    whole = {"log_values": values, "estimator": "mean_distance", "k": K, "metric": "cosine", "split_half": 0.934}
    return Density(list(ids), **(whole | {"intrinsic_dimension": 5.25, "neighbors": neighbors(ids)} | fields))


def weights(ids=IDS, **fields):
    return weigh(density(ids, **fields), temperature=1.0)


KINDS = {"Weights": weights, "Density": density, "Embeddings": embeddings, "Neighbors": neighbors}
each = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def rows_of(page):
    """The cells of a table as a browser reads them, and the names of all elements."""
    rows, elements = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.append(tag)
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")

        def handle_data(self, data):
            if rows and elements[-1] in ("td", "th"):
                rows[-1][-1] += data

    Reader().feed(page)
    return rows, set(elements)


class TestOneLine:
    def test_it_says_what_matters(self):
        made = weights()
        low, high = made.values.min(), made.values.max()
        ess = 100 * made.values.sum() ** 2 / (made.values**2).sum() / N
        assert repr(made) == f"Weights(6 openings, ESS {ess:.1f}%, T 1 given, w {low:.3g} … {high:.3g})"
        assert repr(dataclasses.replace(made, bound="ess", temperature=4.789)).count("T 4.79 by ess") == 1
        assert repr(density()) == (
            "Density(6 openings, mean_distance, k 2, cosine, dimension 5.25, split-half 0.93, log density -1.5 … 2)"
        )
        assert repr(embeddings()) == "Embeddings(6 × 4, model minilm)"
        half = embeddings(vectors=np.zeros((N, D), np.float64), lost=np.array([0, 3, 0, 0, 0, 0]), meta={})
        assert repr(half) == "Embeddings(6 × 4, float64, 1 text cut off)"
        assert repr(neighbors()) == "Neighbors(6 rows, k 2, cosine, exact)"
        asked = neighbors(targets=[str(i) for i in range(2_000)], recall=0.98)
        assert repr(asked) == "Neighbors(6 queries among 2,000 rows, k 2, cosine, recall 0.98)"
        assert repr(neighbors().halves) == "Halves(2 openings, 1 nearest in each half)"

    @each
    def test_it_is_short_for_a_million_rows(self, make):
        """Ids are not looked at: these cannot be."""

        class Unread(list):
            def __iter__(self):
                raise AssertionError("the ids were read")

            __getitem__ = __repr__ = __iter__

        small = make()
        large = {f.name: getattr(small, f.name) for f in dataclasses.fields(small)}
        for name, value in large.items():
            if isinstance(value, np.ndarray):
                large[name] = np.resize(value, (1_000_000, *value.shape[1:]))
        text = repr(type(small)(**(large | {"ids": Unread()})))
        assert "1,000,000" in text
        assert len(text) < 150
        assert "\n" not in text

    def test_names_are_escaped_and_cut(self):
        text = repr(embeddings(meta={"name": "\x1b[2J\n<b>" + "m" * 10_000}))
        assert "model \\x1b[2J\\n<b>mmm" in text
        assert len(text) < 150
        assert "\\u202e" in repr(density(estimator="\u202ex", metric="a\nb"))

    def test_values_that_are_not_finite_or_not_there(self, recwarn):
        assert span(np.array([np.nan, 3, -1, np.inf])) == "-1 … 3 and 2 not finite"
        assert span(np.array([np.nan])) == "none finite"
        assert span(np.array([])) == "none"
        made = dataclasses.replace(weights(), ids=[], values=np.array([], np.float32), density=None)
        assert repr(made) == "Weights(0 openings, T 1 given, w none)"
        assert made._repr_html_()
        assert not recwarn.list


class TestNotebook:
    @each
    def test_the_table_shows_the_first_rows(self, make):
        record = make()
        rows, elements = rows_of(record._repr_html_())
        assert rows[0] == record.to_arrow().column_names
        assert [row[0] for row in rows[1:]] == [*IDS[:5], "… 1 more"]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert elements == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert html.escape(repr(record)) in record._repr_html_()

    def test_values_stand_beside_their_ids(self):
        made = weights()
        rows, _ = rows_of(made._repr_html_())
        for row, cells in enumerate(rows[1:6]):
            assert float(cells[1]) == pytest.approx(float(made.values[row]), rel=1e-5)
            assert float(cells[2]) == pytest.approx(made.density.log_values[row], rel=1e-5)
        near = neighbors()
        cells = rows_of(near._repr_html_())[0][1]
        assert cells[1] == ", ".join(IDS[i] for i in near.indices[0])
        assert rows_of(embeddings()._repr_html_())[0][1][1].endswith(", … (4)")

    @each
    def test_hostile_ids_are_text(self, make):
        page = make(HOSTILE)._repr_html_()
        rows, elements = rows_of(page)
        assert "script" not in elements
        assert [row[0] for row in rows[1:5]] == [HOSTILE[0], "\\x1b[31mred", "a\\nb", "\\u202egnp.exe"]
        assert not re.search("[\x00-\x1f\u202e]", page)
        assert len(page) < 6_000

    def test_a_neighbour_that_is_no_row_is_shown(self):
        assert "row 77" in neighbors(indices=np.full((N, K), 77))._repr_html_()


class TestEquality:
    @each
    def test_what_holds_the_same_is_equal(self, make):
        assert make() == make()
        assert pickle.loads(pickle.dumps(make())) == make()
        assert make().__ne__(make()) is False

    @each
    def test_each_field_counts(self, make):
        record = make()
        for name in (one.name for one in dataclasses.fields(record)):
            value = getattr(record, name)
            if isinstance(value, np.ndarray):
                other = value.copy()
                other.flat[-1] += 1
            elif isinstance(value, list):
                other = [*value[:-1], "another"]
            elif isinstance(value, dict):
                other = value | {"more": 1}
            else:
                other = "another"
            assert record != dataclasses.replace(record, **{name: other}), name

    @each
    def test_what_lies_deeper_counts(self, make):
        record, other = make(), make()
        deepest = other
        for name in ("density", "neighbors", "halves"):
            deepest = getattr(deepest, name, None) or deepest
        array = next(v for v in vars(deepest).values() if isinstance(v, np.ndarray))
        array.flat[0] += 1
        assert record != other

    @each
    def test_other_kinds_are_not_comparable(self, make):
        record = make()
        assert record.__eq__(1) is NotImplemented
        assert all(record != other() for other in KINDS.values() if other is not make)
        with pytest.raises(TypeError, match="unhashable"):
            hash(record)

    def test_nan_equals_nan_in_its_place(self):
        first, second, third = (np.array([1.0, np.nan, 2, np.nan]) for _ in range(3))
        third[:] = [1, np.nan, np.nan, 2]
        make = [density(IDS[:4], log_values=values, intrinsic_dimension=float("nan")) for values in (first, second)]
        assert make[0] == make[1]
        assert make[0] != density(IDS[:4], log_values=third, intrinsic_dimension=float("nan"))

    def test_values_of_all_kinds(self):
        assert same((1, [2.0, float("nan")]), [1, (2.0, float("nan"))])
        assert same({"a": np.arange(3)}, {"a": np.arange(3)})
        assert not same({"a": np.arange(3)}, {"b": np.arange(3)})
        assert not same({"a": np.arange(3)}, {"a": None})
        assert not same("ab", ["a", "b"])
        assert not same(["a"], ["a", "b"])
        assert not same(np.zeros((2, 3)), np.zeros((3, 2)))
        assert same(np.array(["a", None], object), np.array(["a", None], object))
        assert same(np.float32(3), 3)
        assert same(np.array(3), np.array(3.0))
        assert same(np.zeros((0, 3)), np.zeros((0, 3)))

    def test_every_block_is_compared(self):
        first, second = np.zeros((5, 1 << 19), np.int8), np.zeros((5, 1 << 19), np.int8)
        assert same(first, second)
        for row in range(5):
            second[row, -1] = 1
            assert not same(first, second)
            second[row, -1] = 0


def shares(column, array):
    """Whether a column's numbers are the memory of an array."""
    items = column.chunk(0)
    items = items.values if isinstance(items, pa.FixedSizeListArray) else items
    items = items.indices if isinstance(items, pa.DictionaryArray) else items
    return np.shares_memory(items.to_numpy(zero_copy_only=True), array)


class TestArrow:
    def test_weights(self):
        made = weights()
        table = made.to_arrow()
        assert table.schema == pa.schema({"id": pa.string(), "weight": pa.float32(), "log_density": pa.float64()})
        assert dict(zip(*(table[name].to_pylist() for name in ("id", "weight")), strict=True)) == made.mapping()
        assert table["log_density"].to_pylist() == made.density.log_values.tolist()
        assert shares(table["weight"], made.values)
        assert shares(table["log_density"], made.density.log_values)
        assert weigh([1.0, 2.0]).to_arrow().column_names == ["id", "weight"]

    def test_density_keeps_nan(self):
        values = np.array([0.5, np.nan, -1])
        column = density(IDS[:3], log_values=values).to_arrow()["log_density"]
        assert column.null_count == 0
        assert np.array_equal(column.to_numpy(), values, equal_nan=True)

    def test_embeddings(self):
        tokens, lost = np.arange(2 * N, dtype=np.int32).reshape(N, 2).T
        made = embeddings(tokens=tokens, lost=lost)
        table = made.to_arrow()
        assert table.column_names == ["id", "embedding", "tokens", "lost"]
        assert table["embedding"].type == pa.list_(pa.float32(), D)
        assert table["embedding"].to_pylist() == made.vectors.tolist()
        assert (table["tokens"].to_pylist(), table["lost"].to_pylist()) == (tokens.tolist(), lost.tolist())
        assert shares(table["embedding"], made.vectors)
        assert embeddings().to_arrow().column_names == ["id", "embedding"]

    def test_vectors_of_other_memory(self, tmp_path):
        vectors = embeddings().vectors
        np.save(tmp_path / "v.npy", vectors)
        others = [np.asfortranarray(vectors), vectors.astype(np.float64), vectors.astype(">f4"), vectors[::-1][::-1]]
        for other in [*others, np.load(tmp_path / "v.npy", mmap_mode="r")]:
            column = embeddings(vectors=other).to_arrow()["embedding"]
            assert column.to_pylist() == vectors.tolist()
        assert shares(column, other), "a file's pages are not copied"
        assert weights().to_arrow() == weights(log_values=np.linspace(-1.5, 2, N).astype(">f8")).to_arrow()

    def test_neighbors_are_ids(self, tmp_path):
        near = neighbors()
        table = near.to_arrow()
        assert table["neighbors"].to_pylist() == [[IDS[i] for i in row] for row in near.indices]
        assert table["distances"].to_pylist() == near.distances.tolist()
        assert shares(table["neighbors"], near.indices)
        assert shares(table["distances"], near.distances)
        pa.parquet.write_table(table, tmp_path / "near.parquet")
        assert pa.parquet.read_table(tmp_path / "near.parquet").to_pylist() == table.to_pylist()

    def test_neighbors_of_queries_are_those_asked(self):
        targets = [f"target{i}" for i in range(50)]
        near = neighbors(targets=targets, indices=np.arange(2 * N).reshape(N, 2) + 30)
        assert near.to_arrow()["neighbors"].to_pylist()[1] == ["target32", "target33"]

    @pytest.mark.parametrize("row", [-1, N])
    def test_a_neighbour_that_is_no_row(self, row):
        with pytest.raises(MismatchError, match=rf"rows {row} … {row}; expected rows of the {N} ids"):
            neighbors(indices=np.full((N, K), row)).to_arrow()

    @pytest.mark.parametrize("n", [0, 1])
    def test_no_neighbours(self, n):
        nothing = np.zeros((n, 0), np.float32)
        table = neighbors(IDS[:n], indices=nothing.astype(np.int64), distances=nothing, source=None).to_arrow()
        assert table.to_pylist() == [{"id": "id0", "neighbors": [], "distances": []}][:n]

    @each
    def test_ids_of_other_kinds(self, make):
        assert make(HOSTILE).to_arrow()["id"].to_pylist() == HOSTILE
        record = dataclasses.replace(make(), ids=np.array(IDS))
        assert record.to_arrow()["id"].to_pylist() == IDS
        with pytest.raises(InputError, match=r"id of row 1 is 7 \(int\); expected text"):
            dataclasses.replace(make(), ids=["a", 7, *IDS[2:]]).to_arrow()
        with pytest.raises(InputError, match=r"ud800.* lone surrogate"):
            dataclasses.replace(make(), ids=["\ud800", *IDS[1:]]).to_arrow()
        with pytest.raises(MismatchError, match=r"has 5 ids and 6 rows of \w+; expected as many"):
            dataclasses.replace(make(), ids=IDS[:5]).to_arrow()


class TestPandas:
    @pytest.fixture(autouse=True)
    def pandas(self):
        """It comes with trl; kat does not ask for it."""
        return pytest.importorskip("pandas")

    @each
    def test_it_is_the_arrow_table(self, make, pandas):
        record = make()
        frame = record.to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        for name, column in record.to_arrow().to_pydict().items():
            assert [list(v) if isinstance(v, np.ndarray) else v for v in frame[name]] == column

    def test_a_frame_can_be_changed_and_the_record_stays(self):
        made = weights(log_values=np.linspace(0, 1, N))
        before = made.values.copy()
        frame = made.to_pandas()
        frame.loc[0, "weight"] = 99
        frame["log_density"] *= 2
        assert np.array_equal(made.values, before)
        assert np.isnan(density(IDS[:2], log_values=np.array([np.nan, 1.0])).to_pandas()["log_density"][0])

    def test_vectors_are_views(self):
        made = embeddings()
        first = made.to_pandas()["embedding"][0]
        assert np.shares_memory(first, made.vectors)
        assert not first.flags.writeable

    def test_without_pandas(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingExtraError, match="pip install pandas"):
            weights().to_pandas()
        assert len(weights().to_arrow()) == N
