"""Layers in bfloat16 against their products in float64, and which layers of a model are replaced."""

import pytest
import torch
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from kat.packing import precision
from kat.packing.precision import GeluBfloat16, LinearBfloat16, to_bfloat16


@pytest.mark.parametrize("laid_out", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_product_of_bfloat16_numbers(bias, laid_out, monkeypatch):
    """Only the operands and the result are rounded, not the sums."""
    monkeypatch.setattr(precision, "_ONEDNN", precision._ONEDNN and laid_out)
    torch.manual_seed(0)
    plain = torch.nn.Linear(96, 40, bias=bias)
    layer = LinearBfloat16(plain.weight.detach(), plain.bias)
    assert (layer.in_features, layer.out_features) == (96, 40)
    x = torch.randn(3, 33, 96)
    with torch.no_grad():
        actual = layer(x)
        expected = x.bfloat16().double() @ plain.weight.bfloat16().double().T
        expected = expected + plain.bias.bfloat16().double() if bias else expected
    assert actual.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in layer.parameters())
    torch.testing.assert_close(actual.double(), expected, rtol=2.0**-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_torchs_in_every_precision(dtype):
    x = torch.linspace(-6, 6, 4001).view(1, -1).to(dtype)
    with torch.no_grad():
        actual = GeluBfloat16()(x)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), torch.nn.functional.gelu(x.double()), rtol=2.0**-8, atol=1.4e-4)
    x.requires_grad_()
    GeluBfloat16()(x).float().sum().backward()
    assert x.grad is not None


class OtherLinear(torch.nn.Linear):
    """A subclass, which may do anything."""


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Linear(8, 8)
        layers = [torch.nn.Linear(8, 8), Conv1D(8, 8), OtherLinear(8, 8), torch.nn.GELU(), torch.nn.GELU("tanh")]
        self.stack = torch.nn.ModuleList([torch.nn.Sequential(*layers, GELUActivation(), NewGELUActivation())])
        self.pooler = torch.nn.Linear(8, 8)


def test_what_stands_in_the_stacks_is_replaced_and_nothing_else():
    torch.manual_seed(0)
    model = Model()
    weight, x = model.stack[0][1].weight.detach().clone(), torch.randn(5, 8)
    assert to_bfloat16(model) is model
    assert type(model.projection) is type(model.pooler) is torch.nn.Linear
    assert [type(layer) for layer in model.stack[0]] == [
        LinearBfloat16,
        LinearBfloat16,
        OtherLinear,
        GeluBfloat16,
        torch.nn.GELU,
        GeluBfloat16,
        NewGELUActivation,
    ]
    with torch.no_grad():  # Conv1D keeps its weight as [I, O]
        torch.testing.assert_close(model.stack[0][1](x).float(), x @ weight, rtol=0.02, atol=0.02)
