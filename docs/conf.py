"""The site of kat's documents: `make docs` builds it into site/, without a network.

Sphinx reads from the root of the repository, so that links between README, docs/ and the others are the same on the
site as in the repository.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import write_reference  # noqa: E402

from kat import __version__  # noqa: E402

project, version, release, language = "kat", __version__, __version__, "en"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/index.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/**"]
exclude_patterns = ["docs/site"]
myst_heading_anchors = 4  # as GitHub names them
html_theme = "furo"
html_title = f"kat {__version__}"
html_extra_path = ["site"]  # the first page of the folder, which leads to docs/index.html
html_static_path: list[str] = []
html_show_sphinx = html_show_copyright = html_copy_source = False

NAVIGATION = {
    "Start": ["index <self>", "tutorial", "/README"],
    "How to, by task": [
        "how-to",
        "pair-weights",
        "try-weights",
        "integrations",
        "training",
        "dpo",
        "grpo",
        "evaluation",
        "report",
        "models",
        "scaling",
        "extending",
    ],
    "Explanations": [
        "guarantees",
        "reliability",
        "estimators",
        "embedding",
        "architecture",
        "results",
        "/benchmarks/README",
        "upstream/trl-weight-column",
    ],
    "Reference": [
        "generated/commands",
        "generated/python",
        "reference",
        "commands-compared",
        "dependencies",
        "/CONTRIBUTING",
        "/CHANGELOG",
    ],
}


def add_navigation(app, name: str, source: list[str]) -> None:
    """Add the navigation to the first page, which on GitHub is without it."""
    if name == root_doc:
        for caption, pages in NAVIGATION.items():
            lines = [page.replace("index <self>", "First steps <self>") for page in pages]
            source[0] += "\n\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(lines) + "\n```\n"


def setup(app) -> None:
    """Write the pages that come from the code before pages are looked for."""
    write_reference.main(Path(__file__).parent / "generated")
    app.connect("source-read", add_navigation)
