"""Pair weights against their definitions: a bisection for the cap, loops for the sums, shuffles for the controls."""

import numpy as np
import pytest

from kat.errors import InputError, OptionError
from kat.pair_weights.weigh import EXPONENTS, group_weights, multiplicity_factor, weigh_pairs


def drawn(seed: int, pairs: int = 400, openings: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    popular = rng.pareto(1.0, openings) + 0.1
    return rng.choice(openings, pairs, p=popular / popular.sum()), np.exp(rng.normal(size=openings))


def capped(raw: np.ndarray, cap: float) -> np.ndarray:
    """min(cap, s · raw) of mean 1, by bisection over s."""
    low, high = 0.0, cap / raw.min()
    for _ in range(200):
        s = (low + high) / 2
        low, high = (s, high) if np.minimum(cap, s * raw).mean() < 1 else (low, s)
    return np.minimum(cap, low * raw)


def kish(values: list[float]) -> float:
    return sum(values) ** 2 / sum(v * v for v in values)


@pytest.mark.parametrize("cap", [1.5, 3.0, 50.0])
@pytest.mark.parametrize("multiplicity", EXPONENTS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_the_capped_product_of_mean_one(seed, multiplicity, cap):
    opening, w = drawn(seed)
    found = weigh_pairs(opening, w, multiplicity, cap, blend=1)
    m = {x: int((opening == x).sum()) for x in set(opening.tolist())}
    power = {"pair": 0.0, "sqrt": -0.5, "opening": -1.0}[multiplicity]
    raw = np.asarray([m[x] ** power * w[x] for x in opening.tolist()])
    np.testing.assert_allclose(found.values, capped(raw, cap), rtol=1e-9)
    assert found.values.mean() == pytest.approx(1)
    assert found.mean_raw == pytest.approx(raw.mean())
    np.testing.assert_allclose(found.factor * w[opening], raw)
    assert found.m.tolist() == [m[x] for x in opening.tolist()]
    assert found.ess_pairs == pytest.approx(kish(found.values.tolist()))
    assert found.ess_openings == pytest.approx(kish([w[x] for x in m]))
    totals = [sum(v for v, x in zip(found.values, opening, strict=True) if x == one) for one in m]
    assert found.ess_clusters == pytest.approx(kish(totals))
    assert found.openings == len(m)
    assert found.cap_hits == int((capped(raw, cap) >= cap * (1 - 1e-9)).sum())


@pytest.mark.parametrize(("multiplicity", "a"), [("pair", 1.0), ("sqrt", 0.5), ("opening", 0.0)])
def test_an_opening_counts_its_weight_times_a_power_of_its_pairs(multiplicity, a):
    opening = np.repeat([0, 1, 2], [100, 4, 1])
    w = np.asarray([0.5, 1.0, 2.0])
    found = weigh_pairs(opening, w, multiplicity, cap=1e6, blend=1)
    totals = np.bincount(opening, found.values)
    np.testing.assert_allclose(totals / totals[2], np.asarray([100, 4, 1]) ** a * w / 2.0)


def test_rare_openings_weigh_more_and_so_do_lone_ones():
    found = weigh_pairs(np.asarray([0, 1]), np.asarray([0.2, 3.0]), "pair", 10)
    assert found.values[1] > 1 > found.values[0]
    found = weigh_pairs(np.asarray([0, 0, 0, 1]), np.ones(2), "sqrt", 10)
    assert found.values[3] > 1 > found.values[0]


def test_scaling_all_weights_changes_nothing():
    opening, w = drawn(5)
    one, other = (weigh_pairs(opening, w * s, "sqrt", 4) for s in (1, 1e-6))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-9)


def test_openings_without_pairs_take_no_part():
    opening, w = drawn(6, pairs=50)
    there = np.unique(opening)
    odd = w.copy()
    odd[np.setdiff1d(np.arange(60), there)] = np.nan
    one, other = weigh_pairs(opening, w), weigh_pairs(opening, odd)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.openings == other.openings == len(there)
    assert one.ess_openings == other.ess_openings


@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("multiplicity", EXPONENTS)
def test_a_blend_is_a_mixture_that_no_pair_falls_under(multiplicity, blend):
    opening, w = drawn(8)
    found = weigh_pairs(opening, w, multiplicity, 1e6, blend=blend)
    m = np.bincount(opening)[opening]
    f = m ** {"pair": 0.0, "sqrt": -0.5, "opening": -1.0}[multiplicity]
    u = w[opening] * f.sum() / (f * w[opening]).sum()
    raw = f * (blend * u + 1 - blend)
    assert (f * found.u).sum() == pytest.approx(f.sum())
    np.testing.assert_allclose(found.values, raw * len(opening) / f.sum(), rtol=1e-9)
    assert found.scale == pytest.approx(len(opening) / f.sum())
    assert (found.values >= found.scale * (1 - blend) * f * (1 - 1e-9)).all()
    if blend == 0:
        np.testing.assert_allclose(found.values, weigh_pairs(opening, np.ones(60), multiplicity, 1e6).values)


def test_under_a_cap_the_bound_holds_with_a_larger_scale():
    opening, w = drawn(9)
    w[opening[0]] = 400.0
    free, capped_ = (weigh_pairs(opening, w, "sqrt", cap, blend=0.5) for cap in (1e6, 3.0))
    assert capped_.scale > free.scale
    assert capped_.cap_hits
    bound = np.minimum(3.0, capped_.scale * 0.5 * capped_.factor)
    assert (capped_.values >= bound * (1 - 1e-9)).all()
    assert capped_.values.mean() == pytest.approx(1)


def test_smoothing_weighs_strata_and_not_what_stands_in_them():
    opening, w = drawn(10)
    stratum = opening % 4
    factor = multiplicity_factor(opening, "sqrt")
    found = weigh_pairs(opening, w, "sqrt", 1e6, blend=1, smooth=stratum)
    for one in range(4):
        own = stratum == one
        mean = (factor * w[opening])[own].sum() / factor[own].sum()
        np.testing.assert_allclose(found.u[own], mean * factor.sum() / (factor * w[opening]).sum())
    # A stratum has as much weight in all as it had; only inside of it is it even.
    plain = weigh_pairs(opening, w, "sqrt", 1e6, blend=1)
    np.testing.assert_allclose(np.bincount(stratum, found.values), np.bincount(stratum, plain.values))


def test_within_a_stratum_no_other_gains_or_pays():
    opening, w = drawn(11)
    source = np.random.default_rng(0).integers(0, 3, 400)
    for multiplicity in EXPONENTS:
        factor = multiplicity_factor(opening, multiplicity)
        found = weigh_pairs(opening, w, multiplicity, 1e6, blend=0.7, within=source)
        uniform = weigh_pairs(opening, w, multiplicity, 1e6, blend=0)
        np.testing.assert_allclose(np.bincount(source, found.values), np.bincount(source, uniform.values))
        np.testing.assert_allclose(np.bincount(source, factor * found.u), np.bincount(source, factor))
        for one in range(3):  # inside, the proportions are those of w
            own = source == one
            assert np.ptp(found.u[own] / w[opening][own]) < 1e-9
    same = weigh_pairs(opening, w, "pair", 1e6, smooth=opening % 3, within=opening % 3)
    np.testing.assert_allclose(same.values, 1)


def test_groups_count_the_same_where_the_floor_allows_it():
    group = np.repeat([0, 1, 2], [60, 30, 10])
    w, temperature = group_weights(group, 0.2, 100)
    assert temperature == 1
    np.testing.assert_allclose(np.bincount(group, w), 100 / 3)
    w, temperature = group_weights(group, 0.9, 100)
    assert 0 < temperature < 1
    assert kish(w.tolist()) == pytest.approx(90, rel=1e-3)
    np.testing.assert_allclose(w / w[0], (np.asarray([60, 30, 10]) / 60.0)[group] ** -temperature)
    assert group_weights(np.zeros(5, int), 0.5, 10)[0].tolist() == [1] * 5


def test_facts_hold_the_rank_correlations():
    from scipy.stats import spearmanr

    opening, w = drawn(7)
    found = weigh_pairs(opening, w)
    length = np.random.default_rng(0).integers(1, 50, 60)[opening]
    facts = found.facts(length)
    assert facts["rank_correlation_m"] == pytest.approx(spearmanr(found.values, found.m).statistic)
    assert facts["rank_correlation_length"] == pytest.approx(spearmanr(found.values, length).statistic)
    top = sorted(found.values.tolist())[-4:]
    assert facts["heaviest_1_percent_share"] == pytest.approx(sum(top) / 400)
    assert weigh_pairs(np.asarray([0, 1]), np.ones(2)).facts(np.ones(2))["rank_correlation_m"] is None


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(InputError, match="no training pairs"):
        weigh_pairs(np.asarray([], int), np.ones(3))
    with pytest.raises(InputError, match="1 openings of training pairs"):
        weigh_pairs(np.asarray([0, 1, 1]), np.asarray([1.0, 0.0]))
    with pytest.raises(OptionError, match="multiplicity is 'square'"):
        weigh_pairs(np.asarray([0]), np.ones(1), "square")
    for cap in (0.5, np.inf, np.nan):
        with pytest.raises(OptionError, match="cap is"):
            weigh_pairs(np.asarray([0]), np.ones(1), cap=cap)
    for blend in (-0.1, 1.1, np.nan):
        with pytest.raises(OptionError, match="blend is"):
            weigh_pairs(np.asarray([0]), np.ones(1), blend=blend)
