"""Attention to keys that were kept, one new token of each completion, against whole sequences in float64."""

import numpy as np
import pytest
import torch
from attention_oracle import keep, softmax_attention

from kat.packing.decode import DecodeLayout, KeyValues, PrefillLayout, attend_to_kept
from kat.packing.decode_kernels import draw
from kat.packing.layout import AttentionRule

HEADS, SHARED, SIZE = 6, 2, 16
PROMPTS = {0: 7, 1: 1, 2: 12}
ROWS = [(0, 0), (0, 3), (2, 5), (1, 1), (2, 2)]  # the prompt of a completion, and the tokens it has said


def sequences(seed=0):
    """Queries, keys and values of whole sequences, those of one prompt beginning alike."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count, heads):
        return torch.randn(heads, count, SIZE, generator=generator)

    prompts = {p: [rows(n, h) for h in (HEADS, SHARED, SHARED)] for p, n in PROMPTS.items()}
    said = [[rows(n + 1, h) for h in (HEADS, SHARED, SHARED)] for _, n in ROWS]
    return prompts, [
        [torch.cat([a, b], 1) for a, b in zip(prompts[p], own, strict=True)]
        for (p, _), own in zip(ROWS, said, strict=True)
    ]


def decoded(dtype, window):
    """The attention [R, H, D] of each completion's last token, all that is before it fed token by token."""
    prompts, whole = sequences()
    rule = AttentionRule(SIZE**-0.5, True, window)
    places = {0: 2, 1: 0, 2: 1}  # not the order of the prompts
    cache = KeyValues(prompts=3, longest=12, rows=9, most=8)
    numbers = list(PROMPTS)
    layout = PrefillLayout(np.asarray([PROMPTS[p] for p in numbers]), cache, np.asarray([places[p] for p in numbers]))
    key, value = (torch.cat([prompts[p][i] for p in numbers], 1)[None].to(dtype) for i in (1, 2))
    layout.keep(0, key, value)
    slots = [4, 0, 8, 2, 6]
    last = [None] * len(ROWS)
    for step in range(6):
        active = [r for r, (_, n) in enumerate(ROWS) if step <= n]
        given = [torch.cat([whole[r][i][:, PROMPTS[ROWS[r][0]] + step][:, None] for r in active], 1) for i in range(3)]
        layout = DecodeLayout(
            cache,
            places=np.asarray([places[ROWS[r][0]] for r in active]),
            lengths=np.asarray([PROMPTS[ROWS[r][0]] for r in active]),
            rows=np.asarray([slots[r] for r in active]),
            said=np.full(len(active), step),
            previous_ids=np.zeros(len(active), np.int64),
        )
        assert layout.longest == layout.positions.max() + 1
        with torch.no_grad():
            out = attend_to_kept(0, *(x[None].to(dtype) for x in given), layout, rule)
        assert out.dtype == dtype
        for i, r in enumerate(active):
            last[r] = out[0, i]
    return torch.stack(last).double(), whole


@pytest.mark.parametrize("window", [None, 4, 1])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_token_sees_its_prompt_and_what_was_said_of_its_own(dtype, close, window):
    got, whole = decoded(dtype, window)
    for r, (p, n) in enumerate(ROWS):
        length = PROMPTS[p] + n + 1
        expected = softmax_attention(*whole[r], SIZE**-0.5, keep(length, True, window))[:, -1]
        assert (got[r] - expected).abs().max() < close, (r, window)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_by_their_probabilities(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, 1300, generator=generator)).bfloat16()
    places = (np.arange(20_000) + 0.5) / 20_000
    tokens, log_probs = np.empty(20_000, np.int64), np.empty(20_000, np.float32)
    words = logits.expand(20_000, -1).contiguous().view(torch.uint16).numpy()
    draw(words, np.float32(1 / temperature), places, tokens, log_probs)
    expected = (logits[0].double() / temperature).log_softmax(0)
    counts = np.bincount(tokens, minlength=1300) / 20_000
    assert np.abs(counts - expected.exp().numpy()).max() < 2e-4
    assert np.abs(log_probs - expected[torch.from_numpy(tokens)].numpy()).max() < 1e-3
    assert (np.diff(tokens) >= 0).all(), "places in ascending order are tokens in ascending order"


def test_a_token_without_probability_is_never_drawn_and_no_number_is_named():
    logits = torch.full((3, 700), -torch.inf).bfloat16()
    logits[0, 600] = logits[1, 3] = 0.0
    logits[2, 5] = torch.nan
    tokens, log_probs = np.empty(3, np.int64), np.empty(3, np.float32)
    draw(logits.view(torch.uint16).numpy(), np.float32(1), np.asarray([0.0, 0.999999, 0.5]), tokens, log_probs)
    assert tokens.tolist() == [600, 3, -1]
    assert np.isnan(log_probs[2])
