"""Rewards as inputs of a stage: what changes them makes another output."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from kat.inputs import ComputedInput
from kat.models.digests import model_inputs
from kat.models.sources import resolve
from kat.training.reward_sources import is_function


def reward_inputs(rewards: Sequence[str], *, allow_network: bool) -> tuple[dict[str, Path | ComputedInput], list[Path]]:
    """Return reward models and the files of reward functions as the inputs reward_0, …, and the models' places.

    Of a function its file is hashed, not what that imports. Raises ModelError for a model that is not there.
    """
    inputs: dict[str, Path | ComputedInput] = {}
    read = []
    for number, name in enumerate(rewards):
        if not is_function(name):
            place = resolve(name, allow_network=allow_network)
            inputs |= model_inputs(place, f"reward_{number}")
            read.append(place.path)
        elif (file := function_file(name)) is not None:
            inputs[f"reward_{number}"] = file
    return inputs, read


def function_file(name: str) -> Path | None:
    """Return the file that module:function is written in, without running it or a package that it lies in; None for
    what has no file, and for what is not there, which whoever calls it will say."""
    importlib.invalidate_caches()
    module = name.partition(":")[0].split(".")
    here = os.getcwd()  # where the function itself is looked for, too
    places = sys.path if "" in sys.path or here in sys.path else [here, *sys.path]
    origin = None
    for depth in range(1, len(module) + 1):
        spec = PathFinder.find_spec(".".join(module[:depth]), places)
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or ())
    return Path(origin) if origin is not None and os.path.isfile(origin) else None
