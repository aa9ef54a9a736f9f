"""The pages of the site that come from the code hold every public name, every command and every option."""

import importlib.util
from pathlib import Path

import kat
from kat.cli.commands import COMMANDS
from kat.cli.main import app

_SPEC = importlib.util.spec_from_file_location(
    "write_reference", Path(__file__).parent.parent / "docs/write_reference.py"
)
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
