"""Completions with kept keys against reading all again for every token, and how the next token is drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from making_policies import FAMILIES, plain_of, policy_of

from kat.models.load import load_model
from kat.training.generation import PolicyGenerator, Sampling, _uncached, _uniforms, draw_tokens
from kat.training.policy import Policy
from kat.training.readers import BlockReader, ModelReader, bfloat16_copy, reader_of, take_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def prompts_for(policy, count=5):
    draw = np.random.default_rng(3)
    most = min(policy.loaded.vocabulary, 60)
    return [draw.integers(2, most, n) for n in (11, 1, 17, 4, 6)[:count]]


def alone(policy, prompts, count, sampling, seeds):
    plain = SimpleNamespace(model=plain_of(policy), device="cpu")
    with torch.no_grad():
        return [
            [_uncached(plain, p, sampling, _uniforms(seed, g, sampling.most)) for g in range(count)]
            for p, seed in zip(prompts, seeds, strict=True)
        ]


def assert_same(got, expected, close=1e-4):
    for group, other in zip(got, expected, strict=True):
        for one, plain in zip(group, other, strict=True):
            assert one.tokens.tolist() == plain.tokens.tolist()
            assert one.ended == plain.ended
            np.testing.assert_allclose(one.log_probs, plain.log_probs, atol=close)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_kept_keys_give_what_reading_again_gives(family, temperature, tmp_path, base_dir):
    policy = policy_of(family, tmp_path, base_dir)
    assert policy.unshared is None
    sampling = Sampling(most=14, ends=frozenset({7, 20}), temperature=temperature)
    prompts = prompts_for(policy)
    seeds = [(5, i) for i in range(len(prompts))]
    got = PolicyGenerator(policy).generate(prompts, 3, sampling, seeds)
    assert_same(got, alone(policy, prompts, 3, sampling, seeds))
    if temperature == 0:
        assert all(len({tuple(one.tokens) for one in group}) == 1 for group in got)
    else:
        assert len({tuple(one.tokens) for group in got for one in group}) > 10


def test_greedy_is_that_of_transformers(tmp_path, base_dir):
    policy = policy_of("Llama", tmp_path, base_dir)
    prompt = prompts_for(policy)[0]
    [[got]] = PolicyGenerator(policy).generate([prompt], 1, Sampling(12, frozenset(), 0.0), [(0,)])
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "Llama", dtype=torch.float32)
    expected = plain.generate(
        torch.from_numpy(prompt)[None], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=1
    )
    assert got.tokens.tolist() == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_what_is_drawn_does_not_depend_on_what_is_drawn_beside_it(rows, tmp_path, base_dir):
    policy = policy_of("Llama", tmp_path, base_dir)
    sampling = Sampling(most=9, ends=frozenset(range(2, 30)))
    prompts = prompts_for(policy)
    seeds = [(1, i) for i in range(len(prompts))]
    got = PolicyGenerator(policy, rows).generate(prompts, 4, sampling, seeds)
    assert_same(got, alone(policy, prompts, 4, sampling, seeds))
    lengths = {len(one.tokens) for group in got for one in group}
    assert len(lengths) > 2, "some end early, and make room"
    for group in got:
        for one in group:
            assert one.ended == (int(one.tokens[-1]) in sampling.ends)
            assert not set(one.tokens[:-1].tolist()) & sampling.ends


def test_a_model_whose_keys_cannot_be_kept_reads_again(tmp_path, base_dir):
    policy = policy_of("Bloom", tmp_path, base_dir)
    assert policy.unshared is not None
    sampling, prompts = Sampling(5, frozenset({3})), prompts_for(policy, 2)
    got = PolicyGenerator(policy).generate(prompts, 2, sampling, [(0,), (1,)])
    assert_same(got, alone(policy, prompts, 2, sampling, [(0,), (1,)]))


@pytest.mark.parametrize("family", ["Llama", "GPT2", "nanochat 2026-03"])
def test_the_copy_in_bfloat16_follows_the_policy(family, tmp_path, base_dir):
    policy = policy_of(family, tmp_path, base_dir, autocast=True)
    generator = PolicyGenerator(policy)
    prompts = prompts_for(policy, 3)
    sampling = Sampling(10, frozenset(), 0.0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    before = generator.generate(prompts, 1, sampling, [(0,)] * 3)
    generator.refresh()
    after = generator.generate(prompts, 1, sampling, [(0,)] * 3)
    fresh = PolicyGenerator(policy).generate(prompts, 1, sampling, [(0,)] * 3)
    for one, other in zip(after, fresh, strict=True):
        assert one[0].tokens.tolist() == other[0].tokens.tolist()
        np.testing.assert_array_equal(one[0].log_probs, other[0].log_probs)
    assert any(a[0].tokens.tolist() != b[0].tokens.tolist() for a, b in zip(before, after, strict=True))
    # The same as in float32, but for rounding: log-probs of the same tokens.
    plain = plain_of(policy)
    for prompt, [one] in zip(prompts, after, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, one.tokens]).astype(np.int64))[None]
        with torch.no_grad():
            logits = plain(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        exact = logits[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].numpy()
        assert np.abs(exact - one.log_probs).max() < 0.15


def test_every_parameter_is_taken_over(tmp_path, base_dir):
    policy = policy_of("GPT2", tmp_path, base_dir, autocast=True)
    made = bfloat16_copy(policy).model
    fresh = {name: p.clone() for name, p in made.named_parameters()}
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1.0)
    take_weights(made, policy.model)
    changed = {name for name, p in made.named_parameters() if not torch.equal(p.to_dense(), fresh[name].to_dense())}
    assert {name for name in fresh if ".plain." not in name} <= changed


@pytest.mark.parametrize(
    ("family", "kind"),
    [("Llama", BlockReader), ("Qwen3", ModelReader), ("GPT2", ModelReader), ("nanochat 2025-10", ModelReader)],
)
def test_the_quickest_reader_that_gives_the_same_is_taken(family, kind, tmp_path, base_dir, monkeypatch):
    policy = policy_of(family, tmp_path, base_dir, autocast=True)
    assert type(reader_of(policy)) is kind
    assert type(reader_of(policy_of(family, tmp_path, base_dir))) is ModelReader
    if kind is BlockReader:  # a model that does something else in between is not taken for it
        layer = policy.base.layers[1].mlp
        plain = layer.forward
        layer.forward = lambda x: 1.5 * plain(x)
        assert type(reader_of(policy)) is ModelReader


@pytest.mark.parametrize("bias", [False, True])
def test_blocks_alone_give_what_the_model_gives(bias, tmp_path, base_dir):
    """Token by token in bfloat16, with grouped queries, against whole sequences in float32."""
    config = transformers.LlamaConfig(
        vocab_size=90,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        intermediate_size=96,
        attention_bias=bias,
        mlp_bias=bias,
        pad_token_id=1,
        initializer_range=0.15,
    )
    policy = policy_of("Llama", tmp_path, base_dir)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "Llama")
    policy = Policy(load_model(str(tmp_path / "Llama"), kind="causal", device="cpu"), autocast=True)
    generator = PolicyGenerator(policy, rows=4)
    assert type(generator._reader) is BlockReader
    prompts = prompts_for(policy)
    got = generator.generate(prompts, 3, Sampling(12, frozenset({5})), [(i,) for i in range(5)])
    plain = plain_of(policy)
    for prompt, group in zip(prompts, got, strict=True):
        for one in group:
            ids = torch.from_numpy(np.concatenate([prompt, one.tokens]).astype(np.int64))[None]
            with torch.no_grad():
                exact = plain(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            exact = exact[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].numpy()
            assert np.abs(exact - one.log_probs).max() < 0.12


class TestDrawing:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -8.0], [0.0, 0.0, 3.0, 0.0, 0.0]])

    def counted(self, row, **told):
        places = (np.arange(5000) + 0.5) / 5000
        sampling = Sampling(1, frozenset(), **told)
        tokens, log_probs = draw_tokens(self.logits[row].expand(5000, -1), places, sampling)
        plain = (self.logits[row] / sampling.temperature).log_softmax(0)
        np.testing.assert_allclose(log_probs, plain[torch.from_numpy(tokens)], atol=1e-5)
        return np.bincount(tokens, minlength=5) / 5000

    @pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
    def test_in_proportion_to_probability(self, temperature):
        expected = (self.logits[0].double() / temperature).softmax(0)
        np.testing.assert_allclose(self.counted(0, temperature=temperature), expected, atol=3e-4)

    @pytest.mark.parametrize("told", [{"top_k": 2}, {"top_p": 0.7}, {"top_p": 0.3}, {"top_k": 3, "top_p": 0.95}])
    def test_top_k_and_top_p_are_those_of_transformers(self, told):
        from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

        scores = self.logits[:1].clone()
        if "top_k" in told:
            scores = TopKLogitsWarper(told["top_k"])(None, scores)
        if "top_p" in told:
            scores = TopPLogitsWarper(told["top_p"])(None, scores)
        np.testing.assert_allclose(self.counted(0, **told), scores[0].softmax(0), atol=4e-4)

    def test_no_finite_number_is_an_error(self):
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(FloatingPointError):
                draw_tokens(torch.full((1, 4), torch.nan, dtype=dtype), np.asarray([0.5]), Sampling(1, frozenset()))
