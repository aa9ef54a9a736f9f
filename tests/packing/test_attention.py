"""Packed attention in float32 and on CUDA's ways (their kernels replaced), against its definition in float64."""

import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from attention_oracle import keep, softmax_attention

from kat.packing import attention, attention_cuda
from kat.packing.attention import NotPackedError, attend_by_runs, packed_attention, packed_mask
from kat.packing.layout import AttentionRule, Layout

LAYOUT = Layout(np.asarray([19, 7, 7, 7, 1, 1, 3]))
RULES = [(False, None), (True, None), (False, 4), (True, 4)]


def tensors(heads: int, dtype=torch.float32, values: int = 12, size: int = 8) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, 4, LAYOUT.total, size), (1, heads, LAYOUT.total, size), (1, heads, LAYOUT.total, values)]
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


def by_definition(q, k, v, causal: bool, window: int | None, scale: float = 0.35) -> torch.Tensor:
    """[1, T, H, D'], text by text."""
    spans = [slice(a, z) for a, z in zip(LAYOUT.bounds[:-1].tolist(), LAYOUT.bounds[1:].tolist(), strict=True)]
    seen = [keep(int(n), causal, window) for n in LAYOUT.lengths]
    texts = [softmax_attention(*(x[0][:, s] for x in (q, k, v)), scale, m) for s, m in zip(spans, seen, strict=True)]
    return torch.cat(texts, 1).transpose(0, 1)[None]


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(("causal", "window"), RULES)
def test_runs_are_softmax_attention_of_each_text(causal, window, heads):
    q, k, v = tensors(heads)
    actual = attend_by_runs(q, k, v, LAYOUT, AttentionRule(0.35, causal, window))
    torch.testing.assert_close(actual.double(), by_definition(q, k, v, causal, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("causal", "window"), RULES)
def test_the_function_that_transformers_calls_takes_its_rule_from_layer_and_arguments(causal, window, dtype):
    q, k, v = tensors(2, dtype)
    layer = SimpleNamespace(is_causal=causal)
    expected = by_definition(q, k, v, causal, window)
    mask = None if window is None else packed_mask(local_size=window)
    options = {"scaling": 0.35, "sliding_window": window, "layout": LAYOUT}
    with torch.no_grad():
        of_layer, weights = packed_attention(layer, q, k, v, mask, **options)
        of_argument, _ = packed_attention(SimpleNamespace(), q, k, v, mask, is_causal=causal, **options)
    assert weights is None
    assert of_layer.dtype == dtype
    assert torch.equal(of_layer, of_argument)
    assert (of_layer.double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)


def test_rotary_float32_beside_bfloat16_values():
    q, k, v = tensors(2)
    with torch.no_grad():
        mixed, _ = packed_attention(SimpleNamespace(), q, k, v.bfloat16(), None, layout=LAYOUT)
        same, _ = packed_attention(SimpleNamespace(), *(x.bfloat16() for x in (q, k, v)), None, layout=LAYOUT)
    assert torch.equal(mixed, same)


def test_bfloat16_has_gradients_where_they_are_on():
    q, k, v = (x.requires_grad_() for x in tensors(2, torch.bfloat16))
    packed_attention(SimpleNamespace(), q, k, v, None, layout=LAYOUT)[0].float().square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in (q, k, v))


def test_a_longer_text_than_the_products_serve_is_read_by_runs(monkeypatch):
    monkeypatch.setattr("kat.packing.attention_cpu.LONGEST", LAYOUT.longest - 1)
    called = []
    monkeypatch.setattr(attention, "attend_by_runs", lambda *args: called.append(args) or args[2])
    with torch.no_grad():
        packed_attention(SimpleNamespace(), *tensors(2, torch.bfloat16), None, layout=LAYOUT)
    assert len(called) == 1


@pytest.mark.parametrize(
    ("message", "mask", "options"),
    [
        ("does not hand the layout on", None, {"layout": None}),
        ("does not fit one row of 6 tokens", None, {"layout": Layout(np.asarray([4, 2]))}),
        ("a mask of its own", torch.zeros(1, 1, 45, 45), {}),
        ("a mask of its own", packed_mask(local_size=4), {}),  # a layer that does not know its window
        ("its attention has softcap, s_aux", None, {"softcap": 3.0, "s_aux": torch.zeros(4)}),
        ("dropout is on", None, {"dropout": 0.1}),
    ],
)
def test_another_kind_of_attention_is_refused(message, mask, options):
    with pytest.raises(NotPackedError, match=message):
        packed_attention(SimpleNamespace(), *tensors(2), mask, **{"layout": LAYOUT} | options)


def flash_stand_in(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size):
    """FlashAttention's arguments by its documentation, [T, H, D] → [T, H, D']: -1 is no limit to that side."""
    assert cu_seqlens_q.dtype == torch.int32
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    lengths = cu_seqlens_q.diff().tolist()
    assert max_seqlen_q == max_seqlen_k == max(lengths)
    before, after = (n if n >= 0 else max_seqlen_q for n in window_size)
    texts = []
    for parts in zip(*(x.transpose(0, 1).split(lengths, 1) for x in (q, k, v)), strict=True):
        i = torch.arange(parts[0].shape[1])
        distance = i[:, None] - i
        seen = (distance <= before) & (-distance <= (0 if causal else after))
        texts.append(softmax_attention(*parts, softmax_scale, seen).to(q.dtype))
    return torch.cat(texts, 1).transpose(0, 1)


@pytest.mark.parametrize(("causal", "window"), RULES)
def test_flash_attention_is_called_with_bounds_and_reach(causal, window, monkeypatch):
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_stand_in
    monkeypatch.setattr(attention_cuda, "_has_package", lambda: True)
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    q, k, v = tensors(2, torch.bfloat16, values=8)
    actual = attention_cuda.attend_on_cuda(q, k, v, LAYOUT, AttentionRule(0.35, causal, window))
    assert (actual.double() - by_definition(q, k, v, causal, window)).abs().max() < 0.02


def attend_by_bounds(q, k, v, bounds, *, before: int, after: int, scale: float) -> torch.Tensor:
    """What torch's function makes of [T, H, D], which has to fit its kernel."""
    assert all(x.dtype == torch.bfloat16 and x.stride(-1) == 1 and x.shape[-1] % 8 == 0 for x in (q, k, v))
    grouped = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (q, k, v))
    longest = int(bounds.diff().max())
    return flash_stand_in(*grouped, bounds, bounds, longest, longest, scale, False, (before, after))


def varlen_of_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == LAYOUT.longest
    assert query.shape[1] == key.shape[1]
    after = 0 if is_causal else -1
    return attend_by_bounds(query, key, value, cu_seq_q, before=-1, after=after, scale=query.shape[-1] ** -0.5)


def varlen_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == LAYOUT.longest
    assert query.shape[1] == key.shape[1]
    assert isinstance(window_size, tuple)  # it is compared with (-1, 0)
    before, after = window_size
    return attend_by_bounds(query, key, value, cu_seq_q, before=before, after=after, scale=scale)


def varlen_of_2_13(*row, enable_gqa=False, window_size=(-1, -1), scale=None, num_splits=None):
    query, key, value, bounds = row[:4]
    assert len(row) == 7
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return attend_by_bounds(query, key, value, bounds, before=window_size[0], after=window_size[1], scale=scale)


@pytest.fixture
def of_torch(monkeypatch):
    """Have torch's function replaced, on a device that knows it; return the names of those called."""
    calls: list[str] = []

    def replace(function):
        def counted(*args, **options):
            calls.append(function.__name__)
            return function(*args, **options)

        names = frozenset(inspect.signature(function).parameters)
        monkeypatch.setattr(attention_cuda, "_varlen", lambda: (counted, names))
        monkeypatch.setattr(attention_cuda, "_has_flash", lambda device: True)
        monkeypatch.setattr(attention_cuda, "_has_package", lambda: False)
        return calls

    return replace


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize(("causal", "window"), RULES)
@pytest.mark.parametrize("function", [varlen_of_2_10, varlen_of_2_11, varlen_of_2_13])
def test_torchs_own_kernel_is_called_for_rules_that_it_can_express(function, causal, window, heads, size, of_torch):
    calls = of_torch(function)
    q, k, v = tensors(heads, torch.bfloat16, values=size, size=size)
    for scale in (0.35, size**-0.5):
        calls.clear()
        actual = attention_cuda.attend_on_cuda(q, k, v, LAYOUT, AttentionRule(scale, causal, window))
        expresses = function is not varlen_of_2_10 or (window is None and scale == 8**-0.5)
        assert len(calls) == expresses
        if not expresses:
            assert actual is None
            continue
        assert actual.shape == (1, LAYOUT.total, 4, size)
        assert (actual.double() - by_definition(q, k, v, causal, window, scale)).abs().max() < 0.02


def test_what_no_kernel_takes_is_left_to_runs(of_torch, monkeypatch):
    calls, rule = of_torch(varlen_of_2_11), AttentionRule(0.35, True, None)
    for given in (tensors(2, values=8), tensors(2, torch.bfloat16, values=12)):  # float32; other sizes in values
        assert attention_cuda.attend_on_cuda(*given, LAYOUT, rule) is None
    monkeypatch.setattr(attention_cuda, "_has_flash", lambda device: False)
    assert attention_cuda.attend_on_cuda(*tensors(2, torch.bfloat16, values=8), LAYOUT, rule) is None
    assert not calls


@pytest.mark.parametrize("kernel", [False, True])
def test_texts_on_cuda_take_a_kernel_or_runs(kernel, monkeypatch):
    """A tensor that says it is on CUDA, for this machine may have none."""
    q, k, v = tensors(2)
    given = (type("OnCuda", (torch.Tensor,), {"is_cuda": True})(q), k, v, LAYOUT, AttentionRule(0.35, True, None))
    monkeypatch.setattr(attention_cuda, "attend_on_cuda", lambda *row: "kernel" if kernel else None)
    monkeypatch.setattr(attention, "attend_by_runs", lambda *row: "runs")
    assert attention._dispatch(*given) == ("kernel" if kernel else "runs")


def test_the_arguments_of_this_torchs_kernel_are_those_that_are_looked_for():
    pytest.importorskip("torch.nn.attention.varlen")
    function, names = attention_cuda._varlen()
    assert function is not None
    assert "is_causal" in names or {"scale", "window_size"} <= names
