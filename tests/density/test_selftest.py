"""The self-test itself: its truths, and that it can fail."""

from dataclasses import replace

import numpy as np
import pytest

from kat.cli.main import main
from kat.density import selftest as module
from kat.density.selftest import mixture, selftest, shuffled, sphere
from kat.errors import OptionError


def test_the_mixture_has_the_density_it_says():
    """Monte Carlo: the mean of 1/p over the samples in a box is the box's volume (d = 2, p with its constant 1/2π)."""
    x, log_density = mixture(20_000, 2, 2, 0)
    low, high = np.quantile(x, 0.4, axis=0), np.quantile(x, 0.6, axis=0)
    inside = ((x > low) & (x < high)).all(axis=1)
    volume = np.prod(high - low)
    assert inside.sum() > 200
    assert 2 * np.pi * np.exp(-log_density[inside]).sum() / len(x) == pytest.approx(volume, rel=0.15)


def test_noise_is_without_structure():
    x = shuffled(4000, 4, 16, 0)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    correlations = np.corrcoef(x.T) - np.eye(16)
    assert np.abs(correlations).max() < 0.08
    assert sphere(10, 3, 64, 0).shape == (10, 4)


@pytest.mark.parametrize(("n", "d"), [(1000, 2), (2000, 8), (1500, 20)])
def test_stated_bounds_hold(n, d):
    trials = selftest(n, d)
    assert all(t.passed for t in trials), [t for t in trials if not t.passed]
    assert {t.bound is not None for t in trials} == {True, False}


def test_a_broken_density_fails_it(monkeypatch):
    from kat.density.estimators import mean_distance as default

    broken = replace(default.PLUGIN, log_density=lambda *given, **named: -default.mean_distance(*given, **named))
    monkeypatch.setattr(default, "PLUGIN", broken)
    assert not all(t.passed for t in selftest(1000, 2))


def test_weights_without_the_noise_bound_fail_it(monkeypatch):
    weigh = module.weigh
    monkeypatch.setattr(module, "weigh", lambda d: weigh(np.exp(d.log_values), max_temperature=1e3))
    assert not all(t.passed for t in selftest(1000, 8))


def test_the_command_says_so_and_exits_1(capsys, monkeypatch):
    main(["selftest", "--n", "500", "--d", "2"])
    assert "every stated bound holds" in capsys.readouterr().out
    monkeypatch.setattr(module, "QUIET", 2.0)
    with pytest.raises(SystemExit) as stopped:
        main(["selftest", "--n", "500", "--d", "2"])
    assert stopped.value.code == 1
    assert "FAILS" in capsys.readouterr().out


def test_sizes_are_checked():
    for sizes in ({"n": 50}, {"d": 0}, {"n": 100, "k": 60}):
        with pytest.raises(OptionError, match="expected n"):
            selftest(**sizes)
