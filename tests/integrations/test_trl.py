"""TRL's trainers with weights, against the plain ones and against gradients taken by hand."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from making import tiny

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

from datasets import Dataset, disable_progress_bars
from making_trl import N, config, drawn, model_of, pairs, tokenizer_of, trained, weighted
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, RewardTrainer

from kat.density.opening_order import OpeningOrder
from kat.errors import InputError, MismatchError, OptionError
from kat.integrations.trl import DensityGRPOTrainer, WeightedRewardTrainer

disable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1)


@pytest.fixture
def tokenizer(folder):
    return tokenizer_of(folder)


def test_weights_of_one_are_the_plain_trainer(folder, tokenizer, tmp_path):
    plain = RewardTrainer(model_of(folder), config(tmp_path), train_dataset=pairs(), processing_class=tokenizer)
    ones = weighted(folder, tokenizer, tmp_path, {f"p{i}": 1.0 for i in range(N)})
    (one, after), (other, theirs) = trained(ones), trained(plain)
    assert one == other
    for name in after:
        assert torch.equal(after[name], theirs[name]), name


@pytest.mark.parametrize(("size", "steps"), [(8, 1), (2, 4)])
def test_the_step_is_the_sum_of_weighed_gradients(folder, tokenizer, tmp_path, size, steps):
    weights = drawn()
    trainer = weighted(
        folder,
        tokenizer,
        tmp_path,
        weights,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        max_steps=1,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    seen = []
    plain = trainer.get_train_dataloader()
    torch.manual_seed(0)
    inner = trainer.data_collator.inner
    trainer.data_collator.inner = lambda rows: seen.extend(rows) or inner(rows)
    data = {tuple(row["chosen_ids"]): row for row in trainer.train_dataset}
    _, after = trained(trainer)
    assert len(plain) >= 1
    batch = seen[:8]
    by_hand = model_of(folder)
    by_hand.config.pad_token_id = tokenizer.pad_token_id
    by_hand.eval()
    gradient = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
    for row in batch:
        by_hand.zero_grad()
        chosen, rejected = (by_hand(torch.tensor([row[key]])).logits[0, 0] for key in ("chosen_ids", "rejected_ids"))
        (-torch.nn.functional.logsigmoid(chosen - rejected)).backward()
        v = weights[data[tuple(row["chosen_ids"])]["pair_id"]]
        for name, p in by_hand.named_parameters():
            if p.grad is not None:
                gradient[name] += v * p.grad / 8
    for name, start in before.items():
        torch.testing.assert_close(after[name], start - 0.1 * gradient[name], rtol=1e-4, atol=1e-6)


def test_scaling_all_weights_changes_nothing(folder, tokenizer, tmp_path):
    weights = drawn()
    (one, after), (other, theirs) = (
        trained(weighted(folder, tokenizer, tmp_path, {k: s * v for k, v in weights.items()}, learning_rate=1e-3))
        for s in (1.0, 250.0)
    )
    assert one == pytest.approx(other, rel=1e-4)
    for name in after:
        torch.testing.assert_close(after[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_weights_follow_their_pairs_when_rows_are_shuffled(folder, tokenizer, tmp_path):
    weights, order = drawn(), np.random.default_rng(3).permutation(N)
    trainer = weighted(folder, tokenizer, tmp_path, weights, pairs().select(order))
    assert trainer.train_dataset["weight"] == [weights[one] for one in trainer.train_dataset["pair_id"]]
    own = pairs().add_column("weight", [weights[f"p{i}"] for i in range(N)])
    again = weighted(folder, tokenizer, tmp_path, None, own)
    assert again.train_dataset["weight"] == list(weights.values())
    batch = next(iter(again.get_train_dataloader()))
    assert batch["weight"].shape == (8,)


@pytest.mark.parametrize(("size", "steps"), [(8, 1), (4, 2)])
def test_a_last_batch_that_is_not_full_is_as_in_the_plain_trainer(folder, tokenizer, tmp_path, size, steps):
    data, more = pairs(n=21), {"num_train_epochs": 2, "gradient_accumulation_steps": steps}
    more["per_device_train_batch_size"] = size
    plain = RewardTrainer(model_of(folder), config(tmp_path, **more), train_dataset=data, processing_class=tokenizer)
    ones = weighted(folder, tokenizer, tmp_path, {f"p{i}": 1.0 for i in range(21)}, data, **more)
    (one, after), (other, theirs) = trained(ones), trained(plain)
    assert len(one) == 6  # two full batches and one of five, twice
    assert one == other
    for name in after:
        assert torch.equal(after[name], theirs[name]), name


def test_evaluation_is_unweighted(folder, tokenizer, tmp_path):
    held = pairs(seed=9, n=8)
    trainer = weighted(folder, tokenizer, tmp_path, drawn())
    plain = RewardTrainer(
        model_of(folder), config(tmp_path), train_dataset=pairs(), eval_dataset=held, processing_class=tokenizer
    )
    found = trainer.evaluate(held.add_column("weight", [5.0] * 8))
    assert found["eval_loss"] == plain.evaluate()["eval_loss"]


def test_pairs_that_do_not_train_are_named(folder, tokenizer, tmp_path, capsys):
    rows = pairs().to_list()
    rows[5]["chosen"] = "w1 " * 60
    long = Dataset.from_list(rows)
    with pytest.raises(MismatchError, match=r"1 weighed pairs do not train: p5\. .*max_length"):
        weighted(folder, tokenizer, tmp_path, drawn(), long, max_length=40)
    trainer = weighted(folder, tokenizer, tmp_path, drawn(), long, max_length=40, allow_dropped=1)
    assert trainer.dropped == ["p5"]
    assert weighted(folder, tokenizer, tmp_path, drawn(), long, max_length=40, allow_dropped=True).dropped == ["p5"]
    for wrong in ("some", -1, 0.5):
        with pytest.raises(OptionError, match="allow_dropped is"):
            weighted(folder, tokenizer, tmp_path, drawn(), long, allow_dropped=wrong)
    assert "1 weighed pairs do not train" in capsys.readouterr().out
    kept = np.asarray(trainer.train_dataset["weight"])
    assert (kept * trainer.weight_scale).mean() == pytest.approx(1)
    told = r"4 weighed pairs do not train: p20, p21, p22 …\. The data set lacks 4 of them: it has 20 rows\. Or give"
    with pytest.raises(MismatchError, match=told):
        weighted(folder, tokenizer, tmp_path, drawn(), pairs().select(range(20)))
    with pytest.raises(MismatchError, match=r"lacks 4 of them: it has 20 rows\. TRL leaves out .* raise max_length"):
        weighted(folder, tokenizer, tmp_path, drawn(), long.select(range(20)), max_length=40)
    own = long.add_column("weight", [1.0] * N)
    with pytest.raises(MismatchError, match="p5"):
        weighted(folder, tokenizer, tmp_path, None, own, max_length=40)


def test_what_cannot_be_joined_is_refused(folder, tokenizer, tmp_path):
    def error(kind, match, data=None, weights=None, **more):
        with pytest.raises(kind, match=match):
            weighted(folder, tokenizer, tmp_path, weights, data, **more)

    few = {f"p{i}": 1.0 for i in range(N) if i != 3}
    error(MismatchError, "1 rows of the data set have no weight, first row 3 with pair id p3", weights=few)
    error(InputError, "no column pair_id", pairs().remove_columns("pair_id"), drawn())
    error(InputError, "no column weight, and no pair_weights")
    twice = Dataset.from_list([*pairs().to_list(), pairs()[0]])
    error(MismatchError, "holds a pair id twice", twice, drawn())
    error(InputError, "weight of pair p1 is nan", weights=drawn() | {"p1": float("nan")})
    error(InputError, "expected a finite number from 0 up", weights=drawn() | {"p1": -1.0})
    error(InputError, "All weights are 0", weights=dict.fromkeys(drawn(), 0.0))
    for wrong in (float("nan"), float("inf"), -1.0, None):
        own = pairs().add_column("weight", [1.0, 1.0, wrong, *[1.0] * (N - 3)])
        error(InputError, f"weight in row 2 is {wrong}; expected a finite number", own)
    with pytest.raises(OptionError, match="train_dataset"):
        WeightedRewardTrainer(model_of(folder), config(tmp_path), processing_class=tokenizer, pair_weights=drawn())
    with pytest.raises(OptionError, match="not an iterable one"):
        weighted(folder, tokenizer, tmp_path, drawn(), pairs().to_iterable_dataset())
    without = weighted(folder, tokenizer, tmp_path, drawn())
    without.train_dataset = without.train_dataset.remove_columns("weight")
    with pytest.raises(MismatchError, match="A batch that trains has no weights"):
        without.train()


def test_margins_and_centring_go_with_weights_of_one(folder, tokenizer, tmp_path):
    data = pairs().add_column("margin", np.linspace(0, 1, N).tolist())
    more = {"center_rewards_coefficient": 0.01}
    plain = RewardTrainer(model_of(folder), config(tmp_path, **more), train_dataset=data, processing_class=tokenizer)
    ones = weighted(folder, tokenizer, tmp_path, {f"p{i}": 1.0 for i in range(N)}, data, **more)
    assert trained(ones)[0] == trained(plain)[0]


@pytest.fixture
def chatty(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return tokenizer


def grpo(folder, tokenizer, tmp_path, data, weights, **more):
    torch.manual_seed(0)
    how = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4, "max_steps": 12}
    how |= {"report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}
    how |= {"learning_rate": 1e-3, "gradient_checkpointing": False, "logging_steps": 1}
    asked = []

    def reward(prompts, completions, **_):
        asked.extend(prompts)
        return [float(len(str(c))) for c in completions]

    trainer = DensityGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=reward,
        args=GRPOConfig(str(tmp_path), **how | more),
        train_dataset=data,
        processing_class=tokenizer,
        opening_weights=weights,
    )
    return trainer, asked


def prompts(n: int = 12) -> Dataset:
    return Dataset.from_list([{"prompt": f"w{i} w{i + 20}", "opening_id": f"o{i}"} for i in range(n)])


def test_grpo_asks_what_the_draw_says(folder, chatty, tmp_path):
    weights = {f"o{i}": float(w) for i, w in enumerate([8.0, 4.0, *[0.5] * 10])}
    trainer, asked = grpo(folder, chatty, tmp_path, prompts(), weights)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    wanted = trainer.order.rows(12, 0).tolist()
    assert [p for i, p in enumerate(asked) if i % 4 == 0] == [f"w{i} w{i + 20}" for i in wanted]
    for start in range(0, len(asked), 4):
        assert len(set(asked[start : start + 4])) == 1
    counts = Counter(wanted)
    assert counts[0] in (5, 6)  # 12 · 8 / 17 = 5.6
    assert counts[1] in (2, 3)


def test_grpo_in_reused_batches(folder, chatty, tmp_path):
    trainer, asked = grpo(
        folder,
        chatty,
        tmp_path,
        prompts(),
        {f"o{i}": 1.0 for i in range(12)},
        num_iterations=2,
        steps_per_generation=2,
        max_steps=4,
    )
    trainer.train()
    assert len(asked) == 8  # two prompts of four generations, used in four steps
    assert len(set(asked[:4])) == len(set(asked[4:])) == 1


def test_grpo_knows_openings_by_their_prompts(folder, chatty, tmp_path):
    from kat import opening_id

    data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"w{i}"}]} for i in range(8)])
    weights = {opening_id(f"w{i}"): 1.0 + i for i in range(8)}
    trainer, _ = grpo(folder, chatty, tmp_path, data, weights)
    assert sorted(trainer.order.names) == sorted(weights)
    with pytest.raises(MismatchError, match="1 openings"):
        grpo(folder, chatty, tmp_path, data, dict(list(weights.items())[1:]))


def test_grpo_takes_its_seed_from_arguments_in_any_place(folder, chatty, tmp_path):
    weights = {f"o{i}": 1.0 + i for i in range(12)}
    how = {"num_generations": 4, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": []}

    def order(seed, *place, **named):
        args = GRPOConfig(str(tmp_path), seed=seed, **how)
        place, named = ((*place, args), named) if place else (place, named | {"args": args})
        return DensityGRPOTrainer(
            *place, **named, train_dataset=prompts(), processing_class=chatty, opening_weights=weights
        ).order

    def reward(completions, **_):
        return [0.0 for _ in completions]

    model = AutoModelForCausalLM.from_pretrained(folder)
    for seed in (7, 8):
        expected = OpeningOrder([f"o{i}" for i in range(12)], weights, seed).rows(12)
        np.testing.assert_array_equal(order(seed, model, reward).rows(12), expected)
        np.testing.assert_array_equal(order(seed, model=model, reward_funcs=reward).rows(12), expected)


def test_grpo_draws_from_the_rows_that_train(folder, chatty, tmp_path):
    """A data set that was filtered and reordered after the trainer was made is joined anew."""
    weights = {f"o{i}": 1.0 + i**2 for i in range(12)}
    trainer, _ = grpo(folder, chatty, tmp_path, prompts(), weights)
    trainer.train_dataset = prompts().select([11, 3, 7, 0, 9])
    counts = Counter(trainer.train_dataset[row]["opening_id"] for row in list(trainer._get_train_sampler())[::4])
    total = sum(weights[f"o{i}"] for i in (11, 3, 7, 0, 9))
    for i in (11, 3, 7, 0, 9):
        expected = 5 * weights[f"o{i}"] / total
        assert np.floor(expected - 1e-9) <= counts[f"o{i}"] <= np.ceil(expected + 1e-9)
    with pytest.raises(MismatchError, match="draws from 4 rows, and the training data set has 5"):
        trainer._get_train_sampler(prompts(4))


def test_grpo_goes_on_where_it_was(folder, chatty, tmp_path):
    """Stopped in the middle of its second pass, it asks what it would have asked."""
    weights = {f"o{i}": 1.0 + i for i in range(12)}
    more = {"save_strategy": "steps", "save_steps": 15, "max_steps": 30}
    trainer, whole = grpo(folder, chatty, tmp_path, prompts(), weights, **more)
    trainer.train()
    passes = [row for number in range(3) for row in trainer.order.rows(12, number).tolist()]
    assert whole[::4] == [f"w{i} w{i + 20}" for i in passes[:30]]
    again, rest = grpo(folder, chatty, tmp_path, prompts(), weights, **more)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-15"))
    assert rest == whole[60:]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("WeightedRewardTrainer", "_trl_reward"),
        ("WeightedDPOTrainer", "_trl_dpo"),
        ("DensityGRPOTrainer", "_trl_grpo"),
    ],
)
def test_without_trl_the_error_says_what_to_type(monkeypatch, name, module):
    import kat.integrations.trl
    from kat.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, f"kat.integrations.{module}")
    with pytest.raises(MissingExtraError, match=r"TRL cannot be loaded .* pip install 'trl>=1'"):
        getattr(kat.integrations.trl, name)


def test_the_module_loads_neither_trl_nor_torch(python):
    ran = python("-c", "import sys, kat.integrations.trl; print(sorted({'trl', 'torch'} & set(sys.modules)))")
    assert (ran.rc, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_classes_can_be_named_and_pickled():
    import pickle

    assert pickle.loads(pickle.dumps(WeightedRewardTrainer)) is WeightedRewardTrainer
    import kat.integrations.trl as module

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing
