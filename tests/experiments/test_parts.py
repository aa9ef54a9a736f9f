"""The experiments on small data: what they draw, thin and flip, and that they find what is planted."""

import dataclasses

import numpy as np
import orjson
import pytest
from scipy.stats import binom

from experiments import flipped, natural, planted, simulated
from experiments.arms import density_arms, dro_weights, group_arms, oracle_arm, within_sources
from experiments.problems import Problem, drawn_topics, semi_synthetic, thinned


def problem_of(pairs=600, topics=6, dimensions=6, seed=0):
    """Pairs of topics that are directions in the plane of openings; two pairs an opening."""
    draw = np.random.default_rng(seed)
    openings = pairs // 2
    number = np.repeat(np.arange(topics), -(-openings // topics))[:openings]
    vectors = np.eye(topics + 4)[number] + 0.3 * draw.normal(size=(openings, topics + 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    opening = np.repeat(np.arange(openings), 2)
    rule = np.where(number[opening, None] == 0, np.eye(dimensions)[1], np.eye(dimensions)[0]) * 3
    x = draw.normal(size=(pairs, dimensions))
    wrong = draw.random(pairs) > 1 / (1 + np.exp(-(x * rule).sum(1)))
    return Problem(
        ids=np.arange(pairs).astype(str),
        x=np.where(wrong[:, None], -x, x).astype(np.float32),
        opening=opening,
        group=opening // 2,
        source=np.where(number[opening] < 3, "a", "b"),
        topic=np.char.add("t", number[opening].astype(str)),
        vectors=vectors.astype(np.float32),
    )


def test_rows_keep_every_pair_with_its_own_opening():
    problem = problem_of()
    rows = np.random.default_rng(0).permutation(600)[:100]
    part = problem.rows(rows)
    np.testing.assert_array_equal(part.vectors[part.opening], problem.vectors[problem.opening[rows]])
    np.testing.assert_array_equal(part.ids, problem.ids[rows])
    assert len(part.vectors) == len(np.unique(problem.opening[rows]))


def test_thinning_takes_openings_of_the_rare_from_training_alone():
    problem = problem_of()
    train, test, is_rare = thinned(problem, ["t0", "t1"], 1 / 16, np.random.default_rng(0))
    assert not set(problem.group[train]) & set(problem.group[test])
    np.testing.assert_array_equal(is_rare, np.isin(problem.topic, ["t0", "t1"]))
    half = ~np.isin(problem.group, problem.group[test])
    before = np.unique(problem.opening[half & is_rare])
    after = np.unique(problem.opening[train][is_rare[train]])
    assert len(after) == max(1, round(len(before) / 16))
    assert set(np.flatnonzero(half & ~is_rare)) == set(train[~is_rare[train]])
    assert is_rare[test].mean() == pytest.approx(is_rare.mean(), abs=0.1)


def test_topics_are_drawn_up_to_a_share_of_the_openings():
    problem = problem_of()
    taken = drawn_topics(problem, 0.4, np.random.default_rng(0))
    held = len(np.unique(problem.opening[np.isin(problem.topic, taken)]))
    assert 0 < held <= 0.4 * len(problem.vectors)
    assert len(drawn_topics(problem, 0.001, np.random.default_rng(0))) == 1


def test_the_oracle_undoes_the_thinning_and_known_topics_even_out():
    rare = np.array([True, False, True])
    np.testing.assert_array_equal(oracle_arm(rare, 16).weigh(np.array([1, 2])), [1, 16])
    problem = problem_of(pairs=240)
    rows = np.flatnonzero((problem.topic != "t0") | (problem.opening % 4 == 0))
    weights = next(arm for arm in group_arms(problem) if arm.name == "known topics").weigh(rows)
    thin = problem.topic[rows] == "t0"
    assert weights[thin].min() > weights[~thin].max()
    assert weights.mean() == pytest.approx(1)


def test_group_dro_raises_the_topic_that_one_rule_serves_worst():
    problem = problem_of(pairs=1200)
    topic = np.unique(problem.topic, return_inverse=True)[1]
    weights = dro_weights(problem.x, topic, l2=1e-2, rounds=30, rate=1.0)
    by_topic = np.bincount(topic, weights) / np.bincount(topic)
    assert by_topic.argmax() == 0
    assert weights.mean() == pytest.approx(1)


def test_permutations_within_sources_leave_each_source_its_weight_and_its_values():
    problem = problem_of()
    arm = density_arms(problem)[0]
    rows = np.arange(len(problem))
    weights, moved = arm.weigh(rows), within_sources(problem, arm, 1.0).permuted(rows, 3)
    for source in ("a", "b"):
        own = problem.source == source
        assert moved[own].sum() == pytest.approx(weights[own].sum(), rel=1e-6)
        ratio = np.sort(moved[own]) / np.sort(weights[own])
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert not np.allclose(moved, weights)


@pytest.mark.parametrize("place", flipped.PLACES)
def test_a_tenth_is_flipped_where_it_says(place):
    problem = problem_of()
    wrong = flipped.flips(problem, place, np.random.default_rng(0))
    w = problem.w[problem.opening]
    if place == "nowhere":
        assert not wrong.any()
    else:
        assert wrong.sum() == 60
    if place == "the rarer half":
        assert w[wrong].min() >= np.median(w) - 1e-9
    if place == "the more crowded half":
        assert w[wrong].max() <= np.median(w) + 1e-9


def test_drawn_pairs_of_real_prompts_know_their_topics():
    prompts = [
        f"{verb} the {thing} number {i}" for verb, thing in (("Paint", "boat"), ("Cook", "egg")) for i in range(9)
    ]
    problem = semi_synthetic(prompts, ["a/boat"] * 9 + ["b/egg"] * 9, least=5, most=7, dimensions=8)
    assert len(problem) == 14
    assert sorted(problem.topic) == ["a"] * 7 + ["b"] * 7
    near = problem.vectors @ problem.vectors.T
    same = problem.topic[:, None] == problem.topic[None]
    assert near[same].mean() > near[~same].mean()


def test_planted_rarity_is_what_the_oracle_gains_on():
    problem = problem_of(pairs=1600)
    told = planted.planted(problem, 3, choose=lambda *_: ["t0"])
    oracle = told["arms"]["oracle"]
    assert oracle["rare"]["log_loss"]["value"] < 0  # the rare have another rule
    assert oracle["recovered"]["value"] == pytest.approx(1)
    assert {"¼ density", "density, permuted", "group-DRO", "known topics", "√m"} <= set(told["arms"])
    assert "oracle" in planted.shown(orjson.loads(orjson.dumps(told)))


def test_flipped_labels_are_measured_as_they_were():
    problem = dataclasses.replace(problem_of(pairs=400), topic=np.full(400, "t"))
    told = flipped.flipped(problem, 1)
    assert told["places"]["nowhere"]["density"]["weight_on_wrong"] is None
    uniform = {place: arms["uniform"] for place, arms in told["places"].items()}
    assert uniform["everywhere"]["weight_on_wrong"] == pytest.approx(1)
    # heads of a tenth of wrong labels are worse on right ones, but far from a tenth worse
    assert uniform["everywhere"]["every pair"]["level"] > uniform["nowhere"]["every pair"]["level"] - 0.06
    rare = told["places"]["the rarer half"]["density"]["weight_on_wrong"]
    assert rare > 1 > told["places"]["the more crowded half"]["density"]["weight_on_wrong"]
    assert "everywhere: density" in flipped.shown(orjson.loads(orjson.dumps(told)))


def test_natural_data_are_told_as_try_weights_tells_them():
    told = natural.natural(problem_of(pairs=400), 2)
    names = [one["name"] for one in told["weightings"]]
    assert names[0] == "uniform, L2 tuned for the rare"
    assert "density, permuted within sources" in names
    assert names.count("density within sources") == 1
    assert "¼ density" in natural.shown(orjson.loads(orjson.dumps(told)))


def test_simulated_rules_far_apart_gain_where_they_are_rare():
    told = simulated.simulated(simulated.Simulated(400, 80.0, folds=3, seeds=1, permutations=2), 6)
    mean, error = told["arms"]["density"]["bin 0: log_loss"]
    assert mean + 2 * error < 0
    assert told["arms"]["density"]["every pair: log_loss"][0] > 0
    assert "recommended" in simulated.shown(orjson.loads(orjson.dumps(told)))


def test_exact_intervals_of_shares_are_those_of_the_binomial():
    low, high = simulated.clopper_pearson(20, 400)
    assert binom.sf(19, 400, low) == pytest.approx(0.005)
    assert binom.cdf(20, 400, high) == pytest.approx(0.005)
    assert simulated.clopper_pearson(0, 10)[0] == 0
