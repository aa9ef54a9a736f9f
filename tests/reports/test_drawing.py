"""Without a matplotlib that works, what is to be done is said before anything is."""

import importlib

import pytest

from kat.reports import drawing


def test_with_matplotlib_nothing_stands_in_the_way():
    pytest.importorskip("matplotlib")
    assert drawing.why_not_drawn() is None


def test_a_matplotlib_that_cannot_be_imported(monkeypatch):
    def broken(name):
        raise ImportError("libfreetype.so.6: cannot open shared object file")

    monkeypatch.setattr(drawing.importlib, "import_module", broken)
    why = drawing.why_not_drawn()
    assert "libfreetype.so.6" in why
    assert "pip install 'matplotlib>=3.8'" in why


def test_one_that_is_not_installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    assert "not installed" in drawing.why_not_drawn()
