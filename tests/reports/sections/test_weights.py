"""The section of the weights, recomputed from its arrays."""

import numpy as np
import pytest
from making_sections import HOSTILE, chart, column, metadata, pair_table, prose, table

from kat.config import DensityOptions
from kat.density.stability import AtK
from kat.density.weights import noise_bound, weigh
from kat.pair_weights.storage import PairWeights
from kat.records import Density
from kat.reports.sections.weights import OpeningFacts, multiplicities, weights

N = 60


def facts(n=N, seed=0):
    """Openings with the weights that kat gives their density, and what the metadata says of them."""
    log_density = np.random.default_rng(seed).normal(0, 1, n)
    density = Density([f"o{i}" for i in range(n)], log_density, "mean_distance", 5, "cosine", 3.0, 0.9, 0.01)
    made = weigh(density)
    openings = OpeningFacts(
        ids=density.ids,
        texts=[HOSTILE, *(f"text {i}" for i in range(1, n))],
        w=made.values.astype(float),
        log_density=log_density,
        tokens=np.where(np.arange(n) % 7 == 0, -1, np.arange(n)),
        region=["north" if i < n // 2 else "" for i in range(n)],
    )
    return openings, metadata(made.values, temperature=made.temperature, temperature_bound=made.bound)


def section(openings, meta, one: PairWeights | None = None, **more):
    return weights(meta, openings, DensityOptions(), table=one, remedy="kat weigh-pairs RUN", **more)


def test_histogram_holds_every_opening():
    openings, meta = facts()
    one = chart(section(openings, meta), "weights")
    assert one.log_x
    assert one.series[0].y.sum() == N
    assert f"{int((openings.w > 1).sum())} weigh more" in one.told


def test_rare_weighs_more_and_crowded_less():
    openings, meta = facts()
    heavy, light = (table(section(openings, meta), f"20 {name}") for name in ("heaviest", "lightest"))
    order = np.argsort(openings.log_density)
    assert column(heavy, "id")[:5] == [f"o{i}" for i in order[:5]]
    assert column(light, "id")[:5] == [f"o{i}" for i in order[::-1][:5]]
    assert column(heavy, "w") == openings.w[[int(i[1:]) for i in column(heavy, "id")]].tolist()
    for shown in (heavy, light):
        for row, above in zip(column(shown, "id"), column(shown, "density above, % of openings"), strict=True):
            under = (openings.log_density < openings.log_density[int(row[1:])]).mean() * N / (N - 1)
            assert above == pytest.approx(100 * under)
    assert column(heavy, "density above, % of openings")[0] == 0
    assert column(heavy, "pairs, m") == [None] * 20


def test_the_curve_is_that_of_weighing_at_each_temperature():
    openings, meta = facts()
    one = chart(section(openings, meta), "ess")
    density = np.exp(openings.log_density)
    for t, share in zip(one.series[0].x[::7], one.series[0].y[::7], strict=True):
        assert share == pytest.approx(weigh(density, temperature=t).ess_share)
    marks = {mark.label: (mark.axis, mark.at) for mark in one.marks}
    assert marks["floor asked for"] == ("y", DensityOptions.ess)
    assert marks["T chosen"] == ("x", meta["temperature"])
    assert marks["noise bound"] == ("x", noise_bound(0.01))
    assert meta["temperature"] in one.series[0].x
    assert (np.diff(one.series[0].y) <= 1e-12).all()


@pytest.mark.parametrize(("noise", "says"), [(None, "was not measured"), (1e-6, "lies beyond what is drawn")])
def test_a_noise_bound_that_cannot_be_drawn_is_said(noise, says):
    openings, meta = facts()
    one = chart(section(openings, meta | {"noise_variance": noise}), "ess")
    assert says in one.told
    assert [mark.label for mark in one.marks] == ["T chosen", "floor asked for"]


def shares(one, labels):
    """Shares of pairs and weight by label, the obvious way."""
    trains = one.split == "train"
    result = {}
    for name in set(np.asarray(labels, object)[trains]):
        own = trains & (np.asarray(labels, object) == name)
        result[name] = (own.sum() / trains.sum(), one.v[own].sum() / one.v[trains].sum())
    return result


def test_who_pays_and_who_gains():
    openings, meta = facts(30)
    one = pair_table()
    shown = section(openings, meta, one)
    where = dict(zip(openings.ids, openings.region, strict=True))
    labels = {"source": one.src, "region": [where[i] or "no region" for i in one.opening_id]}
    labels["bin"] = [{0: "bin 0, rarest", 4: "bin 4, most crowded"}.get(b, f"bin {b}") for b in one.bin]
    for name, title in (("source", "by source"), ("region", "by region"), ("bin", "by density bin")):
        expected = shares(one, labels[name])
        rows, drawn = table(shown, title), chart(shown, f"pays_{name}")
        assert {r[0]: r[2:4] for r in rows.rows} == {n: pytest.approx(s) for n, s in expected.items()}
        assert list(drawn.categories) == column(rows, rows.columns[0].title)
        assert drawn.series[0].y.tolist() == column(rows, "of pairs")
        assert drawn.series[1].y.tolist() == column(rows, "of weight")
        mean = column(rows, "mean v")
        assert mean == sorted(mean)
    assert column(table(shown, "by density bin"), "density bin")[-1] == "bin 0, rarest"


def test_one_source_pays_for_nobody():
    openings, meta = facts(30)
    shown = section(openings, meta, pair_table(sources=(HOSTILE,)))
    assert not [b for b in shown.blocks if getattr(b, "name", "") == "pays_source"]
    shown = section(openings, meta, pair_table(sources=(HOSTILE, "b")))
    assert HOSTILE in chart(shown, "pays_source").categories


def test_multiplicity_is_that_of_the_table():
    openings, meta = facts(32)
    one = pair_table(30)
    m = multiplicities(openings.ids, one)
    assert m.tolist() == [sum(i == o for o in one.opening_id) for i in openings.ids]
    drawn = chart(section(openings, meta, one), "weight_multiplicity").series[0]
    assert drawn.x.tolist() == m[:30].tolist()  # openings without a pair have no multiplicity
    assert drawn.y.tolist() == openings.w[:30].tolist()


def test_unknown_lengths_are_left_out():
    openings, meta = facts()
    drawn = chart(section(openings, meta), "weight_length").series[0]
    assert drawn.x.tolist() == [i for i in range(N) if i % 7]


def test_without_pair_weights_the_command_is_said():
    openings, meta = facts()
    assert any(text.endswith("Make them: kat weigh-pairs RUN") for text in prose(section(openings, meta)))


def test_stability():
    rows = [AtK(10, 1.5, 0.6, 0.9, 0.7), AtK(50, 2.5, 0.5, None, 0.4)]
    openings, meta = facts()
    shown = section(openings, meta, stability=rows)
    one = table(shown, "another k")
    assert [tuple(row) for row in one.rows] == [(10, 0.9, 0.7, 1.5, 0.6), (50, None, 0.4, 2.5, 0.5)]
    assert any("at least 40% (k = 50)" in text for text in prose(shown))
    assert any("too few neighbours" in text for text in prose(section(openings, meta)))


def test_one_opening():
    openings = OpeningFacts(["a"], [HOSTILE], np.ones(1), np.zeros(1), np.asarray([-1]))
    shown = section(openings, metadata([1.0], temperature=0.0, temperature_bound="uniform"))
    assert table(shown, "1 heaviest").rows[0][0] == HOSTILE
    assert "All densities are equal, so all weights are 1 at any T." in prose(shown)
