"""The loop against torch's own clipping, closed forms of the schedule, plain loops over separate sequences, and TRL."""

import math
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from making_training import plain_model, plain_rewards, random_tokens, reward_model, tiny_chat_model

from kat.errors import InputError
from kat.reports.console.train_rm import training_lines
from kat.training.features import branch_features
from kat.training.loop import NotFiniteError, Trainer
from kat.training.reward import choose_trainable
from kat.training.rewarders import KeptFeatures, WholeModel, branches_of
from kat.training.train import fit, normalised, score_tokens
from kat.training_config import RewardOptions


class Linear:
    """Rewards x · w of given features, the pairs of a step in parts of three."""

    def __init__(self, chosen, rejected, w):
        self.chosen, self.rejected, self.w = chosen, rejected, w

    def parts(self, pairs):
        for start in range(0, len(pairs), 3):
            some = pairs[start : start + 3]
            yield some, partial(self.rewards, some)

    def rewards(self, some):
        return self.chosen[some] @ self.w, self.rejected[some] @ self.w


def linear(sizes=(1, 2, 3, 1, 4, 2, 5), weights=None, scale=1.0, **options):
    """A trainer of five numbers, on random features."""
    data = random_tokens(0, list(sizes), margins=True)
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = (scale * torch.randn(len(data), 5, generator=draw) for _ in range(2))
    w = torch.zeros(5, requires_grad=True)
    given = RewardOptions(**{"batch_size": 6, "learning_rate": 0.1} | options)
    v = np.ones(len(data)) if weights is None else weights(len(data))
    return Trainer(Linear(chosen, rejected, w), [{"params": [w], "lr": given.learning_rate}], data, v, given), w


def uneven(n):
    v = np.exp(np.random.default_rng(3).normal(size=n))
    return v / v.mean()


def expected_share(step, total, warm, kind):
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / (total - warm)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_the_rates_follow_the_schedule(kind, warmup):
    trainer, _ = linear(schedule=kind, warmup=warmup, epochs=5)
    rates = [n["learning_rate"] for n in trainer.run()]
    total = len(rates)
    wanted = [0.1 * expected_share(s, total, round(warmup * total), kind) for s in range(total)]
    assert rates == pytest.approx(wanted)
    assert total == trainer.total == sum(len(trainer.plan.of_pass(epoch)) for epoch in range(5))


@pytest.mark.parametrize("clip", [0.05, 1.0, 0.0])
def test_clipping_is_torchs_own(clip):
    trainer, w = linear(weights=uneven, scale=5.0, grad_clip=clip)
    other, w2 = linear(weights=uneven, scale=5.0, grad_clip=0.0)
    pairs = trainer.plan.of_pass(0)[0]
    numbers = trainer.step(pairs, 6)
    other.step(pairs, 6)
    norm = float(torch.nn.utils.clip_grad_norm_([w2], clip)) if clip else float(w2.grad.norm())
    assert numbers["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    torch.testing.assert_close(w.grad, w2.grad)
    assert numbers["clipped_to"] == pytest.approx(min(1.0, clip / (norm + 1e-6)) if clip else 1.0)


def test_the_weight_that_clipping_takes_is_counted_by_decile():
    trainer, _ = linear(weights=uneven, scale=3.0, grad_clip=0.5, epochs=3)
    v = trainer.weights.astype(float)
    decile = np.asarray(
        [sum(x > q for q in np.quantile(trainer.weights, np.arange(1, 10) / 10)) for x in trainer.weights]
    )
    weight, lost, clipped = np.zeros(10), np.zeros(10), 0
    for epoch in range(3):
        for pairs in trainer.plan.of_pass(epoch):
            factor = trainer.step(pairs, 6)["clipped_to"]
            clipped += factor < 1
            for pair in pairs:
                weight[decile[pair]] += v[pair]
                lost[decile[pair]] += v[pair] * (1 - factor)
    facts = trainer.facts()
    assert facts["weight_lost_to_clipping_by_weight_decile"] == pytest.approx((lost / weight).tolist(), abs=1e-6)
    assert 0 < clipped <= facts["steps"]
    assert facts["clipped_steps"] == pytest.approx(clipped / facts["steps"])
    assert (facts["pairs_trained"], facts["pairs_never_seen"]) == (3 * len(v), 0)


@pytest.mark.parametrize("heaviest", [1, 3], ids=["all equal", "half at the cap"])
def test_a_tenth_of_the_weights_without_a_pair_has_lost_nothing_that_could_be_said(heaviest):
    trainer, _ = linear(weights=lambda n: np.where(np.arange(n) % 2, 1.0, heaviest), scale=3.0, grad_clip=0.01)
    numbers = list(trainer.run())
    shares = trainer.facts()["weight_lost_to_clipping_by_weight_decile"]
    values = np.unique(trainer.weights)
    assert sum(share is not None for share in shares) == len(values)
    assert all(0 < share < 1 for share in shares if share is not None)
    training = trainer.facts() | {"seconds": 0, "tokens": {"separate": 0}}
    report = {"train_pairs": 18, "validation_pairs": 0, "ess_pairs": 18, "weights": "uniform", "dropped_by_bin": {}}
    report |= {"prompts_cut": 0, "prompts_whose_tools_are_not_written": 0, "training": training}
    (line,) = [line for line in training_lines(report) if "clipped" in line]
    assert len(numbers) == trainer.total
    assert " 0%" not in line
    assert ("lightest" in line) == (len(values) > 1)


def test_a_step_divides_by_the_batch_size_and_the_short_last_one_by_its_own_count():
    trainer, w = linear(weights=uneven, grad_clip=0.0, sizes=[1, 5, 1, 5, 1, 2, 1], learning_rate=0.0)
    taken = []
    for numbers, pairs in zip(trainer.run(), trainer.plan.of_pass(0), strict=True):
        taken.append(numbers["pairs"])
        count = len(pairs) if len(taken) == trainer.total else 6
        margins, v = torch.from_numpy(trainer.data.margins[pairs]), torch.from_numpy(trainer.weights[pairs])
        difference = trainer.rewarder.chosen[pairs] - trainer.rewarder.rejected[pairs]
        by_hand = -(v * torch.sigmoid(margins)) @ difference / count  # w stays 0, and with it all rewards
        torch.testing.assert_close(w.grad, by_hand)
    assert sum(taken) == 16
    assert taken[-1] == min(taken) < 6


def test_passes_differ_in_order_and_seeds_too():
    trainer, _ = linear(epochs=2)
    first, second = ([p.tolist() for p in trainer.plan.of_pass(e)] for e in (0, 1))
    other, _ = linear(epochs=2, seed=1)
    assert first != second
    assert first != [p.tolist() for p in other.plan.of_pass(0)]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(18))


@pytest.mark.parametrize(("epochs", "limit"), [(1, None), (2, 1), (2, 5), (3, 8), (2, None)])
def test_trunks_are_repeated_within_the_passes_that_are_taken(epochs, limit):
    sizes = [6, 6, 6]
    trainer, _ = linear(sizes, batch_size=4, epochs=epochs, max_steps=limit)
    log, repeated = list(trainer.run()), 0
    assert len(log) == trainer.total == min(limit or 99, epochs * len(trainer.plan.of_pass(0)))
    steps = trainer.plan.steps()
    for epoch in range(epochs):
        stood = [
            p
            for one, pairs in zip(log, steps, strict=True)
            if one["epoch"] == epoch
            for p in set(trainer.data.prompt[pairs].tolist())
        ]
        repeated += len(stood) - len(set(stood))
    assert trainer.facts()["repeated_trunks"] == repeated
    assert (repeated == 0) == (limit == 1)


def test_max_steps_ends_training_and_counts_who_was_never_seen():
    trainer, _ = linear(max_steps=2)
    list(trainer.run())
    assert trainer.facts()["steps"] == 2
    assert trainer.facts()["pairs_never_seen"] == 18 - sum(len(p) for p in trainer.plan.of_pass(0)[:2])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_names_the_pairs_and_changes_nothing(bad):
    trainer, w = linear()
    steps = trainer.run()
    next(steps)
    before, state = w.detach().clone(), {k: v.clone() for k, v in trainer.optimizer.state[w].items()}
    pairs = trainer.plan.of_pass(0)[1]
    trainer.rewarder.chosen[pairs[0]] = bad
    with pytest.raises(
        NotFiniteError, match=rf"Step 2: .*begin with {trainer.data.ids[pairs[0]]}.*--precision float32"
    ):
        next(steps)
    assert torch.equal(w.detach(), before)
    assert all(torch.equal(trainer.optimizer.state[w][k], v) for k, v in state.items())
    assert trainer.progress.step == 1


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"precision": "auto", "train": "head"}, "Try --precision float32, or a lower --learning_rate."),
        ({"precision": "float32", "train": "head"}, "Try a lower --learning_rate."),
        ({"precision": "float32", "train": "last:1"}, "Try a lower --backbone_lr."),
    ],
)
def test_the_remedy_of_what_is_not_finite_is_not_what_is_done_already(options, remedy):
    trainer, _ = linear(**options)
    trainer.rewarder.chosen[:] = math.nan
    with pytest.raises(NotFiniteError) as refused:
        next(trainer.run())
    assert str(refused.value).endswith(remedy)


def test_nothing_to_train_and_weights_of_another_number():
    with pytest.raises(InputError, match="18 pairs and 3 weights"):
        linear(weights=lambda n: np.ones(3))
    with pytest.raises(InputError, match="No pair is left"):
        linear(sizes=())


def test_sampling_draws_pairs_and_weighs_no_loss():
    trainer, _ = linear(weights=uneven, weight_by="sampling", epochs=40)
    for epoch in range(40):
        counts = np.bincount(np.concatenate(trainer.plan.of_pass(epoch)), minlength=18)
        assert ((counts == np.floor(trainer.weights)) | (counts == np.ceil(trainer.weights))).all()
    numbers = next(trainer.run())
    assert numbers["loss"] == numbers["weighted_loss"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


def gradients(folder, data, v, budget):
    model = reward_model(folder)
    names = choose_trainable(model, "all")
    named = dict(model.model.named_parameters())
    options = RewardOptions(grad_clip=0.0, batch_size=64, row_tokens=budget)
    trainer = Trainer(
        WholeModel(model, data, budget), [{"params": [named[n] for n in names], "lr": 0.0}], data, v, options
    )
    trainer.step(np.arange(len(data)), 64)
    return {name: named[name].grad for name in names}


def test_gradients_are_the_same_in_one_row_and_in_several(tiny):
    data, v = random_tokens(2, [4, 2, 6, 1]), uneven(13)
    whole, cut = (gradients(tiny, data, v, budget) for budget in (10_000, 1))
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def plain_training(plain, data, v, options, named):
    """AdamW over the same steps, written out: every sequence by itself, no row, no trunk."""
    steps = Trainer(None, [{"params": [torch.zeros(1)], "lr": 1.0}], data, v, options)
    head = [p for n, p in plain.named_parameters() if n.startswith("score")]
    below = [p for n, p in plain.named_parameters() if n in named and not n.startswith("score")]
    for name, p in plain.named_parameters():
        p.requires_grad_(name in named)
    optimizer = torch.optim.AdamW([{"params": head}, {"params": below}], lr=0.0, weight_decay=options.weight_decay)
    passes = [steps.plan.of_pass(e) for e in range(options.epochs)]
    total, number, warm = sum(map(len, passes)), 0, round(options.warmup * sum(map(len, passes)))
    for pairs_of_steps in passes:
        for place, pairs in enumerate(pairs_of_steps):
            count = len(pairs) if place == len(pairs_of_steps) - 1 else options.batch_size
            optimizer.zero_grad()
            for pair in pairs.tolist():
                chosen, rejected = plain_rewards(plain, data, pair)
                loss = -torch.nn.functional.logsigmoid(chosen - rejected - float(data.margins[pair]))
                (float(v[pair]) * loss / count + options.center_rewards * (chosen + rejected) ** 2 / count).backward()
            torch.nn.utils.clip_grad_norm_([*head, *below], options.grad_clip)
            share = expected_share(number, total, warm, options.schedule)
            for group, rate in zip(optimizer.param_groups, (options.learning_rate, options.backbone_lr), strict=True):
                group["lr"] = rate * share
            optimizer.step()
            number += 1
    return number


@pytest.mark.parametrize("train", ["head", "last:1", "all"])
def test_training_is_a_plain_loop_over_separate_sequences(tiny, tmp_path, train):
    data, v = random_tokens(4, [3, 1, 5, 2, 4], margins=True), uneven(15)
    options = RewardOptions(
        train=train, batch_size=6, epochs=2, learning_rate=1e-3, backbone_lr=1e-3, weight_decay=0.01,
        warmup=0.2, schedule="cosine", center_rewards=0.01, row_tokens=40, grad_clip=0.7,
    )  # fmt: skip
    model = reward_model(tiny)
    plain = plain_model(model, tmp_path / "start")
    names = set(choose_trainable(model, train))
    facts = fit(model, data, v, options)
    assert plain_training(plain, data, v, options, names) == facts["steps"]
    moved = 0
    start = dict(plain_model(reward_model(tiny), tmp_path / "again").named_parameters())
    trained = dict(plain_model(model, tmp_path / "end").named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(trained[name], parameter, atol=1e-5, rtol=0, msg=name, check_device=False)
        changed = not torch.equal(trained[name], start[name])
        assert changed == (name in names), name
        moved += changed
    assert moved == len(names)


def test_features_kept_are_those_of_the_whole_model(tiny):
    model, data = reward_model(tiny), random_tokens(5, [3, 1, 4])
    pairs = np.asarray([5, 0, 3])
    needed = branches_of(data, pairs)
    kept = KeptFeatures(model, data, needed, branch_features(model, data, needed, 20))
    [(same, rewards)] = kept.parts(pairs)
    whole = {}
    for some, compute in WholeModel(model, data, 20).parts(pairs):
        whole |= dict(zip(some.tolist(), zip(*(r.tolist() for r in compute()), strict=True), strict=True))
    assert same is pairs
    for pair, *found in zip(pairs.tolist(), *(r.tolist() for r in rewards()), strict=True):
        assert found == pytest.approx(whole[pair], abs=1e-5)


def test_thirty_two_pairs_are_learned_by_heart(tiny):
    model, data = reward_model(tiny), random_tokens(6, [2] * 16)
    options = RewardOptions(train="all", batch_size=32, epochs=40, learning_rate=3e-3, backbone_lr=3e-3, warmup=0.0)
    log = []
    fit(model, data, normalised(uneven(32)), options, on_step=log.append)
    assert score_tokens(model, data).accuracy == 1.0
    assert log[-1]["accuracy"] == 1.0
    assert log[-1]["loss"] < 0.2 < log[0]["loss"]


def test_the_loss_of_a_batch_is_that_of_trls_trainer(tiny_trl, tmp_path):
    step, trl_loss = tiny_trl(tmp_path)
    assert step["weighted_loss"] == pytest.approx(trl_loss, rel=1e-5)
    assert step["weighted_loss"] != pytest.approx(step["loss"], rel=1e-3)


@pytest.fixture
def tiny_trl(tiny):
    pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from making_trl import config
    from transformers import AutoTokenizer

    from kat.integrations.trl import WeightedRewardTrainer

    def compare(tmp_path):
        data, model = random_tokens(7, [1] * 8), reward_model(tiny)
        v = uneven(8)
        plain = plain_model(model, tmp_path / "start")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
        rows = []
        for i in range(8):
            prompt = data.prompts[data.prompt[i]]
            sides = {"chosen": data.chosen[i], "rejected": data.rejected[i]}
            ids = {f"{side}_ids": [*prompt.trunk.tolist(), *prompt.branches[b].tolist()] for side, b in sides.items()}
            rows.append(ids | {"pair_id": data.ids[i]})
        trainer = WeightedRewardTrainer(
            plain,
            config(tmp_path / "trl", max_length=None),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            pair_weights=dict(zip(data.ids, v.tolist(), strict=True)),
        )
        trainer.train()
        trl_loss = trainer.state.log_history[0]["loss"]
        log = []
        fit(model, data, v, RewardOptions(train="all", batch_size=8), on_step=log.append)
        return log[0], trl_loss

    return compare
