"""GRPO from end to end on tiny policies: it learns, in every way it can be told to; parts, ranks and stops change
nothing."""

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers
from making_policies import plain_of
from making_training import CHATML, letters_tokenizer

from kat.errors import InputError, OptionError
from kat.grpo_config import GrpoOptions
from kat.models.load import load_model
from kat.packing.products import SharedWeights, _halved
from kat.training import grpo as module
from kat.training.generation import Completion, Sampling
from kat.training.grpo import GrpoTrainer
from kat.training.grpo_losses import advantages
from kat.training.loop import NotFiniteError
from kat.training.policy import Policy
from kat.training.prompt_sampler import Asked, SystematicSampler
from kat.training.reward_sources import FunctionReward, RewardSum
from kat.training.train_grpo import FIXED, answers, prompts_of_policy, train_policy

GOOD = "aeiou"
SMALL = {
    "max_steps": 3,
    "batch_size": 3,
    "num_generations": 4,
    "max_new_tokens": 8,
    "max_len": 64,
    "min_prompt": 8,
    "precision": "float32",
    "learning_rate": 1e-3,
    "fixed_prompts": 0,
    "redraw": 0,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama that writes letters, as a folder."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = letters_tokenizer(CHATML, vocabulary=270)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def asked(count=5):
    return [
        Asked([{"role": "user", "content": f"say {i}" + "!" * i}], f"opening{i}", f"context{i}", i % 2)
        for i in range(count)
    ]


def vowels(prefixes, completions):
    """The share of letters that are vowels."""
    assert len(prefixes) == len(completions)
    assert all(prefix.messages[0]["role"] == "user" for prefix in prefixes)
    return [sum(c in GOOD for c in text) / max(len(text), 1) for text in completions]


def trainer_of(model, reward=vowels, *, weights=None, generator=None, reference=False, ranks=None, **options):
    chosen = GrpoOptions(policy=model, **SMALL | options)
    policy = Policy(load_model(model, kind="causal", device="cpu"), autocast=chosen.precision == "bfloat16")
    prompts = prompts_of_policy(policy, asked(), chosen)
    sampler = SystematicSampler(asked(), weights or {f"opening{i}": 1.0 for i in range(5)}, chosen.seed)
    rewards = RewardSum([FunctionReward(reward)], [1.0], ["test"])
    first = Policy(load_model(model, kind="causal", device="cpu")) if reference else None
    return GrpoTrainer(
        policy,
        prompts.asked,
        prompts.trunks,
        sampler,
        rewards,
        options=chosen,
        reference=first,
        generator=generator,
        ranks=ranks,
    )


def parameters_of(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_without_leaving_for_one_letter(model, seed):
    """All letters of the answers are vowels in the end, several of them, at a KL that one letter alone would not have:
    of the policy that it begins as, all vowels are a quarter of what the likeliest of them is by itself."""
    trained = train_policy(
        asked(),
        vowels,
        policy=model,
        device="cpu",
        fixed=asked(),
        **SMALL
        | {"max_steps": 120, "batch_size": 4, "num_generations": 8, "learning_rate": 3e-3, "seed": seed, "beta": 0.1},
    )
    rewards = [one["reward"] for one in trained.log]
    assert np.mean(rewards[:5]) < 0.2
    assert np.mean(rewards[-10:]) > 0.8
    assert trained.facts["steps"] == 120
    last = [row for row in trained.answers if row["step"] == 120]
    assert 0 < np.mean([row["kl"] for row in last]) < 3.6
    assert len(set("".join(row["completion"] for row in last)) & set(GOOD)) > 1


def test_it_learns_to_stop(model):
    trained = train_policy(
        asked(),
        lambda prefixes, completions: [-len(text) for text in completions],
        policy=model,
        device="cpu",
        **SMALL | {"max_steps": 60, "batch_size": 4, "num_generations": 8, "learning_rate": 3e-3},
    )
    cut = [one["truncated"] for one in trained.log]
    assert np.mean(cut[:5]) > 0.8
    assert np.mean(cut[-5:]) < 0.2


def test_prompts_that_lose_their_beginning_are_told(model, capsys):
    told = SMALL | {"max_steps": 1, "max_len": 32, "min_prompt": 1}
    long = Asked([{"role": "user", "content": "a" * 40}], "opening0", "long")
    for prompts, cut in ((asked(1), 0), ([*asked(1), long], 1)):
        trained = train_policy(prompts, vowels, policy=model, device="cpu", **told)
        assert trained.facts["prompts_cut"] == cut
        assert ("1 of 2 prompts lost their beginning" in capsys.readouterr().err) == bool(cut)


def test_fixed_prompts_that_lose_their_beginning_are_told(model, capsys):
    told = SMALL | {"max_steps": 1, "max_len": 32, "min_prompt": 1}
    long = Asked([{"role": "user", "content": "a" * 40}], "opening0", "long")
    trained = train_policy(asked(1), vowels, policy=model, device="cpu", fixed=[long, *asked(2)], **told)
    assert (trained.facts["prompts_cut"], trained.facts["fixed_prompts_cut"]) == (0, 1)
    assert "fixed: 1 of 3 prompts lost their beginning" in " ".join(capsys.readouterr().err.split())


def test_the_limit_that_is_told_is_the_one_that_held(tmp_path, capsys):
    short = tmp_path / "short"
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(short)
    letters_tokenizer().save_pretrained(short)
    long = Asked([{"role": "user", "content": "a" * 90}], "opening0", "long")
    train_policy([long], vowels, policy=str(short), device="cpu", **SMALL | {"max_steps": 1, "max_len": 300})
    assert "with a completion 64 tokens are read" in capsys.readouterr().err


def test_prompts_whose_tools_are_not_written_are_told(model, capsys):
    tools = [{"type": "function", "function": {"name": "boil", "parameters": {}}}]
    prompts = [*asked(1), Asked(asked(1)[0].messages, "opening0", "with tools", tools=tools)]
    trained = train_policy(prompts, vowels, policy=model, device="cpu", **SMALL | {"max_steps": 1})
    assert trained.facts["prompts_whose_tools_are_not_written"] == 1
    assert "does not write the tools of 1 of 2 prompts" in " ".join(capsys.readouterr().err.split())


def test_a_penalty_keeps_it_near_where_it_began(model):
    told = SMALL | {"max_steps": 40, "batch_size": 4, "num_generations": 8, "learning_rate": 3e-3}
    free, held = (
        train_policy(asked(), vowels, policy=model, device="cpu", fixed=asked(2), **told | {"beta": beta})
        for beta in (0.0, 0.5)
    )
    kl = [np.mean([row["kl"] for row in one.answers if row["step"] == 40]) for one in (free, held)]
    assert all(row["kl"] == pytest.approx(0, abs=1e-9) for row in free.answers if row["step"] == 0)
    assert 0 < kl[1] < 0.5 * kl[0]
    assert held.log[-1]["kl"] == pytest.approx(kl[1], rel=2)


def test_the_kl_of_an_answer_is_its_own(model):
    """The mean over its own tokens, each answer by itself in the model's class, though all are read in one row."""
    trainer = trainer_of(model, learning_rate=1e-2)
    trainer.step()
    fixed = prompts_of_policy(trainer.policy, asked(), trainer.options)
    rows = list(answers(trainer, fixed, "cpu"))
    seeds = [(trainer.options.seed, FIXED, 0, i) for i in range(5)]
    drawn = trainer.generator.generate(fixed.trunks, 1, trainer.roller.sampling, seeds)
    now = plain_of(trainer.policy)
    first = transformers.AutoModelForCausalLM.from_pretrained(model)
    for row, trunk, [said] in zip(rows, fixed.trunks, drawn, strict=True):
        ids = torch.from_numpy(np.concatenate([trunk, said.tokens]).astype(np.int64))[None]
        with torch.no_grad():
            both = [
                m(input_ids=ids, use_cache=False).logits[0, len(trunk) - 1 : -1].log_softmax(-1) for m in (now, first)
            ]
        ratio = (both[1] - both[0]).gather(-1, ids[0, len(trunk) :, None])[:, 0]
        assert row["kl"] > 1e-4
        assert row["kl"] == pytest.approx(float((ratio.exp() - 1 - ratio).mean()), rel=1e-3)


def test_the_gradient_is_that_of_separate_sequences(model):
    trainer = trainer_of(model, reference=True, beta=0.1, ratio="token", normalise="grpo", scale_rewards="group")
    before = copy.deepcopy(plain_of(trainer.policy))
    seen = {}
    keep = trainer._with_advantages

    def watch(rollout, trained):
        seen["rollout"], seen["trained"] = rollout, trained
        return keep(rollout, trained)

    trainer._with_advantages = watch
    trainer.optimizer.step = lambda: None
    trainer.step()
    got = {n: p.grad.clone() for n, p in trainer.policy.model.named_parameters() if p.grad is not None}
    rollout, trained = seen["rollout"], seen["trained"]
    scaled = advantages(torch.from_numpy(rollout.rewards[trained]), "group")
    count = len(trained) * 4
    loss = torch.zeros(())
    for row, i in enumerate(trained.tolist()):
        group = rollout.groups[i]
        for g, one in enumerate(group.completions):
            ids = torch.from_numpy(np.concatenate([group.trunk, one.tokens]).astype(np.int64))[None]
            logits = before(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            now = logits[torch.arange(len(group.trunk) - 1, ids.shape[1] - 1), ids[0, len(group.trunk) :]]
            np.testing.assert_allclose(now.detach(), one.log_probs, atol=1e-4)
            ratio = (now - now.detach()).exp()
            d = now - now.detach()  # the reference is the policy itself
            loss = loss - (ratio * scaled[row, g] - 0.1 * ratio * ((-d).exp() - 1 + d)).sum() / (
                count * len(one.tokens)
            )
    loss.backward()
    expected = {n: p.grad for n, p in before.named_parameters() if p.grad is not None}
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in expected.values()]))
    factor = min(1.0, trainer.options.grad_clip / float(norm))
    for name, gradient in expected.items():
        assert (got[name] - factor * gradient).abs().max() <= 2e-4 * gradient.abs().max() + 1e-7, name


def test_shared_weights_change_nothing(model, monkeypatch):
    """Weights in bfloat16 that generation, rows and updates share: the same parameters, bit for bit, as without."""
    several = {"updates_per_rollout": 2, "minibatches": 2, "row_tokens": 40}
    both = []
    for shares in (True, False):
        if not shares:
            monkeypatch.setattr(SharedWeights, "of", lambda _, layers: _halved(layers))
        trainer = trainer_of(model, precision="bfloat16", learning_rate=1e-2, **several)
        before = parameters_of(trainer).clone()
        log = [trainer.step() for _ in range(3)]
        both.append((parameters_of(trainer), [one["reward"] for one in log]))
        assert not torch.equal(both[-1][0], before)
    assert both[0][1] == both[1][1]
    assert torch.equal(both[0][0], both[1][0])


@pytest.mark.parametrize("normalise", ["dapo", "grpo", "dr_grpo"])
def test_rows_and_micro_batches_change_nothing(model, normalise):
    ends = [
        parameters_of(trainer)
        for tokens in (30, 4096)
        for trainer in [trainer_of(model, row_tokens=tokens, normalise=normalise)]
        if list(trainer.run())
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_with_one_update_ratios_are_one_and_with_more_they_are_clipped(model):
    [numbers, *_] = list(trainer_of(model).run())
    assert numbers["ratio"] == pytest.approx(1)
    assert numbers["clipped_low"] == numbers["clipped_high"] == 0
    assert numbers["generator_gap"] < 1e-4
    more = trainer_of(model, updates_per_rollout=4, minibatches=2, learning_rate=3e-2, clip_low=0.01, clip_high=0.01)
    rows = list(more.run())
    assert max(one["clipped_low"] + one["clipped_high"] for one in rows) > 0
    assert any(abs(one["ratio"] - 1) > 1e-4 for one in rows)


@pytest.mark.parametrize("ratio", ["token", "sequence", "cispo"])
def test_every_ratio_learns(model, ratio):
    trainer = trainer_of(
        model, max_steps=40, batch_size=4, num_generations=8, learning_rate=3e-3, ratio=ratio, updates_per_rollout=2
    )
    rewards = [one["reward"] for one in trainer.run()]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2


def test_prompts_are_drawn_by_weight(model):
    weights = {"opening0": 2.5, "opening1": 0.5, "opening2": 1.0, "opening3": 0.5, "opening4": 0.5}
    trainer = trainer_of(model, weights=weights, batch_size=5, max_steps=8)
    drawn = np.concatenate([trainer.sampler.draw(5) for _ in range(8)])
    counts = np.bincount(drawn, minlength=5)
    for one_pass in drawn.reshape(8, 5):
        per = np.bincount(one_pass, minlength=5)
        expected = np.array(list(weights.values()))
        assert (per >= np.floor(expected)).all()
        assert (per <= np.ceil(expected)).all()
    np.testing.assert_allclose(counts / 8, list(weights.values()), atol=0.51)


def test_contexts_of_an_opening_take_turns():
    prompts = [Asked([], "a", f"a{i}", 0) for i in range(3)] + [Asked([], "b", "b0", 1)]
    sampler = SystematicSampler(prompts, {"a": 1.0, "b": 1.0}, 7)
    drawn = np.concatenate([sampler.draw(n) for n in (5, 1, 10)]).tolist()
    assert drawn.count(3) == 8
    turns = [row for row in drawn if row != 3]
    turns += sampler.draw(3, [0, 0, 0]).tolist()
    assert all((after - before) % 3 == 1 for before, after in itertools.pairwise(turns))


def test_a_sampler_goes_on_where_it_was():
    prompts = asked()
    one, other = (SystematicSampler(prompts, {f"opening{i}": 1.0 + i for i in range(5)}, 3) for _ in range(2))
    one.draw(7)
    one.draw(2, [1, 0])
    other.load_state_dict(one.state_dict())
    assert one.draw(9).tolist() == other.draw(9).tolist()
    assert one.draw(3, [0, 0, 1]).tolist() == other.draw(3, [0, 0, 1]).tolist()
    assert all(prompts[row].bin == 1 for row in one.draw(6, [1] * 6).tolist())


def test_groups_alike_are_replaced_from_their_bin_and_counted(model):
    def reward(prefixes, completions):
        return [
            0.0 if prefix.id in ("opening0", "opening3") else len(text)
            for prefix, text in zip(prefixes, completions, strict=True)
        ]

    trainer = trainer_of(model, reward, redraw=2, batch_size=5, max_steps=1)
    numbers = trainer.step()
    counts = trainer.roller.counts.state()
    assert sum(counts["drawn"].values()) == 5 + sum(counts["dropped"].values()) - numbers["dropped"]
    assert sum(counts["trained"].values()) == 5 - numbers["dropped"]
    assert sum(counts["dropped"].values()) >= 2
    assert sum(counts["loss_tokens"].values()) > 0


def test_a_step_without_a_signal_changes_nothing(model):
    trainer = trainer_of(model, lambda prefixes, completions: [1.0] * len(completions), redraw=1)
    before = parameters_of(trainer)
    numbers = list(trainer.run())
    assert all(one["dropped"] == 3 and one["loss"] == 0 for one in numbers)
    assert torch.equal(parameters_of(trainer), before)


class Engine:
    """Another engine: draws uniformly among the words, and says so; ends every other completion if told how."""

    def __init__(self, tell=True, end=None):
        self.tell, self.end = tell, end

    def generate(self, prompts, count, sampling, seeds):
        draw = np.random.default_rng(seeds[0])
        return [[self.one(draw, sampling.most, place) for place in range(count)] for _ in prompts]

    def one(self, draw, most, place):
        ends = self.end is not None and place % 2 == 0
        length = 3 if ends else most
        tokens = draw.integers(3, 260, length).astype(np.int32)
        if ends:
            tokens[-1] = self.end
        return Completion(tokens, np.full(length, -np.log(257), np.float32) if self.tell else None, ends)


@pytest.mark.parametrize("cap", [0.5, 2.0])
def test_tokens_of_another_engine_are_corrected_for(model, cap, monkeypatch):
    given = []
    plain = module.policy_loss

    def watch(now, then, *rest, correction=None, **more):
        given.append((then.clone(), correction))
        return plain(now, then, *rest, correction=correction, **more)

    monkeypatch.setattr(module, "policy_loss", watch)
    assert "generator_gap" not in trainer_of(model, generator=Engine(tell=False), max_steps=1).step()
    assert given.pop()[1] is None
    numbers = trainer_of(model, generator=Engine(), max_steps=1, tis_cap=cap).step()
    [(then, correction)] = given
    torch.testing.assert_close(correction, (then + np.log(257)).exp().clamp(max=cap))
    assert float((then + np.log(257)).abs().mean()) == pytest.approx(numbers["generator_gap"], rel=1e-5)


def test_transformers_continuous_batching_is_such_an_engine(model):
    from kat.training.engines import ContinuousBatching

    policy = Policy(load_model(model, kind="causal", device="cpu"))
    engine = ContinuousBatching(policy, torch.float32)
    chosen = GrpoOptions(policy=model, **SMALL)
    prompts = prompts_of_policy(policy, asked(), chosen)
    sampling = Sampling(6, frozenset(policy.loaded.chat.end[-1:]))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    engine.refresh()
    plain = plain_of(policy)
    made = engine.generate(prompts.trunks, 3, sampling, [(1, 2)] * 5)
    for prompt, group in zip(prompts.trunks, made, strict=True):
        assert len(group) == 3
        for one in group:
            ids = torch.from_numpy(np.concatenate([prompt, one.tokens]).astype(np.int64))[None]
            with torch.no_grad():
                logits = plain(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            exact = logits[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]]
            np.testing.assert_allclose(one.log_probs, exact, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalise", ["dapo", "grpo"])
def test_completions_without_an_end_are_left_out_of_the_loss_alone(model, masked, normalise, monkeypatch):
    """An engine ends every other completion after 3 tokens: the sizes of the loss are theirs, the advantages all's."""
    seen = []
    plain = module.policy_loss

    def watch(now, then, sequence, advantage, weight, *rest, **more):
        seen.append((sequence, advantage, weight))
        return plain(now, then, sequence, advantage, weight, *rest, **more)

    monkeypatch.setattr(module, "policy_loss", watch)
    engine = Engine(end=trainer_of(model).policy.loaded.chat.end[-1])
    rewards = np.asarray([[0.0, 1.0, 5.0, 2.0], [3.0, 1.0, -2.0, 0.0]])
    told = {"mask_truncated": masked, "normalise": normalise, "max_steps": 1, "batch_size": 2}
    trainer_of(model, lambda prefixes, completions: rewards.flatten().tolist(), generator=engine, **told).step()
    lengths = [3, 8, 3, 8] * 2
    kept = [n for n in lengths if n == 3 or not masked]
    [(sequence, advantage, weight)] = seen
    assert np.bincount(sequence).tolist() == kept
    each = [1 / sum(kept)] * len(kept) if normalise == "dapo" else [1 / (len(kept) * n) for n in kept]
    np.testing.assert_allclose(weight, np.repeat(each, kept), rtol=1e-5)
    all_of_them = advantages(torch.from_numpy(rewards)).flatten()
    expected = [a for a, n in zip(all_of_them.tolist(), lengths, strict=True) if n == 3 or not masked]
    np.testing.assert_allclose(advantage, np.repeat(expected, kept), rtol=1e-4)


def test_a_step_in_which_no_completion_ends_changes_nothing_where_these_are_masked(model):
    trainer = trainer_of(model, generator=Engine(), mask_truncated=True, max_steps=1)
    before = parameters_of(trainer)
    numbers = trainer.step()
    assert numbers["truncated"] == 1
    assert numbers["loss"] == numbers["gradient_norm"] == 0
    assert torch.equal(parameters_of(trainer), before)


def test_a_state_goes_on_to_the_same_end(model):
    whole = trainer_of(model, max_steps=4)
    list(whole.run())
    first = trainer_of(model, max_steps=4)
    run = first.run()
    next(run), next(run)
    state = copy.deepcopy(first.state())
    again = trainer_of(model, max_steps=4)
    again.load_state(state)
    assert [one["step"] for one in again.run()] == [3, 4]
    assert torch.equal(parameters_of(again), parameters_of(whole))
    assert again.roller.counts.state() == whole.roller.counts.state()


def test_beta_is_adapted(model):
    trainer = trainer_of(model, reference=True, beta=0.1, target_kl=1e6, beta_gain=0.5, max_steps=2)
    rows = list(trainer.run())
    assert rows[0]["beta"] == pytest.approx(0.1)
    assert trainer.beta == pytest.approx(0.1 * np.exp(-0.5) ** 2, rel=1e-3)


def test_what_is_no_number_is_named(model):
    with pytest.raises(InputError, match="opening"):
        trainer_of(model, lambda prefixes, completions: [float("nan")] * len(completions)).step()
    with pytest.raises(InputError, match="expected one for each"):
        trainer_of(model, lambda prefixes, completions: [1.0]).step()
    trainer = trainer_of(model)
    before = parameters_of(trainer)
    draw = trainer.roller.rollout

    def broken(step):
        rollout = draw(step)
        with torch.no_grad():
            trainer.parameters[0][:] = torch.nan
        return rollout

    trainer.roller.rollout = broken
    with pytest.raises(NotFiniteError, match="opening"):
        trainer.step()
    assert torch.equal(parameters_of(trainer)[-100:], before[-100:])


def test_logits_that_are_no_numbers_name_the_openings(model):
    trainer = trainer_of(model)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r"Step 1: .* begin with opening"):
        trainer.step()


def test_a_reward_model_reads_answers_that_say_nothing_or_were_cut_off(model, tmp_path):
    from kat.training.reward_sources import ModelReward
    from kat.training.train import load_reward_model, save_model
    from kat.training_config import RewardOptions

    scorer = load_reward_model(RewardOptions(model=model, precision="float32"), "cpu")
    with torch.no_grad():
        scorer.head.weight.mul_(20)
    save_model(scorer, tmp_path / "rm")
    texts = ["", "yes", "yes", "no" * 30]
    reward = ModelReward(str(tmp_path / "rm"), "cpu")
    reward._model.autocast = False
    rewards = reward([asked()[0]] * 4, texts)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "rm")
    for text, reward in zip(texts, rewards, strict=True):
        said = [*asked()[0].messages, {"role": "assistant", "content": text}]
        ids = tokenizer(tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            expected = plain.eval()(input_ids=torch.tensor([ids])).logits.item()
        assert reward == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"num_generations": 1}, "num_generations"),
        ({"temperature": 0.0}, "temperature"),
        ({"max_len": 100, "max_new_tokens": 90, "min_prompt": 20}, "max_new_tokens"),
        ({"target_kl": 0.1}, "target_kl"),
        ({"minibatches": 99}, "minibatches"),
        ({"ratio": "words"}, "ratio"),
        ({"dual_clip": 0.5}, "dual_clip"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_options_out_of_range_are_named(told, word):
    with pytest.raises(OptionError, match=word):
        GrpoOptions(**told)
