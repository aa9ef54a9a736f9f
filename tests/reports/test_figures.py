"""Figures: names of files and sources are drawn as text, whatever they hold."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from kat.reports import figures

NAMES = ["$\\frac{$", "_private_$x_1$", "a\x1b\n\u202eb"]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The texts of a figure when it is saved, with whether each would be read as mathematics."""
    texts = {}
    save = Figure.savefig

    def savefig(self, *given, **named):
        self.draw_without_rendering()
        drawn = self.findobj(matplotlib.text.Text)
        texts.update({text.get_text(): text.get_parse_math() for text in drawn})
        save(self, *given, **named)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return texts


def estimates():
    value = {"value": 0.5, "interval": [0.4, 0.6]}
    return {"accuracy": value}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_weighting_is_named_as_text(drawn, tmp_path, name):
    gain = {"accuracy": {"difference": 0.1, "interval": [0.0, 0.2]}}
    facts = {"rare": "bin 0", "weightings": [{"name": name, "helps": False, "gains": {"every pair": gain}}]}
    figures.draw_tried(facts, tmp_path / "a.png")
    shown = {"a\x1b\n\u202eb": "a\\x1b\\n\\u202eb"}.get(name, name)
    assert drawn[shown] is False


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_files_and_sources_are_named_as_text(drawn, tmp_path, name):
    part = {"openings": 3, "balanced": estimates()}
    evaluation = {
        "all": {"unweighted": estimates(), "balanced": estimates()},
        "macro": None,
        "bins": {},
        "sources": {name: part, "other": part},
    }
    figures.draw_evaluation({"evaluations": [evaluation], "files": [name]}, tmp_path / "a.png")
    shown = {"a\x1b\n\u202eb": "a\\x1b\\n\\u202eb"}.get(name, name)
    legend = f" {shown}" if shown.startswith("_") else shown
    assert drawn[legend] is False
    assert drawn[f"{shown}  (n = 3)"] is False
