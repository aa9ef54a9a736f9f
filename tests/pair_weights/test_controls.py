"""The weights that density weights are compared with."""

from collections import Counter

import numpy as np
import pytest

from kat.errors import OptionError
from kat.pair_weights.controls import CONTROLS, LEAST_UNITS, control_weights, permuted
from kat.pair_weights.weigh import blend_weights, even_out, multiplicity_factor


def kish(values: list[float]) -> float:
    return sum(values) ** 2 / sum(v * v for v in values)


def drawn(seed: int = 0, pairs: int = 6000, openings: int = 900):
    """Pairs of openings of very different m, and weights that are small where m is large."""
    rng = np.random.default_rng(seed)
    popular = rng.pareto(2.5, openings) + 0.1
    opening = np.unique(rng.choice(openings, pairs, p=popular / popular.sum()), return_inverse=True)[1]
    m = np.bincount(opening)
    return opening, np.exp(rng.normal(size=len(m))) / m**0.3


@pytest.mark.parametrize("multiplicity", ["pair", "sqrt", "opening"])
def test_openings_trade_weights_with_others_of_as_many_pairs(multiplicity):
    opening, w = drawn()
    m, factor = np.bincount(opening), multiplicity_factor(opening, multiplicity)
    u = even_out(w[opening], factor)
    found = permuted(u, opening, factor, 0)
    assert (factor * found).sum() == pytest.approx(factor.sum())
    one, other = (np.bincount(opening, x) / m for x in (u, found))
    scale = other.sum() / one.sum()
    for size, openings in Counter(m.tolist()).items():
        own = m == size
        if openings >= LEAST_UNITS and openings == own.sum():
            # Sizes that enough openings have trade among themselves: each keeps its own values.
            np.testing.assert_allclose(np.sort(other[own]), np.sort(one[own]) * scale, rtol=1e-9)
    np.testing.assert_allclose(np.sort(other), np.sort(one) * scale, rtol=1e-9)
    common = m == np.bincount(m).argmax()
    assert abs(np.corrcoef(one[common], other[common])[0, 1]) < 0.35
    reached, wanted = (blend_weights(x, opening, multiplicity=multiplicity, blend=1.0).ess_pairs for x in (found, u))
    assert reached == pytest.approx(wanted, rel=0.02)
    # Permuted among all openings, weights that go with m would not match.
    loose = np.random.default_rng(0).permutation(one)[opening]
    assert abs(blend_weights(loose, opening, multiplicity=multiplicity, blend=1.0).ess_pairs / wanted - 1) > 0.02


def test_the_seed_of_a_permutation_is_its_own():
    opening, w = drawn()
    u, factor = even_out(w[opening], np.ones(len(opening))), np.ones(len(opening))
    np.testing.assert_array_equal(permuted(u, opening, factor, 0), permuted(u, opening, factor, 0))
    assert (permuted(u, opening, factor, 0) != permuted(u, opening, factor, 1)).any()


def test_no_weight_leaves_its_stratum():
    opening, w = drawn()
    source = np.random.default_rng(1).integers(0, 3, len(opening))  # an opening may stand in all three
    factor = multiplicity_factor(opening, "sqrt")
    u = even_out(w[opening], factor, within=source)
    found = permuted(u, opening, factor, 0, within=source)
    for one in range(3):
        own = source == one
        assert (factor * found)[own].sum() == pytest.approx(factor[own].sum())
        before, after = (np.sort([x[own & (opening == o)][0] for o in np.unique(opening[own])]) for x in (u, found))
        np.testing.assert_allclose(after / after.sum(), before / before.sum(), rtol=1e-9)
    assert (found != u).any()


def test_strata_of_one_value_trade_it():
    opening, w = drawn()
    cluster = (opening % 30).astype(np.int64)
    factor = np.ones(len(opening))
    u = even_out(w[opening], factor, smooth=cluster)
    found = permuted(u, opening, factor, 0, smooth=cluster)
    values = [np.unique(found[cluster == c]) for c in range(30)]
    assert all(len(v) == 1 for v in values)
    one, other = np.sort(np.concatenate(values)), np.sort([u[cluster == c][0] for c in range(30)])
    np.testing.assert_allclose(one / one.sum(), other / other.sum(), rtol=1e-9)


def test_length_weights_are_as_far_from_uniform_and_know_length_alone():
    rng = np.random.default_rng(0)
    w = np.minimum(np.exp(rng.normal(size=2000)), 6)
    training, length = rng.random(2000) < 0.8, np.maximum(rng.pareto(2.0, 2000) * 20, 0).astype(int)
    found = control_weights("length", w, training, length)[training]
    order = np.argsort(length[training], kind="stable")
    assert (np.diff(found[order]) <= 1e-6).all()
    assert found[order[0]] > found[order[-1]]
    assert kish(found.tolist()) == pytest.approx(kish(w[training].tolist()), rel=1e-3)


def test_other_controls_are_one():
    w, training, length = np.asarray([0.5, 2.0, 1.0]), np.ones(3, bool), np.asarray([1, 2, 3])
    for control in ("uniform", "multiplicity"):
        assert control_weights(control, w, training, length).tolist() == [1, 1, 1]
    assert control_weights("permuted", w, training, length).tolist() == w.tolist()  # permuted when it is finished
    assert set(CONTROLS) == {"uniform", "permuted", "multiplicity", "length"}
    with pytest.raises(OptionError, match="control is 'none'"):
        control_weights("none", w, training, length)
    # Weights that are all alike have nothing to be as far from uniform as.
    np.testing.assert_allclose(control_weights("length", np.full(3, 2.0), training, length), 1, rtol=1e-3)
