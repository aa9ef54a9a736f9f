"""Hash what decides a model's vectors: its weights, and the settings beside them."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from kat.artifacts import check_vouched, is_kept, readable_manifest
from kat.errors import ModelError
from kat.folders import files_below
from kat.inputs import ComputedInput
from kat.models.sources import ModelSource, local_path

TRAINERS = ("train-rm", "train-dpo", "train-grpo")
"""Stages whose output is a model."""


def weights_digest(source: ModelSource) -> str:
    """Return one sha256 for all weight files: of the file itself if there is one, else of the list of their hashes.

    Raises ModelError if there are none, or if they are not those that the source promises.
    """
    files = files_below(source.path, "*.safetensors")
    safe = {file.parent for file in files}  # what is read of each folder: its safetensors, else its pickle
    files += [f for f in files_below(source.path, "pytorch_model*.bin") if f.parent not in safe]
    if not files:
        raise ModelError(f"{source.path} holds no weights (*.safetensors or pytorch_model*.bin).")
    digests = [check_vouched(f) for f in files]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    if source.sha256 and digest != source.sha256:
        raise ModelError(f"{files[0]} is not the file expected: sha256 {digest}. Install its package again.")
    return digest


def settings_digest(source: ModelSource) -> str:
    """Return one sha256 for all that decides beside the weights how a text is read: JSON files, chat templates, and
    vocabularies of folders without a tokenizer.json.

    Of a folder of kat's trainers those that they wrote: an evaluation put beside them does not make another model of
    it.
    """
    manifest = readable_manifest(source.path) or {}
    for name in manifest.get("outputs") or ():
        if Path(name).suffix in (".json", ".jinja", ".txt", ".model", ".safetensors"):
            is_kept(source.path / name, source.path)
    own = manifest.get("outputs") if manifest.get("stage") in TRAINERS else None
    names = {path.relative_to(source.path): path for path in files_below(source.path) if _is_setting(path)}
    parts = [f"{name} {check_vouched(file)}" for name, file in names.items() if own is None or name.as_posix() in own]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _is_setting(path: Path) -> bool:
    """Tell whether a file is read with the weights: transformers writes a chat template into a file of its own, and
    reads a vocabulary only where no tokenizer.json holds it."""
    if path.suffix in (".json", ".jinja"):
        return path.is_file()
    is_vocabulary = path.name in ("vocab.txt", "merges.txt") or path.suffix == ".model"
    return is_vocabulary and path.is_file() and not (path.parent / "tokenizer.json").is_file()


_DIGESTS = {"": weights_digest, "_settings": settings_digest}


def model_inputs(source: ModelSource, name: str = "model") -> dict[str, ComputedInput]:
    """Return what a stage that reads a model names as its inputs, by `name`: its weights and its settings."""
    folder = source.path if source.path == local_path(source.name) else None
    return {f"{name}{part}": ComputedInput(partial(digest, source), folder) for part, digest in _DIGESTS.items()}


def digest_now(name: str, folder: Path) -> str:
    """Return the hash, as `model_inputs` names it, of the model that is in a folder now. Raises what it raises."""
    digest = settings_digest if name.endswith("_settings") else weights_digest
    return digest(ModelSource(str(folder), folder))
