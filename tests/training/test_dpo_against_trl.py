"""DPO step by step against TRL's own trainer: tokens, the reference's log-probabilities, losses, parameters.

TRL gets kat's pairs in kat's order, a step after the other, in batches of its own, and tokenises them itself. The
reference is another model than the policy, so that the first step's loss tells something too.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from making_training import letters_tokenizer, pair_of, tiny_chat_model, tiny_gpt2

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

from datasets import Dataset, disable_progress_bars
from making_trl import dpo_config, reference_of, trained
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer

from kat.integrations.trl import WeightedDPOTrainer
from kat.training import train_dpo
from kat.training.loop import Trainer
from kat.training.train import tokens_of
from kat.training_config import DpoOptions

pytestmark = pytest.mark.usefixtures("one_thread")
disable_progress_bars()

# Nothing behind the end of a turn: kat's completions end there, TRL's with the template.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BATCH, BETA = 4, 0.3
SIZES = (4, 1, 2, 1, 2, 1, 1)
"""Pairs of each prompt: in whatever order they come, they fill three steps of four."""

# kat's options, and TRL's that mean the same. TRL's "sigmoid" takes no label smoothing; its "aot" is the same loss
# with it where a batch is one pair, for there is nothing then that could be sorted. Its "ipo" and "sigmoid_norm" divide
# log-ratios by the completion's tokens (TRL 1.16), which is kat's `per_token`.
LOSSES = {
    "sigmoid": ({}, {}),
    "hinge": ({"loss": "hinge"}, {"loss_type": "hinge"}),
    "ipo": ({"loss": "ipo", "per_token": True}, {"loss_type": "ipo"}),
    "per token": ({"per_token": True}, {"loss_type": "sigmoid_norm"}),
    "smoothed": (
        {"label_smoothing": 0.2},
        {"loss_type": "aot", "label_smoothing": 0.2, "per_device_train_batch_size": 1},
    ),
}


@dataclass
class Run:
    """What a training was like: reference log-probabilities [2, P] of chosen and rejected, a loss a step, and all
    parameters after it."""

    reference: np.ndarray
    losses: list[float]
    parameters: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["Llama", "GPT2"])
def models(request, tmp_path_factory):
    """The folders of a policy and of a reference that is another model."""
    folder, other = (tmp_path_factory.mktemp(name) for name in ("policy", "reference"))
    if request.param == "Llama":
        tiny_chat_model(folder, TEMPLATE, causal=True)
    else:
        tiny_gpt2(folder)
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
        letters_tokenizer(TEMPLATE).save_pretrained(folder)
    reference_of(str(folder)).save_pretrained(other)
    letters_tokenizer(TEMPLATE).save_pretrained(other)
    return str(folder), str(other)


def ranked_pairs():
    """Pairs of seven prompts; a completion stands in several, here preferred and there not."""
    texts = ["good", "bad", "yes, seven minutes", "no", "peel it", "boil an egg and then peel it"]
    draw, listed = np.random.default_rng(0), []
    for number, size in enumerate(SIZES):
        compared = list(combinations(draw.permutation(len(texts))[:4].tolist(), 2))
        for chosen, rejected in (compared[i] for i in draw.permutation(len(compared))[:size]):
            name = f"p{len(listed)}"
            question = f"How do I {number * 'and then '}boil {number} eggs?"
            listed.append(pair_of(texts[chosen], texts[rejected], question, pair_id=name, row=len(listed) + 1))
    return listed


def tokens_by_kat(models, options):
    policy = train_dpo.load_dpo_policy(replace(options, policy=models[0]), "cpu")
    assert policy.unshared is None
    return policy, tokens_of(policy, ranked_pairs(), options)


def planned(policy, data, options):
    """The pairs of every step that kat takes."""
    groups = [{"params": list(policy.model.parameters()), "lr": 0.0}]
    steps = Trainer(None, groups, data, np.ones(len(data)), options).plan.steps()
    assert [len(pairs) for pairs in steps] == [BATCH] * 3
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(data)))
    return steps


def by_kat(models, options, weights=None):
    """kat's training, and the numbers of its pairs in the order that they train in."""
    policy, data = tokens_by_kat(models, options)
    order = np.concatenate(planned(policy, data, options))
    other = train_dpo.load_dpo_policy(replace(options, policy=models[1]), "cpu")
    reference = train_dpo.reference_of(other, data, options)
    log = []
    v = np.ones(len(data), np.float32) if weights is None else weights
    train_dpo.fit_dpo(policy, data, v, options, reference=reference, on_step=log.append)
    parameters = {name: p.detach() for name, p in policy.model.named_parameters()}
    losses = [numbers["weighted_loss"] for numbers in log]
    return Run(np.stack(reference)[:, order], losses, parameters), order


def rows_of(pairs):
    """Pairs as TRL's rows."""
    rows = [
        {"prompt": pair.context, "chosen": pair.chosen_messages, "rejected": pair.rejected_messages, "pair_id": pair.id}
        for pair in pairs
    ]
    return Dataset.from_list(rows)


def trl_trainer(models, rows, tmp_path, options, *, kind=DPOTrainer, given=None, **more):
    told = {
        "beta": options.beta,
        "learning_rate": options.learning_rate,
        "max_grad_norm": options.grad_clip,
        "lr_scheduler_type": options.schedule,
        "optim": "adamw_torch",
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "precompute_ref_log_probs": True,
    } | more
    told["gradient_accumulation_steps"] = BATCH // told["per_device_train_batch_size"]
    return kind(
        AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32),
        AutoModelForCausalLM.from_pretrained(models[1], dtype=torch.float32),
        dpo_config(tmp_path, **told),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(models[0]),
        **(given or {}),
    )


def by_trl(models, rows, tmp_path, options, **more):
    trainer = trl_trainer(models, rows, tmp_path, options, **more)
    reference = np.stack([trainer.train_dataset[f"ref_{side}_logps"] for side in ("chosen", "rejected")])
    losses, parameters = trained(trainer)
    return Run(reference, losses, parameters)


def options_of(**more):
    told = {"batch_size": BATCH, "beta": BETA, "learning_rate": 1e-3, "precision": "float32", "warmup": 0.0}
    return DpoOptions(**told | more)


def assert_alike(ours, theirs):
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5, abs=1e-5)
    assert set(ours.parameters) == set(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        apart = (ours.parameters[name] - parameter).abs()
        if name.endswith("c_attn.bias"):
            # A bias of all keys moves no attention: its gradient is rounding alone, of which AdamW makes whole steps.
            apart = apart.view(3, -1)[[0, 2]]
        assert float(apart.max()) <= 1e-4, name


def test_the_tokens_are_the_same(models, tmp_path):
    """Every prompt's, and every completion's with the end of its turn."""
    _, data = tokens_by_kat(models, options_of())
    rows = trl_trainer(models, rows_of(ranked_pairs()), tmp_path, options_of()).train_dataset
    assert max(len(prompt.branches) for prompt in data.prompts) > 2
    assert len(rows) == len(data) == sum(SIZES)
    for i, row in enumerate(rows):
        prompt = data.prompts[data.prompt[i]]
        assert row["prompt_ids"] == prompt.trunk.tolist()
        assert row["chosen_ids"] == prompt.branches[data.chosen[i]].tolist()
        assert row["rejected_ids"] == prompt.branches[data.rejected[i]].tolist()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_parameters_of_three_steps_are_those_of_trl(models, tmp_path, loss):
    own, of_trl = LOSSES[loss]
    options = options_of(schedule="constant", grad_clip=0.0, **own)
    ours, order = by_kat(models, options)
    pairs = ranked_pairs()
    theirs = by_trl(models, rows_of([pairs[i] for i in order]), tmp_path, options, **of_trl)
    _, data = tokens_by_kat(models, options)
    if options.per_token:  # TRL keeps sums
        lengths = [
            [len(data.prompts[data.prompt[i]].branches[side[i]]) for i in order]
            for side in (data.chosen, data.rejected)
        ]
        np.testing.assert_allclose(ours.reference * lengths, theirs.reference, rtol=0, atol=1e-4)
    else:
        np.testing.assert_allclose(ours.reference, theirs.reference, rtol=0, atol=1e-4)
    assert len(theirs.losses) == 3
    assert_alike(ours, theirs)
    before = AutoModelForCausalLM.from_pretrained(models[0]).state_dict()
    moved = [float((parameter - before[name]).abs().max()) for name, parameter in theirs.parameters.items()]
    assert min(moved) > 1e-3  # ten times what is taken for equal


def test_schedule_and_clipping_are_those_of_trl(models, tmp_path):
    """And the reference may be read beside the training."""
    options = options_of(schedule="linear", grad_clip=0.5)
    ours, order = by_kat(models, options)
    pairs = ranked_pairs()
    trainer = trl_trainer(models, rows_of([pairs[i] for i in order]), tmp_path, options, precompute_ref_log_probs=False)
    losses, parameters = trained(trainer)
    assert all(entry["grad_norm"] > 0.5 for entry in trainer.state.log_history if "grad_norm" in entry)
    assert_alike(ours, Run(ours.reference, losses, parameters))


def test_weights_are_those_of_the_weighted_trainer(models, tmp_path):
    options = options_of(schedule="constant", grad_clip=0.0)
    v = np.exp(np.random.default_rng(1).normal(size=sum(SIZES)))
    v = (v / v.mean()).astype(np.float32)
    ours, order = by_kat(models, options, v)
    pairs = ranked_pairs()
    given = {"pair_weights": {pair.id: float(w) for pair, w in zip(pairs, v, strict=True)}}
    theirs = by_trl(models, rows_of([pairs[i] for i in order]), tmp_path, options, kind=WeightedDPOTrainer, given=given)
    assert_alike(ours, theirs)
    plain, _ = by_kat(models, options)
    assert plain.losses != pytest.approx(ours.losses, rel=1e-3)


@pytest.mark.parametrize("change", ["beta", "a pair swapped", "pairs of other steps", "no reference"])
def test_the_comparison_notices(models, tmp_path, change):
    options = options_of(schedule="constant", grad_clip=0.0)
    ours, order = by_kat(models, options)
    rows = rows_of([ranked_pairs()[i] for i in order]).to_list()
    asked = replace(options, beta=1.05 * BETA) if change == "beta" else options
    if change == "a pair swapped":
        rows[2]["chosen"], rows[2]["rejected"] = rows[2]["rejected"], rows[2]["chosen"]
    if change == "pairs of other steps":
        rows[0], rows[-1] = rows[-1], rows[0]
    both = (models[0], models[0]) if change == "no reference" else models
    theirs = by_trl(both, Dataset.from_list(rows), tmp_path, asked)
    assert np.abs(np.subtract(ours.losses, theirs.losses)).max() > 1e-3
    with pytest.raises(AssertionError):
        assert_alike(ours, theirs)
