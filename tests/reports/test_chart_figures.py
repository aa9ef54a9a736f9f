"""Charts as files: the same bytes every time, text as text, values where they belong."""

import re
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from making_sections import HOSTILE
from matplotlib.figure import Figure

from kat.reports.blocks import Chart, Mark, Series
from kat.reports.chart_figures import draw_chart

X = np.asarray([1.0, 2.0, 4.0])
Y = np.asarray([0.25, np.nan, 0.5])


def make(kind, **changed):
    told = {"name": "a_chart", "title": "The title", "kind": kind, "x_label": "over", "y_label": "value", "told": ""}
    return Chart(**(told | {"series": [Series("one", X, Y, Y - 0.1, Y + 0.1)]} | changed))


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    save = Figure.savefig

    def savefig(self, *given, **named):
        figures.append(self)
        save(self, *given, **named)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


@pytest.mark.parametrize("kind", ["bars", "lines", "points", "intervals"])
def test_the_files_are_the_same_every_time(kind, tmp_path):
    chart = make(kind, categories=["r"] * 5 if kind == "intervals" else (), marks=[Mark("y", 0.3, "here")])
    first, second = draw_chart(chart, tmp_path / "a"), draw_chart(chart, tmp_path / "b" / "c")
    assert [path.name for path in first] == ["a_chart.png", "a_chart.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    svg = first[1].read_text(encoding="utf-8")
    assert ">The title</text>" in svg
    assert ">here</text>" in svg
    assert not re.search(r"\d{4}-\d\d-\d\d", svg)


def test_values_stand_where_they_belong(tmp_path, drawn):
    draw_chart(make("points"), tmp_path)
    [line] = drawn[0].axes[0].lines
    assert line.get_xdata().tolist() == X.tolist()
    assert np.array_equal(line.get_ydata(), Y, equal_nan=True)


def test_values_of_intervals_lie_along_the_horizontal_axis(tmp_path, drawn):
    rows = Series("one", np.asarray([0.0, 1.0]), np.asarray([0.2, 0.9]), np.asarray([0.1, np.nan]), np.ones(2))
    chart = make("intervals", series=[rows], categories=["first", HOSTILE], marks=[Mark("y", 0.5, "half")])
    draw_chart(chart, tmp_path)
    axes = drawn[0].axes[0]
    points, mark = axes.lines
    assert (points.get_xdata().tolist(), points.get_ydata().tolist()) == ([0.2, 0.9], [0.0, 1.0])
    assert mark.get_xdata() == [0.5, 0.5]
    assert axes.get_xlabel() == "value"
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("log", [False, True])
def test_bars_stand_side_by_side_over_their_step(log, tmp_path, drawn):
    x = np.asarray([1.0, 10.0, 100.0]) if log else np.asarray([1.0, 2.0, 3.0])
    both = [Series(name, x, np.asarray([3.0, 2.0, 1.0])) for name in "ab"]
    draw_chart(make("bars", series=both, log_x=log), tmp_path)
    axes = drawn[0].axes[0]
    bars = sorted(axes.patches, key=lambda p: p.get_x())
    edges = [(p.get_x(), p.get_x() + p.get_width()) for p in bars]
    if log:
        edges = [(np.log10(a), np.log10(b)) for a, b in edges]
    for (_, end), (begin, _) in pairwise(edges):
        assert end == pytest.approx(begin)
    centre = 0.0 if log else 1.0
    assert edges[0][0] == pytest.approx(centre - 0.5)
    assert edges[0][1] == pytest.approx(centre)
    assert [p.get_height() for p in bars] == [3, 3, 2, 2, 1, 1]


@pytest.mark.parametrize(("form", "shown"), [("percent", "30%"), ("points", "+30"), ("number", "0.3")])
def test_ticks_are_shown_in_the_format(form, shown, tmp_path):
    svg = draw_chart(make("lines", format=form), tmp_path)[1].read_text(encoding="utf-8")
    assert re.search(rf">{re.escape(shown)}0?</text>", svg)


def test_logarithmic_ticks_hold_no_mathematics(tmp_path):
    svg = draw_chart(make("points", log_x=True, log_y=True), tmp_path)[1].read_text(encoding="utf-8")
    assert "mathdefault" not in svg
    assert ">0.2</text>" in svg or ">0.5</text>" in svg


def test_names_are_drawn_as_text(tmp_path, drawn):
    series = [Series(HOSTILE, X, Y), Series("_private $x_1$", X, Y)]
    svg = draw_chart(make("lines", title=HOSTILE, series=series), tmp_path)[1].read_text(encoding="utf-8")
    assert "<img" not in svg
    assert "\x1b" not in svg
    texts = {text.get_text(): text.get_parse_math() for text in drawn[0].findobj(matplotlib.text.Text)}
    assert texts[" _private $x_1$"] is False


def test_nothing_known_is_drawn_all_the_same(tmp_path):
    for kind in ("bars", "lines", "points", "intervals"):
        draw_chart(make(kind, series=[Series("none", np.zeros(0), np.zeros(0))], log_x=kind == "bars"), tmp_path)
    draw_chart(make("bars", series=[]), tmp_path)


def test_characters_that_the_font_lacks_are_no_warning(tmp_path, recwarn):
    draw_chart(make("lines", series=[Series("漢字 👩🏽‍💻", X, Y), Series("two", X, Y)]), tmp_path)
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
    assert "漢字" in (tmp_path / "a_chart.svg").read_text(encoding="utf-8")
