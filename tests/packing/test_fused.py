"""Norms and gated layers in one pass, against their definitions in float64, and left alone where they do not serve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GraniteConfig, GraniteModel, LlamaConfig, LlamaModel, MistralConfig
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention

from kat.packing.attention import register
from kat.packing.decode_blocks import is_of_llamas_kind
from kat.packing.fused import _Rotate, fuse_for_training
from kat.packing.trunks import TrunkLayout

ROUNDING = 2.0**-8  # of bfloat16, to the nearest: half a unit in the last of 8 digits


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(module, x, into):
    """Output, and gradients of the input and of every parameter, under autocast in bfloat16."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    (out.float() * into).sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


def off(actual, expected):
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("shape", [(37, 64), (2, 5, 100), (1, 1, 576)])
def test_a_norm_is_its_definition(shape):
    norm = LlamaRMSNorm(shape[-1], eps=1e-5)
    norm.weight.data = drawn(shape[-1], seed=1) + 1
    x, into = 3 * drawn(*shape), drawn(*shape, seed=2).bfloat16().float()  # a gradient that bfloat16 holds
    assert fuse_for_training(norm) == 1
    out, of_x, of_weight = run(norm, x, into)
    exact_x, weight = x.double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    exact = exact_x * (exact_x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    (exact * into.double()).sum().backward()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact.detach(), rtol=ROUNDING, atol=1e-6)
    assert off(of_x, exact_x.grad) < 1e-6  # no rounding to bfloat16 between
    assert off(of_weight, weight.grad) < 1e-6


def test_a_gated_layer_errs_no_more_than_torchs_own():
    config = LlamaConfig(hidden_size=48, intermediate_size=80, hidden_act="silu", num_attention_heads=1)
    torch.manual_seed(0)
    plain = LlamaMLP(config)
    x, into = 4 * drawn(33, 48), drawn(33, 48, seed=1)
    double = LlamaMLP(config).double()
    double.load_state_dict(plain.state_dict())
    exact_x = x.double().requires_grad_()
    exact = double(exact_x)
    (exact * into.double()).sum().backward()
    expected = [exact.detach(), exact_x.grad, *(p.grad for p in double.parameters())]
    by_torch = [off(a, e) for a, e in zip(run(plain, x, into), expected, strict=True)]
    assert fuse_for_training(plain) == 1
    fused = [off(a, e) for a, e in zip(run(plain, x, into), expected, strict=True)]
    assert all(ours <= 1.2 * theirs for ours, theirs in zip(fused, by_torch, strict=True)), (fused, by_torch)
    assert max(fused) < 0.02


def test_extreme_gates_are_finite():
    mlp = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=16, hidden_act="silu", num_attention_heads=1))
    for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        layer.weight.data = torch.eye(16)
    fuse_for_training(mlp)
    x = torch.tensor([-3e4, -200, -90, -1, 0, 1, 90, 3e4] * 2)[None]
    out, of_x, *_ = run(mlp, x, torch.ones(1, 16))
    assert torch.isfinite(out).all()
    assert torch.isfinite(of_x).all()
    torch.testing.assert_close(out.double(), torch.nn.functional.silu(x.double()) * x.double(), rtol=0.03, atol=1e-2)


def test_a_rotation_is_its_definition():
    """x · cos + (−second half, first half) · sin, with angles of the halves that have nothing in common."""
    heads, shared, size = 3, 2, 10
    x, into = drawn(7, 70).bfloat16(), drawn(7, 70, seed=1).bfloat16()
    cos, sin = drawn(7, size, seed=2), drawn(7, size, seed=3)
    given = x.clone().requires_grad_()
    out = torch.cat(_Rotate.apply(given, cos, sin, shared), 1).flatten(1)
    (out * into).sum().backward()
    exact_x = x.double().requires_grad_()
    parts = exact_x.view(7, heads + 2 * shared, size)
    turned = torch.cat([-parts[..., 5:], parts[..., :5]], -1)
    rotated = parts * cos[:, None].double() + turned * sin[:, None].double()
    exact = torch.cat([rotated[:, : heads + shared], parts[:, heads + shared :]], 1).flatten(1)
    (exact * into.double()).sum().backward()
    torch.testing.assert_close(out.double(), exact.detach(), rtol=ROUNDING, atol=1e-6)
    torch.testing.assert_close(given.grad.double(), exact_x.grad, rtol=ROUNDING, atol=1e-6)


def test_fused_blocks_err_no_more_than_torchs_own():
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=50,
        initializer_range=0.2,
        attn_implementation=register(),
    )
    torch.manual_seed(0)
    model = LlamaModel(config).eval()
    row = TrunkLayout(np.asarray([5, 3, 7, 2]), np.asarray([-1, 0, 0, 2]))
    ids, into = torch.arange(17)[None] % 50, drawn(17, 48)

    def gradients(autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(input_ids=ids, position_ids=torch.from_numpy(row.positions)[None], layout=row, use_cache=False)
        (out.last_hidden_state[0].float() * into).sum().backward()
        return [out.last_hidden_state.detach(), *(p.grad.clone() for p in model.parameters())]

    exact, plain = gradients(False), gradients(True)
    assert fuse_for_training(model) == 2 * 5 + 1
    fused = [off(a, e) for a, e in zip(gradients(True), exact, strict=True)]
    by_torch = [off(a, e) for a, e in zip(plain, exact, strict=True)]
    assert all(ours <= 1.3 * theirs for ours, theirs in zip(fused, by_torch, strict=True)), (fused, by_torch)
    for a, e in zip(gradients(False), exact, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("window", [4, 4096])
def test_attention_with_a_window_keeps_its_own_pass(window):
    config = MistralConfig(hidden_size=16, intermediate_size=16, num_attention_heads=1, num_key_value_heads=1)
    config.sliding_window, config._attn_implementation = window, register()
    attention = MistralAttention(config, 0)
    assert fuse_for_training(attention) == 0
    config.sliding_window = None
    assert fuse_for_training(attention) == 1


@pytest.mark.parametrize("factor", [1.0, 0.9, 0.22])
@pytest.mark.parametrize("size", [0.002, 0.2])
def test_blocks_that_scale_what_they_add_keep_their_own_pass(factor, size):
    """However little they add to what they read."""
    config = GraniteConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        initializer_range=size,
        residual_multiplier=factor,
        attn_implementation=register(),
    )
    torch.manual_seed(0)
    model = GraniteModel(config).eval()
    fuse_for_training(model)
    assert ("forward" in model.layers[0].__dict__) == (factor == 1)
    assert is_of_llamas_kind(model) == (factor == 1)


def test_what_somebody_watches_is_called():
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, attn_implementation=register()
    )
    torch.manual_seed(0)
    model = LlamaModel(config).eval()
    assert fuse_for_training(model) == 6
    row, seen = TrunkLayout(np.asarray([5]), np.asarray([-1])), []
    block = model.layers[0]
    for module in (block.input_layernorm, block.self_attn.k_proj, block.mlp.up_proj, block.mlp.down_proj):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    with torch.autocast("cpu", torch.bfloat16):
        model(
            input_ids=torch.arange(5)[None],
            position_ids=torch.arange(5)[None],
            layout=row,
            use_cache=False,
        )
    assert seen == [block.input_layernorm, block.self_attn.k_proj, block.mlp.up_proj, block.mlp.down_proj]


def test_what_is_of_another_kind_keeps_its_own_pass():
    gemma = GemmaRMSNorm(32)  # scales by 1 + weight
    gelu = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=16, hidden_act="gelu", num_attention_heads=1))
    assert fuse_for_training(torch.nn.ModuleList([gemma, gelu, torch.nn.LayerNorm(8)])) == 0


def test_without_autocast_nothing_changes():
    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)
    )
    names = list(model.state_dict())
    ids = torch.arange(7)[None]
    before = model(ids).last_hidden_state
    assert fuse_for_training(model) == 2 * 3 + 1
    assert list(model.state_dict()) == names
    assert torch.equal(model(ids).last_hidden_state, before)
