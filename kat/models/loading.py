"""A model directory to an encoder in memory: transformer, tokenizer, and what its own files say of their use."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.artifacts import sha256_file
from kat.devices import pick_device
from kat.errors import ModelError
from kat.models.chat import Chat
from kat.models.nanochat.checkpoint import know, round_rotations
from kat.models.sources import ModelSource, resolve

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedModel:
    """`limit` is the most tokens of one text, special ones included, unless the user asks for more, up to `most`
    (None: no hard limit); `pooling` is how its makers pool."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limit: int
    most: int | None
    pooling: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> Chat:
        """How conversations are written for this model."""
        return Chat(self.tokenizer)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dimension(self) -> int:
        return self.model.config.hidden_size


@lru_cache(maxsize=2)
def load_encoder(name: str, device: str = "auto", *, allow_network: bool = False) -> LoadedModel:
    """`read_encoder`, kept in memory between calls: not to be changed by who uses it."""
    return read_encoder(name, device, allow_network=allow_network)


def read_encoder(name: str, device: str = "auto", *, allow_network: bool = False) -> LoadedModel:
    """Load a model for embedding, in float32, without running code that comes with it.

    Raises ModelError naming the file at fault and the remedy.
    """
    source = resolve(name, allow_network=allow_network)
    digest = weights_digest(source)
    folder, settings = _sentence_transformer(source.path)
    model, tokenizer = _load(source, folder)
    model.to(pick_device(device)).eval()
    most = position_limit(model)
    limit = settings.get("max_tokens") or token_limit(model, tokenizer, most)
    meta = {
        "name": name,
        "sha256": digest,
        "architecture": type(model).__name__,
        "dimension": model.config.hidden_size,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return LoadedModel(model, tokenizer, limit, most, settings.get("pooling", "mean"), meta)


def position_limit(model: PreTrainedModel) -> int | None:
    """The most tokens that a learned table of positions has rows for; None for a model without one."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("position_embeddings", "wpe", "embed_positions"):
            rows, padding = getattr(module, "num_embeddings", None), getattr(module, "padding_idx", None)
            if rows:  # RoBERTa's positions start after the padding index
                return rows - (0 if padding is None else padding + 1)
    return None


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int | None) -> int:
    """The longest text a model was built for, in tokens; 8,192 if its files do not say."""
    limits = [most, *(getattr(model.config, n, None) for n in ("max_position_embeddings", "n_positions"))]
    if tokenizer.model_max_length < 1_000_000:
        limits.append(tokenizer.model_max_length)
    return min((n for n in limits if n), default=8192)


@contextlib.contextmanager
def load_errors(folder: Path) -> Iterator[None]:
    """What transformers raises at damaged files becomes a ModelError; what it says of missing heads is not said."""
    import pickle

    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except pickle.UnpicklingError as error:  # its own words advise to run what is in the file
        raise ModelError(
            f"The weights in {folder} are damaged, or a pickle of more than tensors, which is never run. "
            "Save them as safetensors where you trust them."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The model in {folder} cannot be loaded: {first}") from error
    finally:
        logging.set_verbosity(before)


def _load(source: ModelSource, folder: Path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    know(folder)
    with load_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
        )
    round_rotations(model)
    if missing := sorted(name for name in report["missing_keys"] if "pooler" not in name.split(".")):
        names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise ModelError(f"{folder} lacks {len(missing)} of the model's weights, first {names}: it is not whole.")
    if model.config.is_encoder_decoder:
        raise ModelError(f"The model in {folder} is an encoder with a decoder; kat embeds with one or the other.")
    if not tokenizer.is_fast:
        raise ModelError(f"The tokenizer in {folder} has no tokenizer.json; save it with transformers' fast class.")
    return model, tokenizer


def weights_digest(source: ModelSource) -> str:
    """One sha256 for all weight files: of the file itself if there is one, else of the list of their hashes."""
    import hashlib

    files = sorted(source.path.rglob("*.safetensors")) or sorted(source.path.rglob("pytorch_model*.bin"))
    if not files:
        raise ModelError(f"{source.path} holds no weights (*.safetensors or pytorch_model*.bin).")
    digests = [sha256_file(f) for f in files]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    if source.sha256 and digest != source.sha256:
        raise ModelError(f"{files[0]} is not the file expected: sha256 {digest}. Install its package again.")
    return digest


def settings_digest(source: ModelSource) -> str:
    """One sha256 for all that decides beside the weights how a text is read: the directory's JSON files."""
    import hashlib

    files = sorted(source.path.rglob("*.json"))
    parts = [f"{file.relative_to(source.path)} {sha256_file(file)}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sentence_transformer(path: Path) -> tuple[Path, dict[str, Any]]:
    """The transformer's folder, and what a sentence-transformers model says of pooling and length."""
    modules_file = path / "modules.json"
    if not modules_file.is_file():
        return path, {}
    modules = _json(modules_file)
    folder, settings = path, {}
    for module in modules:
        kind, place = module["type"].rsplit(".", 1)[-1], path / module["path"]
        if kind == "Transformer":
            folder = place
            limit_file = next((f for f in sorted(place.glob("sentence_*_config.json"))), None)
            if limit_file and (limit := _json(limit_file).get("max_seq_length")):
                settings["max_tokens"] = int(limit)
        elif kind == "Pooling":
            settings["pooling"] = _pooling_name(_json(place / "config.json"), place)
        elif kind != "Normalize":
            raise ModelError(f"{modules_file} has a module {kind}, which kat does not know how to apply.")
    return folder, settings


def _pooling_name(config: dict[str, Any], place: Path) -> str:
    known = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls", "lasttoken": "last"}
    if isinstance(mode := config.get("pooling_mode"), str):
        chosen = [mode]
    else:
        chosen = [k.removeprefix("pooling_mode_") for k, v in config.items() if k.startswith("pooling_mode_") and v]
    if len(chosen) != 1 or chosen[0] not in known:
        raise ModelError(f"{place / 'config.json'} pools by {chosen}; kat knows mean, cls and last.")
    return known[chosen[0]]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
