"""The page as a file: nothing but kat's own script can run, nothing loads, all that was given is told."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from making_report import HOSTILE, named, noise, points, report

from kat.reports.blocks import Column, Report, Section, Table, Text
from kat.reports.html.cells import clipped, visible
from kat.reports.html.page import SCRIPTS, _asset, budget, render

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """A page taken apart: elements with their attributes and what text they hold."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(page.decode("utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), len(self.texts)))
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), len(self.texts)))

    def handle_endtag(self, tag):
        opened, at = self.open.pop()
        assert opened == tag
        name, attrs, start = self.elements[at]
        self.elements[at] = (name, attrs, "".join(self.texts[start:]))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **named):
        named = {name.replace("_", "-"): value for name, value in named.items()}
        return [
            (attrs, text)
            for name, attrs, text in self.elements
            if name == tag and all(attrs.get(key) == value for key, value in named.items())
        ]


@pytest.fixture(scope="module")
def hostile():
    words = [*HOSTILE, "` onmouseover=alert(6) x=`"]
    given = report(words=words, title=HOSTILE[0] + HOSTILE[1])
    given = replace(given, points=named(points(len(words), words), words))
    data = render(given)
    return given, data, Page(data)


def test_hostile_texts_make_no_element(hostile):
    given, _, page = hostile
    plain = ["a"] * len(given.points)
    harmless = report(words=plain)
    harmless = replace(harmless, points=named(points(len(plain), [*plain[1:], "x" * 400]), plain))
    harmless = Page(render(harmless))
    assert {tag for tag, _, _ in page.elements} <= {tag for tag, _, _ in harmless.elements}
    assert len(page.elements) == len(harmless.elements)
    for tag, attrs, _ in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form", "image", "use", "a:href")
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "src", "xlink:href", "action")]
    assert given.title in page.all("title")[0][1]


def test_hostile_texts_are_told(hostile):
    _, _, page = hostile
    paragraphs = [text for attrs, text in page.all("p") if attrs.get("dir") == "auto"]
    for text in HOSTILE:
        assert clipped(text, 20_000) in paragraphs
        assert clipped(text, 1000) in [cell for _, cell in page.all("td")] or len(text) > 1000
        assert clipped(text, 20_000) in [quote for _, quote in page.all("blockquote")]
    told = [text for _, text in page.all("desc")]
    assert sum("alert(1)" in text for text in told) == 1


def test_a_page_holds_no_character_that_html_cannot(hostile):
    _, data, _ = hostile
    text = data.decode("utf-8")
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert len(data) < 5_000_000


def test_nothing_is_loaded_from_anywhere(hostile):
    _, _, page = hostile
    links = [attrs.get("href") for tag, attrs, _ in page.elements if "href" in attrs]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert len(set(links)) == len(links)
    names = {attrs["id"] for _, attrs, _ in page.elements if "id" in attrs}
    assert {link[1:] for link in links if link[0] == "#"} <= names
    style = page.all("style")[0][1]
    assert "url(" not in style
    assert "@import" not in style
    script = page.all("script")[-1][1]
    assert not re.search(
        r"https?:|fetch\(|XMLHttpRequest|WebSocket|import\(|webgl|eval\(|innerHTML|new Function", script
    )


def test_no_two_elements_have_one_id(hostile):
    names = [attrs["id"] for _, attrs, _ in hostile[2].elements if "id" in attrs]
    assert len(names) == len(set(names))


def test_the_policy_lets_this_script_and_this_style_run_alone(hostile):
    _, _, page = hostile
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"

    def digest(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    scripts = [text for attrs, text in page.all("script") if "type" not in attrs]
    assert [digest(text) for text in scripts] == [rules["script-src"]]
    assert [digest(text) for _, text in page.all("style")] == [rules["style-src"]]
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == "data:"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_stay_readable(name):
    text = _asset(name)
    assert len(text.splitlines()) <= 350
    assert max(map(len, text.splitlines())) <= 180
    assert "</script" not in text
    assert "<!--" not in text
    assert "\r" not in text


def test_facts_of_the_map_are_json(hostile):
    given, _, page = hostile
    facts = json.loads(page.all("script", id="map-facts")[0][1])
    assert facts["points"] == len(given.points)
    assert facts["numbers"] == [visible(name) for name in given.points.numbers]
    assert [words for _, _, words in facts["labels"]] == [clipped(words, 60) for _, _, words in given.points.labels]
    packed = [attrs["id"] for attrs, _ in page.all("script", type="text/plain")]
    assert packed == [
        f"map-column-{name}"
        for name in [
            "x",
            "y",
            "ids",
            *(f"number-{i}" for i in range(len(given.points.numbers))),
            *(f"kind-{i}" for i in range(len(given.points.kinds))),
            "texts",
        ]
    ]


def test_cells_carry_their_numbers():
    given = report()
    page = Page(render(given))
    tables = [block for section in given.sections for block in section.blocks if isinstance(block, Table)]
    numbers = [v for t in tables for row in t.rows for v in row if v is not None and not isinstance(v, str)]
    cells = [attrs["data-value"] for attrs, _ in page.all("td") if "data-value" in attrs]
    assert [float(cell) for cell in cells] == pytest.approx(numbers, rel=0, abs=0, nan_ok=True)
    texts = [text for _, text in page.all("td")]
    assert texts[:7] == ["read", "28,114", "100.0%", "+1.2 points", "48.2 MB", "12.3 s", "9e107d9d372bb682"]
    assert texts[14:17] == ["kept", "–", "–"]


def test_long_tables_fold_and_say_what_is_left_out():
    page = Page(render(report()))
    assert [text.split("\n")[0] for _, text in page.all("details")] == ["37 further rows"]
    assert "943 more are not listed here." in [text for _, text in page.all("p")]


def test_sections_stand_in_order_and_empty_ones_not_at_all():
    page = Page(render(report(10)))
    assert [text for _, text in page.all("h2")] == ["Summary", "Map", "Weights", "Data audit", "Models"]
    assert [attrs["href"] for attrs, _ in page.all("a")][1:] == ["#summary", "#map", "#weights", "#audit", "#models"]
    without = Page(render(report()))
    assert "Map" not in [text for _, text in without.all("h2")]
    last = Page(render(Report("t", [Section("a", "A", [Text("x")])], points(3), map_after="elsewhere")))
    assert [text for _, text in last.all("h2")] == ["A", "Map"]


def test_the_map_says_what_it_is():
    page = Page(render(report(10)))
    told = " ".join(text for _, text in page.all("p"))
    assert "Distance on the map is not density. UMAP of the 15 nearest neighbours" in told
    assert page.all("noscript")


@pytest.mark.parametrize("count", [28_000, 100_000])
def test_texts_that_hardly_shrink_keep_the_budget(count):
    texts = noise(2_000, np.random.default_rng(0)) if count == 28_000 else noise(4_000, np.random.default_rng(0))
    # Turned by a letter each time, for a window of deflate never to see the same text again at the same place.
    many = [text[i % 300 :] + text[: i % 300] for i in range(count) for text in [texts[i % len(texts)]]]
    data = render(report(count, many))
    assert budget(count) == {28_000: 5_000_000, 100_000: 15_000_000}[count]
    assert 0.9 * budget(count) < len(data) <= budget(count)
    page = Page(data)
    facts = json.loads(page.all("script", id="map-facts")[0][1])
    told = page.all("p", id="map-clipped")[0][1]
    assert 20 < facts["letters"] < 300
    assert f"clipped at {facts['letters']} characters, so that this file stays small: {count:,} of {count:,}" in told


def test_a_smaller_page_can_be_asked_for():
    data = render(report(500, noise(500, np.random.default_rng(0))), most_bytes=200_000)
    assert len(data) <= 200_000


def test_the_budget_grows_evenly():
    assert [budget(n) for n in (0, 28_000, 64_000, 100_000, 10**7)] == [5e6, 5e6, 10e6, 15e6, 15e6]


def test_a_page_is_the_same_every_time():
    assert render(report(50)) == render(report(50))


def test_cells_of_any_length_are_clipped():
    table = Table("t", [Column("c")], [["x" * 400_000]])
    page = Page(render(Report("t", [Section("a", "A", [table])])))
    assert page.all("td")[0][1] == "x" * 999 + "…"
    assert visible("x") == "x"
