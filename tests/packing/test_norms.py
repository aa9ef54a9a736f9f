"""Norms in one pass against torch's, and the bfloat16 that is shared between layers against a fresh conversion."""

import numpy as np
import pytest
import torch
from making import tiny
from transformers import AutoModel

from kat.packing.norms import bf16_copy, fuse_norms

WIDTH = 48


class RMSNorm(torch.nn.Module):
    def __init__(self, weight, shift=0.0):
        super().__init__()
        self.weight, self.eps, self.shift = weight, 1e-6, shift

    def forward(self, x):
        x = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return x if self.weight is None else x * (self.weight + self.shift)


def layer_norm(**options) -> torch.nn.Module:
    actual = torch.nn.LayerNorm(WIDTH, **options)
    for p in actual.parameters():
        torch.nn.init.normal_(p)
    return actual


def replaced(norm: torch.nn.Module) -> torch.nn.Module:
    stack = torch.nn.ModuleList([norm])
    fuse_norms(stack)
    return stack[0]


KINDS = {
    "layer": lambda: layer_norm(),
    "no bias": lambda: layer_norm(bias=False),
    "no parameters": lambda: layer_norm(elementwise_affine=False),
    "rms": lambda: RMSNorm(torch.nn.Parameter(torch.randn(WIDTH))),
    "rms without weight": lambda: RMSNorm(None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_in_one_pass_is_the_norm_and_its_bfloat16(kind):
    torch.manual_seed(0)
    plain = KINDS[kind]()
    norm = replaced(plain)
    assert norm is not plain
    x = torch.randn(2, 5, WIDTH) * 3 + 7
    half = torch.randn(2, 5, WIDTH).bfloat16()
    before = x.clone()
    with torch.no_grad():
        for actual, expected in ((norm(x), plain(x)), (norm(x, half), plain(x + half))):
            torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)
            assert bf16_copy(actual).dtype == torch.bfloat16
            torch.testing.assert_close(bf16_copy(actual).float(), actual, rtol=2.0**-8, atol=0)
        assert torch.equal(x, before)
        bent = torch.randn(WIDTH, 5).t()  # not in one piece
        torch.testing.assert_close(norm(bent), plain(bent), rtol=2e-5, atol=2e-5)
        assert torch.equal(norm(half), plain(half))


def test_a_norm_that_means_something_else_by_its_weight_stays():
    plain = RMSNorm(torch.nn.Parameter(torch.randn(WIDTH)), shift=1.0)
    assert replaced(plain) is plain


def test_gradients_go_through_the_plain_norm():
    norm, x = replaced(layer_norm()), torch.randn(3, WIDTH, requires_grad=True)
    norm(x, torch.randn(3, WIDTH).bfloat16()).sum().backward()
    assert x.grad is not None


def test_not_a_number_comes_through():
    x = torch.randn(2, WIDTH)
    x[0, 3] = torch.nan
    with torch.no_grad():
        actual = replaced(layer_norm())(x)
    assert actual[0].isnan().all()
    assert bf16_copy(actual)[0].isnan().all()
    assert actual[1].isfinite().all()


def test_a_changed_tensor_is_converted_again():
    with torch.no_grad():
        x = torch.randn(4)
        first = bf16_copy(x)
        assert bf16_copy(x) is first
        x += 1
        assert torch.equal(bf16_copy(x), x.bfloat16())
        actual = replaced(layer_norm())(torch.randn(2, WIDTH))
        actual *= 3
        assert torch.equal(bf16_copy(actual), actual.bfloat16())
    with torch.inference_mode():
        y = torch.randn(4)
        bf16_copy(y)
        y += 1
        assert torch.equal(bf16_copy(y), y.bfloat16())
    z = torch.randn(4, requires_grad=True)
    bf16_copy(z).float().sum().backward()
    assert z.grad is not None


@pytest.mark.parametrize("family", ["Bert", "Roberta", "Llama", "GPT2"])
def test_models_give_what_they_gave(tmp_path, family):
    model = AutoModel.from_pretrained(tiny(tmp_path / family, family)).eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 100, (2, 9)))
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
        kinds = [type(m).__name__ for m in model.modules()]
        for stack in [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]:
            fuse_norms(stack)
        assert [type(m).__name__ for m in model.modules()] != kinds
        actual = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
