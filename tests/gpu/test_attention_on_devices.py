"""Packed attention on a device, of texts and of trunks, against its definition in float64: values and gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attention_oracle import keep, softmax_attention

from kat.packing.attention import packed_attention
from kat.packing.layout import Layout
from kat.packing.trunks import TrunkLayout

LENGTHS = {
    "cpu": [300, 130, 17, 17, 3, 1, 1],
    "cuda": [3000, 700, 130, 128, 127, 64, 17, 17, 17, 3, 1, 1],
}
TREES = {  # lengths and parents
    "cpu": ([90, 20, 7, 33, 5, 140, 6], [-1, 0, 0, 0, 3, -1, 5]),
    "cuda": ([900, 200, 7, 333, 5, 1400, 60, 128, 1], [-1, 0, 0, 0, 3, -1, 5, 5, -1]),
}
HEADS = [(4, 4, 32), (4, 2, 64), (4, 1, 80), (2, 2, 8), (4, 2, 12)]
RULES = [(False, None), (True, None), (False, 100), (True, 100)]
NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Largest difference, in units of the largest number."""


def tensors(tokens: int, heads: tuple[int, int, int], dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Queries, keys and values [1, H, T, D], drawn alike for all devices."""
    draw = torch.Generator().manual_seed(0)
    queries, keys, size = heads
    shapes = [(1, n, tokens, size) for n in (queries, keys, keys)]
    return [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, near: float) -> None:
    assert actual.shape == expected.shape
    off = float((actual.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())
    assert off <= near, off


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("heads", HEADS)
def test_every_text_by_itself(heads, dtype, device):
    layout = Layout(np.asarray(LENGTHS[device]))
    scale = heads[2] ** -0.5
    q, k, v = tensors(layout.total, heads, dtype, device)
    for causal, window in RULES:
        layer = SimpleNamespace(is_causal=causal)
        mask = None if window is None else torch.zeros(1, 1, 1, 1, device=device)
        with torch.no_grad():
            actual, _ = packed_attention(layer, q, k, v, mask, sliding_window=window, layout=layout)
        for start, length in zip(layout.bounds.tolist(), LENGTHS[device], strict=False):
            text = slice(start, start + length)
            seen = keep(length, causal, window).to(device)
            expected = softmax_attention(*(x[0][:, text] for x in (q, k, v)), scale, seen)
            assert_near(actual[0, text].transpose(0, 1), expected, NEAR[dtype])


@pytest.mark.parametrize("heads", [HEADS[1], HEADS[4]])
@pytest.mark.parametrize("dtype", NEAR)
def test_gradients_of_every_text_by_itself(dtype, heads, device):
    layout = Layout(np.asarray(LENGTHS["cpu"]))
    leaves = [x.requires_grad_() for x in tensors(layout.total, heads, dtype, device)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    actual, _ = packed_attention(SimpleNamespace(is_causal=True), *leaves, None, layout=layout)
    texts = torch.from_numpy(np.repeat(np.arange(len(layout.lengths)), layout.lengths)).to(device)
    seen = keep(layout.total, True, None).to(device) & (texts[:, None] == texts)
    expected = softmax_attention(*(x[0] for x in exact), heads[2] ** -0.5, seen)
    towards = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(device)
    (expected * towards).sum().backward()
    (actual[0].transpose(0, 1) * towards).sum().backward()
    for leaf, other in zip(leaves, exact, strict=True):
        assert_near(leaf.grad, other.grad, NEAR[dtype])


def graphs() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("dtype", NEAR)
def test_texts_compile_nothing(dtype, device):
    layer, before = SimpleNamespace(is_causal=True), graphs()
    for tokens in (1, 40, 700):
        layout = Layout(np.asarray([tokens, 40, 7]))
        with torch.no_grad():
            packed_attention(layer, *tensors(layout.total, HEADS[0], dtype, device), None, layout=layout)
    assert graphs() == before


def sees(layout: TrunkLayout, window: int | None) -> torch.Tensor:
    """Which tokens each token of a row sees, [T, T] bool, sequence by sequence."""
    seen = torch.zeros(layout.total, layout.total, dtype=torch.bool)
    for start, end in zip(layout.bounds[:-1].tolist(), layout.bounds[1:].tolist(), strict=True):
        sequence = layout.sequence(end - 1)
        for token in range(start, end):
            before = sequence[: len(sequence) - (end - 1 - token)]
            seen[token, before[-window:] if window else before] = True
    return seen


@pytest.mark.parametrize(("heads", "window"), [(HEADS[0], None), (HEADS[1], 50), (HEADS[2], None)])
@pytest.mark.parametrize("dtype", NEAR)
def test_trunks_and_branches_with_gradients(heads, dtype, window, device):
    layout = TrunkLayout(*map(np.asarray, TREES[device]))
    leaves = [x.requires_grad_() for x in tensors(layout.total, heads, dtype, device)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = softmax_attention(*(x[0] for x in exact), heads[2] ** -0.5, sees(layout, window).to(device))
    mask = None if window is None else torch.zeros(1, 1, 1, 1, device=device)
    layer = SimpleNamespace(is_causal=True)
    actual, _ = packed_attention(layer, *leaves, mask, sliding_window=window, layout=layout)
    assert_near(actual[0].transpose(0, 1), expected, NEAR[dtype])
    towards = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(device)
    (expected * towards).sum().backward()
    (actual[0].transpose(0, 1) * towards).sum().backward()
    for leaf, other in zip(leaves, exact, strict=True):
        assert_near(leaf.grad, other.grad, NEAR[dtype])


def test_rows_of_trunks_of_many_lengths_compile_no_kernel_each(device):
    """torch would give up after eight versions of a function, and read with all scores in memory."""
    layer, before = SimpleNamespace(is_causal=True), graphs()
    for tokens in (5, 60, *range(530, 2000, 150)):
        layout = TrunkLayout(np.asarray([tokens, 40, 7]), np.asarray([-1, 0, 0]))
        packed_attention(layer, *tensors(layout.total, HEADS[0], torch.float32, device), None, layout=layout)
        if tokens <= 60:
            assert graphs() == before
    assert graphs() <= before + 1
