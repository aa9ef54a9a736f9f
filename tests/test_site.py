"""The pages of the site that come from the code hold every public name, every command and every option."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kat
from kat.cli.commands import COMMANDS
from kat.cli.main import app

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("write_reference", ROOT / "docs/write_reference.py")
write_reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(write_reference)


def test_every_public_name_has_its_heading():
    lines = write_reference.python_page().replace("\\", "").splitlines()
    assert [name for name in kat.__all__ if f"## kat.{name}" not in lines] == []


def test_every_option_of_every_command():
    page = write_reference.commands_page()
    for name in COMMANDS:
        section = page.split(f"\n### {name}\n")[1].split("\n### ")[0]
        options = {
            one for argument in app[name].assemble_argument_collection() if argument.show for one in argument.names
        }
        assert {one for one in options if one not in section} == set(), name
        assert "--empty-" not in section
        assert re.search(f"^kat {name} (--|\\[OPTIONS|[A-Z])", section, re.M), name


def test_the_site_is_built_without_a_warning_and_without_a_network(tmp_path):
    """Links that lead nowhere are warnings, and those are errors."""
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html", "-c", "docs"]
    ran = subprocess.run([*command, ".", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "README.html", "how-to.html", "commands.html", "python.html"} <= {page.name for page in pages}
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(https?:[^\"]*)", page.read_text(encoding="utf-8")
        )
        assert loaded == [], page
