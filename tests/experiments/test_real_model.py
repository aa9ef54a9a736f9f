"""Cross-fitted reward models: what kept activations give is what training and scoring by themselves give."""

import dataclasses

import numpy as np
import pytest
from making_training import pair_of, tiny_chat_model

from experiments import real_model
from experiments.problems import Problem
from kat import train_reward_model

OPTIONS = {"train": "last:1", "batch_size": 64, "epochs": 3, "precision": "float32", "backbone_lr": 1e-2}


def problem_and_pairs(count=48):
    draw = np.random.default_rng(0)
    words = ["red", "blue", "tall", "slow", "kind", "odd"]
    pairs = {}
    for i in range(count):
        good, bad = (" ".join(draw.choice(words, 3)) for _ in range(2))
        number = i % (count // 2)  # pairs of one prompt do not follow each other
        pair = pair_of(good, f"{bad}!", f"What about {number}?", pair_id=f"p{i}", row=i)
        pairs[f"p{i}"] = dataclasses.replace(pair, prefix=dataclasses.replace(pair.prefix, id=f"o{number}"))
    vectors = draw.normal(size=(count // 2, 5))
    problem = Problem(
        ids=np.asarray(list(pairs)),
        x=np.zeros((count, 1), np.float32),
        opening=np.arange(count) % (count // 2),
        group=np.arange(count) % (count // 2) // 2,
        source=np.full(count, "s"),
        topic=np.full(count, "t"),
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
    )
    return problem, pairs


def test_halves_keep_groups_together():
    group = np.repeat(np.arange(11), 3)
    half = real_model.halves(group)
    assert all(len(set(half[group == one])) == 1 for one in range(11))
    assert set(half) == {0, 1}


def test_each_half_is_measured_by_a_model_that_the_other_trained(tmp_path):
    problem, pairs = problem_and_pairs()
    options = real_model.RewardOptions(model=tiny_chat_model(tmp_path / "tiny"), **OPTIONS)
    other = list(pairs.values())[:6]
    told = real_model.cross_fitted(problem, pairs, {"other": other}, tmp_path / "kept", options)
    half = real_model.halves(problem.group)
    [folder] = {path.parent for path in (tmp_path / "kept").rglob("margins-*.npz")}
    for side, arm in ((0, 0), (1, 1)):
        train, held = np.flatnonzero(half != side), np.flatnonzero(half == side)
        weights = real_model.weights_of(problem, real_model.ARMS[arm], train)
        listed = list(pairs.values())
        alone = train_reward_model([listed[i] for i in train], weights, options.model, device="cpu", **OPTIONS)
        scored = alone.score([listed[i] for i in held])
        with np.load(folder / f"margins-{side}-{arm}.npz") as kept:
            np.testing.assert_allclose(kept[real_model.HELD], scored.chosen - scored.rejected, atol=2e-4)
            assert len(kept["other"]) == 6
    margins = np.zeros((2, 6))
    for arm, side in ((arm, side) for arm in range(2) for side in range(2)):
        with np.load(folder / f"margins-{side}-{arm}.npz") as kept:
            margins[arm] += kept["other"] / 2
    uniform, density = np.logaddexp(0, -margins).mean(1)
    gain = told["other"]["gains"]["density"]["every pair"]["log_loss"]["difference"]
    assert gain == pytest.approx(density - uniform)
    assert told[real_model.HELD]["pairs"] == 48
    assert set(told[real_model.HELD]["gains"]) == set(real_model.ARMS[1:])
    assert "¼ density, permuted, every pair" in real_model.shown(told)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    problem, pairs = problem_and_pairs(16)
    options = real_model.RewardOptions(model=tiny_chat_model(tmp_path / "tiny"), **OPTIONS)
    first = real_model.cross_fitted(problem, pairs, {}, tmp_path / "kept", options)
    monkeypatch.setattr(real_model.Work, "trained", lambda *_: pytest.fail("trained again"))
    assert real_model.cross_fitted(problem, pairs, {}, tmp_path / "kept", options) == first
