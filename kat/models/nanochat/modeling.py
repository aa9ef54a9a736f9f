"""nanochat as it is since 2026-03, for transformers: what it adds to the origin's, on top of transformers' NanoChat.

- Smear: a gate mixes the previous token's embedding into a token's; the first token of a text has none.
- Every layer mixes the residual and the first embedding: x ← r·x + s·x₀.
- Every other layer, the last among them, adds an embedding of the token to its values, through a gate per head.
- Layers read a window of a quarter of the context, or all of it; queries and keys are scaled by 1.2 after their norm.
- Backout: a middle layer's residual is taken off again before the last norm.

The classes are made, and known to the Auto classes, when `register` is first called.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

MODEL_TYPE = "kat_nanochat"
GATE, SMEAR = 12, 24
"""Channels that the gates of value embeddings and of the smear look at."""
SHARP = 1.2


def has_value_embedding(layer: int, layers: int) -> bool:
    """Every other layer, so that the last one has it."""
    return layer % 2 == (layers - 1) % 2


def window_of(layer: int, config: Any) -> int | None:
    """Tokens that a layer's query sees, itself included; None for all. S is a quarter of the context, in whole 128s."""
    pattern, context = config.window_pattern.upper(), config.max_position_embeddings
    if layer == config.num_hidden_layers - 1 or pattern[layer % len(pattern)] == "L":
        return None
    return -(-context // 512) * 128 + 1


@cache
def register() -> SimpleNamespace:
    """The classes: config, model, causal and reward."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.cache_utils import DynamicCache
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.modeling_outputs import BaseModelOutputWithPast
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.nanochat import modeling_nanochat as origin
    from transformers.models.nanochat.configuration_nanochat import NanoChatConfig

    class Config(NanoChatConfig):
        model_type = MODEL_TYPE
        window_pattern: str = "L"
        sliding_window: int | None = None

    class Attention(origin.NanoChatAttention):
        def __init__(self, config, layer_idx: int):
            super().__init__(config, layer_idx)
            self.window = window_of(layer_idx, config)
            if has_value_embedding(layer_idx, config.num_hidden_layers):
                self.ve_gate = torch.nn.Linear(GATE, config.num_key_value_heads, bias=False)

        def forward(self, x, position_embeddings, masks, past_key_values=None, extra=None, **more):
            shape = (*x.shape[:-1], -1, self.head_dim)
            q, k, v = (made(x).view(shape) for made in (self.q_proj, self.k_proj, self.v_proj))
            if extra is not None:
                gate = 3 * torch.sigmoid(self.ve_gate(x[..., :GATE]).float())
                v = v + (gate.unsqueeze(-1) * extra.view(shape)).to(v.dtype)
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            q, k = origin.apply_rotary_pos_emb(q, k, *position_embeddings)
            q, k = self.q_norm(q) * SHARP, self.k_norm(k) * SHARP
            if past_key_values is not None:
                k, v = past_key_values.update(k, v, self.layer_idx)
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, origin.eager_attention_forward
            )
            mask = masks[self.window is not None]
            found, _ = attend(self, q, k, v, mask, scaling=self.scaling, sliding_window=self.window, **more)
            return self.o_proj(found.reshape(*x.shape[:-1], -1).contiguous())

    class Layer(torch.nn.Module):
        def __init__(self, config, layer_idx: int):
            super().__init__()
            self.self_attn = Attention(config, layer_idx)
            self.mlp = origin.NanoChatMLP(config)
            self.input_layernorm = origin.NanoChatRMSNorm(eps=config.rms_norm_eps)
            self.post_attention_layernorm = origin.NanoChatRMSNorm(eps=config.rms_norm_eps)

        def forward(self, x, **more):
            x = x + self.self_attn(self.input_layernorm(x), **more)
            return x + self.mlp(self.post_attention_layernorm(x))

    class PreTrained(origin.NanoChatPreTrainedModel):
        config_class = Config
        _no_split_modules = ("Layer",)
        _can_record_outputs = {}  # noqa: RUF012 - transformers' own way

    class Model(PreTrained):
        def __init__(self, config):
            super().__init__(config)
            n, width = (
                config.num_hidden_layers,
                config.num_key_value_heads * (config.hidden_size // config.num_attention_heads),
            )
            self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
            self.layers = torch.nn.ModuleList([Layer(config, i) for i in range(n)])
            self.value_embeds = torch.nn.ModuleDict(
                {str(i): torch.nn.Embedding(config.vocab_size, width) for i in range(n) if has_value_embedding(i, n)}
            )
            self.resid_lambdas = torch.nn.Parameter(torch.ones(n))
            self.x0_lambdas = torch.nn.Parameter(torch.zeros(n))
            self.smear_gate = torch.nn.Linear(SMEAR, 1, bias=False)
            self.smear_lambda = torch.nn.Parameter(torch.zeros(1))
            self.backout_lambda = torch.nn.Parameter(torch.full((1,), 0.2))
            self.norm = origin.NanoChatRMSNorm(eps=config.rms_norm_eps)
            self.rotary_emb = origin.NanoChatRotaryEmbedding(config=config)
            self.post_init()

        def forward(
            self,
            input_ids=None,
            attention_mask=None,
            position_ids=None,
            past_key_values=None,
            inputs_embeds=None,
            use_cache=None,
            **more,
        ):
            if input_ids is None:
                raise ValueError("This model embeds tokens in its layers too: it needs input_ids, not inputs_embeds.")
            embedded = self.embed_tokens(input_ids)
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache(config=self.config)
            if position_ids is None:
                seen = past_key_values.get_seq_length() if past_key_values is not None else 0
                position_ids = (torch.arange(embedded.shape[1], device=embedded.device) + seen).unsqueeze(0)
            how = {"config": self.config, "inputs_embeds": embedded, "attention_mask": attention_mask}
            how |= {"past_key_values": past_key_values, "position_ids": position_ids}
            masks = [create_causal_mask(**how), None]
            if self.config.sliding_window is not None:
                masks[1] = create_sliding_window_causal_mask(**how)
            x = self._smeared(self.norm(embedded), position_ids, attention_mask, past_key_values)
            first, middle = x, None
            rotations = self.rotary_emb(x, position_ids=position_ids)
            for i, layer in enumerate(self.layers):
                x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * first
                extra = self.value_embeds[str(i)](input_ids) if str(i) in self.value_embeds else None
                given = {"position_embeddings": rotations, "masks": masks, "past_key_values": past_key_values}
                x = layer(x, extra=extra, **given, **more)
                middle = x if i == len(self.layers) // 2 else middle
            x = self.norm(x - self.backout_lambda * middle)
            return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)

        def _smeared(self, x, position_ids, attention_mask, past_key_values):
            """x with the previous token's mixed in; none for a text's first, whatever stands before it in a row."""
            before = getattr(past_key_values, "kat_last", None)
            before = torch.zeros_like(x[:, :1]) if before is None else before
            previous = torch.cat([before, x[:, :-1]], 1) * (position_ids != 0).unsqueeze(-1)
            if attention_mask is not None and attention_mask.dim() == 2:
                seen = attention_mask[:, -x.shape[1] - 1 : -1].to(x.dtype)
                if seen.shape[1] < x.shape[1]:  # nothing before the first
                    seen = torch.nn.functional.pad(seen, (1, 0))
                previous = previous * seen.unsqueeze(-1)
            if past_key_values is not None:
                past_key_values.kat_last = x[:, -1:].detach()
            return x + self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., :SMEAR])) * previous

    class Causal(origin.NanoChatForCausalLM):
        config_class = Config
        _tied_weights_keys = {}  # noqa: RUF012

        def __init__(self, config):
            PreTrained.__init__(self, config)
            self.model = Model(config)
            self.vocab_size = config.vocab_size
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

    class Reward(GenericForSequenceClassification, PreTrained):
        pass

    AutoConfig.register(MODEL_TYPE, Config)
    for auto, made, name in (
        (AutoModel, Model, "KatNanoChatModel"),
        (AutoModelForCausalLM, Causal, "KatNanoChatForCausalLM"),
        (AutoModelForSequenceClassification, Reward, "KatNanoChatForSequenceClassification"),
    ):
        made.__name__ = made.__qualname__ = name
        auto.register(Config, made)
    return SimpleNamespace(config=Config, model=Model, causal=Causal, reward=Reward)
