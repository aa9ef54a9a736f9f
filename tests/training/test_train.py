"""Training in memory: what weights change and do not change, scores against the saved model, options and errors."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from making import turn
from making_training import (
    answered_pairs,
    equal,
    pair_of,
    parameters_of,
    plain_model,
    plain_rewards,
    random_tokens,
    reward_model,
    tiny_chat_model,
    tiny_gpt2,
)

from kat.data.repeats import content_id, pair_parts
from kat.errors import InputError, MismatchError, OptionError
from kat.training.scoring import ScoreCheckpoint, rewards_of
from kat.training.tokens import IDENTICAL
from kat.training.train import (
    fit,
    normalised,
    save_model,
    score_tokens,
    scorer_of,
    tokens_of,
    train_reward_model,
)
from kat.training_config import RewardOptions

SMALL = {"train": "last:1", "batch_size": 4, "precision": "float32", "device": "cpu", "learning_rate": 1e-3}
ASKED = {"stage": "score", "kat_version": "1", "inputs": {}, "options": {}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pairs():
    return answered_pairs()


def trained(tiny, pairs, weights=None, **more):
    done = train_reward_model(pairs, weights, tiny, **SMALL | more)
    return parameters_of(done.model.model), done


def drawn(n=14):
    return np.exp(np.random.default_rng(1).normal(size=n))


@pytest.mark.parametrize("weight_by", ["loss", "sampling"])
def test_scaling_all_weights_changes_nothing(tiny, pairs, weight_by):
    v = drawn()
    first, second, plain = (trained(tiny, pairs, w, weight_by=weight_by)[0] for w in (v, 1024 * v, None))
    assert equal(first, second)  # a power of two, so that not even rounding differs
    assert not equal(first, plain)
    odd = trained(tiny, pairs, 3.7 * v, weight_by=weight_by)[0]
    for name, parameter in odd.items():
        torch.testing.assert_close(parameter, first[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("weight_by", ["loss", "sampling"])
def test_uniform_weights_are_no_weights(tiny, pairs, weight_by):
    parameters = trained(tiny, pairs, [0.3] * 14, weight_by=weight_by)[0]
    assert equal(parameters, trained(tiny, pairs, weight_by=weight_by)[0])
    if weight_by == "loss":
        assert equal(parameters, trained(tiny, pairs)[0])
    assert not equal(parameters, trained(tiny, pairs, seed=1)[0])


def test_weights_by_id_follow_their_pairs_and_leave_out_the_others(tiny, pairs):
    v = drawn()
    by_id = {f"p{i}": v[i] for i in (9, 2, 5, 0, 12)}
    kept = [pair for pair in pairs if pair.id in by_id]
    first, done = trained(tiny, pairs, by_id)
    assert equal(first, trained(tiny, kept, [by_id[p.id] for p in kept])[0])
    assert done.facts["pairs_trained"] == 5
    with pytest.raises(MismatchError, match="name none of the pairs"):
        trained(tiny, pairs, {"other": 1.0})


def test_a_dropped_pair_takes_its_weight_with_it(tiny, pairs):
    v = drawn()
    same = pair_of("bad", "bad", "How do I 1?", pair_id="same")
    first, done = trained(tiny, [*pairs[:3], same, *pairs[3:]], [*v[:3], 50.0, *v[3:]])
    assert equal(first, trained(tiny, pairs, v)[0])
    assert done.facts["pairs_trained"] == 14


def test_weights_that_are_none(tiny, pairs):
    with pytest.raises(InputError, match="14 pairs and 3 weights"):
        trained(tiny, pairs, [1.0] * 3)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="finite numbers from 0 up"):
            trained(tiny, pairs, [bad, *[1.0] * 13])
    with pytest.raises(InputError, match="not all 0"):
        trained(tiny, pairs, [0.0] * 14)
    with pytest.raises(InputError, match="No pair is left to train"):
        trained(tiny, [])
    with pytest.raises(InputError, match="No pair is left to train"):
        trained(tiny, [pair_of("x", "x")])
    assert normalised(np.asarray([1.0, 3.0])).tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    "wrong", [{"train": "last:3"}, {"train": "tail"}, {"epochs": 0}, {"warmup": 1.5}, {"learning_rate": math.nan}]
)
def test_options_out_of_range(tiny, pairs, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        trained(tiny, pairs, **wrong)


def test_scores_are_those_of_the_saved_model_sequence_by_sequence(tiny, pairs, tmp_path):
    _, done = trained(tiny, pairs, drawn())
    done.save(tmp_path / "saved")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    tie = pair_of("bad", "bad", "How?", pair_id="tie")
    scored = done.score([*pairs, tie])
    assert scored.ids == [p.id for p in [*pairs, tie]]
    right = 0.0
    for i, pair in enumerate([*pairs, tie]):
        rewards = []
        for text in (pair.chosen, pair.rejected):
            talk = [*pair.context, turn("assistant", text)]
            written = tokenizer.apply_chat_template(talk, tokenize=False).removesuffix("\n")
            ids = tokenizer(written, add_special_tokens=False, return_tensors="pt")
            rewards.append(plain.eval()(**ids).logits.item())
        assert [scored.chosen[i], scored.rejected[i]] == pytest.approx(rewards, abs=1e-5)
        right += 0.5 if pair.chosen == pair.rejected else rewards[0] > rewards[1]
    assert scored.accuracy == pytest.approx(right / 15)


def test_what_has_no_reward_is_told(tiny, pairs, capsys):
    _, done = trained(tiny, pairs, max_len=40, min_prompt=8)
    capsys.readouterr()
    done.score(pairs)
    assert capsys.readouterr().err == ""
    long = [
        pair_of("good", "bad", "w1 " * 60, pair_id="context"),
        pair_of("good " * 60, "bad", "How?", pair_id="completion"),
    ]
    assert done.score([*pairs, *long]).ids == [*(p.id for p in pairs), "context"]
    told = " ".join(capsys.readouterr().err.split())
    assert f"score 1 of {len(pairs) + 2} pairs left out: " in told
    assert "prompts lost their beginning: with a completion 40 tokens are read" in told


def test_a_saved_model_is_loaded_and_goes_on_scoring_the_same(tiny, pairs, tmp_path):
    model, data = reward_model(tiny), random_tokens(0, [2, 3])
    fit(model, data, np.ones(5), RewardOptions(train="all", batch_size=4))
    save_model(model, tmp_path / "m")
    again = reward_model(str(tmp_path / "m"))
    assert again.loaded.meta["head"] == "loaded"
    first, second = (score_tokens(m, data) for m in (model, again))
    assert first.chosen.tolist() == second.chosen.tolist()


def test_the_facts_count_parameters_and_tokens(tiny):
    data = random_tokens(3, [3, 1, 2])
    for train in ("head", "last:1", "all"):
        model = reward_model(tiny)
        facts = fit(model, data, np.ones(6), RewardOptions(train=train, batch_size=3, epochs=2))
        sizes = {n: p.numel() for n, p in model.model.named_parameters()}
        late = {n for n in sizes if n.startswith(("score.", "model.layers.1.", "model.norm."))}
        names = {"head": {"score.weight"}, "last:1": late, "all": set(sizes)}[train]
        assert facts["trained_parameters"] == sum(sizes[n] for n in names)
        assert facts["parameters"] == sum(sizes.values())
        once = sum(prompt.tokens for prompt in data.prompts)
        assert facts["tokens"]["tokens"] == (once if train == "head" else 2 * once)
        separate = sum(2 * len(data.prompts[p].trunk) for p in data.prompt)
        separate += sum(
            len(data.prompts[p].branches[b])
            for s in (data.chosen, data.rejected)
            for p, b in zip(data.prompt, s, strict=True)
        )
        assert facts["tokens"]["separate"] == 2 * separate


def test_a_model_that_shares_no_trunks_is_counted_by_what_it_is_given(tiny, monkeypatch):
    data = random_tokens(3, [3, 1, 2])
    for train, passes in (("head", 1), ("last:1", 2)):
        model = reward_model(tiny)
        model.unshared = "told so"
        given: list[int] = []
        read = model.separate_rewards
        watched = partial(lambda read, given, s: given.extend(map(len, s)) or read(s), read, given)
        monkeypatch.setattr(model, "separate_rewards", watched)
        facts = fit(model, data, np.ones(6), RewardOptions(train=train, batch_size=6, epochs=2))
        once = sum(len(p.trunk) + len(b) for p in data.prompts for b in p.branches)
        assert facts["tokens"]["tokens"] == sum(given) == passes * once


def test_a_completion_too_long_for_the_models_positions_is_told_a_way_out_that_works(tmp_path):
    folder = tiny_gpt2(tmp_path, positions=64)
    model, long = reward_model(folder), pair_of("x", "w" * 40)
    with pytest.raises(InputError, match=r"Lower --min_prompt \(the model reads 64 at most\), or leave") as refused:
        tokens_of(model, [long], RewardOptions(model=folder))
    assert "Raise" not in str(refused.value)
    assert len(tokens_of(model, [long], RewardOptions(model=folder, min_prompt=10))) == 1


@pytest.mark.parametrize("budget", [1, 25, 5000])
def test_rewards_do_not_depend_on_the_rows(tiny, tmp_path, budget):
    model, data = reward_model(tiny), random_tokens(1, [3, 1, 4, 2])
    plain = plain_model(model, tmp_path / "plain")
    chosen, rejected = rewards_of(model, data, budget)
    with torch.no_grad():
        for pair in range(len(data)):
            wanted = [reward.item() for reward in plain_rewards(plain, data, pair)]
            assert [chosen[pair], rejected[pair]] == pytest.approx(wanted, abs=1e-5)


def test_scoring_that_was_stopped_computes_only_the_rows_that_are_left(tiny, tmp_path):
    model, data = reward_model(tiny), random_tokens(1, [3, 1, 4, 2, 2])
    whole = rewards_of(model, data, 30)
    computed, rewards = [], model.rewards

    def counted(row, ends, stop=None):
        if len(computed) == stop:
            raise KeyboardInterrupt
        computed.append(len(ends))
        return rewards(row, ends)

    model.rewards = lambda row, ends: counted(row, ends, stop=2)
    with ScoreCheckpoint(tmp_path / "s", ASKED) as kept, pytest.raises(KeyboardInterrupt):
        rewards_of(model, data, 30, kept=kept)
    model.rewards = counted
    with ScoreCheckpoint(tmp_path / "s", ASKED) as kept:
        resumed = rewards_of(model, data, 30, kept=kept)
    assert sum(computed) == sum(len(p.branches) for p in data.prompts)  # none twice
    assert [side.tolist() for side in resumed] == [side.tolist() for side in whole]
    # A reward that is damaged on disk is computed again.
    stored = np.load(tmp_path / "s" / "rewards.npy", mmap_mode="r+")
    stored[0] += 1
    stored.flush()
    before = len(computed)
    with ScoreCheckpoint(tmp_path / "s", ASKED) as kept:
        again = rewards_of(model, data, 30, kept=kept)
        assert again[0].tolist() == whole[0].tolist()
        assert len(computed) == before + 1
        kept.remove()
    assert not (tmp_path / "s").exists()


def test_identical_completions_are_named_in_what_was_dropped(tiny, pairs):
    from kat.training.train import tokens_of

    data = tokens_of(reward_model(tiny), [*pairs, pair_of("x", "x", pair_id="same")], RewardOptions())
    assert data.dropped_ids == {"same": IDENTICAL}


def test_a_scorer_sees_the_head_change_and_gives_what_the_whole_model_gives(tiny):
    model, data = reward_model(tiny), random_tokens(7, [3, 2, 4])
    kept, whole = (scorer_of(model, data, RewardOptions(train=train, row_tokens=40)) for train in ("head", "last:1"))
    for _ in range(2):
        for side in ("chosen", "rejected"):
            np.testing.assert_allclose(getattr(kept(), side), getattr(whole(), side), rtol=1e-5, atol=1e-6)
        before = kept().chosen
        with torch.no_grad():
            model.head.weight.mul_(-2)
        assert np.allclose(kept().chosen, -2 * before, rtol=1e-4)


def test_weights_that_name_no_pair_are_told(tmp_path, capsys):
    pairs, told = answered_pairs(), {"train": "head", "max_steps": 1, "device": "cpu"}
    model = tiny_chat_model(tmp_path / "tiny")
    name = content_id(pair_parts(pairs[0]))
    twice = [*pairs[1:3], *[replace(pairs[0], id=name)] * 2]
    own = {pair.id: 1.0 for pair in twice} | {f"{name}#2": 1.0}  # so kat names a duplicate
    for weights, unused in ((own, 0), (own | {"q0": 1.0, "q1": 2.0}, 2)):
        trained = train_reward_model(twice, weights, model=model, **told)
        assert trained.facts.get("weights_of_no_pair", 0) == unused
        said = f"2 of {len(weights)} weights name none of the pairs" in capsys.readouterr().err
        assert said == bool(unused)


def test_pairs_without_a_margin_among_others_are_told(tmp_path, capsys):
    model = tiny_chat_model(tmp_path / "tiny")
    for margins, missing in (((1.0, 0.0, 2.0), 0), ((None, None, None), 0), ((1.0, None, 2.0), 1)):
        pairs = [pair_of("good", "bad", f"How {i}?", pair_id=f"p{i}", margin=m) for i, m in enumerate(margins)]
        trained = train_reward_model(pairs, model=model, train="head", max_steps=1, device="cpu")
        assert trained.facts.get("pairs_without_margin", 0) == missing
        assert ("1 of 3 pairs have no margin" in capsys.readouterr().err) == bool(missing)
