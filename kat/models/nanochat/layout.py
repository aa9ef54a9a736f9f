"""The names and shapes of a nanochat checkpoint's tensors in each format version, and what transformers calls them.

The architecture changed under the same file names, and the meta says so only in part: a state dict's keys and shapes
tell its format version. Needs no torch.

Dates are those of nanochat's commits and of its dev/LOG.md: 2025-10-13 the origin; 2026-01-11 `resid_lambdas`,
`x0_lambdas` and windows, a short one being half of the context; later in 2026-01 value embeddings with gates of 32
inputs, for a day with bigram embeddings too; 2026-03-09 (6ed7d1d82c) gates of 12 inputs; 2026-03-14 (a825e63f81) smear,
backout and short windows of a quarter. In August 2026 the smear is gone and short windows are `short_seq_len` tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.errors import ModelError

if TYPE_CHECKING:
    import torch

ORIGIN, NEXT = "2025-10", "2026-03"
"""The format version of the project's origin, and the one of `kat.models.nanochat.modeling`."""
LATEST = "2026-08"
"""One that kat does not read: no smear, and short windows of a length of their own."""
MODEL_TYPE = "kat_nanochat"
"""What the config.json of a converted model of NEXT says."""
GATE, SMEAR = 12, 24
"""Channels that the gates of value embeddings and of the smear look at."""
KNOWN = (
    f"kat reads {ORIGIN} (neither resid_lambdas nor ve_gate) and {NEXT} (ve_gate of {GATE} inputs, smear_gate, "
    "backout_lambda)."
)
"""What a refusal ends with."""
_EARLY_GATE = 32
"""What the gates of value embeddings looked at until 2026-03-09."""
_VOCABULARY = ("transformer.wte.weight", "lm_head.weight")
_NEWER = ("resid_lambdas", "x0_lambdas", "value_embeds", "smear_gate", "smear_lambda", "backout_lambda")
_LAYER = {
    "attn.c_q.weight": "self_attn.q_proj.weight",
    "attn.c_k.weight": "self_attn.k_proj.weight",
    "attn.c_v.weight": "self_attn.v_proj.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.c_fc.weight": "mlp.fc1.weight",
    "mlp.c_proj.weight": "mlp.fc2.weight",
    "attn.ve_gate.weight": "self_attn.ve_gate.weight",
}


def has_value_embedding(layer: int, layers: int) -> bool:
    """Return whether a layer adds token embeddings to its values: every other one does, the last among them."""
    return layer % 2 == (layers - 1) % 2


def format_version_of(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], path: Path) -> str:
    """Return which nanochat a state dict is of, by its keys and shapes.

    Raises ModelError for any other than the format versions known, naming keys that are strange, missing or of a
    wrong shape.
    """
    _refuse_others(state, path)
    newer = any(name.split(".")[0] in _NEWER or ".ve_gate." in name for name in state)
    version, shapes = (NEXT, _shapes(config) | _more_shapes(config)) if newer else (ORIGIN, _shapes(config))
    if version == ORIGIN and "S" in config.get("window_pattern", "L").upper():
        # Windows came with resid_lambdas: read without them, the model would be another one.
        raise ModelError(
            f"{path} has the weights of nanochat of {ORIGIN}, and its meta a window_pattern of "
            f"{config['window_pattern']!r}, which came with resid_lambdas; is it the meta of another model?"
        )
    if strange := sorted(set(state) - set(shapes)):
        raise ModelError(
            f"{path} is of no format version that kat knows: nearest to {version}, with {len(strange)} unknown keys, "
            f"first {', '.join(strange[:3])}."
        )
    if missing := sorted(set(shapes) - set(state)):
        raise ModelError(
            f"{path}, nearest to nanochat of {version}, lacks {len(missing)} of its weights, first {missing[0]}; "
            "is it of another format version, or the meta of another model?"
        )
    for name, shape in shapes.items():
        have, rows = tuple(state[name].shape), shape[0]
        padded = is_of_vocabulary(name) and have[1:] == shape[1:] and have[0] == -(-rows // 64) * 64
        if have != shape and not padded:
            raise ModelError(
                f"{path}: {name} is {list(have)}, and nanochat of {version} with its meta has {list(shape)}."
            )
    return version


def _refuse_others(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ModelError for nanochat's format versions that are not read, by what tells them."""
    stems = {name.split(".")[0] for name in state}
    gates = {name: list(tensor.shape) for name, tensor in state.items() if ".ve_gate." in name}
    wide = next((name for name, shape in gates.items() if shape[-1] == _EARLY_GATE), None)
    narrow = bool(gates) and all(shape[-1] == GATE for shape in gates.values())
    if wide:
        version, telling = "2026-01 to early 2026-03", f"{wide} is {gates[wide]}, a gate of {_EARLY_GATE} inputs"
    elif narrow and not stems & {"smear_gate", "smear_lambda", "backout_lambda"}:
        version, telling = (
            "early 2026-03",
            f"ve_gate has {GATE} inputs, and there is no smear_gate and no backout_lambda",
        )
    elif narrow and not stems & {"smear_gate", "smear_lambda"}:
        version, telling = LATEST, "there is a backout_lambda, and no smear_gate"
    elif "resid_lambdas" in stems and not stems & {"value_embeds", "smear_gate", "backout_lambda"} and not gates:
        version, telling = "early 2026-01", "there are resid_lambdas, and no value_embeds"
    else:
        return
    raise ModelError(f"{path} is nanochat of {version}: {telling}. {KNOWN}")


def is_of_vocabulary(name: str) -> bool:
    """Return whether a tensor has a row a token, and so may be padded to a multiple of 64 rows."""
    return name in _VOCABULARY or name.startswith("value_embeds.")


def renamed(name: str) -> str:
    """Return what transformers calls a tensor of nanochat's."""
    if name == "transformer.wte.weight":
        return "model.embed_tokens.weight"
    if match := re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name):
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}"
    return name if name == "lm_head.weight" else f"model.{name}"


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
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
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_VOCABULARY, (config["vocab_size"], d))
    for i in range(config["n_layer"]):
        shapes |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _more_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """What the next format version has besides."""
    n, keys = config["n_layer"], config["n_kv_head"] * (config["n_embd"] // config["n_head"])
    shapes: dict[str, tuple[int, ...]] = {"resid_lambdas": (n,), "x0_lambdas": (n,), "smear_gate.weight": (1, SMEAR)}
    shapes |= {"smear_lambda": (1,), "backout_lambda": (1,)}
    for i in (i for i in range(n) if has_value_embedding(i, n)):
        shapes[f"value_embeds.{i}.weight"] = (config["vocab_size"], keys)
        shapes[f"transformer.h.{i}.attn.ve_gate.weight"] = (config["n_kv_head"], GATE)
    return shapes
