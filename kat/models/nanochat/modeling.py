"""nanochat of 2026-03-14 and after, for transformers: what it adds to the origin's, on top of transformers' NanoChat.

- Smear: a gate mixes the previous token's embedding into a token's; the first token of a text has none.
- Every layer mixes the residual and the first embedding: x ← r·x + s·x₀.
- Every other layer, the last among them, adds an embedding of the token to its values, through a gate per head.
- Layers read a window of a quarter of the context, or one of all of it.
- Queries and keys are scaled by 1.2 after their norm.
- Backout: a middle layer's residual is taken off again before the last norm.

`register` makes the classes known to the Auto classes. Their names stand in the config.json of saved models.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask, sliding_window_overlay
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.nanochat import modeling_nanochat as origin
from transformers.models.nanochat.configuration_nanochat import NanoChatConfig

from kat.models.nanochat.layout import GATE, MODEL_TYPE, SMEAR, has_value_embedding
from kat.models.nanochat.rotations import round_rotations

SHARP = 1.2
"""What queries and keys are scaled by after their norm."""


class KatNanoChatConfig(NanoChatConfig):
    """`window_pattern` has a letter a layer, repeated: L reads a context back, S a quarter of one."""

    model_type = MODEL_TYPE
    window_pattern: str = "L"
    sliding_window: int | None = None

    @property
    def key_heads(self) -> int:
        """The heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads


def window_of(layer: int, config: KatNanoChatConfig) -> int | None:
    """Return the tokens that a layer's query sees where those are less than a context, itself included; else None.

    S is a quarter of the context, in whole 128s; the last layer is never short.
    """
    pattern, context = config.window_pattern.upper(), config.max_position_embeddings
    if layer == config.num_hidden_layers - 1 or pattern[layer % len(pattern)] == "L":
        return None
    return -(-context // 512) * 128 + 1


def long_window(config: KatNanoChatConfig) -> int:
    """Return the tokens that a query of the other layers sees, itself included.

    nanochat gives flash attention `sequence_len` as the tokens to the left, which leaves the query's own out.
    """
    return config.max_position_embeddings + 1


class KatNanoChatAttention(origin.NanoChatAttention):
    """Attention with sharper queries and keys, in a window, its values with token embeddings added."""

    def __init__(self, config: KatNanoChatConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        short = window_of(layer_idx, config)
        self.is_short = short is not None
        self.window = short or long_window(config)
        if has_value_embedding(layer_idx, config.num_hidden_layers):
            self.ve_gate = torch.nn.Linear(GATE, config.key_heads, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        masks: list[Any],
        past_key_values: Cache | None = None,
        extra: torch.Tensor | None = None,
        **more: Any,
    ) -> torch.Tensor:
        """Return (B, T, D). `masks` are those of the long window and of the short one; `extra` goes to the values."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (project(x).view(shape) for project in (self.q_proj, self.k_proj, self.v_proj))
        if extra is not None:
            gate = 3 * torch.sigmoid(self.ve_gate(x[..., :GATE]).float())
            v = v + (gate.unsqueeze(-1) * extra.view(shape)).to(v.dtype)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = origin.apply_rotary_pos_emb(q, k, *position_embeddings)
        q, k = self.q_norm(q) * SHARP, self.k_norm(k) * SHARP
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, origin.eager_attention_forward)
        mask = masks[self.is_short]
        mixed, _ = attend(self, q, k, v, mask, scaling=self.scaling, sliding_window=self.window, **more)
        return self.o_proj(mixed.reshape(*x.shape[:-1], -1).contiguous())


class KatNanoChatLayer(torch.nn.Module):
    """Attention and MLP, each behind a norm and added to the residual."""

    def __init__(self, config: KatNanoChatConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = KatNanoChatAttention(config, layer_idx)
        self.mlp = origin.NanoChatMLP(config)
        self.input_layernorm = origin.NanoChatRMSNorm(eps=config.rms_norm_eps)
        self.post_attention_layernorm = origin.NanoChatRMSNorm(eps=config.rms_norm_eps)

    def forward(self, x: torch.Tensor, **more: Any) -> torch.Tensor:
        """Return the residual, (B, T, D); the rest goes to the attention."""
        x = x + self.self_attn(self.input_layernorm(x), **more)
        return x + self.mlp(self.post_attention_layernorm(x))


class KatNanoChatPreTrainedModel(origin.NanoChatPreTrainedModel):
    """What transformers asks of all models of one configuration."""

    config_class = KatNanoChatConfig
    _no_split_modules = ["KatNanoChatLayer"]  # noqa: RUF012 - transformers' own way
    _can_record_outputs: dict[str, Any] = {}  # noqa: RUF012


class KatNanoChatModel(KatNanoChatPreTrainedModel):
    """The backbone: token ids to hidden states."""

    def __init__(self, config: KatNanoChatConfig) -> None:
        super().__init__(config)
        n, head = config.num_hidden_layers, config.hidden_size // config.num_attention_heads
        width = config.key_heads * head
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList([KatNanoChatLayer(config, i) for i in range(n)])
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
        round_rotations(self)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> BaseModelOutputWithPast:
        """Return the hidden states, (B, T, D), of token ids, (B, T). Raises ValueError without them."""
        if input_ids is None:
            raise ValueError("This model embeds tokens in its layers too: it needs input_ids, not inputs_embeds.")
        embedded = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(embedded.shape[1], device=embedded.device) + seen).unsqueeze(0)
        masks = self._masks(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        x = self.norm(embedded)
        x = self._smeared(x, position_ids, attention_mask, past_key_values, self._before(x, more.get("layout")))
        rotations = self.rotary_emb(x, position_ids=position_ids)
        shared = {"position_embeddings": rotations, "masks": masks, "past_key_values": past_key_values} | more
        return BaseModelOutputWithPast(
            last_hidden_state=self._through_layers(x, input_ids, shared), past_key_values=past_key_values
        )

    def _masks(self, **given: Any) -> list[Any]:
        """The masks of layers with the long window, and of those with the short one."""
        windowed = self.config.sliding_window is not None
        short = create_sliding_window_causal_mask(config=self.config, **given) if windowed else None
        cached, length = given["past_key_values"], given["inputs_embeds"].shape[1]
        width, more = long_window(self.config), {}
        if length + (cached.get_seq_length() if cached is not None else 0) > width:
            more = {"and_mask_function": sliding_window_overlay(width)}
        return [create_causal_mask(config=self.config, **given, **more), short]

    def _through_layers(self, x: torch.Tensor, input_ids: torch.Tensor, shared: dict[str, Any]) -> torch.Tensor:
        first = middle = x
        for i, layer in enumerate(self.layers):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * first
            extra = self.value_embeds[str(i)](input_ids) if str(i) in self.value_embeds else None
            x = layer(x, extra=extra, **shared)
            middle = x if i == len(self.layers) // 2 else middle
        return self.norm(x - self.backout_lambda * middle)

    def _before(self, x: torch.Tensor, layout: Any) -> torch.Tensor | None:
        """The embedding before each token of a row, where a layout says that it is not the one to the left: before a
        branch it stands elsewhere in the row, and before a new token it is read again."""
        if (ids := getattr(layout, "previous_ids", None)) is not None:
            return self.norm(self.embed_tokens(torch.from_numpy(ids).to(x.device)))[None]
        if (places := getattr(layout, "previous", None)) is not None:
            return x[:, torch.from_numpy(places).clamp_min(0).to(x.device)]
        return None

    def _smeared(
        self,
        x: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Any,
        previous: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x with the previous token's mixed in; none for a text's first, whatever stands before it in a row.

        `previous` is that of each token of a row where it is not the one to the left (`_before`).
        """
        before = getattr(past_key_values, "kat_last", None)
        before = torch.zeros_like(x[:, :1]) if before is None else before
        if previous is None:
            previous = torch.cat([before, x[:, :-1]], 1)
        previous = previous * (position_ids != 0).unsqueeze(-1)
        if attention_mask is not None and attention_mask.dim() == 2:
            seen = attention_mask[:, -x.shape[1] - 1 : -1].to(x.dtype)
            if seen.shape[1] < x.shape[1]:  # nothing before the first
                seen = torch.nn.functional.pad(seen, (1, 0))
            previous = previous * seen.unsqueeze(-1)
        if past_key_values is not None:
            # A cache keeps keys and values only, and the next step smears the last embedding of this one.
            past_key_values.kat_last = x[:, -1:].detach()
        return x + self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., :SMEAR])) * previous


class KatNanoChatForCausalLM(origin.NanoChatForCausalLM):
    """The backbone with the origin's head and its soft cap of logits."""

    config_class = KatNanoChatConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - transformers' own way

    def __init__(self, config: KatNanoChatConfig) -> None:
        # Past the origin's own, which would build the origin's backbone first.
        origin.NanoChatPreTrainedModel.__init__(self, config)
        self.model = KatNanoChatModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class KatNanoChatForSequenceClassification(GenericForSequenceClassification, KatNanoChatPreTrainedModel):
    """The backbone with a head of one number a text: a reward model."""


@cache
def register() -> None:
    """Register the classes with transformers' Auto classes."""
    AutoConfig.register(MODEL_TYPE, KatNanoChatConfig)
    AutoModel.register(KatNanoChatConfig, KatNanoChatModel)
    AutoModelForCausalLM.register(KatNanoChatConfig, KatNanoChatForCausalLM)
    AutoModelForSequenceClassification.register(KatNanoChatConfig, KatNanoChatForSequenceClassification)
