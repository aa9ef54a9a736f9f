"""Charts: what is drawn lies where the values say, however odd they are."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from making_report import HOSTILE, charts

from kat.reports.blocks import Chart, Mark, Series
from kat.reports.html.scales import Scale, scale_over, tick_labels
from kat.reports.html.svg import draw, left_out

NAME = "{http://www.w3.org/2000/svg}"


def parsed(chart, **options):
    return ElementTree.fromstring(draw(chart, **options))


def paths(svg, name):
    return [path.get("d") for path in svg.iter(f"{NAME}path") if name in path.get("class", "").split()]


def numbers(path):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.name)
@pytest.mark.parametrize("alone", [False, True])
def test_charts_are_xml_with_words_for_those_who_do_not_see(chart, alone):
    svg = parsed(chart, alone=alone)
    assert svg.get("role") == "img"
    ids = svg.get("aria-labelledby").split()
    told = {element.get("id"): element.text for element in svg if element.get("id")}
    assert [told[i] for i in ids] == [chart.title, chart.told]
    assert (svg.find(f"{NAME}style") is not None) == alone
    assert not [e for e in svg.iter() if "style" in e.attrib or any(n.startswith("on") for n in e.attrib)]
    width, height = map(float, svg.get("viewBox").split()[2:])
    for text in svg.iter(f"{NAME}text"):
        if text.get("x"):
            assert 0 <= float(text.get("x")) <= width
            assert 0 <= float(text.get("y")) <= height


def test_bars_are_as_high_as_their_values():
    chart = Chart("b", "B", "bars", "x", "y", [Series("s", np.arange(4), np.array([1.0, 2.0, 4.0, np.nan]))], "told")
    (path,) = paths(parsed(chart), "fill")
    bars = [numbers(bar) for bar in path.split("z")[:-1]]
    heights = [foot - top for _, foot, top, *_ in bars]
    assert np.allclose(np.array(heights) / heights[0], [1, 2, 4], rtol=0.01)
    lefts = [left for left, *_ in bars]
    assert lefts[1] - lefts[0] == pytest.approx(lefts[2] - lefts[1], abs=0.2)


def test_bars_of_two_series_stand_side_by_side():
    x = np.arange(3.0)
    chart = Chart("b", "B", "bars", "x", "y", [Series("s", x, x + 1), Series("t", x, x + 2)], "told")
    svg = parsed(chart)
    first = [numbers(bar)[0] for bar in paths(svg, "fill")[-2].split("z")[:-1]]
    second = [numbers(bar)[0] for bar in paths(svg, "outline")[0].split("z")[:-1]]
    assert all(a < b for a, b in zip(first, second, strict=True))
    assert all(b < a for b, a in zip(second[:-1], first[1:], strict=True))


def test_lines_break_at_gaps():
    y = np.array([1, 2, np.nan, 3, 4, np.inf, 5, 6.0])
    chart = Chart("l", "L", "lines", "x", "y", [Series("s", np.arange(8.0), y)], "told")
    (path,) = paths(parsed(chart), "line")
    assert [len(numbers(part)) // 2 for part in path.split("M")[1:]] == [2, 2, 2]


def test_zero_and_less_have_no_place_on_a_logarithmic_axis():
    chart = Chart(
        "p",
        "P",
        "points",
        "x",
        "y",
        [Series("s", np.array([0, 1, 10, 100.0]), np.array([1, -1, 10, 100.0]))],
        "told",
        log_x=True,
        log_y=True,
    )
    (path,) = paths(parsed(chart), "fill")
    assert path.count("M") == 2


def test_too_many_points_are_a_sample():
    chart = next(chart for chart in charts() if chart.kind == "points")
    assert left_out(chart) == 6000
    assert sum(path.count("M") for path in paths(parsed(chart), "dots")) == 3000
    assert len(draw(chart)) < 80_000
    assert draw(chart) == draw(chart)


def test_intervals_lie_in_rows_along_the_values():
    series = Series("s", np.arange(3.0), np.array([1.0, 2, 3]), np.array([0.5, 1, 2]), np.array([2.0, 3, 4]))
    chart = Chart("i", "I", "intervals", "bin", "y", [series], "told", categories=["a", "b", "c"])
    (path,) = paths(parsed(chart), "interval")
    rows = [numbers(part) for part in path.split("M")[1:]]
    assert [left < right for left, _, right in rows] == [True] * 3
    assert rows[1][1] - rows[0][1] == pytest.approx(rows[2][1] - rows[1][1], abs=0.2)
    assert (rows[1][0] - rows[0][0]) * 2 == pytest.approx(rows[2][0] - rows[1][0], abs=0.3)


EMPTY = np.zeros(0)
NANS = np.full(3, np.nan)


@pytest.mark.parametrize("kind", ["bars", "lines", "points", "intervals"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("a", EMPTY, EMPTY)],
        [Series("a", np.arange(3.0), NANS)],
        [Series("a", np.ones(1), np.ones(1))],
        [Series("a", np.arange(3.0), np.zeros(3))],
        [Series("a", np.arange(3.0), np.full(3, 1e-12))],
        [Series("a", np.arange(3), np.array([1, 2, 3]))],
        [Series("a", np.arange(3.0), np.array([1e300, -1e300, 0]))],
        [Series(str(i), np.arange(3.0), np.arange(3.0) + i) for i in range(12)],
    ],
)
def test_odd_values_make_a_picture_all_the_same(kind, log, series):
    chart = Chart("c", "C", kind, "x", "y", series, "told", log_x=log, log_y=log, marks=[Mark("x", 1.0, "m")])
    text = draw(chart)
    assert "nan" not in re.sub("<(title|desc).*?</", "", text)
    assert "inf" not in text
    ElementTree.fromstring(text)


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_hostile_names_stay_text(text):
    one = Series(text, np.zeros(1), np.ones(1))
    chart = Chart(text, text, "intervals", text, text, [one, one], text, [text], [Mark("x", 1.0, text)])
    plain = Series("a", np.zeros(1), np.ones(1))
    harmless = Chart("a", "a", "intervals", "a", "a", [plain, plain], "a", ["a"], [Mark("x", 1.0, "a")])
    assert [e.tag for e in parsed(chart).iter()] == [e.tag for e in parsed(harmless).iter()]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.03, 0.041, [-0.02, 0, 0.02, 0.04]),
        (12, 9_400, [0 + 2000 * i for i in range(1, 5)]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Scale(low, high, 0, 1).ticks() == pytest.approx(ticks)


def test_ticks_of_logarithmic_axes():
    assert Scale(0.5, 2e4, 0, 1, log=True).ticks() == pytest.approx([1, 10, 100, 1000, 10_000])
    assert Scale(0.4, 6, 0, 1, log=True).ticks() == pytest.approx([0.5, 1, 2, 5])


@pytest.mark.parametrize(
    ("ticks", "form", "labels"),
    [
        ([0, 0.5, 1], "number", ["0.0", "0.5", "1.0"]),
        ([0, 0.2, 0.4], "percent", ["0%", "20%", "40%"]),
        ([-0.01, 0, 0.01], "points", ["−1", "0", "+1"]),
        ([0, 1000, 2000], "count", ["0", "1,000", "2,000"]),
        ([0.01, 1, 100], "number", ["0.01", "1", "100"]),
    ],
)
def test_tick_labels(ticks, form, labels):
    assert tick_labels(ticks, form) == labels


def test_a_scale_puts_values_in_proportion():
    scale = scale_over(np.array([0.0, 10.0]), 100, 200)
    low, middle, high = scale.at(np.array([0.0, 5.0, 10.0]))
    assert low > 100
    assert high < 200
    assert middle == pytest.approx((low + high) / 2) == 150
    assert scale_over(np.array([3.0, 4.0]), 0, 1, zero=True).low == 0


@pytest.mark.parametrize("places", [(4.8, 5.5), (5.5, 4.8), (1.0, 9.0)])
def test_labels_of_marks_beside_each_other_do_not_meet(places):
    marks = [Mark("x", places[0], "T chosen"), Mark("x", places[1], "noise bound")]
    x = np.linspace(0, 10, 11)
    svg = parsed(Chart("ess", "ESS", "lines", "T", "ESS", [Series("ESS", x, 1 - x / 20)], "told", marks=marks))
    spans = []
    for text in svg.iter(f"{NAME}text"):
        if text.text in ("T chosen", "noise bound"):
            wide, at = 6.5 * len(text.text), float(text.get("x"))
            left = {"start": at, "middle": at - wide / 2, "end": at - wide}[text.get("text-anchor")]
            spans.append((left, left + wide))
    (_, end), (start, _) = sorted(spans)
    assert end <= start
