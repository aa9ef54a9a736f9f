"""The summary: its sentences and figures, against the files' values."""

import numpy as np
import pytest
from making_sections import HOSTILE, cells, metadata, pair_stats, pair_table, prefix_stats, prose

from kat.reports.sections.summary import half_share, summary


def of(meta=None, prefixes=None, pair_weights=None, log_density=None, **more):
    meta = meta or metadata([1.5, 0.5, 1.0])
    log_density = np.zeros(meta["n_items"]) if log_density is None else log_density
    return summary(meta, prefixes=prefixes, pair_weights=pair_weights, log_density=log_density, **more)


def test_figures_are_those_of_the_files():
    one = pair_table()
    meta, stats = metadata(np.linspace(0.1, 1.9, 30)), pair_stats(one)
    nearest = np.sqrt(2 - 2 * np.asarray([0.95, 0.899, 0.91, *[0.0] * 27]))
    section = of(meta, prefix_stats(), stats, np.arange(30.0), nearest=nearest)
    counts, shares, numbers = (cells(section, name) for name in ("counts", "shares", "numbers"))
    assert counts["pairs"] == 40
    assert counts["openings"] == 30
    assert counts["pairs that train"] == int((one.split == "train").sum())
    assert counts["texts cut"] == 1
    assert shares["effective sample size, of openings"] == meta["effective_sample_share"]
    assert shares["effective sample size, of pairs that train"] == 0.5
    assert shares["openings with another at cosine 0.9 or above"] == pytest.approx(2 / 30)
    assert shares["openings that have half of all density"] == pytest.approx(1 / 30)
    assert numbers["temperature, T"] == 2.0
    assert numbers["median weight"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_half_of_all_density(seed):
    log_density = np.random.default_rng(seed).normal(0, 2, 200)
    density = sorted(np.exp(log_density), reverse=True)
    needed = next(n for n in range(1, 201) if sum(density[:n]) >= sum(density) / 2)
    assert half_share(log_density + 800) == pytest.approx(needed / 200)
    assert half_share(np.zeros(1)) == 1.0
    assert half_share(np.zeros(10)) == 0.5


def test_the_sentences():
    stats = pair_stats(pair_table(), exact_duplicates=2)
    section = of(metadata([1.5, 0.5]), prefix_stats(bad_rows=1, dropped={"x": 7}, inside_text=["ChatML read"]), stats)
    came, left, crowd, t, do = prose(section)
    assert came.startswith("40 pairs of 30 openings came in, of one source, demo")
    assert came.endswith("in the format kat; ChatML read; 4 openings have several contexts.")
    assert left == (
        "Of what was read, 1 bad row set aside; 7 dropped: x. "
        "2 exact duplicates kept; --duplicates drop leaves them out."
    )
    assert "the mean pair cosine is 0.125" in crowd
    assert "cosine 0.9" not in crowd
    assert t.startswith("T stopped at 2 by the floor of the effective sample size (reliability 0.900")
    assert "ESS" not in t.split(";")[0]
    assert "carry 7.0% of all weight" in do
    pays = min(stats["bins"], key=lambda one: one["share_of_weight"] - one["share_of_pairs"])
    assert f"by density bin, bin {pays['bin']}" in do
    assert f"({pays['share_of_pairs']:.1%} of the pairs, {pays['share_of_weight']:.1%} of the weight) pays" in do


def test_who_pays_is_the_value_that_loses_most():
    """Rare weighs more: the rarest bin gains; a source is named before the bins, if sources differ."""
    told = prose(of(pair_weights=pair_stats(pair_table())))[-1]
    assert told.endswith("gains most.")
    assert "and bin 0, rarest" in told
    pays = [
        {"value": HOSTILE, "pairs": 30, "share_of_pairs": 0.75, "share_of_weight": 0.5},
        {"value": "x", "pairs": 10, "share_of_pairs": 0.25, "share_of_weight": 0.5},
    ]
    told = prose(of(pair_weights=pair_stats(pair_table(), pays={"src": pays})))[-1]
    assert "by source, </script>" in told
    assert "(75.0% of the pairs, 50.0% of the weight) pays and x" in told


def test_equal_weights_let_nobody_pay():
    stats = pair_stats(pair_table())
    for one in stats["bins"]:
        one["share_of_weight"] = one["share_of_pairs"]
    assert "nobody pays" in prose(of(pair_weights=stats))[-1]


def test_vectors_that_cannot_be_weighed():
    assert prose(of(metadata([1.0]), prefix_stats(), vectors_left_out=2))[1].startswith(
        "Of what was read, 2 vectors left out that could not be weighed"
    )
    assert prose(of(metadata([1.0]), prefix_stats()))[1] == "Nothing was left out."


def test_without_prefixes_and_pair_weights():
    section = of(metadata([1.0], mean_pair_cosine=None, split_half_correlation=None, temperature_bound="uniform"))
    came, left, crowd, t, do = prose(section)
    assert came.startswith("1 text came in as embeddings")
    assert left == "Of the pairs, what was left out is not known here."
    assert crowd.startswith("The most crowded 100.0% of the openings")
    assert t.startswith("All densities are equal, so all weights are 1; the effective sample size is 1 of 1 opening ")
    assert "openings carry" in do
    assert "pairs" not in cells(section, "counts")
    assert "mean pair cosine" not in cells(section, "numbers")


def test_warnings_are_notes():
    assert "Look at it." in prose(of(pair_weights=pair_stats(pair_table(), warnings=["look at it"])))
