"""Norms and gated layers in one pass, against their definitions in float64, and left alone where they do not serve."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaModel
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from kat.packing.fused import fuse_for_training

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
