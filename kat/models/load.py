"""`load_model`: any source, as an encoder, a causal model or a reward model, with its tokenizer and its way to chat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kat.artifacts import read_manifest
from kat.config import one_of
from kat.devices import pick_device
from kat.errors import ModelError
from kat.models.loading import (
    LoadedModel,
    load_errors,
    position_limit,
    read_encoder,
    token_limit,
    weights_digest,
)
from kat.models.nanochat.checkpoint import know, round_rotations
from kat.models.sources import ModelSource, resolve

if TYPE_CHECKING:
    import torch

KINDS = {
    "encoder": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "reward": "AutoModelForSequenceClassification",
}
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    source: str, *, kind: str = "encoder", device: str = "auto", dtype: str = "auto", allow_network: bool = False
) -> LoadedModel:
    """A model in memory, in evaluation mode, with its tokenizer and its `chat`.

    `kind` is "encoder" (hidden states), "causal" (logits) or "reward" (one logit a text: [B, 1]). A source without a
    reward head gets a new one, drawn as normal(0, 1 / (D + 1)) from a fixed seed as in Stiennon et al. 2020 (§ 3.4);
    `meta["head"]` says "new" or "loaded". `dtype` "auto" is float32 on a processor, and bfloat16 on a GPU that has it.

    Raises ModelError naming the file at fault and the remedy, OptionError for an unknown kind, device or dtype.
    """
    one_of("kind", kind, tuple(KINDS))
    one_of("dtype", dtype, DTYPES)
    where = pick_device(device)
    number = _number_format(dtype, where)
    if kind == "encoder":
        found = read_encoder(source, where, allow_network=allow_network)
        found.model.to(dtype=number)
        return replace(found, meta=found.meta | _facts(resolve(source, allow_network=allow_network), found.model))
    place = resolve(source, allow_network=allow_network)
    digest = weights_digest(place)
    model, tokenizer, missing = _read(place, kind)
    head = _check_missing(place, kind, missing)
    if head == "new":
        _draw_head(model)
    model.to(device=where, dtype=number).eval()
    most = position_limit(model)
    facts = {"name": source, "sha256": digest, "kind": kind, "architecture": type(model).__name__, "head": head}
    limit = token_limit(model, tokenizer, most)
    return LoadedModel(model, tokenizer, limit, most, "last", facts | _facts(place, model))


def _facts(place: ModelSource, model) -> dict[str, Any]:
    stored = "safetensors" if any(place.path.rglob("*.safetensors")) else "pytorch"
    made = read_manifest(place.path) or {}
    return {
        "source": place.name,
        "path": str(place.path),
        "format": made["stage"] if made.get("stage") in ("gguf", "nanochat") else stored,
        "age": made.get("age"),
        "dimension": model.config.hidden_size,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _number_format(dtype: str, device: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


def _read(place: ModelSource, kind: str):
    import torch
    import transformers

    more: dict[str, Any] = {"num_labels": 1} if kind == "reward" else {}
    how = {"local_files_only": True, "trust_remote_code": False}
    know(place.path)
    with load_errors(place.path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.path, **how)
        model, report = getattr(transformers, KINDS[kind]).from_pretrained(
            place.path, dtype=torch.float32, weights_only=True, output_loading_info=True, **how, **more
        )
    round_rotations(model)
    return model, tokenizer, report["missing_keys"]


def _check_missing(place: ModelSource, kind: str, missing: set[str]) -> str:
    """Whether the head is "new" or "loaded". Raises ModelError if anything else was not in the files."""
    head = [name for name in missing if kind == "reward" and name.split(".")[0] in ("score", "classifier")]
    if rest := sorted(set(missing) - set(head)):
        names = ", ".join(rest[:3]) + (" …" if len(rest) > 3 else "")
        raise ModelError(f"{place.path} lacks {len(rest)} of the weights of a {kind} model, first {names}.")
    return "new" if head else "loaded"


def _draw_head(model) -> None:
    import torch

    heads = [m for n, m in model.named_modules() if n.split(".")[0] in ("score", "classifier") and hasattr(m, "weight")]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in heads:
            width = head.weight.shape[1]
            head.weight.copy_(torch.randn(head.weight.shape, generator=draw) / (width + 1) ** 0.5)
            if head.bias is not None:
                head.bias.zero_()
