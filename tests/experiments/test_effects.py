"""Effects over draws: against means by hand, known ratios and simulated coverage."""

import numpy as np
import pytest

from experiments.effects import effect, points, recovered, table


def test_an_effect_is_the_mean_of_what_was_measured():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 5.0]])
    assert effect(values, np.array([0, 1, 2])).value == pytest.approx(3.0)


def test_a_constant_effect_excludes_zero_and_noise_does_not():
    draw = np.random.default_rng(0)
    opening = np.repeat(np.arange(200), 2)
    noise = draw.normal(size=(3, 400))
    assert effect(noise + 1, opening).excludes_zero()
    assert not effect(noise - noise.mean(), opening).excludes_zero()


def test_intervals_cover_the_mean_as_often_as_they_say():
    covered = 0
    for number in range(200):
        draw = np.random.default_rng(number)
        opening = np.repeat(np.arange(60), 3)
        values = np.repeat(draw.normal(size=60), 3) + draw.normal(size=(2, 1)) * 0.1
        low, high = effect(values, opening).interval
        covered += low < 0 < high
    assert 180 <= covered <= 200  # 95 %: 190 ± 3 deviations of 3.1


def test_draws_that_differ_widen_an_interval():
    opening = np.arange(100)
    noise = np.random.default_rng(0).normal(size=100)
    same, apart = np.stack([noise, noise]), np.stack([noise - 1, noise + 1])
    (a, b), (c, d) = effect(same, opening).interval, effect(apart, opening).interval
    assert effect(same, opening).value == pytest.approx(effect(apart, opening).value)
    assert d - c > 5 * (b - a)


def test_half_of_the_oracles_gain_is_half_of_it_in_every_draw():
    gain = np.random.default_rng(0).normal(1, 0.1, (2, 50))
    gain[0, :10] = np.nan
    told = recovered(gain / 2, gain, np.arange(50))
    assert told.value == pytest.approx(0.5)
    assert told.interval == pytest.approx((0.5, 0.5))


def test_tables_are_markdown():
    assert points({"value": 0.01, "interval": [-0.002, 0.02]}) == "+1.00 [-0.20, +2.00]"
    assert points({"value": 0.01, "interval": None}) == "+1.00"
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"
