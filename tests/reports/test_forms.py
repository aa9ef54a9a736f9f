"""Values that no file of kat's holds are named by their places, and those that it holds pass."""

import copy

import numpy as np
import pytest
from making_sections import metadata, pair_stats, pair_table, prefix_stats

from kat.reports import forms
from kat.reports.forms import first_fault

ESTIMATES = {"accuracy": {"value": 0.5, "interval": [0.4, 0.6]}, "log_loss": {"value": 0.7, "interval": None}}
PART = {"pairs": 9, "openings": 5, "unweighted": ESTIMATES, "balanced": ESTIMATES}
DIFFERENCE = {"difference": -0.1, "interval": [-0.2, 0.1], "p": 0.5, "minimum_detectable_effect": None}
PARTS = {"all": PART, "macro": None, "bins": {"-1": PART, "0": PART}, "sources": {"a": PART}}
EVALUATION = {"files": ["a"], "split": None, "evaluations": [PARTS], "comparison": None, "against_longer_wins": [None]}
TRAINING = {
    "train_pairs": 9,
    "ess_pairs": 8.5,
    "training": {"steps": 3, "seconds": 1.5},
    "dropped_by_bin": {"too long": {"-1": 2}},
    "prompts_cut": 0,
    "validation": PARTS,
}
TRIED = {
    "sentence": "none helps",
    "model": "minilm",
    "rare": "bin 0",
    "dropped": {"too long": 3},
    "best": None,
    "flags": {"density": "--blend 1"},
    "uniform": {"every pair": {"pairs": 9, "accuracy": 0.5, "log_loss": 0.7}},
    "weightings": [
        {
            "name": "density",
            "helps": False,
            "gains": {"bin 0": {"accuracy": DIFFERENCE, "log_loss": DIFFERENCE | {"difference": 7.0}}},
            "p_rare_log_loss": None,
            "permuted": {"rank": 1, "count": 4},
        }
    ],
}
POLICY = {
    "trend": {"value": 0.1, "interval": [-0.1, 0.2]},
    "training": {"by_bin": {"drawn": {"-1": 2, "0": 3}, "dropped": {}}},
    "answers": [{"step": 0, "answers": 4, "reward": -0.5, "kl": None, "tokens": 12.5, "ended": 0.75}],
}
ESTIMATE = {"value": 0.5, "interval": None}
FARES = {"prompts": 3, "win_rate": ESTIMATE, "reward_gain": ESTIMATE, "kl": ESTIMATE}
SAID = {"reward": -0.5, "tokens": 12.5, "ended": 0.75}
NAMES = {"policy": "dpo", "reference": "tiny", "rewards": ["short"]}
POLICY_EVALUATION = {
    **NAMES,
    "prompts_cut": 1,
    "all": FARES,
    "bins": {"0": FARES},
    "policy_answers": SAID,
    "reference_answers": SAID,
}
TOOLS_UNREAD = "prompts_whose_tools_are_not_written"
CALL = {"role": "assistant", "tool_calls": []}
ANSWER = {"id": "a@0", "step": 0, "bin": -1, "prompt": [{"role": "user", "content": "Hi"}, CALL], "completion": ""}
FILES = {
    "density": (forms.DENSITY, metadata(np.ones(4))),
    "prefixes": (forms.PREFIXES, prefix_stats()),
    "pair weights": (forms.PAIR_WEIGHTS, pair_stats(pair_table())),
    "reward model": (forms.REWARD_MODEL, TRAINING),
    "evaluation": (forms.EVALUATION, EVALUATION),
    "tried": (forms.TRIED, TRIED),
    "policy": (forms.POLICY, POLICY),
    "policy evaluation": (forms.POLICY_EVALUATION, POLICY_EVALUATION),
    "answer": (forms.ANSWER, ANSWER | {"reward": 0.5, "tokens": 3}),
    "log": (forms.LOG, {"step": 3, "loss": None, "reward": -0.5}),
    "rewards": (forms.REWARDS, {"opening_id": "a", "chosen": -1.5, "rejected": 0}),
}


@pytest.mark.parametrize("name", FILES)
def test_what_kat_writes_is_of_its_form(name):
    form, value = FILES[name]
    assert first_fault(value, form) is None
    assert first_fault(value | {"more": object()}, form) is None  # what is not read may be anything


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("density", "cap_hits", -1, "cap_hits is -1; expected a count"),
        ("density", "temperature", "2", "temperature is '2'; expected a number from 0 up"),
        ("density", "temperature_bound", [], "temperature_bound is []; expected one of"),
        ("density", "effective_sample_share", 1.5, "effective_sample_share is 1.5; expected a share"),
        ("density", "weight.quantiles", None, "weight.quantiles is None; expected an object"),
        ("density", "weight.min", True, "weight.min is True; expected a number above 0"),
        ("density", "mean_pair_cosine", float("nan"), "mean_pair_cosine is nan"),
        ("prefixes", "rows_by_source", {"a": -3}, "rows_by_source.a is -3; expected a count"),
        ("pair weights", "split.train.pairs", [1], "split.train.pairs is [1]; expected a count"),
        ("pair weights", "split.leak_by_opening.by_bin", [0.1], "by_bin has 1 values; expected 5"),
        ("reward model", "training", "quick", "training is 'quick'; expected an object"),
        ("reward model", "train_pairs", 0, "train_pairs is 0; expected a count above 0"),
        ("reward model", "validation.bins", {"rare": PART}, "validation.bins has the key 'rare'; expected integers"),
        ("evaluation", "evaluations.0.all.balanced.accuracy.value", 7, "accuracy.value is 7; expected a share"),
        ("evaluation", "evaluations.0.all.balanced.accuracy.interval", [0.1], "interval has 1 values; expected 2"),
        ("evaluation", "evaluations.0.all.balanced.log_loss", None, "log_loss is None; expected an object"),
        ("evaluation", "evaluations", {}, "evaluations is {}; expected a list"),
        ("tried", "weightings.0.gains.bin 0.accuracy.difference", "1", "accuracy.difference is '1'"),
        ("tried", "weightings.0.permuted.rank", 0.5, "weightings[0].permuted.rank is 0.5; expected a count"),
        *((n, "prompts_cut", "some", "prompts_cut is 'some'; expected a count") for n in ("tried", "policy")),
        *(
            (n, TOOLS_UNREAD, None, f"{TOOLS_UNREAD} is None; expected a count")
            for n in ("tried", "policy", "reward model", "policy evaluation")
        ),
        ("tried", "dropped", {"too long": "many"}, "dropped.too long is 'many'; expected a count"),
        ("tried", "left_out", {"duplicate": -1}, "left_out.duplicate is -1; expected a count"),
        ("tried", "openings_without_weight", "2", "openings_without_weight is '2'; expected a count"),
        ("reward model", "pairs_without_margin", "2", "pairs_without_margin is '2'; expected a count"),
        ("reward model", "bad_rows", {"no text": 3}, "bad_rows.no text is 3; expected text"),
        ("policy", "bad_rows", ["no text"], "bad_rows is ['no text']; expected an object"),
        ("policy", "fixed_prompts_cut", 0.5, "fixed_prompts_cut is 0.5; expected a count"),
        ("tried", "uniform.every pair.pairs", None, "uniform.every pair.pairs is None"),
    ],
)
def test_what_cannot_be_is_named(name, place, value, said):
    form, changed = FILES[name][0], copy.deepcopy(FILES[name][1])
    *parents, last = place.split(".")
    inside = changed
    for key in parents:
        inside = inside[int(key) if isinstance(inside, list) else key]
    inside[last] = value
    assert said in first_fault(changed, form)


@pytest.mark.parametrize("name", FILES)
def test_a_key_that_is_missing_is_named(name):
    form, value = FILES[name]
    for key, own in form.items():
        without = {one: held for one, held in value.items() if one != key}
        may_lack = isinstance(own, forms.Maybe) and own.absent
        assert first_fault(without, form) == (None if may_lack else f"{key} is missing")
