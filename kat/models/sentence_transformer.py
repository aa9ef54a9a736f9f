"""Read what a sentence-transformers directory says of its transformer, pooling and length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kat.errors import ModelError

_POOLINGS = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls", "lasttoken": "last"}


def transformer_and_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the transformer's folder, and "pooling" and "max_tokens" where a model directory names them.

    Another directory than sentence-transformers' is the transformer itself. Raises ModelError for a module that kat
    cannot apply.
    """
    modules_file = path / "modules.json"
    if not modules_file.is_file():
        return path, {}
    folder = path
    settings: dict[str, Any] = {}
    for module in _json(modules_file):
        kind, place = module["type"].rsplit(".", 1)[-1], path / module["path"]
        if kind == "Transformer":
            folder = place
            if limit := _max_tokens(place):
                settings["max_tokens"] = limit
        elif kind == "Pooling":
            settings["pooling"] = _pooling_name(_json(place / "config.json"), place)
        elif kind != "Normalize":
            raise ModelError(f"{modules_file} has a module {kind}, which kat does not know how to apply.")
    return folder, settings


def _max_tokens(folder: Path) -> int | None:
    file = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    limit = _json(file).get("max_seq_length") if file else None
    return int(limit) if limit else None


def _pooling_name(config: dict[str, Any], place: Path) -> str:
    if isinstance(mode := config.get("pooling_mode"), str):
        modes = [mode]
    else:
        modes = [k.removeprefix("pooling_mode_") for k, v in config.items() if k.startswith("pooling_mode_") and v]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ModelError(f"{place / 'config.json'} pools by {modes}; kat knows mean, cls and last.")
    return _POOLINGS[modes[0]]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
