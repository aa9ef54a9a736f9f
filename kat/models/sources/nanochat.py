"""nanochat's checkpoints: `sft`, `sft/d12` or `sft/d12/650`, `*` for the deepest; ./sft is a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from kat.config import base_directory
from kat.errors import ModelError
from kat.models.nanochat.checkpoint import (
    converted,
    find_checkpoint,
    peeked_format_version,
    read_config,
    steps_of,
    tags_of,
)
from kat.models.nanochat.layout import KNOWN, LATEST
from kat.models.sources import Found, ModelSource, Source

FOLDERS = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
    "rm": "rm_checkpoints/uniform",
    "rm_density": "rm_checkpoints/density",
    "dpo": "dpo_checkpoints/uniform",
    "dpo_density": "dpo_checkpoints/density",
    "grpo": "grpo_checkpoints/uniform",
    "grpo_density": "grpo_checkpoints/density",
}
"""Each name's folder in the base directory."""


def _find(name: str, allow_network: bool) -> ModelSource:
    base = base_directory()
    family, tag, step = _parts(name)
    folder = base / FOLDERS[family]
    if (tag, step) == (None, None) and _is_folder(folder):
        return ModelSource(name, folder)
    try:
        if not folder.is_dir() and (base / "experiments").is_dir():
            raise ModelError(
                f"{folder} does not exist, and {base / 'experiments'} is where nanochat of {LATEST} saves. {KNOWN}"
            )
        return ModelSource(name, converted(find_checkpoint(folder, _tokenizer(base), tag, step)))
    except ModelError as error:
        raise ModelError(f"The nanochat model {name}: {error} Or use the bundled one: --ckpt_source minilm.") from error


def _is_folder(folder: Path) -> bool:
    """Tell whether a family's place is itself a Hugging Face folder, as kat's trainers write."""
    return (folder / "config.json").is_file()


def _parts(name: str) -> tuple[str, str | None, int | None]:
    """Return family, tag and step of a name; None for the deepest and for the last."""
    family, tag, step, *more = [*name.split("/"), None, None]
    if any(part is not None for part in more) or not (step or "0").isdigit():
        raise ModelError(
            f"{name} is no nanochat model; expected {family}, {family}/d<depth> or {family}/d<depth>/<step>."
        )
    return family, None if tag in (None, "*") else tag, None if step is None else int(step)


def _tokenizer(base: Path) -> Path:
    return base / "tokenizer" / "tokenizer.pkl"


def _catalog() -> Iterator[Found]:
    """Yield every checkpoint by family, depth and step."""
    base = base_directory()
    for family, place in FOLDERS.items():
        folder = base / place
        if _is_folder(folder):
            yield _listed_folder(family, folder)
        for tag in tags_of(folder) if folder.is_dir() else []:
            for step in sorted(steps_of(folder / tag)):
                yield _listed(f"{family}/{tag}/{step}", folder / tag, _tokenizer(base), step)


def _listed_folder(family: str, folder: Path) -> Found:
    try:
        dimension = json.loads((folder / "config.json").read_bytes()).get("hidden_size")
        return Found(family, folder, (folder / "model.safetensors").stat().st_size, dimension=dimension)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return Found(family, folder, 0, note=f"cannot be read: {error}")


def _listed(name: str, folder: Path, tokenizer: Path, step: int) -> Found:
    path = steps_of(folder)[step]
    size = path.stat().st_size
    try:
        config = read_config(find_checkpoint(folder.parent, tokenizer, folder.name, step).meta)
        version = peeked_format_version(path, config)
    except ModelError as error:
        return Found(name, path, size, step=step, note=str(error))
    note = "" if tokenizer.is_file() else f"{tokenizer} is missing"
    return Found(name, path, size, format_version=version, dimension=config["n_embd"], step=step, note=note)


PLUGIN = Source(
    name="nanochat",
    help="a checkpoint in nanochat's own format, from the base directory",
    find=_find,
    families=tuple(FOLDERS),
    catalog=_catalog,
)
