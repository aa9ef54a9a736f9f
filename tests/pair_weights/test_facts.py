"""What gives pause about a split: crowded groups, and density bins that too few pairs validate."""

import numpy as np
import pytest

from kat.evaluation.power import detectable
from kat.pair_weights.facts import LEAST_VALIDATION_PAIRS, split_warnings, weight_warnings, who_pays
from kat.reports.console.pays import pay_lines


def facts(largest: int = 2, openings: int = 1000, validation=(20, 20, 20, 20, 20), cosine=None, by="group", share=0.1):
    return {
        "split": {
            "largest_group": {"openings": largest, "pairs": largest},
            "openings": openings,
            "group_cosine": cosine,
            "by": by,
            "validation_share_asked": share,
        },
        "bins": [{"bin": b, "pairs": 100, "validation_pairs": n} for b, n in enumerate(validation)],
    }


def weighed(bins=(0.3, 0.2, 0.2, 0.2, 0.1), sources=((0.5, 0.5), (0.5, 0.5)), **weights):
    return {
        "bins": [
            {"bin": b, "pairs": 100, "share_of_pairs": 0.2, "share_of_weight": share} for b, share in enumerate(bins)
        ],
        "pays": {
            "src": [
                {"value": f"s{i}", "pairs": 10, "share_of_pairs": p, "share_of_weight": w}
                for i, (p, w) in enumerate(sources)
            ]
        },
        "weights": {"ess_pairs": 100.0, **weights},
    }


def test_who_pays_more_than_half_is_named():
    assert weight_warnings(weighed()) == []  # a half is not less than a half
    (warning,) = weight_warnings(weighed(bins=(0.4, 0.2, 0.2, 0.11, 0.09)))
    assert "by density bin, bin 4 (20.0% of the pairs, 9.0% of the weight)" in warning
    assert "kat try-weights" in warning
    assert "a smaller --blend." in warning
    (warning,) = weight_warnings(weighed(sources=((0.3, 0.1), (0.69, 0.899), (0.009, 0.001))))
    assert "by src, s0 (30.0% of the pairs, 10.0% of the weight)." in warning  # too few pairs are no part
    assert "--within src" in warning


def test_who_pays_is_told_by_bin_and_source_those_that_lose_most_first():
    pays = who_pays(np.array([0, 0, 4, -1]), np.array(["a", "b", "b", "b"]), np.array([2.0, 1.0, 0.6, 0.4]))
    assert [(one["value"], one["pairs"]) for one in pays["bin"]] == [("no density", 1), ("bin 4", 1), ("bin 0", 2)]
    shares = {one["value"]: (one["share_of_pairs"], one["share_of_weight"]) for one in pays["src"]}
    assert shares == {"a": pytest.approx((0.25, 0.5)), "b": pytest.approx((0.75, 0.5))}
    said = "\n".join(pay_lines(pays))
    rows = [line.split("  ")[1] for line in said.splitlines() if line.startswith("  ")]
    assert rows == ["density bin", "no density", "bin 4, most crowded", "bin 0, rarest", "source", "b", "a"]


def test_nobody_pays_for_equal_weights():
    assert who_pays(np.zeros(3, int), np.array(["a", "b", "b"]), np.full(3, 0.7)) == {}
    assert who_pays(np.zeros(0, int), np.zeros(0, str), np.zeros(0)) == {}


def test_a_control_that_does_not_match_is_said():
    assert weight_warnings(weighed(ess_to_match=101.9)) == []
    (warning,) = weight_warnings(weighed(ess_to_match=110.0))
    assert "100 pairs, and those that they are to match 110" in warning


def test_a_quiet_split_has_no_warning():
    assert split_warnings(facts()) == []
    assert split_warnings(facts(largest=50)) == []  # five per cent, no more
    assert split_warnings(facts(largest=19, openings=100)) == []  # a few
    assert split_warnings(facts(validation=(0,) * 5, by="none")) == []
    assert split_warnings(facts(validation=(0,) * 5, share=0.0)) == []


def test_a_large_group_is_named_with_its_remedy():
    (warning,) = split_warnings(facts(largest=203, openings=1073, cosine=0.95))
    assert "holds 203 of 1,073 texts (19%)" in warning
    assert "Leave --group_cosine out" in warning
    (warning,) = split_warnings(facts(largest=51))
    assert "share most of their text" in warning
    assert "--split opening" in warning


def test_thin_bins_are_named_with_a_share_that_would_do():
    (warning,) = split_warnings(facts(validation=(10, 40, 19, 20, 30)))
    assert "(bin 0: 10, bin 2: 19;" in warning
    assert "--validation_share 0.2," in warning
    assert f"{100 * detectable(0.5 / 10**0.5):.0f} points" in warning
    (warning,) = split_warnings(facts(validation=(0, 40, 40, 40, 40)))
    assert "bin 0: 0" in warning
    assert "Take more pairs" in warning
    assert LEAST_VALIDATION_PAIRS == 20
