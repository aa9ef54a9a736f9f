"""Packed rows against each text unpacked, in transformers' own attention: tiny random models of many families."""

import numpy as np
import pytest
import torch

from kat.packing.precision import to_bfloat16
from kat.packing.switch import hidden_states, switch_over, unpacked_hidden_states

SIZE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
GROUPED = SIZE | {"num_key_value_heads": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
MODELS = {
    "Bert": SIZE,
    "Roberta": SIZE | {"max_position_embeddings": 90, "pad_token_id": 1},
    "DistilBert": {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
    "Albert": SIZE | {"embedding_size": 24},
    "ModernBert": SIZE | {"local_attention": 6, **ENDS, "cls_token_id": 0, "sep_token_id": 1},
    "Llama": GROUPED,
    "Mistral": GROUPED | {"sliding_window": 5},
    "Qwen2": GROUPED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "Qwen3": GROUPED | {"head_dim": 16},
    "GPT2": {"n_embd": 48, "n_layer": 2, "n_head": 4, **ENDS},
    "NanoChat": GROUPED | ENDS,
    "OPT": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "word_embed_proj_dim": 48,
    },
}
CAUSAL = ("Llama", "Mistral", "Qwen2", "Qwen3", "GPT2", "NanoChat", "OPT")
UNPACKABLE = {
    "MPNet": SIZE,  # relative position biases
    "Bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 4},  # ALiBi
    "Gemma2": GROUPED | {"head_dim": 16},  # capped scores
    "GptOss": GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16},  # learned sinks
    "Mamba": {"hidden_size": 48, "num_hidden_layers": 2},  # no attention
}


def make(family: str, sizes: dict):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=300, **sizes)
    return transformers.AutoModel.from_config(config).float().eval()


def texts(*lengths: int, seed: int = 1) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(5, 300, n) for n in lengths]


LENGTHS = (60, 31, 31, 31, 9, 4, 4, 2, 1, 1)


@pytest.mark.parametrize("family", MODELS)
def test_packed_is_plain_per_text(family):
    model = make(family, MODELS[family])
    tokens = texts(*LENGTHS)
    with torch.inference_mode():
        expected = torch.cat([unpacked_hidden_states(model, t) for t in tokens])
        assert switch_over(model, 64) is None
        actual, layout = hidden_states(model, tokens)
        other, _ = hidden_states(model, tokens[::-1])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    backwards = torch.cat(other.split(layout.lengths[::-1].tolist())[::-1])
    torch.testing.assert_close(backwards, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_neighbours_in_the_row_are_not_seen(family):
    """Other texts of other lengths around it, and a text's states stay what they are."""
    model = make(family, MODELS[family])
    assert switch_over(model, 64) is None
    mine = texts(12)[0]
    with torch.inference_mode():
        first, _ = hidden_states(model, [*texts(20, 7, seed=2), mine])
        second, _ = hidden_states(model, [mine, *texts(12, 3, seed=3)])
        changed, _ = hidden_states(model, [np.concatenate([mine[:-1], [(mine[-1] + 1) % 300]])])
    torch.testing.assert_close(first[27:], second[:12], atol=1e-5, rtol=1e-5)
    before = (changed[:11] - second[:11]).abs().max() < 1e-5
    assert bool(before) == (family in CAUSAL)  # a causal model does not see what comes after


@pytest.mark.parametrize("family", MODELS)
def test_bfloat16_stays_close_and_keeps_float32_residuals(family):
    model = make(family, MODELS[family])
    tokens = texts(*LENGTHS)
    with torch.inference_mode():
        expected = torch.cat([unpacked_hidden_states(model, t) for t in tokens])
        assert switch_over(model, 64) is None
        actual, _ = hidden_states(to_bfloat16(model), tokens)
    assert actual.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(actual, expected, dim=-1).min() > 0.999
    assert not torch.equal(actual, expected)  # something was computed in another precision


@pytest.mark.parametrize("family", UNPACKABLE)
def test_what_cannot_be_packed_is_found_out_and_left_as_it_was(family):
    model = make(family, UNPACKABLE[family])
    mine = texts(12)[0]
    before = model.config._attn_implementation
    with torch.inference_mode():
        expected = unpacked_hidden_states(model, mine)
        assert switch_over(model, 64)
        torch.testing.assert_close(unpacked_hidden_states(model, mine), expected)
    assert model.config._attn_implementation == before


def test_the_probe_sees_a_wrong_position():
    """Able to fail: a packed row that counted positions on would differ."""
    model = make("Bert", SIZE)
    model.embeddings.register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"position_ids": torch.arange(kwargs["input_ids"].shape[1])[None]}),
        with_kwargs=True,
    )
    assert "differ" in switch_over(model, 64)


def test_gradients_flow_through_packed_attention():
    model = make("Llama", GROUPED)
    tokens = texts(9, 4, 4)
    (sum((unpacked_hidden_states(model, t) ** 2).sum() for t in tokens)).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert switch_over(model, 64) is None
    (hidden_states(model, tokens)[0] ** 2).sum().backward()
    for gradient, p in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["Bert", "Llama", "Qwen2", "GPT2"])
def test_packed_in_bfloat16_is_each_text_in_a_row_of_its_own(family):
    """What is around a text changes the order of sums, and no more: bfloat16 is right to 2^-8."""
    model = make(family, MODELS[family])
    assert switch_over(model, 64) is None
    to_bfloat16(model)
    tokens = texts(*LENGTHS)
    with torch.no_grad():
        packed, _ = hidden_states(model, tokens)
        separate = torch.cat([hidden_states(model, [text])[0] for text in tokens])
    assert (packed - separate).abs().max() < 2e-2 * separate.abs().max()
    assert torch.nn.functional.cosine_similarity(packed, separate, dim=-1).min() > 0.9999


def test_the_light_modules_load_neither_torch_nor_numba(python):
    """`kat.embedding` imports them at its top."""
    names = "kat.packing.switch, kat.packing.attention, kat.packing.layout, kat.packing.budget"
    heavy = "{'torch', 'transformers', 'numba'}"
    ran = python("-c", f"import sys, {names}; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)")
    assert ran.rc == 0, ran.stderr
