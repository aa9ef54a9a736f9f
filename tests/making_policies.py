"""Small policies of several families, for the tests of generation and GRPO."""

from __future__ import annotations

import copy

import torch
import transformers
from making import tiny
from making_nanochat import CONFIG, LATER, later_state, random_state, save

from kat.models.load import load_model
from kat.training.policy import Policy

GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "Llama": GROUPED,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    "Qwen2": GROUPED | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "Qwen3": GROUPED | {"head_dim": 16},
    "nanochat 2025-10": None,
    "nanochat 2026-03": None,
}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 2}


def policy_of(family, folder, base_dir, *, autocast=False, **config):
    """A random causal model whose words depend on what was before."""
    if family.startswith("nanochat"):
        later = family.endswith("03")
        save(base_dir, later_state(LATER) if later else random_state(), LATER if later else CONFIG)
        return Policy(load_model("sft", kind="causal", device="cpu"), autocast=autocast)
    more = BLOOM if family == "Bloom" else FAMILIES[family]
    path = tiny(folder / family, family, **{"pad_token_id": 1} | more | config)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(path))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    return Policy(load_model(path, kind="causal", device="cpu"), autocast=autocast)


def plain_of(policy):
    """The policy's model as transformers reads it."""
    plain = copy.deepcopy(policy.model)
    for module in plain.modules():  # the loops of training would call the modules that they were made for
        module.__dict__.pop("forward", None)
    plain.set_attn_implementation("eager")
    return plain
