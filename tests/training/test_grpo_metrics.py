"""What a step says about itself, by hand and against brute force."""

import itertools

import numpy as np
import pytest

from kat.training.grpo_metrics import BinCounts, group_numbers, reward_trend, said_numbers, spread_numbers
from kat.training.prompt_sampler import Asked


def test_rewards_and_lengths():
    rewards = np.asarray([[0.0, 2.0], [10.0, 14.0]])
    numbers = group_numbers(rewards, np.asarray([[3, 5], [2, 2]]), np.asarray([[True, False], [True, True]]))
    assert numbers["reward"] == 6.5
    assert numbers["reward_std"] == pytest.approx(rewards.std())
    assert numbers["reward_std_within"] == pytest.approx(((1 + 1 + 4 + 4) / 2) ** 0.5)
    assert numbers["length"] == 3
    assert numbers["truncated"] == 0.25
    assert numbers["tokens_generated"] == 12


def test_distinct_and_repeated_runs():
    same, other = np.asarray([1, 2, 1, 2, 1, 2]), np.asarray([3, 4, 5])
    numbers = said_numbers([[same, same], [other]])
    assert numbers["distinct_2_within"] == pytest.approx((2 / 10 + 2 / 2) / 2)
    assert numbers["distinct_2"] == pytest.approx(4 / 12)
    assert numbers["repetition"] == pytest.approx(1 - 2 / 3)  # runs of four: 1212, 2121, 1212; `other` has none
    assert said_numbers([[np.asarray([1])]]) == {}


def test_spread_is_one_less_the_mean_cosine_of_pairs():
    means = np.random.default_rng(0).normal(size=(7, 5))
    groups = [3, 4]

    def apart(rows):
        units = [row / np.linalg.norm(row) for row in rows]
        return np.mean([1 - a @ b for a, b in itertools.combinations(units, 2)])

    numbers = spread_numbers(means, groups)
    assert numbers["spread_within"] == pytest.approx(apart(means[:3]) + apart(means[3:]))
    assert numbers["spread_within_count"] == 2
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert numbers["spread_across"] == pytest.approx(apart([units[:3].mean(0), units[3:].mean(0)]))
    assert "spread_across" not in spread_numbers(means[:3], [3])
    assert spread_numbers(means[:1], [1])["spread_within_count"] == 0


def test_counts_by_bin():
    prompts = [Asked([], "a", "a", 0), Asked([], "b", "b", 4), Asked([], "c", "c")]
    counts = BinCounts()
    counts.drawn(prompts, np.asarray([0, 0, 1, 2]))
    counts.dropped(prompts, np.asarray([1]))
    counts.trained(prompts, np.asarray([0, 2]), np.asarray([7.0, 5.0]))
    state = counts.state()
    assert state["drawn"] == {"-1": 1, "0": 2, "4": 1}
    assert state["dropped"] == {"4": 1}
    assert state["loss_tokens"] == {"-1": 5, "0": 7}
    assert BinCounts.of(state).state() == state
    numbers = counts.rewards(prompts, np.asarray([0, 1, 0]), np.asarray([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]]))
    assert numbers == {
        "reward_bin_0": 1.0,
        "reward_std_bin_0": pytest.approx(np.std([1, 3, 0, 0])),
        "reward_bin_4": 5.0,
        "reward_std_bin_4": 0.0,
    }


class TestTrend:
    def test_a_rise_and_a_fall_are_told_from_noise(self):
        noise = np.random.default_rng(0).normal(size=100)
        rise = reward_trend((0.05 * np.arange(100) + 0.3 * noise).tolist())
        assert rise["value"] == pytest.approx(0.05 * 75, abs=0.3)
        assert rise["interval"][0] > 0
        assert reward_trend((-0.05 * np.arange(100) + 0.3 * noise).tolist())["interval"][1] < 0

    def test_it_covers_what_is_true(self):
        """95 % intervals of no trend at all, noise of steps that are alike (an autoregression of 0.3)."""
        draw, held = np.random.default_rng(1), 0
        for _ in range(200):
            noise = draw.normal(size=120)
            for i in range(1, 120):
                noise[i] += 0.3 * noise[i - 1]
            low, high = reward_trend(noise.tolist())["interval"]
            held += low <= 0 <= high
        assert held >= 0.8 * 200

    def test_few_steps_say_nothing(self):
        assert reward_trend([0.0] * 15) is None
        assert reward_trend([1.0] * 16)["interval"] == [0.0, 0.0]
