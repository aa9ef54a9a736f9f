"""Attention over trunks and branches, and its gradients, against each sequence by itself in float64."""

import numpy as np
import pytest
import torch
from attention_oracle import keep, softmax_attention

from kat.packing import attention_cuda, attention_trunks
from kat.packing import blocks as blocks_module
from kat.packing.attention import NotPackedError, packed_attention
from kat.packing.attention_trunks import attend_by_mask, attend_on_trunks
from kat.packing.block_steps import CompiledSteps, PlainSteps, steps_for
from kat.packing.blocks import Block, Spans, blocks
from kat.packing.layout import AttentionRule
from kat.packing.trunks import TrunkLayout

SCALE = 0.35
LAYOUTS = {
    # lengths, parents
    "one branch": ([19, 7], [-1, 0]),
    "two branches": ([33, 7, 17], [-1, 0, 0]),
    "nine branches": ([21, *[5] * 4, 1, 2, 16, 17, 40], [-1, *[0] * 9]),
    "repeated completions": ([18, 6, 6, 6, 6], [-1, 0, 0, 0, 0]),
    "deep tree": ([3, 1, 17, 2, 1, 20, 4, 6, 5], [-1, 0, 1, 2, 3, 4, 5, 0, -1]),
    "trees and lone sequences": ([4, 20, 2, 3, 1, 1, 18], [-1, -1, 1, 1, -1, -1, 5]),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def layout_of(name: str) -> TrunkLayout:
    lengths, parents = LAYOUTS[name]
    return TrunkLayout(np.asarray(lengths), np.asarray(parents))


def tensors(layout: TrunkLayout, heads: int, dtype=torch.float32, values: int = 12, size: float = 1.0) -> tuple:
    """Queries, keys, values, and a gradient of what comes out, [1, T, H, D']."""
    draw = torch.Generator().manual_seed(0)
    t = layout.total
    shapes = [(1, 4, t, 8), (1, heads, t, 8), (1, heads, t, values), (1, t, 4, values)]
    q, k, v, grad = (torch.randn(shape, generator=draw) for shape in shapes)
    return (q * size).to(dtype), k.to(dtype), v.to(dtype), grad.to(dtype)


def by_sequences(q, k, v, layout: TrunkLayout, window: int | None = None, attend=softmax_attention) -> torch.Tensor:
    """[1, T, H, D']: every token from a sequence that ends with its segment, which is read by itself."""
    out = [None] * layout.total
    for last in layout.bounds[1:] - 1:
        tokens = torch.from_numpy(layout.sequence(int(last)))
        states = attend(*(x[0][:, tokens] for x in (q, k, v)), SCALE, keep(len(tokens), True, window))
        for place, token in enumerate(tokens.tolist()):
            out[token] = states[:, place]
    return torch.stack(out)[None]


def torch_attention(q, k, v, scale, keep) -> torch.Tensor:
    """torch's own, in the precision of its arguments: what bfloat16 is measured against."""
    k, v = (x.repeat_interleave(len(q) // len(k), 0) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=keep, scale=scale)[0]


def bfloat16_scores(q, k, v, scale, keep) -> torch.Tensor:
    """As transformers' eager attention: scores and probabilities in the precision of the arguments."""
    k, v = (x.repeat_interleave(len(q) // len(k), 0) for x in (k, v))
    scores = (q @ k.transpose(1, 2) * scale).masked_fill(~keep, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def with_gradients(attend, q, k, v, grad) -> list[torch.Tensor]:
    """What comes out, and the gradients of queries, keys and values, in float64."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    out.backward(grad.to(out.dtype))
    return [x.detach().double() for x in (out, *(leaf.grad for leaf in leaves))]


def expected_of(layout, q, k, v, grad, window=None) -> list[torch.Tensor]:
    wide = (x.double() for x in (q, k, v, grad))
    return with_gradients(lambda *x: by_sequences(*x, layout, window), *wide)


@pytest.mark.parametrize("attend", [attend_on_trunks, attend_by_mask])
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("name", LAYOUTS)
def test_output_and_gradients_are_those_of_sequences_by_themselves(name, heads, attend):
    layout = layout_of(name)
    given = tensors(layout, heads)
    rule = AttentionRule(SCALE, True, None)
    actual = with_gradients(lambda *x: attend(*x, layout, rule), *given)
    for one, other in zip(actual, expected_of(layout, *given), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 4, 20, 200])
@pytest.mark.parametrize("name", ["nine branches", "deep tree", "trees and lone sequences"])
def test_a_window_counts_positions_and_not_places_in_the_row(name, window):
    layout = layout_of(name)
    given = tensors(layout, 2)
    rule = AttentionRule(SCALE, True, window)
    actual = with_gradients(lambda *x: attend_on_trunks(*x, layout, rule), *given)
    for one, other in zip(actual, expected_of(layout, *given, window), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "factor"), [(1.0, 3.5), (60.0, None)])  # 60: scores beyond what exp can hold
@pytest.mark.parametrize(("heads", "scores"), [(4, blocks_module.SCORES), (2, 1)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_bfloat16_errs_little_more_than_sequences_by_themselves(name, heads, size, factor, scores, monkeypatch):
    """Mean errors of output and gradients: at most 2.2 times those of scores that are rounded to bfloat16 as here.

    torch's own keeps scores in float32: at most 3.5 times its errors at scores of about 1. At scores of hundreds, where
    a bfloat16 is right to ±1, that is no measure.
    """
    monkeypatch.setattr(blocks_module, "SCORES", scores)
    layout = layout_of(name)
    given = tensors(layout, heads, torch.bfloat16, size=size)
    expected = expected_of(layout, *given)
    rule = AttentionRule(SCALE, True, None)
    actual = with_gradients(lambda *x: attend_on_trunks(*x, layout, rule), *given)
    for attend, most in ((bfloat16_scores, 2.2), (torch_attention, factor)):
        if most is None:
            continue
        peer = with_gradients(lambda *x, a=attend: by_sequences(*x, layout, attend=a), *given)
        for one, other, true in zip(actual, peer, expected, strict=True):
            error, known = (float((x - true).abs().mean()) for x in (one, other))
            assert error <= most * known, (attend.__name__, error, known)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_served(dtype):
    layout = layout_of("deep tree")
    given = tensors(layout, 2, dtype)
    rule = AttentionRule(SCALE, True, None)
    actual = with_gradients(lambda *x: attend_on_trunks(*x, layout, rule), *given)
    near = 1e-12 if dtype == torch.float64 else 5e-3
    for one, other in zip(actual, expected_of(layout, *given), strict=True):
        torch.testing.assert_close(one, other, atol=near, rtol=near)


def test_a_gradient_that_is_one_number_for_all_is_read_too():
    """`sum()` gives its gradient without memory behind it."""
    layout = layout_of("two branches")
    for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        q, k, v, grad = tensors(layout, 2, dtype)
        expected = expected_of(layout, q, k, v, torch.ones_like(grad))[1:]
        leaves = [x.requires_grad_() for x in (q, k, v)]
        attend_on_trunks(*leaves, layout, AttentionRule(SCALE, True, None)).sum().backward()
        for leaf, other in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad.double(), other, atol=near, rtol=near)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_flex_attention_is_asked_for_the_same(name, heads, window, monkeypatch):
    """Uncompiled, on a processor: the mask is the same. It has no gradients there."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention_cuda, "_compiled", lambda variant: flex_attention)
    layout = layout_of(name)
    q, k, v, _ = tensors(layout, heads)
    with torch.no_grad():
        rule = AttentionRule(SCALE, True, window)
        actual = attention_cuda.attend_by_flex(q, k, v, layout, rule)
    torch.testing.assert_close(actual.double(), by_sequences(q, k, v, layout, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_short_rows_on_cuda_compile_nothing(window, monkeypatch):
    monkeypatch.setattr(attention_cuda, "_compiled", None)
    layout = layout_of("deep tree")
    q, k, v, _ = tensors(layout, 2)
    rule = AttentionRule(SCALE, True, window)
    monkeypatch.setattr(attention_cuda, "SHORT", layout.total)
    actual = attention_cuda.attend_on_cuda_trunks(q, k, v, layout, rule)
    torch.testing.assert_close(actual.double(), by_sequences(q, k, v, layout, window), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(attention_cuda, "SHORT", layout.total - 1)
    monkeypatch.setattr(attention_cuda, "attend_by_flex", lambda *given: "by flex")
    assert attention_cuda.attend_on_cuda_trunks(q, k, v, layout, rule) == "by flex"


def test_the_function_that_transformers_calls_takes_a_layout_of_trunks():
    layout = layout_of("deep tree")
    q, k, v, _ = tensors(layout, 2)
    actual, _ = packed_attention(torch.nn.Module(), q, k, v, None, scaling=SCALE, layout=layout)
    torch.testing.assert_close(actual.double(), by_sequences(q, k, v, layout), atol=1e-5, rtol=1e-5)
    # As long as the longest sequence: a window that hides nothing.
    whole, _ = packed_attention(
        torch.nn.Module(), q, k, v, None, scaling=SCALE, layout=layout, sliding_window=layout.longest
    )
    assert torch.equal(whole, actual)
    with pytest.raises(NotPackedError, match="looks ahead"):
        packed_attention(torch.nn.Module(), q, k, v, None, is_causal=False, layout=layout)


def test_no_scores_of_all_tokens_are_made(monkeypatch):
    """Able to fail: under a dense mask they would be."""
    branches = 40
    layout = TrunkLayout(np.asarray([16] * (branches + 1)), np.asarray([-1, *[0] * branches]))
    made = []
    own = attention_trunks._scores
    monkeypatch.setattr(attention_trunks, "_scores", lambda *x: made.append(own(*x)) or made[-1])
    q, k, v, _ = tensors(layout, 4)
    attend_on_trunks(q, k, v, layout, AttentionRule(SCALE, True, None))
    assert sum(x.numel() for x in made) == 4 * 16 * 16 * (branches + 1 + branches)


def block_with(causal: bool) -> tuple[Block, int]:
    """Stretches of unequal lengths that stand apart; under `causal` queries are keys, else keys are one trunk."""
    spans = Spans(np.asarray([20, 40, 64]), np.asarray([11, 16, 1]), 16)
    if causal:
        return Block(spans, spans, causal=True), 70
    return Block(Spans(np.asarray([20]), np.asarray([45]), 48), Spans(np.asarray([0]), np.asarray([19]), 32), False), 70


def bfloat16(draw: torch.Generator, *shape: int, size: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=draw) * size).bfloat16()


@pytest.mark.parametrize("causal", [True, False])
def test_compiled_steps_are_the_plain_ones(causal):
    """Gathering is exact; the others differ by the rounding of a bfloat16, 2^-8, and of kat's quick exponential."""
    draw = torch.Generator().manual_seed(1)
    block, total = block_with(causal)
    count, heads, shared, width = len(block.keys.starts), 4, 2, 12
    plain, compiled = PlainSteps(), CompiledSteps()
    row = bfloat16(draw, heads, total, width).transpose(0, 1)  # as a model's heads stand
    for spans in (block.queries, block.keys):
        assert torch.equal(compiled.gather(row, spans), plain.gather(row, spans))

    scores = bfloat16(draw, count, shared, heads // shared * block.queries.filled, block.keys.filled, size=3)
    one, other = scores.clone(), scores.clone()
    totals, plain_totals = compiled.softmax(one, block), plain.softmax(other, block)
    real = np.tile(np.arange(block.queries.filled) < block.queries.lengths[:, None], (1, heads // shared))
    real = torch.from_numpy(real)[:, None].expand(count, shared, -1)
    torch.testing.assert_close(one[real].float(), other[real].float(), atol=2**-8, rtol=2**-7)
    for x, y in zip(totals, plain_totals, strict=True):
        torch.testing.assert_close(x[real], y[real], atol=2**-8, rtol=2**-8)

    sums = bfloat16(draw, count, heads, block.queries.filled, width)
    results = []
    for steps in (compiled, plain):
        generator = torch.Generator().manual_seed(2)
        out, lse = torch.randn(total, heads, width, generator=generator), torch.randn(total, heads, generator=generator)
        before = out.clone()
        if causal:  # the first block of its tokens: what was there is nothing
            out[:], lse[:] = torch.nan, torch.nan
        steps.join(sums, plain_totals, block, out, lse)
        results.append((out, lse))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5, equal_nan=True)
    tokens = np.concatenate([np.arange(s, s + n) for s, n, *_ in zip(*block.queries[:2], strict=True)])
    assert torch.isfinite(results[0][0][tokens]).all()
    assert not torch.equal(results[0][0][tokens], before[tokens])

    first, second = (bfloat16(draw, total, heads, width) for _ in range(2))
    both = [steps.products(first, second, torch.zeros(total, heads)) for steps in (compiled, plain)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)

    lse, delta = torch.randn(total, heads, generator=draw) + 12, torch.randn(total, heads, generator=draw)
    grads = bfloat16(draw, *scores.shape)
    pairs = [(scores.clone(), grads.clone()) for _ in range(2)]
    for steps, (s, g) in zip((compiled, plain), pairs, strict=True):
        steps.gradients(s, g, block, lse=lse, delta=delta, scale=SCALE)
    for x, y in zip(*pairs, strict=True):
        torch.testing.assert_close(x.float(), y.float(), atol=2**-10, rtol=2**-5)

    texts, base = bfloat16(draw, count, heads, block.queries.filled, width), torch.randn(total, heads, width)
    one, other = base.clone(), base.clone()
    compiled.add(texts, block.queries, one)
    plain.add(texts, block.queries, other)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_the_compiled_steps_serve_bfloat16_on_a_processor_alone():
    assert isinstance(steps_for(torch.zeros(1, dtype=torch.bfloat16)), CompiledSteps)
    assert type(steps_for(torch.zeros(1))) is PlainSteps
    assert type(steps_for(torch.zeros(1, dtype=torch.float16))) is PlainSteps


def test_blocks_are_made_once_for_all_layers():
    layout = layout_of("deep tree")
    assert blocks(layout, 4) is blocks(layout, 4)
    assert blocks(layout_of("deep tree"), 4) is not blocks(layout, 4)
