"""nanochat's checkpoints in each format version's layout, with random weights, and plain implementations of both."""

import json
import pickle

import pytest
import torch
import torch.nn.functional as F

from kat.models.nanochat.tokenizer import SPECIAL

tiktoken = pytest.importorskip("tiktoken", reason="tiktoken, which pickles nanochat's tokenizer, is not installed")

CONFIG = {"sequence_len": 64, "vocab_size": 300, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 48}


def random_state(config=CONFIG, padded: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under the names of nanochat's own modules; embeddings in bfloat16, as it keeps them."""
    draw = torch.Generator().manual_seed(seed)
    d, rows = config["n_embd"], config["vocab_size"]
    rows = -(-rows // 64) * 64 if padded else rows
    head = d // config["n_head"]

    def made(*shape):
        return torch.randn(*shape, generator=draw) / shape[1] ** 0.5

    state = {"transformer.wte.weight": torch.randn(rows, d, generator=draw).bfloat16(), "lm_head.weight": made(rows, d)}
    for i in range(config["n_layer"]):
        at, kv = f"transformer.h.{i}", config["n_kv_head"] * head
        shapes = {"c_q": (d, d), "c_k": (kv, d), "c_v": (kv, d), "c_proj": (d, d)}
        state |= {f"{at}.attn.{name}.weight": made(*shape) for name, shape in shapes.items()}
        state |= {f"{at}.mlp.c_fc.weight": made(4 * d, d), f"{at}.mlp.c_proj.weight": made(d, 4 * d)}
    return state


LATER = CONFIG | {"window_pattern": "SSSL", "n_layer": 6, "sequence_len": 512}


def later_state(config=CONFIG, padded: bool = False) -> dict[str, torch.Tensor]:
    """The same with what 2026-03 has besides."""
    draw = torch.Generator().manual_seed(7)
    n, keys = config["n_layer"], config["n_kv_head"] * config["n_embd"] // config["n_head"]
    rows = -(-config["vocab_size"] // 64) * 64 if padded else config["vocab_size"]

    def made(*shape):
        return torch.randn(*shape, generator=draw)

    state = random_state(config, padded) | {"resid_lambdas": 1 + 0.2 * made(n), "x0_lambdas": 0.3 * made(n)}
    state |= {"smear_gate.weight": made(1, 24), "smear_lambda": made(1), "backout_lambda": torch.tensor([0.3])}
    for i in range(n):
        if i % 2 == (n - 1) % 2:
            state[f"value_embeds.{i}.weight"] = made(rows, keys).bfloat16()
            state[f"transformer.h.{i}.attn.ve_gate.weight"] = made(config["n_kv_head"], 12)
    return state


def later_logits(state, config, ids: torch.Tensor, *, hidden: bool = False) -> torch.Tensor:
    """The published architecture of 2026-03, one text, straight."""
    d, heads, shared, n = config["n_embd"], config["n_head"], config["n_kv_head"], config["n_layer"]
    size, t = d // heads, len(ids)
    angle = torch.outer(torch.arange(t).float(), 100_000.0 ** (-torch.arange(0, size, 2).float() / size))
    cos, sin = angle.cos().bfloat16().float()[:, None], angle.sin().bfloat16().float()[:, None]
    w = {name: tensor.float() for name, tensor in state.items()}

    def norm(x):
        return F.rms_norm(x, (x.shape[-1],))

    def turned(x):
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return 1.2 * norm(torch.cat([a * cos + b * sin, b * cos - a * sin], -1))

    x = norm(w["transformer.wte.weight"][ids])
    gate = w["smear_lambda"] * torch.sigmoid(x[1:, :24] @ w["smear_gate.weight"].T)
    x = torch.cat([x[:1], x[1:] + gate * x[:-1]])
    first, residuals = x, []
    for i in range(n):
        at, pattern = f"transformer.h.{i}", config.get("window_pattern", "L")
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * first
        y = norm(x)
        q, k = (turned((y @ w[f"{at}.attn.c_{c}.weight"].T).view(t, -1, size)) for c in "qk")
        v = (y @ w[f"{at}.attn.c_v.weight"].T).view(t, shared, size)
        if f"value_embeds.{i}.weight" in w:
            open_ = 3 * torch.sigmoid(y[:, :12] @ w[f"{at}.attn.ve_gate.weight"].T)
            v = v + open_[..., None] * w[f"value_embeds.{i}.weight"][ids].view(t, shared, size)
        k, v = (part.repeat_interleave(heads // shared, 1) for part in (k, v))
        apart = torch.arange(t)[:, None] - torch.arange(t)
        short = pattern[i % len(pattern)] == "S" and i < n - 1
        # flash attention's window_size[0]: tokens to the left of the query's own
        left = -(-config["sequence_len"] // 512) * 128 if short else config["sequence_len"]
        seen = (apart >= 0) & (apart <= left)
        scores = (torch.einsum("qhd,khd->hqk", q, k) / size**0.5).masked_fill(~seen, -torch.inf)
        x = x + torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(t, d) @ w[f"{at}.attn.c_proj.weight"].T
        x = x + F.relu(norm(x) @ w[f"{at}.mlp.c_fc.weight"].T).square() @ w[f"{at}.mlp.c_proj.weight"].T
        residuals.append(x)
    x = norm(x - w["backout_lambda"] * residuals[n // 2])
    if hidden:
        return x
    return 15 * torch.tanh(x @ w["lm_head.weight"][: config["vocab_size"]].T / 15)


def plain_logits(state, config, ids: torch.Tensor, *, hidden: bool = False) -> torch.Tensor:
    """The published architecture, straight: rotations then QK norm, relu², norm after the embedding, soft cap 15."""
    d, heads, shared = config["n_embd"], config["n_head"], config["n_kv_head"]
    size, t = d // heads, len(ids)
    angle = torch.outer(torch.arange(t).float(), 10_000.0 ** (-torch.arange(0, size, 2).float() / size))
    cos, sin = angle.cos().bfloat16().float()[:, None], angle.sin().bfloat16().float()[:, None]

    def norm(x):
        return F.rms_norm(x, (x.shape[-1],))

    def turned(x):
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return norm(torch.cat([a * cos + b * sin, b * cos - a * sin], -1))

    w = {name: tensor.float() for name, tensor in state.items()}
    x = norm(w["transformer.wte.weight"][ids])
    for i in range(config["n_layer"]):
        at = f"transformer.h.{i}"
        y = norm(x)
        q = turned((y @ w[f"{at}.attn.c_q.weight"].T).view(t, heads, size))
        k = turned((y @ w[f"{at}.attn.c_k.weight"].T).view(t, shared, size)).repeat_interleave(heads // shared, 1)
        v = (y @ w[f"{at}.attn.c_v.weight"].T).view(t, shared, size).repeat_interleave(heads // shared, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
        scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -torch.inf)
        x = x + torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(t, d) @ w[f"{at}.attn.c_proj.weight"].T
        x = x + F.relu(norm(x) @ w[f"{at}.mlp.c_fc.weight"].T).square() @ w[f"{at}.mlp.c_proj.weight"].T
    x = norm(x)
    if hidden:
        return x
    return 15 * torch.tanh(x @ w["lm_head.weight"][: config["vocab_size"]].T / 15)


def save(base, state, config=CONFIG, *, family="chatsft_checkpoints", tag="d3", step=10, prefix="") -> None:
    folder = base / family / tag
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "model_config": config}))
    tokenizer = base / "tokenizer" / "tokenizer.pkl"
    tokenizer.parent.mkdir(exist_ok=True)
    if not tokenizer.exists():
        ranks = {bytes([b]): b for b in range(256)} | {b" the": 256, b"he": 257}
        special = {name: 258 + i for i, name in enumerate(SPECIAL)}
        made = tiktoken.Encoding("rustbpe", pat_str=r"\s?\S+|\s+", mergeable_ranks=ranks, special_tokens=special)
        tokenizer.write_bytes(pickle.dumps(made))
