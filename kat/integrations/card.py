"""The card of an export's folder, README.md: which files are one data set, so that the folder loads as one thing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kat.integrations.exports import DataSet, Export

CARD = "README.md"


def write_card(folder: Path, export: Export) -> None:
    """Write the card of the data sets that the folder holds; a file that is missing or empty is left out of it.

    Nothing is written for an export that names none. The form is that of `datasets`: a block of YAML with `configs`.
    """
    present = [(one, _splits(folder, one)) for one in export.data_sets]
    present = [(one, splits) for one, splits in present if splits]
    if not present:
        return
    yaml = ["---", "configs:"]
    for number, (one, splits) in enumerate(present):
        yaml += [f"- config_name: {one.name}", *(["  default: true"] if number == 0 else []), "  data_files:"]
        yaml += [line for split, name in splits for line in (f"  - split: {split}", f"    path: {name}")]
    (folder / CARD).write_text("\n".join([*yaml, "---", "", *_text(export, present)]) + "\n", encoding="utf-8")


def _splits(folder: Path, one: DataSet) -> list[tuple[str, str]]:
    return [(s, name) for s, name in one.files.items() if (folder / name).is_file() and (folder / name).stat().st_size]


def _text(export: Export, present: Iterable[tuple[DataSet, list[tuple[str, str]]]]) -> Iterable[str]:
    yield f"Written by `kat export-weights --to {export.name}`."
    yield "`datasets.load_dataset(FOLDER, NAME)` reads one data set of those below, the first if none is named."
    yield from ("", "| name | files | rows |", "|---|---|---|")
    for one, splits in present:
        yield f"| {one.name} | {', '.join(f'`{name}`' for _, name in splits)} | {one.help} |"
