"""The report of a real run in a browser: the openings of the run, the heaviest first, and not a word in the console."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.browser.conftest import requested


@pytest.fixture(scope="module")
def page(opened, demo_run):
    """The demo's report, as `kat run` wrote it."""
    return opened((demo_run / "run" / "report.html").read_bytes())


def text(page, name):
    return page.execute_script("return document.getElementById(arguments[0]).textContent", name)


def test_it_opens_without_a_word_and_asks_for_nothing(page):
    assert page.get_log("browser") == []
    assert [url for url in requested(page) if not url.startswith(("file:", "data:"))] == []
    mark = "return performance.getEntriesByName('kat-map-drawn').length"
    assert page.execute_script(mark) == 1


def test_the_map_and_its_table_are_the_run_s(page, demo_run):
    ids = json.loads((demo_run / "run" / "density" / "ids.json").read_bytes())
    weights = np.load(demo_run / "run" / "density" / "density_weights.npy")
    assert f"{len(ids):,} openings" in text(page, "map-status")
    first = page.execute_script(
        "return [...document.querySelectorAll('#map-table tbody tr')].map((row) => row.textContent)"
    )
    heaviest = np.argsort(-weights, kind="stable")[:5]
    for row, place in zip(first, heaviest.tolist(), strict=False):
        assert ids[place] in row
    colours = page.execute_script("return [...document.getElementById('map-colour').options].map((o) => o.text)")
    assert {"log density", "weight", "density bin", "source", "region"} <= set(colours)


def test_every_section_is_there(page):
    titles = page.execute_script("return [...document.querySelectorAll('h2')].map((title) => title.textContent)")
    assert titles == ["Summary", "Map", "Weights", "Data audit", "Models", "Provenance"]
