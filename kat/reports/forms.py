"""What the JSON files that a report shows hold: of every value that is read, what it can be.

A form is a test of a value with a word for what is expected, a mapping of keys to forms, or one of `Each`, `By` and
`Maybe` around another. Keys that no form names are not read, and may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kat.statistics import BINS

_SLACK = 1e-6
"""By how much a share may pass 1: sums are rounded."""


@dataclass(frozen=True)
class Is:
    """A value that passes a test, and what such a value is called."""

    named: str
    test: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """A list of values of one form, of a `length` if there is one."""

    form: Form
    length: int | None = None


@dataclass(frozen=True)
class By:
    """An object whose keys may be anything, or integers, and whose values are of one form."""

    form: Form
    integers: bool = False


@dataclass(frozen=True)
class Maybe:
    """A value of a form, or none, unless `null` is off; with `absent` the key may be missing too."""

    form: Form
    absent: bool = False
    null: bool = True


Form: TypeAlias = "Is | Each | By | Maybe | Mapping[str, Form]"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and low <= value <= high


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


TEXT = Is("text", lambda value: isinstance(value, str))
FLAG = Is("true or false", lambda value: isinstance(value, bool))
COUNT = Is("a count", _is_count)
NUMBER = Is("a number", _is_number)
AMOUNT = Is("a number from 0 up", _between(0, math.inf))
POSITIVE = Is("a number above 0", lambda value: _is_number(value) and value > 0)
SHARE = Is("a share from 0 to 1", _between(0, 1 + _SLACK))
COSINE = Is("a number from -1 to 1", _between(-1 - _SLACK, 1 + _SLACK))
BOUND = Is(
    "one of ess, noise, max_temperature, given and uniform",
    lambda value: isinstance(value, str) and value in ("ess", "noise", "max_temperature", "given", "uniform"),
)

DENSITY: Form = {
    "n_items": COUNT,
    "k": COUNT,
    "metric": TEXT,
    "recall": Maybe(SHARE),
    "intrinsic_dimension": Maybe(NUMBER),
    "split_half_correlation": Maybe(COSINE),
    "noise_variance": Maybe(NUMBER),
    "temperature": AMOUNT,
    "temperature_bound": BOUND,
    "cap_hits": COUNT,
    "effective_sample_size": AMOUNT,
    "effective_sample_share": SHARE,
    "heaviest_1_percent_share": SHARE,
    "weight": {"min": POSITIVE, "max": POSITIVE, "quantiles": {"50%": POSITIVE}},
    "mean_pair_cosine": Maybe(COSINE),
    "mean_pair_cosine_centred": Maybe(COSINE),
    "duplicate_vectors": COUNT,
    "truncated": Maybe(COUNT, absent=True),
    "tokens_lost": Maybe(COUNT, absent=True),
    "model": Maybe({"max_tokens": Maybe(COUNT, absent=True)}, absent=True, null=False),
}
"""embeddings_metadata.json."""

PREFIXES: Form = {
    "shape": TEXT,
    "inside_text": Maybe(Each(TEXT), absent=True),
    "pairs": COUNT,
    "openings": COUNT,
    "openings_with_several_contexts": COUNT,
    "bad_rows": COUNT,
    "dropped": Maybe(By(COUNT), absent=True),
    "kept": By(COUNT),
    "rows_by_source": By(COUNT),
    "columns_not_read": Maybe(By(COUNT), absent=True),
}
"""prefixes_all.stats.json."""

_PAYS = {"pairs": COUNT, "share_of_pairs": SHARE, "share_of_weight": SHARE}

PAIR_WEIGHTS: Form = {
    "left_out": By(COUNT),
    "exact_duplicates": COUNT,
    "split": {
        "train": {"pairs": COUNT},
        "validation": {"pairs": COUNT},
        "group_cosine": Maybe(COSINE),
        "group_jaccard": Maybe(SHARE, absent=True),
        "openings_in_groups_of_several": COUNT,
        "groups_of_several_openings": COUNT,
        "leak": Maybe({"share": SHARE}),
        "leak_by_opening": Maybe({"all": SHARE, "by_bin": Each(Maybe(SHARE), BINS)}, absent=True),
    },
    "weights": {
        "heaviest_1_percent_share": SHARE,
        "ess_pairs_share": Maybe(SHARE, absent=True),
        "ess_clusters_share": Maybe(SHARE, absent=True),
    },
    "bins": Each({**_PAYS, "bin": COUNT, "validation_pairs": COUNT, "validation_openings": COUNT}, BINS),
    "pays": By(Each({**_PAYS, "value": TEXT})),
    "warnings": Each(TEXT),
}
"""pair_weights.stats.json."""


def _estimate(value: Form) -> Form:
    return {"value": Maybe(value), "interval": Maybe(Each(Maybe(value), 2))}


_ESTIMATES: Form = {"accuracy": _estimate(SHARE)} | {
    name: Maybe(_estimate(value), absent=True, null=False)
    for name, value in (("margin", NUMBER), ("log_loss", AMOUNT), ("ece", SHARE), ("longer_wins", SHARE))
}
_PART: Form = {"pairs": COUNT, "openings": COUNT, "unweighted": _ESTIMATES, "balanced": _ESTIMATES}
PARTS: Form = {
    "all": _PART,
    "macro": Maybe(_ESTIMATES),
    "bins": By(_PART, integers=True),
    "sources": By(_PART),
}
"""An evaluation of one model."""


def _difference(value: Form) -> Form:
    return {
        "difference": Maybe(value),
        "interval": Maybe(Each(Maybe(value), 2)),
        "p": Maybe(SHARE),
        "minimum_detectable_effect": Maybe(AMOUNT),
    }


_BALANCED: Form = {"balanced": {"accuracy": _difference(COSINE)}}
_COMPARISON: Form = {
    "all": {"unweighted": {"accuracy": _difference(COSINE)}, "balanced": {"accuracy": _difference(COSINE)}},
    "bins": By(_BALANCED),
    "sources": By(_BALANCED),
}

EVALUATION: Form = {
    "files": Each(TEXT),
    "split": Maybe(TEXT, absent=True),
    "evaluations": Each(PARTS),
    "comparison": Maybe(_COMPARISON),
    "against_longer_wins": Maybe(Each(Maybe(_COMPARISON)), absent=True),
}
"""evaluation.json."""

_GAIN: Form = {"accuracy": _difference(COSINE), "log_loss": _difference(NUMBER)}

_PROMPTS: dict[str, Form] = {
    name: Maybe(COUNT, absent=True, null=False) for name in ("prompts_cut", "prompts_whose_tools_are_not_written")
}
"""How many prompts were read in part; what older versions wrote does not say."""

TRIED: Form = {
    **_PROMPTS,
    "dropped": By(COUNT),
    "left_out": Maybe(By(COUNT), absent=True, null=False),
    "openings_without_weight": Maybe(COUNT, absent=True, null=False),
    "sentence": TEXT,
    "model": TEXT,
    "rare": TEXT,
    "best": Maybe(TEXT),
    "flags": By(Maybe(TEXT)),
    "uniform": By({"pairs": COUNT, "accuracy": Maybe(SHARE), "log_loss": Maybe(AMOUNT)}),
    "weightings": Each(
        {
            "name": TEXT,
            "helps": FLAG,
            "gains": By(_GAIN),
            "p_rare_log_loss": Maybe(SHARE),
            "permuted": Maybe({"rank": COUNT, "count": COUNT}),
        }
    ),
}
"""weightings.json."""

_BAD_ROWS: dict[str, Form] = {"bad_rows": Maybe(By(TEXT), absent=True, null=False)}

REWARD_MODEL: Form = {
    **_PROMPTS,
    **_BAD_ROWS,
    "pairs_without_margin": Maybe(COUNT, absent=True, null=False),
    "weights": Maybe(TEXT, absent=True),
    "train_pairs": Is("a count above 0", lambda value: _is_count(value) and value > 0),
    "ess_pairs": AMOUNT,
    "training": {"steps": COUNT, "seconds": AMOUNT},
    "dropped_by_bin": By(By(COUNT)),
    "prompts_cut": COUNT,
    "validation": Maybe(PARTS, absent=True),
}
"""training.json of a reward model, or of a policy by DPO."""

POLICY: Form = {
    **_PROMPTS,
    **_BAD_ROWS,
    "fixed_prompts_cut": Maybe(COUNT, absent=True, null=False),
    "trend": Maybe({"value": NUMBER, "interval": Each(NUMBER, 2)}),
    "training": {"by_bin": By(By(COUNT, integers=True))},
    "answers": Each(
        {"step": COUNT, "answers": COUNT, "reward": NUMBER, "kl": Maybe(NUMBER), "tokens": AMOUNT, "ended": SHARE}
    ),
}
"""training.json of a policy."""


_FARES: Form = {
    "prompts": COUNT,
    "win_rate": _estimate(SHARE),
    "reward_gain": _estimate(NUMBER),
    "kl": _estimate(NUMBER),
}
_SAID: Form = {"reward": NUMBER, "tokens": AMOUNT, "ended": SHARE}
POLICY_EVALUATION: Form = {
    **_PROMPTS,
    "policy": TEXT,
    "reference": TEXT,
    "rewards": Each(TEXT),
    "all": _FARES,
    "bins": By(_FARES, integers=True),
    "policy_answers": _SAID,
    "reference_answers": _SAID,
}
"""policy.json."""

TRAINED = {"train-rm": REWARD_MODEL, "train-dpo": REWARD_MODEL, "train-grpo": POLICY}
"""training.json by the stage that wrote it."""

_SHOWN = ("loss", "accuracy", "validation_accuracy", "reward", "kl", "distinct_2", "length")
LOG: Form = {"step": COUNT} | {name: Maybe(NUMBER, absent=True) for name in _SHOWN}
"""A line of training_log.jsonl."""

REWARDS: Form = {"opening_id": TEXT, "chosen": NUMBER, "rejected": NUMBER}
"""A line of a model's own validation_scores.jsonl."""

ANSWER: Form = {
    "id": TEXT,
    "step": COUNT,
    "bin": Is("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "prompt": Each({"role": TEXT, "content": Maybe(TEXT, absent=True)}),
    "completion": TEXT,
    "reward": NUMBER,
    "tokens": COUNT,
}
"""A line of a policy's completions.jsonl."""


def first_fault(value: Any, form: Form, at: str = "") -> str | None:
    """Return what is wrong with a value that is not of a form, the first of all, by its place; None if nothing is."""
    if isinstance(form, Maybe):
        return None if value is None and form.null else first_fault(value, form.form, at)
    if isinstance(form, Is):
        return None if form.test(value) else f"{at} is {value!r:.60}; expected {form.named}"
    if isinstance(form, Each):
        return _fault_of_list(value, form, at)
    if not isinstance(value, dict):
        return f"{at or 'the file'} is {value!r:.60}; expected an object"
    if isinstance(form, By):
        return _fault_of_names(value, form, at)
    for name, own in form.items():
        place = f"{at}.{name}".lstrip(".")
        if name not in value:
            if isinstance(own, Maybe) and own.absent:
                continue
            return f"{place} is missing"
        if (fault := first_fault(value[name], own, place)) is not None:
            return fault
    return None


def _fault_of_list(value: Any, form: Each, at: str) -> str | None:
    if not isinstance(value, list):
        return f"{at} is {value!r:.60}; expected a list"
    if form.length is not None and len(value) != form.length:
        return f"{at} has {len(value)} values; expected {form.length}"
    faults = (first_fault(one, form.form, f"{at}[{number}]") for number, one in enumerate(value))
    return next((fault for fault in faults if fault is not None), None)


def _fault_of_names(value: Mapping[str, Any], form: By, at: str) -> str | None:
    for name, one in value.items():
        if form.integers and not name.removeprefix("-").isdecimal():
            return f"{at} has the key {name!r:.60}; expected integers"
        if (fault := first_fault(one, form.form, f"{at}.{name[:60]}")) is not None:
            return fault
    return None
