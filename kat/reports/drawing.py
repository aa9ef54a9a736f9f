"""Whether figures can be drawn here."""

from __future__ import annotations

import importlib
import importlib.util

from kat.errors import first_words

REMEDY = "pip install 'matplotlib>=3.8'"


def why_not_drawn() -> str | None:
    """Return why no figure can be drawn, with what to type; None where matplotlib can be imported."""
    if importlib.util.find_spec("matplotlib") is None:
        return f"matplotlib is not installed. Type: {REMEDY}"
    try:
        importlib.import_module("matplotlib.figure")
    except Exception as error:  # what it rests on raises whatever it meets
        return f"matplotlib cannot be imported: {first_words(error)} Type: {REMEDY} --force-reinstall"
    return None
