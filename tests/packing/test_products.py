"""Products of layers that train in bfloat16, against the same in float64 and against torch's own layers."""

from __future__ import annotations

import pytest
import torch

from kat.packing.products import (
    NARROW,
    ROWS,
    WIDE,
    SharedWeights,
    _transposed,
    half_weights,
    joined,
    times,
    weight_gradient,
)

HALF = 2.0**-8  # bfloat16 rounds to the nearest of 8 digits: half a unit in the last


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def off(actual, expected):
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("rows", [1, 31, ROWS, ROWS + 1, 2 * ROWS + 77])
@pytest.mark.parametrize(
    ("sizes", "columns"), [([40], 24), ([WIDE // 2, WIDE, 50], 24), ([40, 30], 24), ([40], NARROW + 8)]
)
def test_a_product_in_parts_is_the_product(rows, sizes, columns):
    x, weight = drawn(rows, sum(sizes)).bfloat16(), drawn(sum(sizes), columns, seed=1).bfloat16()
    out = times(x, weight, sizes)
    assert out.dtype == torch.bfloat16
    assert off(out, x.double() @ weight.double()) < 1.2 * HALF * len(sizes) ** 0.5


@pytest.mark.parametrize(
    ("tokens", "width", "outputs"),
    [(1, 5, 3), (33, 70, 130), (33, 72, 130), (3, 72, 132), (67, 36, 204), (65, 132, 68), (65, 131, 67), (40, 64, 64)],
)
def test_a_weights_gradient_is_its_definition(tokens, width, outputs):
    x, grad = drawn(tokens, width).bfloat16(), drawn(tokens, outputs, seed=1).bfloat16()
    exact = grad.double().t() @ x.double()
    first = weight_gradient(x, grad)
    assert first.dtype == torch.float32
    assert off(first, exact) < HALF
    kept = first.clone()
    again = weight_gradient(x, grad, first)
    assert again is first
    assert torch.equal(again, kept * 2)


@pytest.mark.parametrize("biases", [(False,), (True,), (False, True, False)])
def test_joined_layers_are_the_layers(biases):
    """Outputs and every gradient, no further from float64's than torch's own layers in bfloat16."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(48, 20 + 8 * n, bias=bias) for n, bias in enumerate(biases)]
    x, into = drawn(2, 17, 48), drawn(2, 17, sum(layer.out_features for layer in layers), seed=1)

    def run(read, kind):
        given = x.to(kind).requires_grad_()
        for layer in layers:
            layer.to(torch.float64 if kind == torch.float64 else torch.float32).zero_grad()
        out = read(given)
        (out.to(torch.promote_types(out.dtype, torch.float32)) * into.to(given.dtype)).sum().backward()
        return [out.detach(), given.grad, *(p.grad.clone() for layer in layers for p in layer.parameters())]

    def by_torch(given):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat([layer(given) for layer in layers], -1)

    exact = run(lambda given: torch.cat([layer(given) for layer in layers], -1), torch.float64)
    plain, ours = run(by_torch, torch.float32), run(lambda given: joined(given, layers), torch.float32)
    assert ours[0].dtype == torch.bfloat16
    for one, other, true in zip(ours, plain, exact, strict=True):
        assert one.shape == true.shape
        assert off(one, true) <= 1.3 * off(other, true) + 1e-9


@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (3, 8), (4, 4), (130, 132), (71, 200), (8, 6)])
def test_transposing_moves_every_number(tokens, width):
    x = torch.arange(tokens * width, dtype=torch.int16).view(torch.bfloat16).view(tokens, width)
    assert torch.equal(_transposed(x).view(torch.int16), x.view(torch.int16).t())
    full = _transposed(x)
    base = torch.as_strided(full, (width, full.stride(0)), (full.stride(0), 1))
    assert not base[:, tokens:].any()  # else NaN times 0 gets into products, now and then
    assert torch.equal(_transposed(x[1:]).view(torch.int16), x[1:].view(torch.int16).t())


def test_only_what_trains_gets_a_gradient():
    frozen, trained = torch.nn.Linear(8, 4), torch.nn.Linear(8, 6)
    frozen.requires_grad_(False)
    out = joined(drawn(5, 8), [frozen, trained])
    out.float().sum().backward()
    assert frozen.weight.grad is None
    assert frozen.bias.grad is None
    expected = drawn(5, 8).bfloat16().double().sum(0).expand(6, 8)
    assert off(trained.weight.grad, expected) < 1e-2
    assert torch.equal(trained.bias.grad, torch.full((6,), 5.0))


def test_gradients_of_several_passes_add_up():
    layer = torch.nn.Linear(8, 6, bias=False)
    for _ in range(3):
        joined(drawn(5, 8), [layer]).float().sum().backward()
    expected = 3 * drawn(5, 8).bfloat16().double().sum(0).expand(6, 8)
    assert off(layer.weight.grad, expected) < 1e-2


def test_weights_are_shared_inside_of_with_until_they_are_forgotten():
    layers = [torch.nn.Linear(8, 4), torch.nn.Linear(8, 6)]
    true = torch.cat([layer.weight.detach() for layer in layers]).bfloat16()
    assert torch.equal(half_weights(layers), true)
    assert half_weights(layers) is not half_weights(layers)
    shared = SharedWeights()
    with shared:
        first = half_weights(layers)
        assert torch.equal(first, true)
        assert half_weights(layers) is first
        assert torch.equal(half_weights(layers[1:]), true[4:])
        with SharedWeights():  # the inner one alone
            assert half_weights(layers) is not first
    layers[1].weight.data += 1
    assert torch.equal(half_weights(layers)[4:], layers[1].weight.detach().bfloat16())
    with shared:
        assert half_weights(layers) is first  # nobody said that they had changed
        shared.forget()
        assert torch.equal(half_weights(layers)[4:], layers[1].weight.detach().bfloat16())
