"""DPO in memory: it learns what is preferred, by weights that count, from options that are checked, to a folder."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from making_training import answered_pairs, equal, pair_of, parameters_of, tiny_chat_model

import kat
from kat.errors import InputError, OptionError
from kat.training.train import tokens_of
from kat.training.train_dpo import (
    fit_dpo,
    implicit_scores,
    kept_reference,
    load_dpo_policy,
    reference_of,
    train_dpo,
)
from kat.training_config import DpoOptions

SMALL = {"batch_size": 4, "precision": "float32", "device": "cpu", "learning_rate": 1e-3, "warmup": 0.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"), causal=True)


@pytest.fixture(scope="module")
def pairs():
    return answered_pairs()


def trained(tiny, pairs, weights=None, **more):
    done = train_dpo(pairs, weights, tiny, **SMALL | more)
    return parameters_of(done.policy.model), done


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
@pytest.mark.parametrize("per_token", [False, True])
def test_it_learns_consistent_preferences_and_starts_from_the_reference(tiny, loss, per_token):
    pairs = [pair_of("good", "bad", f"How do I {i}?", pair_id=f"p{i}", row=i + 1) for i in range(8)]
    # IPO pulls a log-ratio to 1 / 2β and not beyond, so that large steps swing about it.
    rate = 2e-4 if loss == "ipo" else 1e-3
    how = {"epochs": 6, "batch_size": 8, "beta": 0.5, "learning_rate": rate, "schedule": "constant"}
    _, done = trained(tiny, pairs, loss=loss, per_token=per_token, **how)
    first, last = done.log[0], done.log[-1]
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx({"sigmoid": math.log(2), "ipo": 1.0, "hinge": 1.0}[loss], abs=1e-4)
    assert last["accuracy"] == 1
    assert last["margin"] > 0.05
    assert last["loss"] < first["loss"]


def test_weights_count(tiny, pairs):
    v = np.exp(np.random.default_rng(1).normal(size=14))
    first, second, plain = (trained(tiny, pairs, w)[0] for w in (v, 1024 * v, None))
    assert equal(first, second)
    assert not equal(first, plain)
    by_id = {f"p{i}": v[i] for i in (9, 2, 5)}
    kept = [pair for pair in pairs if pair.id in by_id]
    assert equal(trained(tiny, pairs, by_id)[0], trained(tiny, kept, [by_id[p.id] for p in kept])[0])
    with pytest.raises(InputError, match="14 pairs and 3 weights"):
        trained(tiny, pairs, [1.0] * 3)


@pytest.mark.parametrize("train", ["last:1", "lora", "all"])
def test_only_what_is_named_trains_and_the_saved_folder_answers_alike(tiny, pairs, train, tmp_path):
    if train == "lora":
        pytest.importorskip("peft")
    options = replace(
        DpoOptions(), policy=tiny, train=train, lora_rank=4, **{k: v for k, v in SMALL.items() if k != "device"}
    )
    policy = load_dpo_policy(options, "cpu")
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    data = tokens_of(policy, pairs, options)
    reference = reference_of(policy, data, options)
    fit_dpo(policy, data, np.ones(len(data), np.float32), options, reference=reference)
    scored = implicit_scores(policy, data, reference, options=options)
    policy.merge()
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    if train == "last:1":
        assert all(".layers.1." in name or name.endswith("model.norm.weight") for name in moved), moved
    if train == "lora":
        assert all(".layers." in name for name in moved), moved
    done = train_dpo(pairs, None, tiny, **SMALL | {"train": train, "lora_rank": 4})
    done.save(tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    again = implicit_scores(
        load_dpo_policy(replace(options, policy=str(tmp_path / "out")), "cpu"), data, reference, options=options
    )
    np.testing.assert_allclose(again.chosen, scored.chosen, atol=1e-4)
    np.testing.assert_allclose(again.rejected, scored.rejected, atol=1e-4)
    # And as the class itself reads them, one sequence at a time.
    for pair in range(3):
        prompt = data.prompts[data.prompt[pair]]
        branch = prompt.branches[data.chosen[pair]]
        ids = torch.from_numpy(np.concatenate([prompt.trunk, branch]).astype(np.int64))[None]
        with torch.no_grad():
            log_probs = plain(input_ids=ids).logits[0].log_softmax(-1)
        at = torch.arange(len(prompt.trunk) - 1, ids.shape[1] - 1)
        own = float(log_probs[at, ids[0, len(prompt.trunk) :]].sum())
        assert options.beta * (own - reference.chosen[pair]) == pytest.approx(scored.chosen[pair], abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": "head"},
        {"loss": "kto"},
        {"beta": 0.0},
        {"beta": -1.0},
        {"label_smoothing": 0.6},
        {"label_smoothing": 0.1, "loss": "hinge"},
        {"min_prompt": 0},
        {"learning_rate": math.nan},
        {"select": "best"},
    ],
)
def test_options_out_of_range(tiny, pairs, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        trained(tiny, pairs, **wrong)


def test_a_step_is_selected_by_the_loss_that_trains(tiny, pairs):
    """With IPO a log-ratio can be too large: what the sigmoid calls best, the farthest step, is not."""
    how = {name: value for name, value in SMALL.items() if name != "device"}
    options = DpoOptions(policy=tiny, **how, loss="ipo", select="best", eval_every=1, max_steps=1)
    policy, log = load_dpo_policy(options, "cpu"), []
    data = tokens_of(policy, pairs, options)
    rows = np.arange(len(data))
    train, kept = data.select(rows[:8]), data.select(rows[8:])
    kept = replace(kept, margins=np.linspace(0, 1, len(kept)).astype(np.float32))
    before = reference_of(policy, data, options)
    references = [type(before)(*(side[part] for side in before)) for part in (rows[:8], rows[8:])]
    weights = np.linspace(0.5, 1.5, len(train))
    told = {"reference": references[0], "selection": (kept, references[1]), "on_step": log.append}
    fit_dpo(policy, train, weights, options, **told)
    scored = implicit_scores(policy, kept, references[1], options=options)
    z = (scored.chosen - scored.rejected).astype(np.float64) - kept.margins
    assert log[0]["selection_loss"] == pytest.approx(((z / 0.1 - 5) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("trainer", [train_dpo, kat.train_reward_model])
def test_pairs_that_do_not_train_are_told(tiny, tmp_path, trainer, capfd):
    model = tiny if trainer is train_dpo else tiny_chat_model(tmp_path / "rm")
    pairs = [pair_of("good", "bad", f"How do I {i}?", pair_id=f"p{i}", row=i + 1) for i in range(6)]
    pairs.append(pair_of("same", "same", "How?", pair_id="same", row=7))
    pairs.append(pair_of("good " * 60, "bad", "How long?", pair_id="long", row=8))
    pairs.append(pair_of("good", "bad", "How now?", pair_id="unnamed", row=9))
    how = {"max_len": 64, "min_prompt": 16, "long_completions": "drop", "precision": "float32", "device": "cpu"}
    done = trainer(pairs, {pair.id: 1.0 for pair in pairs[:-1]}, model, **how)
    assert done.facts["pairs_trained"] == 6
    assert sorted(done.facts["left_out"].values()) == [1, 1, 1]
    assert done.facts["left_out"]["no weight"] == 1
    told = capfd.readouterr().err
    assert all(f"1 of 9 pairs left out: {reason}" in told for reason in done.facts["left_out"])


def test_a_kept_reference_is_of_these_tokens_and_this_reading(tiny, tmp_path):
    """Same completions behind other prompts, other completions, log-ratios of a token: each is computed for itself."""
    asked = [pair_of("good", "bad", f"How do I {i}?", pair_id=f"p{i}", row=i + 1) for i in range(3)]
    others = [pair_of("good", "bad", f"How do I {i}!", pair_id=f"p{i}", row=i + 1) for i in range(3)]
    better = [pair_of("best", "bad", f"How do I {i}?", pair_id=f"p{i}", row=i + 1) for i in range(3)]
    options = DpoOptions(policy=tiny, precision="float32")
    policy = load_dpo_policy(options, "cpu")
    cases = [(asked, options), (others, options), (better, options), (asked, replace(options, per_token=True))]
    for _ in range(2):  # the second time from the folder
        for pairs, told in cases:
            data = tokens_of(policy, pairs, told)
            needed = np.arange(len(data))
            kept = kept_reference(policy, data, told, tmp_path, {"policy": "hash"}, needed=needed)
            for one, other in zip(kept, reference_of(policy, data, told), strict=True):
                assert one.tolist() == other.tolist()
        assert len(list(tmp_path.iterdir())) == len(cases)
    data = tokens_of(policy, asked, options)
    kept_reference(policy, data, options, tmp_path, {"policy": "another"}, needed=np.arange(len(data)))
    assert len(list(tmp_path.iterdir())) == len(cases) + 1
