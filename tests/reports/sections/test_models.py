"""The models' section, against the JSON that it shows."""

import numpy as np
import pytest
from making_sections import HOSTILE, chart, column, lines, prose, quotes, table

from kat.evaluation.evaluate import compare, compare_with_longer, evaluate
from kat.evaluation.pairs import EvalPairs
from kat.reports.blocks import Chart
from kat.reports.sections.models import CURVE, Evaluated, Trained, Training, models, moving_mean


def difference(value, interval=(0.0, 0.1), least=0.05):
    interval = None if interval is None else list(interval)
    return {"difference": value, "interval": interval, "p": 0.03, "minimum_detectable_effect": least}


def tried():
    def gains(*values):
        parts = ("every pair", "bin 0", "bin 4")
        return {p: {"accuracy": difference(v), "log_loss": difference(-v)} for p, v in zip(parts, values, strict=True)}

    one = {"name": "density", "gains": gains(0.01, 0.03, -0.02), "p_rare_log_loss": 0.02, "helps": True}
    one["permuted"] = {"rank": 1, "count": 20}
    other = one | {"name": HOSTILE, "gains": gains(0.0, 0.0, 0.0), "helps": False, "permuted": None}
    other["gains"]["bin 0"]["accuracy"]["interval"] = None
    uniform = {n: {"pairs": 9, "accuracy": 0.6, "log_loss": 0.5} for n in ("every pair", "bin 0", "bin 4")}
    told = {"sentence": "use it", "rare": "bin 0", "uniform": uniform, "weightings": [one, other], "model": "minilm"}
    return told


def test_what_was_tried():
    section = models(Trained(tried=tried()))
    drawn = chart(section, "tried")
    assert drawn.categories == ["density *", HOSTILE]
    assert [s.name for s in drawn.series] == ["every pair", "bin 0, rarest", "bin 4, most crowded"]
    assert [s.y.tolist() for s in drawn.series] == [[0.01, 0.0], [0.03, 0.0], [-0.02, 0.0]]
    assert np.isnan(drawn.series[1].low[1])
    assert drawn.series[0].low.tolist() == [0.0, 0.0]
    assert drawn.format == "points"
    rows = table(section, "Differences from uniform")
    assert column(rows, "bin 0, rarest: difference") == [0.03, 0.0]
    assert column(rows, "log-loss, rarest") == [-0.03, -0.0]
    assert column(rows, "rank among permuted") == [1, None]
    assert column(rows, "of") == [21, None]
    uniform = table(section, "Uniform weights")
    assert column(uniform, "accuracy") == [0.6] * 3
    assert column(uniform, "uniform weights, on") == ["every pair", "bin 0, rarest", "bin 4, most crowded"]
    assert drawn.told == "2 weightings; helping: density. Use it."
    assert "kat try-weights: use it." in prose(section)


def test_without_density_bins_nothing_is_said_of_the_rare():
    facts = tried()
    facts["uniform"] = {"every pair": facts["uniform"]["every pair"]}
    for one in facts["weightings"]:
        one["gains"] = {"every pair": one["gains"]["every pair"]}
    section = models(Trained(tried=facts))
    assert [s.name for s in chart(section, "tried").series] == ["every pair"]
    assert column(table(section, "Differences from uniform"), "log-loss, rarest") == [None, None]


def evaluations(models_count=2, sources=1, seed=0):
    draw = np.random.default_rng(seed)
    n = 300
    pairs = EvalPairs(
        [str(i) for i in range(n)],
        [str(i // 2) for i in range(n)],
        [f"{HOSTILE}{i % sources}" for i in range(n)],
        np.arange(n) * 5 // n,
        draw.integers(1, 50, n),
        draw.integers(1, 50, n),
    )
    rewards = [(draw.normal(0.5, 1, n), draw.normal(0, 1, n)) for _ in range(models_count)]
    both = compare(pairs, *rewards, replicates=50).as_dict() if models_count == 2 else None
    facts = {"files": [f"m{i}" for i in range(models_count)], "comparison": both}
    facts["evaluations"] = [evaluate(pairs, *r, replicates=50).as_dict() for r in rewards]
    facts["against_longer_wins"] = [compare_with_longer(pairs, *r, replicates=50).as_dict() for r in rewards]
    return facts, pairs, rewards


def test_models_stand_side_by_side():
    facts, pairs, rewards = evaluations()
    section = models(Trained(evaluations=[Evaluated("both", facts)]))
    drawn = chart(section, "accuracy")
    assert [s.name for s in drawn.series] == ["m0", "m1"]
    assert drawn.categories[0] == "every pair"
    assert drawn.categories[-1] == "bin 4, most crowded"
    for series, (chosen, rejected) in zip(drawn.series, rewards, strict=True):
        assert series.y[0] == pytest.approx((chosen > rejected).mean())
        rare = np.asarray(pairs.bin) == 0
        place = drawn.categories.index("bin 0, rarest")
        assert series.y[place] == pytest.approx((chosen > rejected)[rare].mean())
        assert (series.low <= series.y).all()
        assert (series.y <= series.high).all()
    rows = table(section, "Accuracy by part")
    assert column(rows, "accuracy") == [y for s in drawn.series for y in s.y.tolist()]
    first = facts["evaluations"][0]["all"]["unweighted"]
    assert column(rows, "log-loss")[0] == first["log_loss"]["value"]
    assert column(rows, "longer wins")[0] == first["longer_wins"]["value"]
    compared = table(section, "accuracy of m0 minus m1")
    assert column(compared, "difference")[0] == facts["comparison"]["all"]["unweighted"]["accuracy"]["difference"]
    assert column(compared, "p")[-1] == facts["comparison"]["bins"]["4"]["balanced"]["accuracy"]["p"]


def test_one_model_stands_beside_guessing_by_length_and_sources_have_rows():
    facts, *_ = evaluations(1, sources=3)
    section = models(Trained(evaluations=[Evaluated("rm", facts)]))
    assert f"source {HOSTILE}0" in chart(section, "accuracy").categories
    compared = table(section, "longer completion wins")
    longer = facts["against_longer_wins"][0]
    assert column(compared, "detectable")[1] == longer["all"]["balanced"]["accuracy"]["minimum_detectable_effect"]
    assert len(compared.rows) == 2 + 5 + 3


def test_an_accuracy_without_interval_or_value():
    facts, *_ = evaluations(1)
    one = facts["evaluations"][0]
    one["bins"]["0"]["balanced"]["accuracy"] = {"value": None, "interval": None}
    one["bins"]["0"]["balanced"]["margin"]["value"] = float("nan")
    one["macro"] = None
    section = models(Trained(evaluations=[Evaluated("rm", facts)]))
    drawn = chart(section, "accuracy")
    row = drawn.categories.index("bin 0, rarest")
    assert np.isnan([drawn.series[0].y[row], drawn.series[0].low[row]]).all()
    rows = table(section, "Accuracy by part").rows
    assert [r[4:8] for r in rows if r[1] == "bin 0, rarest"] == [(None,) * 4]


def reward_model(name="rm", steps=40, **changed):
    log = [{"step": i + 1, "loss": 1 / (i + 1), "accuracy": 0.5 + i / 100} for i in range(steps)]
    log[-1]["validation_accuracy"] = 0.75
    report = {"weights": "pair_weights.parquet", "train_pairs": 100, "ess_pairs": 40.0, "prompts_cut": 2}
    report |= {"training": {"steps": steps, "seconds": 3.5}, "dropped_by_bin": {"long": {"0": 1, "4": 2}}}
    return Training(name, report | changed, log)


def test_learning_curves():
    section = models(Trained(reward_models=[reward_model(), reward_model(HOSTILE, 5)]))
    loss = chart(section, "rm_loss")
    assert [s.name for s in loss.series] == ["rm", HOSTILE]
    losses = [1 / (i + 1) for i in range(40)]
    assert loss.series[0].y[10] == pytest.approx(np.mean(losses[6:15]))  # a moving mean of nine
    assert loss.series[0].y[0] == pytest.approx(np.mean(losses[:5]))
    assert loss.series[1].y.tolist() == losses[:5]  # too short for one
    assert "Means of 9 steps" in loss.told
    measured = chart(section, "rm_validation")
    assert [s.x.tolist() for s in measured.series] == [[40.0], [5.0]]
    assert [s.y.tolist() for s in measured.series] == [[0.75], [0.75]]
    row = table(section, "as trained").rows[0]
    assert row == ("rm", "pair_weights.parquet", 100, 0.4, 40, 3.5, 3, 2)
    assert "There are no validation pairs, so nothing can be said of accuracy." in prose(section)


def test_policies_of_dpo_are_beside_the_reward_models():
    facts, *_ = evaluations(1)
    dpo = reward_model("dpo", validation=facts["evaluations"][0])
    section = models(Trained(reward_models=[reward_model()], dpo_policies=[dpo]))
    assert [s.name for s in chart(section, "rm_loss").series] == ["rm"]
    assert [s.name for s in chart(section, "dpo_loss").series] == ["dpo"]
    assert chart(section, "dpo_loss").title == "Loss of the DPO policies"
    assert [row[0] for row in table(section, "DPO policies, as trained").rows] == ["dpo"]
    assert [row[0] for row in table(section, "Reward models, as trained").rows] == ["rm"]
    assert [s.name for s in chart(section, "accuracy").series] == ["dpo"]
    assert "No model was trained" not in prose(section)


def test_policies_stand_beside_their_references():
    part = {"prompts": 9, "win_rate": {"value": 0.7, "interval": [0.6, 0.8]}, "reward_gain": {"value": 0.2}}
    part |= {"kl": {"value": 0.05, "interval": [0.01, 0.1]}}
    facts = {"all": part, "bins": {"0": part | {"prompts": 4, "win_rate": {"value": 0.5, "interval": None}}}}
    section = models(Trained(wins=[Evaluated(HOSTILE, facts)]))
    assert table(section, "Policies against their references").rows == [
        (HOSTILE, "every bin", 9, 0.7, 0.6, 0.8, 0.2, 0.05),
        (HOSTILE, "bin 0, rarest", 4, 0.5, None, None, 0.2, 0.05),
    ]
    assert "No model was trained" not in prose(section)


def test_a_long_log_is_thinned():
    one = chart(models(Trained(reward_models=[reward_model(steps=20_000)])), "rm_loss").series[0]
    assert len(one.x) == CURVE
    assert (one.x[0], one.x[-1]) == (1, 20_000)
    assert moving_mean(np.arange(9.0), 3).tolist() == [0.5, *range(1, 8), 7.5]


def test_a_training_measures_itself_until_it_is_evaluated():
    facts, *_ = evaluations(1)
    rm = reward_model(validation=facts["evaluations"][0])
    section = models(Trained(reward_models=[rm]))
    assert [s.name for s in chart(section, "accuracy").series] == ["rm"]
    control = reward_model("rm.uniform", validation=evaluations(1, seed=1)[0]["evaluations"][0])
    section = models(Trained(reward_models=[rm, control], evaluations=[Evaluated("e", facts | {"files": ["rm"]})]))
    assert [s.name for s in chart(section, "accuracy").series] == ["rm", "rm.uniform"]


def test_a_comparison_names_the_models_by_their_folders():
    facts, *_ = evaluations(2)
    facts["files"] = ["rm", "other.jsonl"]
    rm = reward_model(validation=evaluations(1, seed=1)[0]["evaluations"][0])
    section = models(Trained(reward_models=[rm], evaluations=[Evaluated("both", facts)]))
    drawn = chart(section, "accuracy")
    assert [s.name for s in drawn.series] == ["rm", "other.jsonl"]
    accuracy = facts["evaluations"][0]["all"]["unweighted"]["accuracy"]["value"]
    assert drawn.series[0].y[0] == accuracy
    section = models(Trained(reward_models=[rm], evaluations=[Evaluated("both", facts | {"split": "train"})]))
    names = [s.name for s in chart(section, "accuracy").series]
    assert names == ["rm", "rm (train pairs)", "other.jsonl (train pairs)"]


def policy(steps=(0, 50), name="grpo"):
    log = [{"step": i, "reward": i / 10, "kl": i / 100, "distinct_2": 0.9, "length": 30.0} for i in range(1, 6)]
    answers = [
        {
            "id": f"context{i}@{step}",
            "step": step,
            "bin": i % 3,
            "prompt": [{"role": "user", "content": f"{HOSTILE}{i}"}, {"role": "assistant", "content": None}],
            "completion": f"{HOSTILE} {i} at {step}",
            "reward": i + step / 100,
            "tokens": 7,
        }
        for step in steps
        for i in range(9)
    ]
    counts = {"drawn": {"0": 5, "4": 3}, "dropped": {"4": 1}, "trained": {"0": 5, "4": 2}, "loss_tokens": {"0": 99}}
    facts = [{"step": s, "answers": 9, "reward": 0.1, "kl": 0.0, "tokens": 7.0, "ended": 1.0} for s in steps]
    report = {"trend": {"value": 0.3, "interval": [0.1, 0.5]}, "answers": facts, "training": {"by_bin": counts}}
    return Training(name, report, log, answers)


def test_a_policy():
    section = models(Trained(policies=[policy()]))
    drawn = {b.name: b for b in section.blocks if isinstance(b, Chart)}
    assert set(drawn) == {f"policy_0_{key}" for key in ("reward", "kl", "distinct_2", "length")}
    assert drawn["policy_0_kl"].series[0].y.tolist() == [i / 100 for i in range(1, 6)]
    assert "grpo: reward, last less first +0.3000 [+0.1000, +0.5000]; it rose." in prose(section)
    assert table(section, "Groups by density bin").rows == [
        ("bin 0, rarest", 5, 0, 5, 99),
        ("bin 4, most crowded", 3, 1, 2, 0),
    ]
    assert table(section, "Fixed prompts").rows[1] == (50, 9, 0.1, 0.0, 7.0, 1.0)


def test_completions_before_and_after_of_each_bin():
    said = quotes(models(Trained(policies=[policy((0, 25, 50))])))
    assert len(said) == 6 * 3
    prompts = [int(text.removeprefix(HOSTILE)) for heading, text in said if heading.startswith("prompt")]
    assert prompts == [0, 1, 2, 3, 4, 5]
    assert said[:3] == [
        ("prompt (bin 0, rarest)", f"{HOSTILE}0"),
        ("step 0, reward 0.0000, 7 tokens", f"{HOSTILE} 0 at 0"),
        ("step 50, reward 0.5000, 7 tokens", f"{HOSTILE} 0 at 50"),
    ]
    assert len(quotes(models(Trained(policies=[policy((0,))])))) == 6 * 2


def test_two_policies_have_charts_of_their_own():
    section = models(Trained(policies=[policy(name="a/b"), policy(name="a_b")]))
    names = [b.name for b in section.blocks if isinstance(b, Chart)]
    assert len(set(names)) == len(names) == 8


def test_nothing_trained_says_how_to():
    section = models(Trained(todo=["kat train-rm RUN"]))
    assert prose(section) == ["No model was trained or evaluated in this run yet."]
    assert lines(section) == ["kat train-rm RUN"]
