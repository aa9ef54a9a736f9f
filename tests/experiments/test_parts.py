"""The experiments on small data: what they draw, thin and flip, and that they find what is planted."""

import argparse
import dataclasses

import numpy as np
import orjson
import pytest
import torch
from scipy.stats import binom

from experiments import flipped, natural, planted, problems, simulated
from experiments.arms import density_arms, dro_weights, group_arms, multiplicity_arm, oracle_arm, within_sources
from experiments.problems import Problem, drawn_topics, semi_synthetic, thinned
from kat.evaluation import weightings
from kat.training.heads import differences, fit_heads
from kat.training.trials import fit_fold


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


@pytest.mark.parametrize(("turned", "apart"), [(0.0, False), (70.0, True)])
def test_families_have_rules_of_their_own_as_far_apart_as_told(monkeypatch, turned, apart):
    monkeypatch.setattr(problems, "encode", lambda texts, **_: argparse.Namespace(vectors=np.ones((len(texts), 2))))
    topics = [f"{'ab'[i % 2]}/{i % 4}" for i in range(8000)]
    problem = semi_synthetic([f"prompt {i}" for i in range(8000)], topics, most=4000, dimensions=8, turned=turned)
    rules = []
    for family in ("a", "b"):
        data = differences(problem.x[problem.topic == family])
        head = fit_heads(data, torch.ones(len(data), 1), torch.tensor([1e-4], dtype=torch.float64))[0]
        rules.append((data.axes.float() @ head).numpy() / data.scale)
    norms = [float(np.linalg.norm(rule)) for rule in rules]
    assert norms == pytest.approx([2, 2], abs=0.3)
    assert (rules[0] @ rules[1] / np.prod(norms) < 0.9) == apart


def test_multiplicity_alone_lets_an_opening_count_its_root():
    problem = dataclasses.replace(problem_of(pairs=240), opening=np.r_[np.zeros(9, int), np.arange(1, 232)[:231] % 120])
    weights = multiplicity_arm(problem).weigh(np.arange(240))
    totals = np.bincount(problem.opening, weights)
    m = np.bincount(problem.opening)
    np.testing.assert_allclose(totals / totals[5], np.sqrt(m / m[5]), rtol=1e-9)


def test_effects_are_of_the_thinned_topics_and_of_the_rest():
    problem = problem_of(pairs=400)
    rares = np.stack([np.arange(400) < 200, np.arange(400) < 100])
    zero = np.zeros((2, 2, 400))
    better, worse = zero.copy(), zero.copy()
    better[0] = np.where(rares, -0.2, 0.1)  # log-loss
    worse[0], worse[1] = np.where(rares, 0.2, 0), np.where(rares, 0, -0.02)
    told = planted._told(problem, {"uniform": zero, "oracle": better * 2, "better": better, "worse": worse}, rares)
    one, other = told["arms"]["better"], told["arms"]["worse"]
    assert (one["rare"]["log_loss"]["value"], one["rest"]["log_loss"]["value"]) == pytest.approx((-0.2, 0.1))
    assert one["recovered"]["value"] == pytest.approx(0.5)
    assert (one["rare_superior"], one["rest_noninferior"]) == (True, True)
    assert (other["rare_superior"], other["rest_noninferior"]) == (False, False)
    assert told["rare_pairs"] == 300


def test_beside_a_weighting_stands_the_mean_of_its_permutations(monkeypatch):
    folds, problem = [], problem_of(pairs=400)

    def fitted(*args, **told):
        folds.append(fit_fold(*args, **told))
        return folds[-1]

    monkeypatch.setattr(planted, "fit_fold", fitted)
    monkeypatch.setattr(planted, "PERMUTATIONS", 3)
    train, test, is_rare = thinned(problem, ["t0"], 1 / 16, np.random.default_rng(0))
    values = planted._one_draw(problem, train, test, is_rare, np.random.default_rng(1))
    names = [name for name in values if not name.endswith(", permuted")]
    moving = [name for name in names if f"{name}, permuted" in values]
    said = (folds[0].data.z[len(train) :] @ folds[0].heads.T).T.numpy()
    assert len(said) == len(names) + 3 * len(moving)
    place = len(names) + 3 * moving.index("½ density")
    expected = np.logaddexp(0, -said[place : place + 3].astype(np.float64)).mean(0)
    np.testing.assert_allclose(values["½ density, permuted"][0], expected, rtol=1e-5)


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
    # Against flipped labels themselves a model of accuracy a has a − 0.1 · (2a − 1).
    level = uniform["nowhere"]["every pair"]["level"]
    assert uniform["everywhere"]["every pair"]["level"] > level - 0.03 > level - 0.1 * (2 * level - 1)
    rare = told["places"]["the rarer half"]["density"]["weight_on_wrong"]
    assert rare > 1 > told["places"]["the more crowded half"]["density"]["weight_on_wrong"]
    assert "everywhere: density" in flipped.shown(orjson.loads(orjson.dumps(told)))


def test_natural_data_are_told_as_try_weights_tells_them():
    problem = problem_of(pairs=400)
    told = natural.natural(problem, 2)
    names = [one["name"] for one in told["weightings"]]
    assert names[:3] == ["uniform, L2 tuned for the rare", "density", "½ density"]
    assert len(set(names)) == len(names) == 7
    by_name = {one["name"]: one for one in told["weightings"]}
    assert by_name["density"]["within_sources"]["count"] == natural.PERMUTATIONS
    assert by_name["density"]["within_sources"] != by_name["density"]["permuted"]
    assert by_name["density within sources"]["within_sources"] is None
    assert "¼ density" in natural.shown(orjson.loads(orjson.dumps(told)))


def test_weights_beside_two_kinds_of_permutations_are_one_weighting(monkeypatch):
    counts = []
    monkeypatch.setattr(weightings, "holm", lambda ps: counts.append(len(ps)) or list(ps))
    natural.natural(problem_of(pairs=200), 1)
    assert counts[0] == 7  # what p-values are corrected for: the weightings of the table, each once


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
