"""Results as their users hold them: rows of them, arrays, pictures."""

import sys

import numpy as np
import pytest
from making import pair
from test_records import IDS, KINDS, density, each, embeddings, neighbors, weights

import kat
from kat.errors import InputError, MissingExtraError
from kat.pair_weights.storage import COLUMNS
from kat.plots import principal_plane

ARRAYS = {"Weights": "values", "Density": "log_values", "Embeddings": "vectors", "Neighbors": "indices"}
N = len(IDS)


@pytest.fixture(scope="module")
def pair_weights():
    pairs = [pair(f"q{i % 40}", f"a{i}", f"b{i}") for i in range(120)]
    with pytest.warns(UserWarning, match="too few validation pairs"):
        return kat.run(pairs, pair_weights=True, k=5, validation_share=0.3, split="opening").pair_weights


@pytest.fixture
def pyplot():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def heights(axes):
    return [[bar.get_height() for bar in bars] for bars in axes.containers]


class TestRows:
    @each
    @pytest.mark.parametrize(
        "rows",
        [slice(1, 4), slice(None), slice(None, None, -2), slice(0, 0), [4, 0, 0], [-1], [], np.array([2, 1], np.uint8)],
        ids=str,
    )
    def test_a_record_of_some(self, make, rows):
        record = make()
        numbers = np.arange(N)[rows if len(np.atleast_1d(rows)) or isinstance(rows, slice) else np.zeros(0, int)]
        some = record[rows]
        assert type(some) is type(record)
        assert len(some) == len(numbers)
        assert list(some.ids) == [IDS[i] for i in numbers]
        np.testing.assert_array_equal(np.asarray(some), np.asarray(record)[numbers])
        assert repr(some)
        assert some.to_pandas().equals(record.to_pandas().iloc[numbers].reset_index(drop=True))

    @each
    def test_a_mask(self, make):
        mask = np.arange(N) % 2 == 1
        assert make()[mask] == make()[np.flatnonzero(mask)] == make()[mask.tolist()] == make()[1::2]

    @each
    def test_one_row(self, make):
        record = make()
        frame = record.to_pandas()
        for row in (0, N - 1, -1, np.int64(2)):
            one = record[row]
            assert list(one) == list(frame.columns)
            for name, value in one.items():
                np.testing.assert_array_equal(value, frame[name].iloc[row])
        assert [one["id"] for one in record] == IDS

    @each
    @pytest.mark.parametrize(
        "rows", [1.0, None, ..., np.bool_(True), np.array(1), np.array([1], object), [[1], [1, 2]], {1: 2}], ids=str
    )
    def test_what_names_no_rows_is_said(self, make, rows):
        with pytest.raises(TypeError, match="names no rows; expected a number, a slice"):
            make()[rows]

    @each
    @pytest.mark.parametrize("rows", [N, -N - 1, [0, N], [-N - 1]], ids=str)
    def test_a_row_that_is_not_there(self, make, rows):
        with pytest.raises(IndexError, match=f"There is no row {np.ravel(rows)[-1]}; there are {N}"):
            make()[rows]

    @each
    @pytest.mark.parametrize("rows", ["id1", [0.5], True, [True], [[0]], 1.0, None], ids=str)
    def test_what_names_no_rows(self, make, rows):
        with pytest.raises(TypeError):
            make()[rows]

    @each
    def test_whether_an_id_is_there(self, make):
        assert IDS[2] in make()
        assert IDS[2] not in make()[:2]
        for other in ("another", 2, None, make()[2]):
            assert other not in make()

    def test_a_slice_is_a_view(self):
        record = embeddings()
        assert np.shares_memory(record[2:4].vectors, record.vectors)

    def test_what_is_said_of_weights_is_said_of_the_rows(self):
        some = weights()[:3]
        values = some.values.astype(np.float64)
        assert some.ess == pytest.approx(values.sum() ** 2 / (values**2).sum())
        assert some.heaviest_share == pytest.approx(values.max() / values.sum())
        assert weights()[:].ess == pytest.approx(weights().ess)
        assert some.to_pandas()["log_density"].tolist() == density().log_values[:3].tolist()
        with pytest.raises(ValueError, match="without neighbours"):
            some.explain(IDS[0])

    def test_capped_weights_are_counted_as_before(self):
        capped = kat.weigh(np.array([1e-6, 1, 1, 1, 2, 3]), cap=2, ess=0.6)
        assert capped.cap_hits == capped[:].cap_hits == 1
        assert capped[1:].cap_hits == 0

    def test_neighbours_of_some_are_queries_among_all(self):
        some = neighbors()[2:4]
        assert some.targets == IDS
        assert some.to_arrow()["neighbors"].to_pylist() == neighbors().to_arrow()["neighbors"].to_pylist()[2:4]
        assert some[:1].targets == IDS


class TestArrays:
    @each
    def test_the_numbers_without_a_copy(self, make):
        record = make()
        values = getattr(record, ARRAYS[type(record).__name__])
        assert np.shares_memory(np.asarray(record), values)
        assert not np.shares_memory(np.array(record), values)
        assert np.asarray(record, np.float16).dtype == np.float16
        np.testing.assert_array_equal(np.mean(record), values.mean())

    def test_numpy_two_asks_for_no_copy(self):
        assert np.asarray(embeddings(), copy=False) is not None
        with pytest.raises(ValueError, match="without a copy"):
            np.asarray(embeddings(), np.float64, copy=False)


class TestPairWeights:
    def test_one_line(self, pair_weights):
        text = repr(pair_weights)
        assert text.startswith("PairWeights(120 pairs, ")
        assert "train" in text
        assert len(text) < 150

    def test_equality(self, pair_weights):
        import dataclasses

        assert pair_weights == dataclasses.replace(pair_weights, path="elsewhere")
        assert pair_weights != dataclasses.replace(pair_weights, v=pair_weights.v + 1)
        assert pair_weights != dataclasses.replace(pair_weights, src=pair_weights.src[::-1] + "x")

    def test_tables_are_those_of_the_file(self, pair_weights, tmp_path):
        import pyarrow.parquet as pq

        from kat.pair_weights.storage import write_pair_weights

        with (tmp_path / "p.parquet").open("wb") as file:
            write_pair_weights(pair_weights, file, "{}")
        kept = pq.read_table(tmp_path / "p.parquet").replace_schema_metadata()
        assert pair_weights.to_arrow().equals(kept)
        assert pair_weights.to_pandas().equals(kept.to_pandas())

    @pytest.mark.parametrize("rows", [slice(3, 9), [5, 1], slice(0, 0)], ids=str)
    def test_rows(self, pair_weights, rows):
        some = pair_weights[rows]
        numbers = np.arange(120)[rows]
        for name in COLUMNS:
            if (column := getattr(pair_weights, name)) is not None:
                np.testing.assert_array_equal(getattr(some, name), column[numbers])
        assert len(some) == len(numbers)
        assert some.blend == pair_weights.blend

    def test_one_row(self, pair_weights):
        one = pair_weights[7]
        assert one["pair_id"] == pair_weights.pair_id[7]
        assert one["m"] == pair_weights.m[7]
        with pytest.raises(IndexError):
            pair_weights[120]


class TestPlots:
    @pytest.mark.parametrize("make", [weights, density], ids=["weights", "density"])
    def test_every_row_is_in_a_bar(self, pyplot, make):
        record = make()
        axes = record.plot()
        [bars] = heights(axes)
        edges = [bar.get_x() for bar in axes.containers[0]]
        expected, _ = np.histogram(np.asarray(record), 50)
        assert bars == expected.tolist()
        assert edges[0] == pytest.approx(float(np.min(record)))
        assert " ".join(axes.get_title().split()) == repr(record)
        assert axes.get_ylabel() == "openings"

    def test_neighbours_near_and_far(self, pyplot):
        record = neighbors()
        near, far = heights(record.plot())
        assert sum(near) == sum(far) == N
        mean = [np.average(np.arange(50), weights=counts) for counts in (near, far)]
        assert mean[0] < mean[1]

    def test_pairs_that_train(self, pyplot, pair_weights):
        [bars] = heights(pair_weights.plot())
        assert sum(bars) == (pair_weights.split == "train").sum()

    def test_in_axes_that_are_given(self, pyplot):
        _, (left, right) = pyplot.subplots(ncols=2)
        assert weights().plot(right) is right
        assert not left.containers

    def test_embeddings_on_their_plane(self, pyplot):
        drawn = embeddings().plot().collections[0].get_offsets()
        np.testing.assert_allclose(drawn, principal_plane(embeddings().vectors))

    def test_a_run(self, pyplot):
        weighed = kat.run([pair(f"q{i}", f"a{i}", f"b{i}") for i in range(30)], k=5)
        points = weighed.plot().collections[0]
        np.testing.assert_allclose(points.get_array(), np.log10(weighed.weights.values))
        assert weighed == kat.run([pair(f"q{i}", f"a{i}", f"b{i}") for i in range(30)], k=5)

    def test_the_plane_is_the_one_of_a_peer(self):
        from sklearn.decomposition import PCA

        vectors = np.random.default_rng(3).normal(size=(200, 7)).astype(np.float32) * [5, 3, 1, 1, 1, 1, 1] + 4
        expected = PCA(2, svd_solver="full").fit_transform(vectors.astype(np.float64))
        np.testing.assert_allclose(np.abs(principal_plane(vectors)), np.abs(expected), atol=1e-6)
        assert principal_plane(np.ones((3, 1))).tolist() == [[0, 0]] * 3

    def test_nothing_to_plot(self, pyplot):
        for record in (weights()[:0], density()[:0], embeddings()[:0], neighbors()[:0]):
            with pytest.raises(InputError, match="nothing to plot"):
                record.plot()

    @each
    def test_without_matplotlib(self, make, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtraError, match="Type: pip install"):
            make().plot()


def test_every_kind_is_asked():
    assert set(KINDS) == set(ARRAYS)


class TestOtherResults:
    @pytest.fixture(scope="class")
    def scored(self):
        from kat.training.scored import Scored

        rng = np.random.default_rng(5)
        ids = [f"p{i}" for i in range(60)]
        return Scored(ids, rng.normal(size=60).astype(np.float32) + 1, rng.normal(size=60).astype(np.float32))

    @pytest.fixture(scope="class")
    def pairs(self):
        openings = [f"q{i // 2}" for i in range(60)]
        return kat.EvalPairs([f"p{i}" for i in range(60)], openings, ["all", "b"] * 30, bin=np.arange(60) // 2 % 5)

    def test_rewards(self, scored, pyplot):
        wins = scored.chosen > scored.rejected
        assert repr(scored).startswith(f"Scored(60 pairs, accuracy {wins.mean():.1%}, log-loss ")
        np.testing.assert_array_equal(np.asarray(scored), scored.chosen - scored.rejected)
        assert scored[wins].accuracy == 1
        assert scored[:] == scored
        assert scored[3] == {"id": "p3", "chosen": scored.chosen[3], "rejected": scored.rejected[3]}
        assert list(scored.to_pandas()) == ["id", "chosen", "rejected"]
        assert sum(heights(scored.plot())[0]) == 60
        assert repr(scored[:0]) == "Scored(0 pairs)"

    def test_an_evaluation(self, scored, pairs):
        evaluation = kat.evaluate(pairs, scored.chosen, scored.rejected, replicates=50)
        assert repr(evaluation).startswith(f"Evaluation(60 pairs, 30 openings, accuracy {scored.accuracy:.1%} [")
        assert evaluation == kat.evaluate(pairs, scored.chosen, scored.rejected, replicates=50)
        frame = evaluation.to_pandas()
        told = evaluation.as_dict()
        for row in frame.to_dict("records"):
            part = {"all": told["all"], "macro": {"balanced": told["macro"]}}.get(row["part"])
            if part is None:
                part = {str(name): one for name, one in told[f"{row['part']}s"].items()}[row["name"]]
            value = part[row["view"]][row["metric"]]["value"]
            assert value is None or value == row["value"]
        counts = frame.groupby("part")["name"].nunique().to_dict()
        assert counts == {"all": 1, "bin": 5, "macro": 1, "source": 2}

    def test_a_comparison(self, scored, pairs):
        compared = kat.compare(pairs, (scored.chosen, scored.rejected), (scored.rejected, scored.chosen), replicates=50)
        assert repr(compared).startswith("Comparison(accuracy ")
        frame = compared.to_pandas()
        [row] = frame.query("part == 'all' and view == 'unweighted' and metric == 'accuracy'").to_dict("records")
        assert row["difference"] == compared.all["unweighted"]["accuracy"].value
        assert (row["low"], row["high"]) == compared.all["unweighted"]["accuracy"].interval

    def test_accuracies_and_differences_are_drawn_with_their_intervals(self, scored, pairs, pyplot):
        evaluation = kat.evaluate(pairs, scored.chosen, scored.rejected, replicates=50)
        compared = kat.compare(pairs, (scored.chosen, scored.rejected), (scored.rejected, scored.chosen), replicates=50)
        for result in (evaluation, compared):
            axes = result.plot()
            assert [text.get_text() for text in axes.get_yticklabels()] == [
                "all",
                *(f"bin {b}" for b in range(5)),
                "source all",
                "source b",
            ]
            bar, point = axes.lines[:2]
            one = result.all["unweighted"] if result is compared else result.all.estimates["unweighted"]
            assert tuple(bar.get_xdata()) == one["accuracy"].interval
            assert point.get_xdata()[0] == one["accuracy"].value

    def test_weights_of_pairs(self, pyplot):
        weightings = [
            kat.weigh_pairs(np.array([0, 0, 0, 1]), np.array([0.5, 1.5]), blend=blend) for blend in (1.0, 1.0, 0.5)
        ]
        assert weightings[0] == weightings[1] != weightings[2]
        assert len(weightings[0]) == 4
        assert (
            repr(weightings[0])
            == "PairWeighting(4 pairs, 2 openings, multiplicity pair, blend 1, ESS 75.0% of pairs, v 0.667 … 2)"
        )

    def test_a_trained_model_is_one_line(self):
        from kat.training.train import TrainedRewardModel
        from kat.training_config import RewardOptions

        model = TrainedRewardModel(None, {}, [{}, {}], RewardOptions(model="minilm"))
        assert repr(model) == "TrainedRewardModel(minilm, 2 steps)"
