"""What sections are made of, against numpy's own and against counting."""

import numpy as np
import pytest
from making_sections import HOSTILE

from kat.reports.sections import parts


@pytest.mark.parametrize("log", [False, True])
def test_a_histogram_counts_every_value_once(log):
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    centres, counts = parts.histogram(values, log=log)
    assert counts.sum() == 500
    scaled, middle = (np.log10(values), np.log10(centres)) if log else (values, centres)
    step = middle[1] - middle[0]
    assert np.diff(middle) == pytest.approx(step)
    inside = [((scaled >= c - step / 2 - 1e-12) & (scaled < c + step / 2 - 1e-12)).sum() for c in middle[:-1]]
    assert inside == counts[:-1].tolist()


@pytest.mark.parametrize("values", [[1.0], [3.0, 3.0, 3.0]])
def test_equal_values_are_in_one_bar(values):
    centres, counts = parts.histogram(np.asarray(values), log=True)
    assert counts.max() == len(values)
    assert np.isfinite(centres).all()


def test_what_is_not_above_0_has_no_place_on_a_logarithmic_axis():
    assert parts.histogram(np.asarray([0, 0, 5, 7]), log=True)[1].sum() == 2
    assert len(parts.histogram(np.zeros(3), log=True)[0]) == 0


def test_a_sample_is_the_same_every_time():
    rows = parts.sampled(10_000)
    assert len(set(rows.tolist())) == len(rows) == parts.DRAWN
    assert (np.diff(rows) > 0).all()
    assert (rows == parts.sampled(10_000)).all()
    assert parts.sampled(7).tolist() == list(range(7))


def test_points_say_the_rank_correlation_of_all_and_draw_some():
    x = np.arange(5000.0)
    y = np.exp(-x / 100)
    x[3] = np.nan
    one = parts.points_chart("n", "Title", x, y, x_label="x", y_label="y")
    [series] = one.series
    assert len(series.x) == parts.DRAWN
    assert "-1.00" in one.told
    assert "4,999" in one.told
    assert series.y == pytest.approx(np.exp(-series.x / 100))
    assert parts.points_chart("n", "t", x[:1], y[:1], x_label="x", y_label="y") is None
    assert "all alike" in parts.points_chart("n", "t", x[4:9], np.ones(5), x_label="x", y_label="y").told


def test_a_clipped_text_says_how_much_more_there_is():
    assert parts.clipped(HOSTILE) == HOSTILE
    assert parts.clipped("a" * 400_000, 10) == "a" * 10 + " … (399,990 more characters)"


def test_ends():
    assert parts.ends(list(range(20))) == (list(range(20)), 0)
    assert parts.ends(list(range(25))) == ([*range(10), *range(15, 25)], 5)


def test_known():
    assert [parts.known(x) for x in (None, float("nan"), float("inf"), 1.5)] == [None, None, None, 1.5]
