"""The options of `kat report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kat.config import NOT_RECORDED, integer, option
from kat.errors import OptionError
from kat.panels import OUTPUT
from kat.parameters import whole_number


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class ReportOptions:
    """What a report shows beside what every one does."""

    topic: Annotated[str | None, option("A column of the pairs that names a topic: one more colour of the map.")] = None
    figures: Annotated[Path | None, option("Folder for every chart and the map as PNG and SVG files.")] = field(
        default=None, metadata=NOT_RECORDED
    )
    seed: Annotated[int, integer("Of the map, and of what is drawn where there is too much.")] = 0

    def __post_init__(self) -> None:
        whole_number("seed", self.seed, 0)
        if self.topic is not None and not self.topic.strip():
            raise OptionError("topic is empty; expected the name of a column of the pairs.")
