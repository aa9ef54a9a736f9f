"""nanochat's checkpoints as folders that transformers reads: converted once, into the base directory.

    <base>/<family>/d<depth>/model_<step>.pt, meta_<step>.json, and <base>/tokenizer/tokenizer.pkl

The architecture changed under these names, and the meta says so only in part: a state dict's keys tell its age.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.artifacts import first_difference, manifest, read_manifest, seal, sha256_file, whole_folder
from kat.config import base_directory
from kat.errors import ModelError
from kat.models.nanochat.modeling import GATE, MODEL_TYPE, SMEAR, has_value_embedding, register, window_of
from kat.models.nanochat.tokenizer import SPECIAL, fast_tokenizer, read_encoding

if TYPE_CHECKING:
    import torch

ORIGIN, NEXT = "2025-10", "2026-03"
"""The age of the project's origin, and the one of `kat.models.nanochat.modeling`."""
_FIELDS = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
_LAYER = {
    "attn.c_q.weight": "self_attn.q_proj.weight",
    "attn.c_k.weight": "self_attn.k_proj.weight",
    "attn.c_v.weight": "self_attn.v_proj.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.c_fc.weight": "mlp.fc1.weight",
    "mlp.c_proj.weight": "mlp.fc2.weight",
    "attn.ve_gate.weight": "self_attn.ve_gate.weight",
}
_NEWER = ("resid_lambdas", "x0_lambdas", "value_embeds", "smear_gate", "smear_lambda", "backout_lambda")
_MADE = ("config.json", "model.safetensors", "tokenizer.json")
_EPS = 2.0**-23
"""That of torch's rms_norm in float32."""


@dataclass(frozen=True)
class Checkpoint:
    """Where one lies."""

    model: Path
    meta: Path
    tokenizer: Path
    step: int


def find_checkpoint(folder: Path, tokenizer: Path, tag: str | None = None, step: int | None = None) -> Checkpoint:
    """The checkpoint of a family's folder: the deepest model's last step, unless told.

    Depths and steps are compared as numbers. Raises ModelError naming what was looked for and what is there.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} does not exist.")
    depths = {p.name: int(m[1]) for p in folder.iterdir() if p.is_dir() and (m := re.fullmatch(r"d(\d+)", p.name))}
    tags = sorted(depths, key=depths.__getitem__) or sorted(p.name for p in folder.iterdir() if p.is_dir())
    if tag is None and tags:
        tag = tags[-1]
    if tag is None or not (folder / tag).is_dir():
        there = ", ".join(tags) or "nothing"
        raise ModelError(f"{folder} holds no model {tag or 'd<depth>'}; it holds {there}.")
    steps = steps_of(folder / tag)
    if step is None and steps:
        step = max(steps)
    if step not in steps:
        there = ", ".join(map(str, sorted(steps))) or "no model_<step>.pt"
        raise ModelError(f"{folder / tag} holds no step {step if step is not None else ''}; it holds {there}.")
    model = steps[step]
    meta = model.with_name(model.name.replace("model_", "meta_")).with_suffix(".json")
    if not meta.is_file():
        others = ", ".join(sorted(p.name for p in model.parent.glob("meta_*.json"))) or "no meta"
        raise ModelError(f"{meta} is not there, without which {model.name} cannot be read; there is {others}.")
    return Checkpoint(model, meta, tokenizer, step)


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints of one model by their steps."""
    return {int(m[1]): p for p in folder.iterdir() if (m := re.fullmatch(r"model_(\d+)\.pt", p.name))}


def converted(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint's model as safetensors with a tokenizer; made if it is not there.

    It lies in BASE/models, named by its place and its hash. Raises ModelError for a file that is damaged, holds more
    than tensors, is of an unknown age, or does not fit the others.
    """
    files = {"model": checkpoint.model, "meta": checkpoint.meta, "tokenizer": checkpoint.tokenizer}
    if not checkpoint.tokenizer.is_file():
        read_encoding(checkpoint.tokenizer)  # says what is missing
    hashes = {name: _digest(path, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()}
    place = "-".join([*checkpoint.model.parts[-3:-1], str(checkpoint.step)])
    folder = base_directory() / "models" / f"{place}-{hashes['model'][:12]}"
    wanted = manifest("nanochat", hashes, {"dtype": "float32"})
    found = read_manifest(folder)
    if found and not first_difference(found, wanted) and all((folder / name).is_file() for name in _MADE):
        return folder
    config = read_config(checkpoint.meta)
    state = read_state(checkpoint.model)
    age = age_of(state, config, checkpoint.model)
    encoding = read_encoding(checkpoint.tokenizer)
    words = len(encoding["mergeable_ranks"]) + len(encoding["special_tokens"])
    if words > config["vocab_size"]:
        raise ModelError(
            f"{checkpoint.tokenizer} has {words:,} tokens, and {checkpoint.meta} a vocabulary of "
            f"{config['vocab_size']:,}: they do not belong together."
        )
    print(f"models    converts {checkpoint.model} (nanochat of {age}) once → {folder}", file=sys.stderr)
    with whole_folder(folder) as scratch:
        _write(state, config, age, encoding, scratch)
        seal(scratch, wanted, age=age, step=checkpoint.step, source=str(checkpoint.model))
    return folder


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def read_config(path: Path) -> dict[str, Any]:
    """The six numbers of a meta's model_config, and its window_pattern, "L" where it has none. Raises ModelError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["model_config"]
        config = {name: found[name] for name in _FIELDS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no meta of a nanochat model: {type(error).__name__} {error}.") from error
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in config.values()):
        raise ModelError(f"{path}: {config} are not all whole numbers above 0.")
    pattern = found.get("window_pattern", "L")
    if not isinstance(pattern, str) or not re.fullmatch("[SLsl]+", pattern):
        raise ModelError(f"{path}: window_pattern is {pattern!r}; expected letters S and L.")
    return config | {"window_pattern": pattern}


def peeked_age(path: Path, config: dict[str, Any]) -> str:
    """The age of a checkpoint, by its names and shapes alone. Raises ModelError."""
    return age_of(_loaded(path), config, path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint in float32, their names without torch.compile's prefix."""
    return {name: tensor.float() for name, tensor in _loaded(path).items()}


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped, not read. Runs nothing in the file."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} is damaged, or a pickle of more than tensors, which is never run.") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read: {first} Copy it again.") from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ModelError(f"{path} is no state dict of tensors.")
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in found.items()}


def age_of(state: dict[str, torch.Tensor], config: dict[str, Any], path: Path) -> str:
    """Which nanochat a state dict is of, by its keys and shapes. Raises ModelError for any other than the ages known,
    naming keys that are strange, missing or of a wrong shape."""
    age = NEXT if any(name.split(".")[0] in _NEWER or ".ve_gate." in name for name in state) else ORIGIN
    shapes = _shapes(config) if age == ORIGIN else _shapes(config) | _more_shapes(config)
    if strange := sorted(set(state) - set(shapes)):
        raise ModelError(
            f"{path} is of no age that kat knows: nearest to {age}, with {len(strange)} unknown keys, "
            f"first {', '.join(strange[:3])}."
        )
    if missing := sorted(set(shapes) - set(state)):
        raise ModelError(
            f"{path}, nearest to nanochat of {age}, lacks {len(missing)} of its weights, first {missing[0]}; "
            "is it of another age, or the meta of another model?"
        )
    for name, shape in shapes.items():
        have, rows = tuple(state[name].shape), shape[0]
        padded = _of_vocabulary(name) and have[1:] == shape[1:] and have[0] == -(-rows // 64) * 64
        if have != shape and not padded:
            raise ModelError(f"{path}: {name} is {list(have)}, and nanochat of {age} with its meta has {list(shape)}.")
    return age


def _of_vocabulary(name: str) -> bool:
    return name in _VOCABULARY or name.startswith("value_embeds.")


_VOCABULARY = ("transformer.wte.weight", "lm_head.weight")


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the origin's architecture."""
    d, head = config["n_embd"], config["n_embd"] // config["n_head"]
    queries, keys = config["n_head"] * head, config["n_kv_head"] * head
    layer = {
        "attn.c_q.weight": (queries, d),
        "attn.c_k.weight": (keys, d),
        "attn.c_v.weight": (keys, d),
        "attn.c_proj.weight": (d, d),
        "mlp.c_fc.weight": (4 * d, d),
        "mlp.c_proj.weight": (d, 4 * d),
    }
    found: dict[str, tuple[int, ...]] = dict.fromkeys(_VOCABULARY, (config["vocab_size"], d))
    for i in range(config["n_layer"]):
        found |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    return found


def _more_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What the next age has besides."""
    n, keys = config["n_layer"], config["n_kv_head"] * (config["n_embd"] // config["n_head"])
    found: dict[str, tuple[int, ...]] = {"resid_lambdas": (n,), "x0_lambdas": (n,), "smear_gate.weight": (1, SMEAR)}
    found |= {"smear_lambda": (1,), "backout_lambda": (1,)}
    for i in (i for i in range(n) if has_value_embedding(i, n)):
        found[f"value_embeds.{i}.weight"] = (config["vocab_size"], keys)
        found[f"transformer.h.{i}.attn.ve_gate.weight"] = (config["n_kv_head"], GATE)
    return found


def _write(state: dict[str, torch.Tensor], config: dict[str, Any], age: str, encoding: dict, folder: Path) -> None:
    """Save for transformers, rows of the vocabulary's padding left out."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    special, theta = encoding["special_tokens"], 10_000.0 if age == ORIGIN else 100_000.0
    common = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["n_embd"],
        "intermediate_size": 4 * config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "num_key_value_heads": config["n_kv_head"],
        "max_position_embeddings": config["sequence_len"],
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rms_norm_eps": _EPS,
        "bos_token_id": special[SPECIAL[0]],
        "eos_token_id": special["<|assistant_end|>"],
        "pad_token_id": special[SPECIAL[0]],
        "kat_rope_rounding": "bfloat16",
    }
    if age == ORIGIN:
        model = NanoChatForCausalLM(NanoChatConfig(**common))
    else:
        classes = register()
        made = classes.config(**common, window_pattern=config["window_pattern"])
        windows = [window_of(i, made) for i in range(config["n_layer"])]
        made.sliding_window = next((w for w in windows if w is not None), None)
        # What a cache forgets, layer by layer.
        made.layer_types = ["full_attention" if w is None else "sliding_attention" for w in windows]
        model = classes.causal(made)
    rows = config["vocab_size"]
    cut = {name: tensor[:rows].clone() if _of_vocabulary(name) else tensor for name, tensor in state.items()}
    model.load_state_dict({_renamed(name): tensor for name, tensor in cut.items()}, strict=True)
    model.save_pretrained(folder)
    fast_tokenizer(encoding).save_pretrained(folder)


def _renamed(name: str) -> str:
    if name == "transformer.wte.weight":
        return "model.embed_tokens.weight"
    if match := re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name):
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}"
    return name if name == "lm_head.weight" else f"model.{name}"


def know(folder: Path) -> None:
    """Make the classes of a folder's model known to transformers, if they are kat's own."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return  # whoever loads it will say so
    if kind == MODEL_TYPE:
        register()


def round_rotations(model: torch.nn.Module) -> None:
    """Round cos and sin of a converted model to bfloat16, as nanochat keeps them; others are left alone."""
    import torch

    if getattr(model.config, "kat_rope_rounding", None) != "bfloat16":
        return

    def rounded(module, args, output):
        return tuple(x.to(torch.bfloat16).to(x.dtype) for x in output)

    for module in model.modules():
        if type(module).__name__ == "NanoChatRotaryEmbedding":
            module.register_forward_hook(rounded)
