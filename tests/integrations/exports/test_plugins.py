"""Every export is a plug-in of its folder, with all facts in its row."""

import pytest

from kat.errors import OptionError
from kat.integrations.exports import Export
from kat.plugins import EXPORTS, load, load_all, names


def test_every_file_is_an_export_under_its_own_name():
    assert set(names(EXPORTS)) == {"trl", "openrlhf", "verl", "llamafactory", "axolotl", "swift", "parquet", "jsonl"}
    for name, row in load_all(EXPORTS).items():
        assert isinstance(row, Export)
        assert row.name == name
        assert row.help
        assert "OUT/" in row.next_step.format(out="OUT")


def test_an_unknown_export_is_refused_with_the_choices():
    with pytest.raises(
        OptionError, match="'csv'; expected axolotl, jsonl, llamafactory, openrlhf, parquet, swift, trl, verl"
    ):
        load(EXPORTS, "csv")
