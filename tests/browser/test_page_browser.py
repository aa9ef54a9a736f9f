"""The report in a browser: drawn without WebGL, worked by pointer and keys, asking for nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from making_report import HOSTILE, named, points, report

from kat.reports.blocks import Points
from kat.reports.html.cells import clipped
from kat.reports.html.page import render
from tests.browser.conftest import HANG, requested, until

WORDS = ["left and up", "right and up", "left and down", "right and down"]


def laid_out(count=400):
    """Points in two halves of a square whose corners are known; nothing lies near the middle."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0.02, 0.98, (count, 2))
    xy[:, 0] = np.where(xy[:, 0] < 0.5, xy[:, 0] * 0.8, 0.6 + (xy[:, 0] - 0.5) * 0.8)
    xy[:4] = [[0, 1], [1, 1], [0, 0], [1, 0]]
    given = points(count)
    texts = [*WORDS, *(f"opening number {i}" for i in range(4, count))]
    return replace(given, xy=xy, texts=texts, labels=[(0.2, 0.5, "West"), (0.8, 0.5, "East")])


@pytest.fixture(scope="module")
def given() -> Points:
    return laid_out()


@pytest.fixture(scope="module")
def url(opened, given):
    """Where the report lies that most tests work on."""
    return opened(render(replace(report(4), points=given))).current_url


@pytest.fixture
def page(chromium, url):
    """That report as it was when it was opened."""
    if chromium.current_url != url:
        chromium.get(url)
        until(lambda: chromium.execute_script("return document.documentElement.dataset.map === 'ready'"))
    chromium.execute_script(
        "document.getElementById('map-clear').click(); document.getElementById('map-reset').click()"
    )
    element(chromium, "map-canvas").send_keys("0")
    return chromium


def element(page, name):
    return page.find_element("id", name)


def text(page, name):
    return page.execute_script("return document.getElementById(arguments[0]).textContent", name)


def pixels(page):
    """The colours of the canvas, and how many pixels have each."""
    told = page.execute_script("""
      const canvas = document.getElementById("map-canvas");
      const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
      const counts = {};
      for (const value of data) counts[value] = (counts[value] ?? 0) + 1;
      return JSON.stringify(counts);""")
    return {int(colour): count for colour, count in json.loads(told).items()}


def picture(page):
    """The canvas as it is drawn, pixel by pixel."""
    return page.execute_script("return document.getElementById('map-canvas').toDataURL()")


def place(page, x, y):
    """Where a point of the unit square is drawn before any zoom, from the middle of the canvas."""
    size = element(page, "map-canvas").size
    room = min(28, size["width"] / 12)
    scale = min(size["width"] - 2 * room, size["height"] - 2 * room)
    return (x - 0.5) * scale, (0.5 - y) * scale


def actions(page):
    from selenium.webdriver import ActionChains

    page.execute_script("document.getElementById('map-canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    return ActionChains(page, duration=10)


def point_at(page, x, y):
    dx, dy = place(page, x, y)
    actions(page).move_to_element_with_offset(element(page, "map-canvas"), dx, dy).perform()


def rows(page):
    """The cells of the table's body as text."""
    script = (
        "return [...document.querySelectorAll('#map-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return page.execute_script(script)


def heads(page):
    return [head.text.split(" ")[0] for head in page.find_elements("css selector", "#map-table th button")]


def choose(page, name, number):
    script = """const select = document.getElementById(arguments[0]);
      select.selectedIndex = arguments[1]; select.dispatchEvent(new Event("change"))"""
    page.execute_script(script, name, number)


def search(page, words):
    box = element(page, "map-search")
    box.clear()
    box.send_keys(words)


def draw_lasso(page, corners):
    element(page, "map-lasso").click()
    canvas = element(page, "map-canvas")
    chain = actions(page)
    first, *others = [place(page, *corner) for corner in corners]
    chain.move_to_element_with_offset(canvas, *first).click_and_hold()
    for other in others:
        chain.move_to_element_with_offset(canvas, *other)
    chain.release().perform()


def test_a_page_opens_without_a_word_and_asks_for_nothing(opened, given):
    page = opened(render(replace(report(4), points=given)), "another.html")
    assert page.get_log("browser") == []
    urls = requested(page)
    assert urls
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls), urls
    marks = page.execute_script("return performance.getEntriesByType('mark').map(mark => mark.name)")
    assert marks == ["kat-map-drawn", "kat-map-ready"]
    assert page.execute_script("return document.createElement('canvas').getContext('webgl')") is None


def test_the_map_is_drawn(page):
    before = pixels(page)
    assert len(before) > 50
    assert 0.8 < max(before.values()) / sum(before.values()) < 1


def test_the_pointer_tells_the_nearest_opening(page, given):
    for row, (x, y) in enumerate(((0, 1), (1, 1), (0, 0), (1, 0))):
        point_at(page, x, y)
        told = element(page, "map-tip").text
        assert WORDS[row] in told
        assert given.ids[row] in told
    assert "density" in told
    point_at(page, 0.5, 1)
    assert element(page, "map-tip").get_attribute("hidden") is not None


def test_a_click_pins_and_escape_lets_go(page, given):
    dx, dy = place(page, 1, 0)
    canvas = element(page, "map-canvas")
    actions(page).move_to_element_with_offset(canvas, dx, dy).click().perform()
    assert text(page, "map-status") == f"Pinned {given.ids[3]}"
    point_at(page, 0.5, 0)
    assert WORDS[3] in element(page, "map-tip").text
    canvas.send_keys("\ue00c")
    assert element(page, "map-tip").get_attribute("hidden") is not None


def test_search_filters_map_and_table(page, given):
    whole = pixels(page)
    search(page, " AND UP ")
    until(lambda: text(page, "map-status") == "2 of 400 openings match")
    assert {row[2] for row in rows(page)} == set(WORDS[:2])
    until(lambda: pixels(page) != whole)
    search(page, given.ids[17])
    until(lambda: [row[2] for row in rows(page)] == ["opening number 17"])
    search(page, "nothing has these words")
    until(lambda: text(page, "map-status") == "0 of 400 openings match")
    assert rows(page) == []
    element(page, "map-clear").click()
    assert text(page, "map-status") == "400 openings"
    until(lambda: pixels(page) == whole)


def test_a_lasso_lists_what_lies_in_it(page, given):
    draw_lasso(page, [(0.5, 1.03), (1.03, 1.03), (1.03, -0.03), (0.5, -0.03)])
    inside = np.flatnonzero(given.xy[:, 0] > 0.5)
    assert text(page, "map-status") == f"{len(inside)} of 400 openings selected"
    weight, density = (given.numbers[name][inside].mean() for name in ("weight", "density"))
    told = text(page, "map-means").replace(",", "").split(" · ")
    assert told[0] == f"{len(inside)} selected"
    assert [float(part.split()[-1]) for part in told[1:]] == pytest.approx([weight, density], rel=1e-3)
    assert {row[1] for row in rows(page)} <= {given.ids[i] for i in inside}
    assert element(page, "map-lasso").get_attribute("aria-pressed") == "false"


def test_a_lasso_may_have_any_form(page, given):
    draw_lasso(page, [(-0.03, 1.03), (1.03, -0.03), (-0.03, -0.03)])
    choose(page, "map-rows", 2)
    picked = {row[1] for row in rows(page)}
    element(page, "map-next").click()
    picked |= {row[1] for row in rows(page)}
    element(page, "map-next").click()
    picked |= {row[1] for row in rows(page)}
    sums = given.xy.sum(1)
    assert {given.ids[i] for i in np.flatnonzero(sums < 0.97)} <= picked
    assert picked <= {given.ids[i] for i in np.flatnonzero(sums < 1.03)}
    choose(page, "map-rows", 0)


def test_what_is_selected_is_exported(page, given, tmp_path):
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    draw_lasso(page, [(0.5, 1.03), (-0.03, 1.03), (-0.03, -0.03), (0.5, -0.03)])
    element(page, "map-export").click()
    path = tmp_path / "opening_ids.txt"
    until(lambda: path.exists() and path.stat().st_size)
    lines = path.read_text().split("\n")
    assert lines.pop() == ""
    assert sorted(lines) == sorted(given.ids[i] for i in np.flatnonzero(given.xy[:, 0] < 0.5))


def test_selecting_without_a_pointer(page, given):
    search(page, "and down")
    until(lambda: text(page, "map-status") == "2 of 400 openings match")
    element(page, "map-select").send_keys("\ue007")
    assert text(page, "map-status") == "2 of 400 openings selected"
    element(page, "map-clear").click()
    box = page.find_element("css selector", "#map-table tbody input")
    box.send_keys(" ")
    assert text(page, "map-status") == "1 of 400 openings selected"
    assert len(rows(page)) == 25
    row = given.ids.index(rows(page)[0][1])
    assert f"mean weight {given.numbers['weight'][row]:.2f}"[:-1] in text(page, "map-means")


def test_colours_follow_the_choice(page, given):
    pictures = []
    for number, name in enumerate([*given.numbers, *given.kinds]):
        choose(page, "map-colour", number)
        until(lambda: pixels(page) not in pictures)
        pictures.append(pixels(page))
        assert name in element(page, "map-canvas").get_attribute("aria-label")
        legend = text(page, "map-legend")
        if name in given.kinds:
            words = [word for word in given.kinds[name] if word]
            assert all(word in legend for word in set(words))
            assert str(words.count(words[0])) in legend
        else:
            assert name in legend
    choose(page, "map-colour", 0)


def test_the_table_sorts_by_any_column_and_turns_its_pages(page, given):
    def column(name):
        at = heads(page).index(name) + 1
        return [row[at] for row in rows(page)]

    buttons = page.find_elements("css selector", "#map-table th button")
    by = dict(zip(heads(page), buttons, strict=True))
    order = np.argsort(-given.numbers["weight"], kind="stable")
    assert column("Id") == [given.ids[i] for i in order[:25]]
    by["weight"].send_keys("\ue007")
    assert column("Id") == [given.ids[i] for i in order[::-1][:25]]
    head = by["weight"].find_element("xpath", "..")
    assert head.get_attribute("aria-sort") == "ascending"
    by["Text"].click()
    assert column("Text") == sorted(given.texts)[:25]
    assert head.get_attribute("aria-sort") is None
    element(page, "map-next").click()
    assert column("Text") == sorted(given.texts)[25:50]
    assert text(page, "map-page") == "26–50 of 400"
    choose(page, "map-rows", 2)
    assert column("Text") == sorted(given.texts)[:100]
    by["reward"].click()  # descending: what is not known comes last
    margins = given.numbers["reward margin"]
    assert column("Id")[0] == given.ids[int(np.nanargmax(margins))]
    by["reward"].click()
    assert column("Id")[0] == given.ids[int(np.nanargmin(margins))]
    choose(page, "map-rows", 0)
    by["weight"].click()


def test_keys_move_and_zoom_the_map(page):
    canvas = element(page, "map-canvas")
    whole = picture(page)
    for keys in ("+", "-", "\ue012", "\ue013"):
        canvas.send_keys(keys * 2)
        until(lambda: picture(page) != whole)
        canvas.send_keys("0")
        until(lambda: picture(page) == whole)


def test_dragging_moves_the_map(page):
    canvas = element(page, "map-canvas")
    actions(page).move_to_element(canvas).click_and_hold().move_by_offset(100, 0).release().perform()
    dx, dy = place(page, 0, 0)
    actions(page).move_to_element_with_offset(canvas, dx + 100, dy).perform()
    assert WORDS[2] in text(page, "map-tip")


def test_light_and_dark_draw_the_map_in_their_colours(page):
    light = max(pixels(page).items(), key=lambda item: item[1])[0]
    element(page, "theme").click()
    until(lambda: max(pixels(page).items(), key=lambda item: item[1])[0] != light)
    dark = max(pixels(page).items(), key=lambda item: item[1])[0]
    assert (dark & 255) < 60 < 200 < (light & 255)
    element(page, "theme").click()
    until(lambda: max(pixels(page).items(), key=lambda item: item[1])[0] == light)


def test_paper_is_light_and_unfolded(page):
    def state():
        script = """const root = document.documentElement;
          return [root.dataset.face, document.querySelectorAll("details[open]").length,
                  getComputedStyle(root).colorScheme]"""
        return page.execute_script(script)

    element(page, "theme").click()
    before, dark = state(), picture(page)
    assert before == ["dark", 0, "dark"]
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert state() == ["light", 1, "light"]
    assert picture(page) != dark
    taken = "return document.getElementById('map-picture')?.src ?? null"
    assert page.execute_script(taken) == page.execute_script("return document.getElementById('map-canvas').toDataURL()")
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(taken) is None
    assert state() == before
    assert picture(page) == dark
    element(page, "theme").click()


@pytest.mark.parametrize("width", [320, 600, 1280])
def test_nothing_overflows(page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_texts_are_texts(opened):
    from selenium.common.exceptions import NoAlertPresentException

    texts = [*HOSTILE, "plain"]
    given = points(len(texts), texts)
    given = named(given, texts)
    page = opened(render(replace(report(4, words=texts), points=given)))
    assert page.get_log("browser") == []
    assert page.execute_script("return document.querySelectorAll('main img, main iframe, main b, main i').length") == 0
    assert sorted(row[2] for row in rows(page)) == sorted(clipped(words, 300) for words in texts)
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert  # noqa: B018
    assert all(url.startswith(("file:", "data:")) for url in requested(page))
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif("KAT_LARGE" not in os.environ, reason="100,000 points take their time: make test-browser")
def test_many_points_are_drawn_and_pointed_at(opened):
    page = opened(render(report(100_000)))
    assert page.get_log("browser") == []
    assert sum(sorted(pixels(page).values())[:-1]) > 20_000
    drawn = page.execute_script("return performance.getEntriesByName('kat-map-drawn')[0].startTime")
    assert 0 < drawn < 1000 * HANG
    search(page, "chess")
    until(lambda: "match" in text(page, "map-status"), HANG)
    assert all("chess" in row[2].lower() for row in rows(page))


def test_a_browser_without_the_means_is_told(opened, chromium):
    script = {"source": "delete globalThis.DecompressionStream"}
    added = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        opened(render(report(3)), "old.html")
        assert "Firefox 113" in text(chromium, "map-problem")
        assert chromium.find_element("id", "map-tool").get_attribute("hidden") is not None
    finally:
        chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
