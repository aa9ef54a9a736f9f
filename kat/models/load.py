"""`load_model`: any source, as an encoder, a causal model or a reward model, with its tokenizer and its way to chat."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.artifacts import readable_manifest
from kat.devices import multiplies_bfloat16, pick_device
from kat.errors import ModelError, translated
from kat.folders import files_below
from kat.models.chat import Chat
from kat.models.depth import check_depth
from kat.models.digests import weights_digest
from kat.models.nanochat.checkpoint import register_classes, round_rotations
from kat.models.own_code import check_class, own_code_note
from kat.models.sentence_transformer import SentenceSettings, sentence_settings
from kat.models.sources import ModelSource, resolve
from kat.models.tokenizer_files import lower_case, unfulfilled
from kat.parameters import one_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = {
    "encoder": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "reward": "AutoModelForSequenceClassification",
}
OLDEST_TRANSFORMERS = (5, 7)
"""Older ones take other arguments; pyproject.toml says the same, and a test compares."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
_HEADS = ("score", "classifier")
"""What transformers calls the layer that makes a reward."""
_TABLES = ("position_embeddings", "position_embedding", "wpe", "embed_positions")
"""What transformers calls a learned table of positions."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. `limit` is the most tokens of one text, special ones included, unless the user asks for
    more, up to `most` (None: no hard limit); `pooling` is how its makers pool; `sentence` is what else a directory of
    sentence-transformers says, and `after` its modules behind the pooling. `notes` are differences between what the
    files say and what is done, a sentence each: whoever loads a model says them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limit: int
    most: int | None
    pooling: str
    meta: dict[str, Any] = field(default_factory=dict)
    sentence: SentenceSettings | None = None
    after: torch.nn.Module | None = None
    notes: tuple[str, ...] = ()

    @property
    def chat(self) -> Chat:
        """How conversations are written for this model."""
        return Chat(self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.model.device

    @property
    def dimension(self) -> int:
        """The length of a vector: a hidden one, or what the modules behind the pooling make of it."""
        return self.meta.get("dimension", self.model.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """The rows of the table of tokens."""
        return self.model.get_input_embeddings().num_embeddings


def load_model(
    source: str, *, kind: str = "encoder", device: str = "auto", dtype: str = "auto", allow_network: bool = False
) -> LoadedModel:
    """Load a model, in evaluation mode, with its tokenizer and its `chat`.

    `kind` is "encoder" (hidden states), "causal" (logits) or "reward" (one logit a text: [B, 1]). A source without a
    reward head gets a new one, drawn as normal(0, 1 / (D + 1)) from a fixed seed as in Stiennon et al. 2020 (§ 3.4);
    `meta["head"]` says "new" or "loaded". `dtype` "auto" is float32 on a processor, and bfloat16 on a GPU that has it.

    Raises ModelError naming the file at fault and the remedy, OptionError for an unknown kind, device or dtype.

    >>> model = kat.load_model("minilm")
    >>> model.tokenizer("a text")["input_ids"]
    [101, 1037, 3793, 102]
    """
    one_of("kind", kind, tuple(KINDS))
    one_of("dtype", dtype, DTYPES)
    device = pick_device(device)
    number_format = _number_format(dtype, device)
    place = resolve(source, allow_network=allow_network)
    with load_errors(place.path):
        loaded = _encoder(place, device) if kind == "encoder" else _with_head(place, kind)
        loaded = replace(loaded, meta=_facts(place, loaded.model) | loaded.meta)
    model: torch.nn.Module = loaded.model
    model.to(device=device, dtype=number_format).eval()
    if loaded.after is not None:
        loaded.after.to(device)
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return loaded


def read_encoder(name: str, device: str = "auto", *, allow_network: bool = False) -> LoadedModel:
    """Load a model for embedding, in float32, without running code that comes with it.

    Raises ModelError naming the file at fault and the remedy.
    """
    place = resolve(name, allow_network=allow_network)
    with load_errors(place.path):
        return _encoder(place, device)


def position_limit(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a learned table of positions has rows for; None for a model without one."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in _TABLES:
            rows, padding = getattr(module, "num_embeddings", None), getattr(module, "padding_idx", None)
            if rows:  # RoBERTa's positions start after the padding index, OPT's after an offset
                return rows - (getattr(module, "offset", 0) if padding is None else padding + 1)
    return None


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int | None) -> int:
    """Return the longest text a model was built for, in tokens; 8,192 if its files do not say."""
    limits = [most, *(getattr(model.config, n, None) for n in ("max_position_embeddings", "n_positions"))]
    if tokenizer.model_max_length < 1_000_000:
        limits.append(tokenizer.model_max_length)
    return min((n for n in limits if n), default=8192)


@contextlib.contextmanager
def load_errors(folder: Path) -> Iterator[None]:
    """Turn what transformers raises at damaged files into a ModelError, and keep it quiet about missing heads."""
    import pickle

    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with translated(ModelError, f"The model in {folder} cannot be loaded"):
            try:
                yield
            except pickle.UnpicklingError as error:  # its own words advise to run what is in the file
                raise ModelError(
                    f"The weights in {folder} are damaged, or a pickle of more than tensors, which is never run. "
                    "Save them as safetensors where you trust them."
                ) from error
    finally:
        logging.set_verbosity(before)


def _encoder(source: ModelSource, device: str) -> LoadedModel:
    digest = weights_digest(source)
    settings = sentence_settings(source.path)
    model, tokenizer, missing = _read(settings.folder, "encoder")
    _check_encoder(settings.folder, model, tokenizer, missing)
    if settings.lower_case:
        lower_case(tokenizer)
    from kat.models.after_pooling import after_pooling

    after, dimension = after_pooling(settings, model.config.hidden_size)
    device = pick_device(device)
    model.to(device).eval()
    most = position_limit(model)
    limit, shortened = _smaller_limit(settings, most, token_limit(model, tokenizer, most))
    notes, facts = _differences(settings.folder, model, tokenizer, lowered=settings.lower_case)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        limit=limit,
        most=most,
        pooling=settings.pooling,
        sentence=settings,
        after=after if after is None else after.to(device),
        notes=(*notes, *shortened),
        meta={
            "name": source.name,
            "sha256": digest,
            "architecture": type(model).__name__,
            "dimension": dimension,
            "parameters": _parameters(model) + (_parameters(after) if after is not None else 0),
        }
        | facts,
    )


def _smaller_limit(settings: SentenceSettings, most: int | None, built: int) -> tuple[int, list[str]]:
    """Return the tokens of a text, and what to say where the directory names more than there are positions for."""
    if not settings.max_tokens:
        return built, []
    if most is None or settings.max_tokens <= most:
        return settings.max_tokens, []
    return most, [
        f"{settings.limit_file} says max_seq_length {settings.max_tokens}, but the model's table of positions has room "
        f"for {most}: texts are read up to {most} tokens."
    ]


def _differences(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, lowered: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Return what the files say that was not done: sentences, and the facts for a manifest."""
    notes, facts = unfulfilled(folder, tokenizer, lowered=lowered) if tokenizer.is_fast else [], {}
    own = None if type(model).__module__.startswith("kat.") else own_code_note(folder)
    if own:
        notes.insert(0, own)
        facts["own_code_ignored"] = True
    return notes, facts


def _check_encoder(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, missing: Collection[str]
) -> None:
    # A pooler sits on top of the hidden states that kat pools itself.
    if needed := sorted(name for name in missing if "pooler" not in name.split(".")):
        raise ModelError(
            f"{folder} lacks {len(needed)} of the model's weights, first {_first(needed)}: it is not complete."
        )
    if model.config.is_encoder_decoder:
        raise ModelError(f"The model in {folder} is an encoder with a decoder; kat embeds with one or the other.")
    if not tokenizer.is_fast:
        raise ModelError(f"The tokenizer in {folder} has no tokenizer.json; save it with transformers' fast class.")


def _with_head(source: ModelSource, kind: str) -> LoadedModel:
    """Load a causal or a reward model, in float32 on the processor."""
    digest = weights_digest(source)
    model, tokenizer, missing = _read(source.path, kind)
    head = _check_head(source.path, kind, missing)
    if head == "new":
        _draw_head(model)
    most = position_limit(model)
    notes, facts = _differences(source.path, model, tokenizer)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        limit=token_limit(model, tokenizer, most),
        most=most,
        pooling="last",
        notes=tuple(notes),
        meta={
            "name": source.name,
            "sha256": digest,
            "kind": kind,
            "architecture": type(model).__name__,
            "head": head,
        }
        | facts,
    )


def _check_head(folder: Path, kind: str, missing: Collection[str]) -> str:
    """Return whether the head is "new" or "loaded". Raises ModelError if anything else was not in the files."""
    head = [name for name in missing if kind == "reward" and name.split(".")[0] in _HEADS]
    if needed := sorted(set(missing) - set(head)):
        raise ModelError(f"{folder} lacks {len(needed)} of the weights of a {kind} model, first {_first(needed)}.")
    return "new" if head else "loaded"


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _draw_head(model: PreTrainedModel) -> None:
    import torch

    heads = [m for n, m in model.named_modules() if n.split(".")[0] in _HEADS and hasattr(m, "weight")]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in heads:
            width = head.weight.shape[1]
            head.weight.copy_(torch.randn(head.weight.shape, generator=draw) / (width + 1) ** 0.5)
            if head.bias is not None:
                head.bias.zero_()


def _read(folder: Path, kind: str) -> tuple[Any, PreTrainedTokenizerBase, set[str]]:
    """Return model, tokenizer, and the names of the weights that the files lack."""
    import torch
    import transformers

    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST_TRANSFORMERS:
        oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
        raise ModelError(
            f"transformers {transformers.__version__} is installed; kat needs {oldest} or newer. "
            f"Type: pip install -U 'transformers>={oldest}'"
        )

    labels: dict[str, Any] = {"num_labels": 1} if kind == "reward" else {}
    trust: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    register_classes(folder)
    check_class(folder, getattr(transformers, KINDS[kind]))
    check_depth(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trust)
    model, report = getattr(transformers, KINDS[kind]).from_pretrained(
        folder, dtype=torch.float32, weights_only=True, output_loading_info=True, **trust, **labels
    )
    round_rotations(model)
    return model, tokenizer, report["missing_keys"]


def _number_format(dtype: str, device: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.startswith("cuda") and multiplies_bfloat16(device) else torch.float32


def _facts(source: ModelSource, model: PreTrainedModel) -> dict[str, Any]:
    stored = "safetensors" if files_below(source.path, "*.safetensors") else "pytorch"
    manifest = readable_manifest(source.path) or {}
    return {
        "source": source.name,
        "path": str(source.path),
        "format": manifest["stage"] if manifest.get("stage") in ("gguf", "nanochat") else stored,
        "age": manifest.get("age"),  # the format version of a nanochat checkpoint, under its key on disk
        "dimension": model.config.hidden_size,
        "parameters": _parameters(model),
    }


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
