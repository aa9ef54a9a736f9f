"""Attention by products, and the compiled loops between them, against their definitions in float64."""

import numpy as np
import pytest
import torch
from attention_oracle import keep, softmax_attention

from kat.packing import kernels
from kat.packing.attention_cpu import LANES, SCORES, attend_by_products, batches
from kat.packing.layout import AttentionRule, Layout

ROUNDING = 2.0**-8  # of a bfloat16, relative


def words(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.uint16).numpy()


def every_number() -> torch.Tensor:
    """All finite bfloat16 numbers."""
    actual = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    return actual[actual.isfinite()]


@pytest.mark.parametrize("size", [1.0, 60.0])  # 60: scores beyond what exp can hold
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 4), (True, 4)])
def test_products_are_softmax_attention_of_each_text(causal, window, heads, size):
    torch.manual_seed(0)
    layout = Layout(np.asarray([33, 17, 17, 17, 16, 3, 1, 1]))
    t = layout.total
    q, k, v = torch.randn(1, 4, t, 8) * size, torch.randn(1, heads, t, 8), torch.randn(1, heads, t, 12)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    with torch.inference_mode():
        actual = attend_by_products(q, k, v, layout, AttentionRule(0.35, causal, window)).transpose(0, 1)
    for a, n in zip(layout.bounds.tolist(), layout.lengths.tolist(), strict=False):
        text = slice(a, a + n)
        expected = softmax_attention(*(x[0][:, text] for x in (q, k, v)), 0.35, keep(n, causal, window))
        off = (actual[:, text].double() - expected).abs()
        if size == 1:
            assert off.max() < 0.03
        # Extreme scores, as bfloat16, may fall to either side of a draw: few do.
        assert off.mean() < (0.004 if size == 1 else 0.02)


def test_runs_are_cut_where_their_scores_would_leave_the_cache():
    torch.manual_seed(0)
    count = SCORES // (2 * 64 * 64) * 2 + 3
    layout = Layout(np.full(count, 64))
    q, k, v = (torch.randn(1, 2, layout.total, 4).bfloat16() for _ in range(3))
    with torch.inference_mode():
        actual = attend_by_products(q, k, v, layout, AttentionRule(0.5, False, None))
    scores = q[0].double().unflatten(1, (count, 64)) @ k[0].double().unflatten(1, (count, 64)).transpose(-1, -2) / 2
    expected = (scores.softmax(-1) @ v[0].double().unflatten(1, (count, 64))).flatten(1, 2).transpose(0, 1)
    assert (actual.double() - expected).abs().max() < 0.03


def test_texts_of_like_length_share_a_product_of_few_shapes():
    lengths = np.sort(np.random.default_rng(0).integers(1, 200, 700))[::-1]
    actual = list(batches(lengths, 12))
    assert [i for texts, _ in actual for i in range(texts.start, texts.stop)] == list(range(700))
    for texts, filled in actual:
        assert (-(-lengths[texts] // LANES) * LANES == filled).all()
        count = texts.stop - texts.start
        assert count == 1 or 12 * count * filled**2 <= SCORES
    assert len({(t.stop - t.start, filled) for t, filled in actual}) < 40  # of 700 texts of 190 lengths
    assert list(batches(np.asarray([5000, 1]), 12)) == [(slice(0, 1), 5008), (slice(1, 2), 16)]


@pytest.mark.parametrize("heads", [4, 2])
def test_a_long_text_is_read_some_heads_at_a_time(heads, monkeypatch):
    monkeypatch.setattr("kat.packing.attention_cpu.SCORES", 20 * 20)
    torch.manual_seed(0)
    layout = Layout(np.asarray([60, 33, 5]))
    q, k, v = (torch.randn(1, n, layout.total, 8).bfloat16() for n in (4, heads, heads))
    with torch.inference_mode():
        actual = attend_by_products(q, k, v, layout, AttentionRule(0.35, True, None)).transpose(0, 1)
    for a, n in zip(layout.bounds.tolist(), layout.lengths.tolist(), strict=False):
        text = slice(a, a + n)
        expected = softmax_attention(*(x[0][:, text] for x in (q, k, v)), 0.35, keep(n, True, None))
        assert (actual[:, text].double() - expected).abs().max() < 0.03


@pytest.mark.parametrize("window", [1, 3, 17, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_exponentials_of_the_keys_that_are_seen_sum_to_what_was_written(causal, window):
    """Two texts of 17 and 5 tokens filled up to 32, two heads of keys, each shared by two of queries."""
    scores = (torch.randn(2, 2, 64, 32, generator=torch.Generator().manual_seed(0)) * 20).bfloat16()
    scores[0, 0, 5, :4] = torch.tensor([-torch.inf, 300.0, -300.0, 3e38])
    before, totals, lengths = scores.double(), np.empty((2, 2, 64), np.float32), np.asarray([17, 5])
    kernels.exponentials(words(scores), lengths, causal, window, totals)
    for b, n in enumerate(lengths):
        for q in [i + g for i in range(n) for g in (0, 32)]:
            seen = torch.zeros(32, dtype=bool)
            seen[:n] = keep(n, causal, window)[q % 32]
            expected = before[b, :, q].masked_fill(~seen, -torch.inf)
            expected = (expected - expected.amax(-1, keepdim=True)).exp()
            torch.testing.assert_close(scores[b, :, q].double(), expected, rtol=ROUNDING + 1.1e-4, atol=1e-37)
            np.testing.assert_allclose(totals[b, :, q], scores[b, :, q].double().sum(-1), rtol=1e-6)
        assert (totals[b].reshape(2, 2, 32)[..., n:] == 1).all()


def test_a_score_that_is_not_a_number_is_not_hidden():
    scores = torch.tensor([[[[0.0, torch.nan, 1.0] + [0.0] * 13] * 16]]).bfloat16()
    totals = np.empty((1, 1, 16), np.float32)
    kernels.exponentials(words(scores), np.asarray([3]), False, 99, totals)
    assert np.isnan(totals[0, 0, :3]).all()


def test_gelu_of_every_number():
    x = every_number()
    out = torch.empty_like(x)
    kernels.gelu(words(x), words(out))
    expected = torch.nn.functional.gelu(x.double())
    assert ((out.double() - expected).abs() <= expected.abs() * ROUNDING + 1.4e-4).all()
    near = x.abs() < 3.9  # the tail that is left out beyond is the larger part of 1.4e-4
    assert ((out.double() - expected).abs()[near] <= expected.abs()[near] * ROUNDING + 1e-5).all()


def test_texts_go_there_and_back():
    row = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2, 6))).bfloat16()
    starts, lengths = np.asarray([3, 8, 20]), np.asarray([5, 12, 1])
    out = torch.full((3, 2, 16, 6), torch.nan).bfloat16()
    kernels.gather(words(row), 0, starts, lengths, words(out))
    for b, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        assert torch.equal(out[b, :, :n], row[start : start + n].transpose(0, 1))
        assert (out[b, :, n:] == 0).all()
    back, totals = torch.zeros(30, 2, 6).bfloat16(), np.full((3, 2, 16), 2, np.float32)
    kernels.scatter(words(out), totals, 0, starts, lengths, words(back))
    assert torch.equal(back[3:21], row[3:21] / 2)
    assert (back[:3] == 0).all()
    assert (back[21:] == 0).all()
