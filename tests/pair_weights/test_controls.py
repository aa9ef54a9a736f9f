"""The weights that density weights are compared with."""

import numpy as np
import pytest

from kat.errors import OptionError
from kat.pair_weights.controls import CONTROLS, control_weights


def kish(values: list[float]) -> float:
    return sum(values) ** 2 / sum(v * v for v in values)


def test_permuted_weights_are_the_same_weights_elsewhere():
    rng = np.random.default_rng(0)
    w, training, length = np.exp(rng.normal(size=2000)), rng.random(2000) < 0.8, rng.integers(1, 99, 2000)
    found = control_weights("permuted", w, training, length, 0)
    np.testing.assert_array_equal(np.sort(found[training]), np.sort(w[training]))
    np.testing.assert_array_equal(found[~training], w[~training])
    assert abs(np.corrcoef(found[training], w[training])[0, 1]) < 0.1
    np.testing.assert_array_equal(found, control_weights("permuted", w, training, length, 0))
    assert (found != control_weights("permuted", w, training, length, 1)).any()


def test_length_weights_are_as_far_from_uniform_and_know_length_alone():
    rng = np.random.default_rng(0)
    w = np.minimum(np.exp(rng.normal(size=2000)), 6)
    training, length = rng.random(2000) < 0.8, np.maximum(rng.pareto(2.0, 2000) * 20, 0).astype(int)
    found = control_weights("length", w, training, length, 0)[training]
    order = np.argsort(length[training], kind="stable")
    assert (np.diff(found[order]) <= 1e-6).all()
    assert found[order[0]] > found[order[-1]]
    assert kish(found.tolist()) == pytest.approx(kish(w[training].tolist()), rel=1e-3)


def test_other_controls_are_one():
    w, training, length = np.asarray([0.5, 2.0, 1.0]), np.ones(3, bool), np.asarray([1, 2, 3])
    for control in ("uniform", "multiplicity"):
        assert control_weights(control, w, training, length, 0).tolist() == [1, 1, 1]
    assert set(CONTROLS) == {"uniform", "permuted", "multiplicity", "length"}
    with pytest.raises(OptionError, match="control is 'none'"):
        control_weights("none", w, training, length, 0)
    # Weights that are all alike have nothing to be as far from uniform as.
    np.testing.assert_allclose(control_weights("length", np.full(3, 2.0), training, length, 0), 1, rtol=1e-3)
