"""The commands that are still to be done: exact, quoted, and in an order in which they can be typed."""

from dataclasses import replace
from pathlib import Path

from kat.reports.sections.next_steps import Done, commands, next_steps

RUN = Path("my run")
TRIED = {"flags": {"density": "--blend 1"}, "best": "density", "sentence": "it helps", "rare": "bin 0"}
TRIED |= {"uniform": {"every pair": {}, "bin 0": {}}}


def test_all_of_it_for_a_run_of_openings():
    assert commands(RUN, Done()) == [
        "kat try-weights 'my run'",
        "kat weigh-pairs 'my run'",
        "kat train-rm 'my run'",
        "kat evaluate-rm 'my run/rm/validation_scores.jsonl' --pair_weights 'my run/pair_weights.parquet'",
        "kat export-weights 'my run/pair_weights.parquet' --to trl --out 'my run/trl'",
        "kat verify 'my run'",
    ]


def test_what_is_done_is_left_out():
    table, model = RUN / "pair_weights.parquet", RUN / "rm"
    done = Done(table, TRIED, "--blend 1", [model], [model], exported=True)
    assert commands(RUN, done) == ["kat verify 'my run'"]
    without = commands(RUN, Done(table, TRIED, "--blend 1", validates=False, exported=True))
    assert without == ["kat train-rm 'my run'", "kat verify 'my run'"]


def test_what_the_trial_supports_is_followed():
    table = RUN / "pair_weights.parquet"
    assert commands(RUN, Done(tried=TRIED))[0] == "kat weigh-pairs 'my run' --blend 1"
    assert commands(RUN, Done(table, TRIED, "--blend 0.25"))[0] == "kat weigh-pairs 'my run' --blend 1 --overwrite"
    assert not any("weigh-pairs" in line for line in commands(RUN, Done(table, TRIED, None)))


def test_where_no_weighting_helps_a_uniform_model_is_trained():
    for best in (None, "for the rare"):
        done = Done(RUN / "pair_weights.parquet", TRIED | {"best": best}, "--blend 0.25", [RUN / "rm"], [RUN / "rm"])
        assert commands(RUN, done)[0] == "kat train-rm 'my run' --pair_weights uniform"
        assert "rm.uniform/validation_scores" in commands(RUN, done)[1]
    uniform = replace(done, reward_models=[RUN / "rm.uniform"], evaluated=[RUN / "rm.uniform"], exported=True)
    assert commands(RUN, uniform) == ["kat verify 'my run'"]
    unknown = TRIED | {"best": None, "uniform": {"every pair": {}}}
    assert "kat train-rm 'my run'" in commands(RUN, Done(RUN / "pair_weights.parquet", unknown))


def test_the_sentence_of_the_trial_stands_before():
    assert next_steps(RUN, Done(tried=TRIED))[0].text == "kat try-weights: it helps."
    assert len(next_steps(RUN, Done())) == 1
