"""nanochat's checkpoints as folders that transformers reads: converted once, into the base directory.

    <base>/<family>/d<depth>/model_<step>.pt, meta_<step>.json, and <base>/tokenizer/tokenizer.pkl

Which architecture such files hold is told in `kat.models.nanochat.layout`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.artifacts import first_difference, manifest, read_manifest, write_folder_manifest
from kat.atomic import saving
from kat.config import base_directory
from kat.digests import sha256_file
from kat.errors import ModelError, first_words
from kat.models.nanochat.layout import KNOWN, LATEST, MODEL_TYPE, ORIGIN, format_version_of, is_of_vocabulary, renamed
from kat.models.nanochat.rotations import ROUNDED
from kat.models.nanochat.rotations import round_rotations as round_rotations
from kat.models.nanochat.tokenizer import SPECIAL, TEMPLATE, fast_tokenizer, read_encoding
from kat.outputs import output_folder
from kat.terminal import note

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_FIELDS = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_EPS = 2.0**-23
"""That of torch's rms_norm in float32."""
_LARGEST, _DEEPEST = 1 << 24, 4096
"""A meta that says more is damaged: names and shapes of that many weights would be made before they are compared."""


@dataclass(frozen=True)
class Checkpoint:
    """Where one lies."""

    model: Path
    meta: Path
    tokenizer: Path
    step: int


def find_checkpoint(folder: Path, tokenizer: Path, tag: str | None = None, step: int | None = None) -> Checkpoint:
    """Return the checkpoint of a family's folder: the last step of the model that nanochat takes (`tags_of`), unless
    told.

    Steps are compared as numbers. Raises ModelError naming what was looked for and what is there, and for a meta or a
    tokenizer that is missing.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} does not exist.")
    tags = tags_of(folder)
    if tag is None and tags:
        tag = tags[-1]
    if tag is None or not (folder / tag).is_dir():
        names = ", ".join(tags) or "nothing"
        raise ModelError(f"{folder} holds no model {tag or 'd<depth>'}; it holds {names}.")
    steps = steps_of(folder / tag)
    if step is None and steps:
        step = max(steps)
    if step not in steps:
        names = ", ".join(map(str, sorted(steps))) or "no model_<step>.pt"
        raise ModelError(f"{folder / tag} holds no step {step if step is not None else ''}; it holds {names}.")
    model = steps[step]
    meta = model.with_name(model.name.replace("model_", "meta_")).with_suffix(".json")
    if not meta.is_file():
        others = ", ".join(sorted(p.name for p in model.parent.glob("meta_*.json"))) or "no meta"
        raise ModelError(f"{meta} is not there, without which {model.name} cannot be read; there is {others}.")
    return Checkpoint(model, meta, tokenizer, step)


def tags_of(folder: Path) -> list[str]:
    """Return a family's models by their folders' names, the one last that nanochat takes where none is named.

    Names that begin with d and a number stand by it, the deepest last (of one depth the plain name, else the latest);
    before them, and so taken only where no name begins like that, the others by the time of their last change.
    """

    def place(path: Path) -> tuple[int, bool, float, str]:
        match = re.match(r"d(\d+)", path.name)  # as nanochat asks: d12_long is one of depth 12
        depth = int(match[1]) if match else -1
        return depth, bool(match and match[0] == path.name), path.stat().st_mtime, path.name

    return [p.name for p in sorted((p for p in folder.iterdir() if p.is_dir()), key=place)]


def steps_of(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of one model by their steps."""
    names = ((re.fullmatch(r"model_(\d+)\.pt", p.name), p) for p in folder.iterdir() if p.is_file())
    return {int(match[1]): p for match, p in names if match}


def converted(checkpoint: Checkpoint) -> Path:
    """Return the folder of a checkpoint's model as safetensors with a tokenizer; made if it is not there.

    It lies in BASE/models, named by its place and its hash. Raises ModelError for a file that is damaged, holds more
    than tensors, is of an unknown format version, or does not fit the others.
    """
    files = {"model": checkpoint.model, "meta": checkpoint.meta, "tokenizer": checkpoint.tokenizer}
    # The small files first: what is wrong with them is said before gigabytes are read.
    config, encoding = read_config(checkpoint.meta), read_encoding(checkpoint.tokenizer)
    _check_vocabulary(checkpoint, config, encoding)
    hashes = {name: _digest(path, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()}
    place = "-".join([*checkpoint.model.parts[-3:-1], str(checkpoint.step)])
    folder = base_directory() / "models" / f"{place}-{hashes['model'][:12]}"
    template = hashlib.sha256(TEMPLATE.encode()).hexdigest()[:12]
    expected = manifest("nanochat", hashes, {"dtype": "float32", "template": template})
    present = read_manifest(folder)
    if present and not first_difference(present, expected) and all((folder / name).is_file() for name in _FILES):
        return folder
    version = peeked_format_version(checkpoint.model, config)
    state = read_state(checkpoint.model)
    note(f"models    converts {checkpoint.model} (nanochat of {version}) once → {folder}")
    with output_folder(folder) as (scratch, _):
        _write(state, config, version, encoding, scratch)
        write_folder_manifest(scratch, expected, age=version, step=checkpoint.step, source=str(checkpoint.model))
    return folder


def _check_vocabulary(checkpoint: Checkpoint, config: Mapping[str, Any], encoding: Mapping[str, Any]) -> None:
    tokens = len(encoding["mergeable_ranks"]) + len(encoding["special_tokens"])
    if tokens > config["vocab_size"]:
        raise ModelError(
            f"{checkpoint.tokenizer} has {tokens:,} tokens, and {checkpoint.meta} a vocabulary of "
            f"{config['vocab_size']:,}: they do not belong together."
        )


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def read_config(path: Path) -> dict[str, Any]:
    """Return the six numbers of a meta's model_config, and its window_pattern, "L" where it has none.

    Raises ModelError, for an entry that is not known too: one may change the model and leave its weights' shapes.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))["model_config"]
        config = {name: meta[name] for name in _FIELDS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is no meta of a nanochat model: {type(error).__name__} {error}.") from error
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= _LARGEST for v in config.values()):
        raise ModelError(f"{path}: {config} are not all whole numbers above 0, {_LARGEST:,} at most.")
    if config["n_layer"] > _DEEPEST:
        raise ModelError(f"{path}: n_layer is {config['n_layer']:,}; expected {_DEEPEST:,} at most.")
    _refuse_unknown(set(meta) - {*_FIELDS, "window_pattern"}, path)
    pattern = meta.get("window_pattern", "L")
    if not isinstance(pattern, str) or not re.fullmatch("[SLsl]+", pattern):
        raise ModelError(f"{path}: window_pattern is {pattern!r}; expected letters S and L.")
    return config | {"window_pattern": pattern}


def _refuse_unknown(entries: set[str], path: Path) -> None:
    """Raise ModelError for entries of a model_config that no format version has which is read."""
    if "short_seq_len" in entries:
        raise ModelError(
            f"{path} is of nanochat of {LATEST}: its model_config has short_seq_len, short windows of a length of "
            f"their own. {KNOWN}"
        )
    if entries:
        raise ModelError(
            f"{path}: its model_config has {', '.join(sorted(entries))}, which no nanochat has that kat knows. "
            f"{KNOWN} If it changes nothing in what the model computes, take it out of {path.name}."
        )


def peeked_format_version(path: Path, config: dict[str, Any]) -> str:
    """Return the format version of a checkpoint, by its names and shapes alone. Raises ModelError."""
    return format_version_of(_loaded(path), config, path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint in float32, their names without torch.compile's prefix."""
    return {name: tensor.float() for name, tensor in _loaded(path).items()}


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped, not read. Runs nothing in the file."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} is damaged, or a pickle of more than tensors, which is never run.") from error
    except torch.OutOfMemoryError:  # says nothing of the file
        raise
    except Exception as error:  # a damaged file makes torch raise whatever it meets
        raise ModelError(f"{path} cannot be read: {first_words(error)} Copy it again.") from error
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(v, torch.Tensor) and not v.is_sparse for v in state.values()):
        raise ModelError(f"{path} is no state dict of tensors.")
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}


def _write(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], version: str, encoding: dict[str, Any], folder: Path
) -> None:
    """Save for transformers, rows of the vocabulary's padding left out."""
    model = _model(config, version, encoding["special_tokens"])
    rows = config["vocab_size"]
    tensors = {name: tensor[:rows].clone() if is_of_vocabulary(name) else tensor for name, tensor in state.items()}
    model.load_state_dict({renamed(name): tensor for name, tensor in tensors.items()}, strict=True)
    with saving(folder):
        model.save_pretrained(folder)
        fast_tokenizer(encoding).save_pretrained(folder)


def _model(config: Mapping[str, Any], version: str, special: Mapping[str, int]) -> PreTrainedModel:
    """Return a causal model with weights to be loaded."""
    common = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["n_embd"],
        "intermediate_size": 4 * config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "num_key_value_heads": config["n_kv_head"],
        "max_position_embeddings": config["sequence_len"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0 if version == ORIGIN else 100_000.0},
        "rms_norm_eps": _EPS,
        "bos_token_id": special[SPECIAL[0]],
        "eos_token_id": special["<|assistant_end|>"],
        "pad_token_id": special[SPECIAL[0]],
        "kat_rope_rounding": ROUNDED,
    }
    if version == ORIGIN:
        from transformers import NanoChatConfig, NanoChatForCausalLM

        return NanoChatForCausalLM(NanoChatConfig(**common))
    from kat.models.nanochat import modeling

    modeling.register()
    later = modeling.KatNanoChatConfig(**common, window_pattern=config["window_pattern"])
    windows = [modeling.window_of(i, later) for i in range(config["n_layer"])]
    later.sliding_window = next((w for w in windows if w is not None), None)
    # What a cache forgets, layer by layer.
    later.layer_types = ["full_attention" if w is None else "sliding_attention" for w in windows]
    return modeling.KatNanoChatForCausalLM(later)


def register_classes(folder: Path) -> None:
    """Register the classes that transformers lacks for a folder's model of nanochat."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # whoever loads it will say so
    if kind == MODEL_TYPE:
        from kat.models.nanochat.modeling import register

        register()
    elif kind == "nanochat":
        from kat.models.nanochat.reward import register as register_reward

        register_reward()
