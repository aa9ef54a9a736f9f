"""Where the numbers of a training go beside its log: TensorBoard, trackio or Weights & Biases, by accelerate."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.errors import MissingExtraError

TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
"""Names, and the packages that they need."""


class Tracker:
    """One run at a tracker, a context manager; `name` "none" is a run that nobody hears of.

    `folder` is where TensorBoard writes, `run` the project's name elsewhere, and `options` what the run was told.
    Raises MissingExtraError without the tracker's package, or without accelerate.
    """

    def __init__(self, name: str, folder: Path, run: str, options: Mapping[str, Any]) -> None:
        self._tracker: Any = None
        if name == "none":
            return
        for package, needed in (("accelerate", "'accelerate>=1'"), (TRACKERS[name], TRACKERS[name])):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"--report_to {name} needs {package}, which is not installed. Type: pip install {needed}"
                )
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()
        tracker = LOGGER_TYPE_TO_CLASS[name]
        self._tracker = tracker(run, logging_dir=folder) if tracker.requires_logging_directory else tracker(run)
        self._tracker.start()
        plain = (str, int, float, bool)
        self._tracker.store_init_configuration(
            {key: value if isinstance(value, plain) else str(value) for key, value in options.items()}
        )

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._tracker.finish()

    def log(self, numbers: Mapping[str, Any]) -> None:
        """Report a step's numbers."""
        if self._tracker is not None:
            values = {name: value for name, value in numbers.items() if name != "step"}
            self._tracker.log(values, step=numbers["step"])
