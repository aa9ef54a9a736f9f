"""TRL's DPO trainer with weights, against the plain one, pair by pair, and against the formula."""

import numpy as np
import pytest
import torch
from making import tiny

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

from datasets import Dataset, disable_progress_bars
from making_trl import N, dpo_config, drawn, pairs, policy_of, reference_of, tokenizer_of, trained, weighted_dpo
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

from kat.errors import InputError, MismatchError, OptionError
from kat.integrations._trl_dpo import LOSSES_OF_PAIRS, WeighedMeans
from kat.integrations.trl import WeightedDPOTrainer

disable_progress_bars()

# Beside the loss types alone: what else of the config changes the loss.
VARIANTS = [
    *({"loss_type": loss} for loss in LOSSES_OF_PAIRS),
    {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.3]},
    {"use_weighting": True},
    {"ld_alpha": 0.5},
    {"f_divergence_type": "js_divergence"},
]


def name_of(variant) -> str:
    return "-".join(f"{key}={value}" for key, value in variant.items())


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return policy_of(tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1), tmp_path_factory.mktemp("policy"))


@pytest.fixture
def tokenizer(policy):
    return tokenizer_of(policy)


def plain_dpo(policy, tokenizer, tmp_path, dataset, **more):
    evaluated = {"eval_dataset": more.pop("eval_dataset")} if "eval_dataset" in more else {}
    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(policy),
        reference_of(policy),
        dpo_config(tmp_path, **more),
        train_dataset=dataset,
        processing_class=tokenizer,
        **evaluated,
    )


def first_batch(trainer):
    trainer.model.train()
    return next(iter(trainer.get_train_dataloader()))


def gradient(trainer, loss):
    return dict(
        zip(
            dict(trainer.model.named_parameters()),
            torch.autograd.grad(loss, list(trainer.model.parameters())),
            strict=True,
        )
    )


@pytest.mark.parametrize("ahead", [False, True], ids=["beside", "ahead"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_weights_of_one_are_the_plain_trainer(policy, tokenizer, tmp_path, variant, ahead):
    """Two steps of two batches each; the second ends with a batch that is not full."""
    data, more = pairs(n=13), {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    more |= {"num_train_epochs": 1, "precompute_ref_log_probs": ahead} | variant
    ones = weighted_dpo(policy, tokenizer, tmp_path, {f"p{i}": 1.0 for i in range(13)}, data, **more)
    before = {name: p.detach().clone() for name, p in ones.model.named_parameters()}
    (one, after), (other, theirs) = trained(ones), trained(plain_dpo(policy, tokenizer, tmp_path, data, **more))
    assert len(one) == 2
    assert np.isfinite(one).all()
    assert one == other
    for name in after:
        assert torch.equal(after[name], theirs[name]), name
    assert any(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_the_loss_is_the_weighed_sum_of_the_losses_of_pairs(policy, tokenizer, tmp_path, variant):
    """The plain trainer, asked for one pair at a time, says what each one's loss and gradient are."""
    trainer = weighted_dpo(policy, tokenizer, tmp_path, drawn(), **variant)
    plain = plain_dpo(policy, tokenizer, tmp_path, pairs(), **variant)
    plain.model.train()
    batch = first_batch(trainer)
    weight = batch["weight"].tolist()
    assert np.std(weight) > 0.3
    loss = trainer.compute_loss(trainer.model, dict(batch))
    parts = [
        plain.compute_loss(plain.model, {key: batch[key][[i, i + 8]] for key in batch if key != "weight"})
        for i in range(8)
    ]
    expected = sum(v * part for v, part in zip(weight, parts, strict=True)) / 8
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = gradient(plain, expected)
    for name, value in gradient(trainer, loss).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_the_loss_of_sigmoid_is_its_formula(policy, tokenizer, tmp_path):
    trainer = weighted_dpo(policy, tokenizer, tmp_path, drawn())
    batch = first_batch(trainer)
    model, reference = AutoModelForCausalLM.from_pretrained(policy).double(), reference_of(policy).double()

    def log_probability(model, ids, completion):
        logits = model(torch.tensor([ids])).logits[0]
        return sum(logits[i - 1].log_softmax(-1)[ids[i]] for i in range(len(ids)) if completion[i])

    total = 0.0
    for i in range(8):
        ratios = []
        for row in (i, i + 8):
            length = int(batch["attention_mask"][row].sum())
            ids, completion = batch["input_ids"][row, :length].tolist(), batch["completion_mask"][row].tolist()
            ratios.append(log_probability(model, ids, completion) - log_probability(reference, ids, completion).item())
        margin = 0.5 * (ratios[0] - ratios[1])
        total += batch["weight"][i].item() * torch.log1p(torch.exp(-margin)) / 8
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    total.backward()
    theirs = dict(model.named_parameters())
    for name, value in gradient(trainer, loss).items():
        torch.testing.assert_close(value.double(), theirs[name].grad, rtol=1e-4, atol=1e-6)
    metrics = trainer._metrics["train"]
    assert metrics["mean_weight"] == [pytest.approx(batch["weight"].mean().item())]
    plain = plain_dpo(policy, tokenizer, tmp_path, pairs())
    plain.model.train()
    plain.compute_loss(plain.model, {key: batch[key] for key in batch if key != "weight"})
    assert {name: value for name, value in metrics.items() if name != "mean_weight"} == plain._metrics["train"]


def test_a_step_of_small_batches_is_that_of_a_large_one(policy, tokenizer, tmp_path):
    (_, whole), (_, parts) = (
        trained(
            weighted_dpo(
                policy,
                tokenizer,
                tmp_path,
                drawn(),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=8 // size,
                max_steps=1,
            )
        )
        for size in (8, 2)
    )
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6)


def test_scaling_all_weights_changes_nothing(policy, tokenizer, tmp_path):
    weights = drawn()
    (one, after), (other, theirs) = (
        trained(weighted_dpo(policy, tokenizer, tmp_path, {k: s * v for k, v in weights.items()})) for s in (1.0, 250.0)
    )
    assert one == pytest.approx(other, rel=1e-5)
    for name in after:
        torch.testing.assert_close(after[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ahead", [False, True], ids=["beside", "ahead"])
def test_weights_follow_their_pairs_when_rows_are_shuffled_and_dropped(policy, tokenizer, tmp_path, ahead, capsys):
    rows = pairs().to_list()
    for i in (0, 5, 11):
        rows[i]["prompt"] = "w1 " * 40
    weights, order = drawn(), np.random.default_rng(3).permutation(N)
    data, more = Dataset.from_list([rows[i] for i in order]), {"max_length": 40, "precompute_ref_log_probs": ahead}
    with pytest.raises(MismatchError, match=r"3 weighed pairs do not train: p0, p5, p11\. .*prompt alone fills"):
        weighted_dpo(policy, tokenizer, tmp_path, weights, data, **more)
    own = data.add_column("weight", [weights[one] for one in data["pair_id"]])
    for given, dataset in ((weights, data), (None, own)):
        trainer = weighted_dpo(policy, tokenizer, tmp_path, given, dataset, allow_dropped=3, **more)
        assert sorted(trainer.dropped) == ["p0", "p11", "p5"]
        assert "3 weighed pairs do not train" in capsys.readouterr().out
        assert len(trainer.train_dataset) == N - 3
        texts = {tuple(tokenizer(row["prompt"] + row["chosen"])["input_ids"]): row["pair_id"] for row in rows}
        seen = []
        for batch in trainer.get_train_dataloader():
            chosen = batch["input_ids"][: len(batch["weight"])]
            for ids, weight in zip(chosen, batch["weight"], strict=True):
                one = next(one for text, one in texts.items() if tuple(ids[: len(text)].tolist()) == text)
                assert weight.item() == np.float32(weights[one])
                seen.append(one)
        assert sorted(seen) == sorted(set(weights) - {"p0", "p5", "p11"})
        kept = np.asarray(trainer.train_dataset["weight"])
        assert (kept * trainer.weight_scale).mean() == pytest.approx(1)


@pytest.mark.parametrize("ahead", [False, True], ids=["beside", "ahead"])
def test_evaluation_is_unweighted(policy, tokenizer, tmp_path, ahead):
    held = pairs(seed=9, n=8)
    trainer = weighted_dpo(policy, tokenizer, tmp_path, drawn(), precompute_ref_log_probs=ahead)
    plain = plain_dpo(policy, tokenizer, tmp_path, pairs(), eval_dataset=held, precompute_ref_log_probs=ahead)
    evaluated = trainer.evaluate(held.add_column("weight", [5.0 + i for i in range(8)]))
    assert evaluated["eval_loss"] == plain.evaluate()["eval_loss"]
    assert evaluated["eval_loss"] != pytest.approx(np.log(2), rel=1e-3)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "sft", "new", ["sigmoid", "bco_pair", "sft"]], ids=str)
def test_losses_that_are_no_sum_over_pairs_are_refused(tmp_path, loss):
    """Before a model is loaded, wherever the config stands."""
    name = loss if isinstance(loss, str) else "sft"
    config = dpo_config(tmp_path, loss)
    data = pairs()
    for place, named in ((("nowhere", None, config), {}), (("nowhere",), {"args": config})):
        with pytest.raises(OptionError, match=f"loss_type {name} cannot be weighed by pair.*Expected any of sigmoid"):
            WeightedDPOTrainer(*place, train_dataset=data, pair_weights=drawn(), **named)


def test_what_cannot_be_joined_is_refused(policy, tokenizer, tmp_path):
    def error(kind, match, data=None, weights=None, **more):
        with pytest.raises(kind, match=match):
            weighted_dpo(policy, tokenizer, tmp_path, weights, data, **more)

    few = {f"p{i}": 1.0 for i in range(N) if i != 3}
    error(MismatchError, "1 rows of the data set have no weight, first row 3 with pair id p3", weights=few)
    error(InputError, "no column weight, and no pair_weights")
    error(InputError, "weight of pair p1 is nan", weights=drawn() | {"p1": float("nan")})
    error(OptionError, "WeightedDPOTrainer reads a datasets.Dataset", pairs().to_iterable_dataset(), drawn())
    with pytest.raises(OptionError, match="WeightedDPOTrainer needs train_dataset=, by name"):
        WeightedDPOTrainer("nowhere", pair_weights=drawn())


def test_nothing_trains_without_its_weights(policy, tokenizer, tmp_path, monkeypatch):
    without = weighted_dpo(policy, tokenizer, tmp_path, drawn())
    without.train_dataset = without.train_dataset.remove_columns("weight")
    with pytest.raises(MismatchError, match="A batch that trains has no weights"):
        without.train()
    other = weighted_dpo(policy, tokenizer, tmp_path, drawn())
    monkeypatch.setattr(torch.nn.functional, "logsigmoid", lambda x: torch.log(torch.sigmoid(x))[None])
    with pytest.raises(MismatchError, match="TRL's loss is not the sum of 1 means over pairs"):
        other.train()  # its losses are [1, B], and the first mean of [B] is a metric's
    monkeypatch.undo()
    monkeypatch.setattr(DPOTrainer, "_compute_loss_liger", None, raising=False)
    config = dpo_config(tmp_path)
    config.use_liger_kernel = True
    with pytest.raises(OptionError, match="use_liger_kernel=True: this version of TRL"):
        WeightedDPOTrainer("nowhere", args=config, train_dataset=pairs(), pair_weights=drawn())


def test_a_loss_that_is_made_otherwise_is_noticed():
    v, x = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 2.0, 4.0], requires_grad=True)

    def weighed(loss_of, *factors):
        with WeighedMeans(v, factors) as means:
            loss = loss_of()
        means.check(loss)
        return loss.item()

    assert weighed(lambda: x.mean(), 1.0) == 2
    assert weighed(lambda: x.mean() * 0.5 + (x**2).mean() * 3 + x.sum(), 0.5, 3.0) == 1 + 18 + 7
    assert weighed(lambda: x.mean() + x.detach().mean() + x.mean(0), 1.0) == pytest.approx(2 + 14 / 3)
    for loss_of, factors in (
        (lambda: x.sum() / 3, [1.0]),
        (lambda: x.sum() / 3 + 0 * x.mean(), [1.0]),  # a mean before the loss, or after it
        (lambda: (x * x.mean()).sum(), [1.0]),
        (lambda: x.mean(), [1.0, 1.0]),
        (lambda: x.mean() + (x**2).mean(), [1.0, 0.5]),
    ):
        with pytest.raises(MismatchError, match="TRL's loss is not the sum of"):
            weighed(loss_of, *factors)


@pytest.mark.parametrize(
    "option",
    [
        {"padding_free": True},
        {"gradient_checkpointing": True},
        {"remove_unused_columns": False},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=name_of,
)
def test_options_leave_the_weights_in_the_loss(policy, tokenizer, tmp_path, option):
    (one, after), (other, theirs) = (
        trained(weighted_dpo(policy, tokenizer, tmp_path, drawn(), max_steps=2, **more)) for more in ({}, option)
    )
    assert one == pytest.approx(other, rel=1e-5)
    for name in after:
        torch.testing.assert_close(theirs[name.removeprefix("_orig_mod.")], after[name], rtol=1e-5, atol=1e-6)


def test_an_adapter_trains_with_weights(policy, tokenizer, tmp_path):
    """Its reference is the model without the adapter."""
    peft = pytest.importorskip("peft")

    def trainer(kind, **more):
        return kind(
            AutoModelForCausalLM.from_pretrained(policy),
            args=dpo_config(tmp_path, max_steps=2),
            train_dataset=pairs(),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
            **more,
        )

    ones = trained(trainer(WeightedDPOTrainer, pair_weights={f"p{i}": 1.0 for i in range(N)}))
    plain, drawn_losses = trained(trainer(DPOTrainer)), trained(trainer(WeightedDPOTrainer, pair_weights=drawn()))[0]
    assert ones[0] == plain[0]
    assert all(torch.equal(ones[1][name], plain[1][name]) for name in plain[1])
    assert drawn_losses != plain[0]


def test_pairs_that_trl_cuts_are_told(policy, tokenizer, tmp_path, capsys):
    rows = pairs().to_list()
    rows[4]["rejected"] = "w1 " * 60
    data = Dataset.from_list(rows)
    longest = {name: len(tokenizer(rows[4]["prompt"] + rows[4][name])["input_ids"]) for name in ("chosen", "rejected")}
    for most, cut in ((longest["rejected"] + 9, 0), (longest["rejected"] - 9, 1), (None, 0)):
        weighted_dpo(policy, tokenizer, tmp_path, drawn(), data, max_length=most)
        assert (
            f"cuts tokens off 1 of {N} pairs" in " ".join(capsys.readouterr().err.split()).replace(",", "")
        ) == bool(cut)
