"""Find the code of its makers that a model's files name, which kat never runs.

`auto_map` in config.json or tokenizer_config.json says which class of the folder (or of another repository) is meant to
stand for each Auto class. transformers runs it under trust_remote_code alone, and otherwise loads its own class of that
model_type: often the same model, but not where the makers changed what it computes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kat.errors import ModelError, translated

ELSEWHERE = (
    'Embed elsewhere, save {"ids": [str], "emb": float32 [N, D]} with torch.save, and go on with: '
    "kat density FILE.pt --out DIR"
)
"""The way round for a model that kat cannot carry out."""
COPY_AGAIN = "Copy the model again."
_CLASSES = ("AutoModel", "AutoConfig", "AutoTokenizer")


def read_json(path: Path) -> Any:
    """Return what a JSON file of a model holds. Raises ModelError naming it."""
    with translated(ModelError, f"{path} cannot be read as JSON", COPY_AGAIN):
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        return json.loads(path.read_text(encoding="utf-8"))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a model holds, {} where there is no such file.

    Raises ModelError for one that cannot be read, or holds something else.
    """
    value = read_json(path) if os.path.lexists(path) else {}
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__}; expected an object of settings. {COPY_AGAIN}")
    return value


def own_code(folder: Path) -> dict[str, list[str]]:
    """Return the classes of its makers that a model's files name, by the path of the file that names them."""
    classes_of: dict[str, list[str]] = {}
    for name in ("config.json", "tokenizer_config.json"):
        auto_map = read_settings(folder / name).get("auto_map") or {}
        if not isinstance(auto_map, dict):  # old tokenizers: the classes alone
            auto_map = {"AutoTokenizer": auto_map}
        classes = [c for key, value in auto_map.items() if key.startswith(_CLASSES) for c in _flat(value)]
        if classes:
            classes_of[str(folder / name)] = list(dict.fromkeys(classes))
    return classes_of


def own_code_note(folder: Path) -> str | None:
    """Return what to say of a model that is loaded without the code that its files name; None if they name none."""
    named = [f"{file} names {', '.join(classes)}" for file, classes in own_code(folder).items()]
    if not named:
        return None
    return (
        f"This model is meant to run with its own code, which kat never runs: {'; '.join(named)}. The class that "
        "transformers has for the same model_type was loaded instead, and may compute something else. To embed with "
        f"the model's own code: {ELSEWHERE[0].lower()}{ELSEWHERE[1:]}"
    )


def check_class(folder: Path, auto_class: Any) -> None:
    """Raise ModelError for a model that names code of its own and for which transformers has no class.

    `auto_class` is the Auto class that is to load it.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    code = own_code(folder).get(str(folder / "config.json"))
    kind = read_settings(folder / "config.json").get("model_type")
    if not code or (kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in auto_class._model_mapping):
        return
    raise ModelError(
        f"{folder / 'config.json'} names code of its own ({', '.join(code)}), which kat never runs, and transformers "
        f"has no {auto_class.__name__} of model_type {kind!r}. {ELSEWHERE}"
    )


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [name for name in value or [] if isinstance(name, str)]
