"""Log-probabilities over shared trunks, with their gradients, against sequences by themselves in their classes."""

import numpy as np
import pytest
import torch
from making_policies import FAMILIES, plain_of, policy_of

from kat.packing.trunks import Prompt, plant
from kat.training import policy as module
from kat.training.policy import Policy, said
from kat.training.readers import bfloat16_copy

pytestmark = pytest.mark.usefixtures("one_thread")


def some_prompts(seed=0):
    """Prompts with 1, 2 and 9 completions; one said twice, one prompt that begins another, completions of one token."""
    draw = np.random.default_rng(seed)

    def ids(n):
        return draw.integers(2, 60, n)

    trunk, again = ids(9), ids(4)
    return [
        Prompt(trunk, [ids(3)]),
        Prompt(np.concatenate([trunk, ids(2)]), [again, again]),
        Prompt(ids(5), [ids(n) for n in (1, 6, 2, 3, 1, 12, 4, 2, 5)]),
    ]


def separate(plain, prompts, temperature):
    """The log-probs of every completion's tokens, and the entropies, by the model's class, a sequence at a time."""
    parts, entropies = [], []
    for prompt in prompts:
        for branch in prompt.branches:
            ids = torch.from_numpy(np.concatenate([prompt.trunk, branch]).astype(np.int64))[None]
            logits = plain(input_ids=ids, use_cache=False).logits[0]
            log_probs = (logits.float() / temperature).log_softmax(-1)
            at = torch.arange(len(prompt.trunk) - 1, ids.shape[1] - 1)
            parts.append(log_probs[at, ids[0, len(prompt.trunk) :]])
            entropies.append(torch.distributions.Categorical(logits=log_probs[at]).entropy())
    return torch.cat(parts), torch.cat(entropies)


@pytest.mark.parametrize("family", [*FAMILIES, "Bloom"])
@pytest.mark.parametrize("chunk", [4, 512])
def test_rows_give_what_sequences_give(family, chunk, tmp_path, base_dir, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    policy = policy_of(family, tmp_path, base_dir)
    assert (policy.unshared is None) == (family != "Bloom")
    prompts = some_prompts()
    row = plant(prompts)
    weights = torch.randn(len(said(row).ids), generator=torch.Generator().manual_seed(0))
    got = policy.predict(row, 0.8)
    (got.log_probs * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    plain = plain_of(policy)
    plain.zero_grad()
    expected, entropies = separate(plain, prompts, 0.8)
    (expected * weights).sum().backward()
    torch.testing.assert_close(got.log_probs, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.entropy, entropies.detach(), rtol=1e-4, atol=1e-4)
    assert not got.entropy.requires_grad
    for name, parameter in plain.named_parameters():
        if parameter.grad is None:
            assert name not in gradients or not gradients[name].any(), name
            continue
        size = parameter.grad.abs().max()
        assert (gradients[name] - parameter.grad).abs().max() <= 2e-4 * size + 1e-6, name


def test_tokens_of_completions_are_in_the_order_they_were_given_in():
    prompts = some_prompts(1)
    tokens = said(plant(prompts))
    branches = [branch for prompt in prompts for branch in prompt.branches]
    assert tokens.ids.tolist() == np.concatenate(branches).tolist()
    assert np.bincount(tokens.sequence).tolist() == [len(b) for b in branches]


def test_in_bfloat16_it_strays_no_further_than_the_class_does(tmp_path, base_dir):
    policy = policy_of("Llama", tmp_path, base_dir, autocast=True)
    prompts = some_prompts()
    with torch.no_grad():
        model = plain_of(policy)
        exact, _ = separate(model, prompts, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            plain, _ = separate(model, prompts, 1.0)
        got = policy.predict(plant(prompts)).log_probs
    assert (got - exact).abs().max() <= 3 * (plain - exact).abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_a_reference_in_bfloat16_strays_no_further_and_reads_the_head_in_one_pass(
    tied, tmp_path, base_dir, monkeypatch
):
    policy = policy_of("Llama", tmp_path, base_dir, autocast=True, tie_word_embeddings=tied)
    reference, prompts = bfloat16_copy(policy), some_prompts()
    monkeypatch.setattr(Policy, "_of_chunk", None)  # logits in float32, chunk by chunk
    with torch.no_grad():
        model = plain_of(policy)
        exact, _ = separate(model, prompts, 0.7)
        with torch.autocast("cpu", torch.bfloat16):
            plain, _ = separate(model, prompts, 0.7)
        got = reference.predict(plant(prompts), 0.7).log_probs
    assert (got - exact).abs().max() <= 3 * (plain - exact).abs().max()
    assert reference.plain_head is not policy.plain_head


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_in_bfloat16_stray_no_further_than_the_classes(tied, tmp_path, base_dir):
    """Of every parameter, the embeddings that are the head as well among them, added up over two rows."""
    policy = policy_of("Llama", tmp_path, base_dir, autocast=True, tie_word_embeddings=tied)
    embeddings = policy.model.get_input_embeddings()
    assert (embeddings.weight is policy.model.get_output_embeddings().weight) == embeddings.sparse == tied
    plain, rows = plain_of(policy), [some_prompts(0), some_prompts(1)]
    plain.get_input_embeddings().sparse = False
    weights = torch.randn(200, generator=torch.Generator().manual_seed(0))

    def gradients(model, log_probs_of):
        model.zero_grad()
        for prompts in rows:
            log_probs = log_probs_of(prompts)
            (log_probs * weights[: len(log_probs)]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    def rounded(prompts):
        with torch.autocast("cpu", torch.bfloat16):
            return separate(plain, prompts, 1.0)[0]

    exact = gradients(plain, lambda prompts: separate(plain, prompts, 1.0)[0])
    by_class = gradients(plain, rounded)
    ours = gradients(policy.model, lambda prompts: policy.predict(plant(prompts)).log_probs)
    for name, true in exact.items():
        off, of_class = (float((x[name] - true).norm() / true.norm()) for x in (ours, by_class))
        assert not ours[name].is_sparse
        assert off <= 1.3 * of_class, (name, off, of_class)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bloom"])
def test_log_probs_alone_are_those_beside_the_entropies(family, autocast, tmp_path, base_dir, monkeypatch):
    """To the bit, with their gradients."""
    monkeypatch.setattr(module, "CHUNK", 7)
    policy = policy_of(family, tmp_path, base_dir, autocast=autocast)
    row = plant(some_prompts())
    weights = torch.randn(len(said(row).ids), generator=torch.Generator().manual_seed(0))
    both = []
    for log_probs in (policy.predict(row, 0.8).log_probs, policy.log_probs(row, 0.8)):
        policy.model.zero_grad()
        (log_probs * weights).sum().backward()
        both.append([log_probs.detach(), *(p.grad for p in policy.model.parameters() if p.grad is not None)])
    with torch.no_grad():
        assert torch.equal(policy.log_probs(row, 0.8), both[0][0])
    assert len(both[0]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def test_means_are_of_each_completions_hidden_states(tmp_path, base_dir):
    policy = policy_of("Llama", tmp_path, base_dir)
    prompts = some_prompts()
    with torch.no_grad():
        got = policy.predict(plant(prompts)).means
        prompt, plain = prompts[2], plain_of(policy)
        for place, branch in enumerate(prompt.branches):
            ids = torch.from_numpy(np.concatenate([prompt.trunk, branch]).astype(np.int64))[None]
            states = plain(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1][0]
            expected = states[len(prompt.trunk) - 1 : -1].mean(0)
            torch.testing.assert_close(got[3 + place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_compiled_head_is_that_of_torch(bias, temperature, monkeypatch):
    """Log-probs, entropies and gradients of numbers that bfloat16 holds, against float64; chunks of 7 of 20 tokens."""
    from kat.packing import head as compiled

    monkeypatch.setattr(compiled, "CHUNK", 7)
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=draw).bfloat16().float()

    states, weight, shift = numbers(20, 32), 0.3 * numbers(300, 32), numbers(300)
    weight = weight.bfloat16().float()
    ids, factor = torch.randint(300, (20,), generator=draw), numbers(20)
    given = [x.clone().requires_grad_() for x in (states, weight, shift)]
    got, entropy = compiled.token_log_probs(given[0], given[1], given[2] if bias else None, ids, temperature)
    (got * factor).sum().backward()
    exact = [x.double().requires_grad_() for x in (states, weight, shift)]
    logits = torch.nn.functional.linear(exact[0], exact[1], exact[2] if bias else None)
    rounded = torch.nn.functional.linear(*(x.bfloat16() for x in (states, weight)), shift.bfloat16() if bias else None)
    logits = (logits + (rounded.double() - logits).detach()) / temperature  # as they are made, with plain gradients
    plain = logits.log_softmax(-1)
    expected = plain.gather(-1, ids[:, None])[:, 0]
    (expected * factor).sum().backward()
    assert (got - expected).abs().max() < 1e-3
    assert (entropy - torch.distributions.Categorical(logits=plain).entropy()).abs().max() < 1e-3
    for one, other in zip(given, exact, strict=True):
        if other.grad is not None:
            assert (one.grad - other.grad).abs().max() < 0.02 * other.grad.abs().max()


def test_a_head_with_a_soft_cap_is_not_taken_for_a_plain_one(tmp_path, base_dir):
    assert policy_of("nanochat 2025-10", tmp_path, base_dir).plain_head is None
    assert policy_of("Llama", tmp_path, base_dir).plain_head is not None
