"""How far two weights agree, against scipy, brute force and what is known of chance."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from kat.density.agreement import agreement, in_both
from kat.density.extremes import extremes


def weights(seed, n=300, *, ties=False):
    values = np.random.default_rng(seed).lognormal(size=n)
    values = np.ceil(values * 4) if ties else values
    return {f"id{i}": float(v) for i, v in enumerate(values / values.mean())}


def only(mapping, names):
    return {name: mapping[name] for name in names}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_everything_against_brute_force(seed, ties):
    rng = np.random.default_rng(seed)
    one = weights(seed, ties=ties)
    noisy = {name: value * float(rng.choice([0.5, 1.0, 2.0])) for name, value in one.items()}
    names = [f"id{i}" for i in rng.permutation(300)]
    one, other = only(one, names[:250]), only(noisy, sorted(names[30:]))
    got = agreement(one, other, moved=7)
    both = [name for name in one if name in other]
    a, b = np.array([one[n] for n in both]), np.array([other[n] for n in both])
    assert (got.both, got.only) == (220, (30, 50))
    assert got.rank_correlation == pytest.approx(spearmanr(a, b).statistic)
    assert got.moved == pytest.approx(sum(abs(x / a.sum() - y / b.sum()) for x, y in zip(a, b, strict=True)) / 2)
    tops = [set(sorted(range(220), key=lambda row, w=w: (-w[row], row))[:22]) for w in (a, b)]
    assert got.tenth == 22
    assert got.overlap == pytest.approx(len(tops[0] & tops[1]) / 22)
    assert got.expected_overlap == pytest.approx(0.1)
    ranks = rankdata(-a), rankdata(-b)
    risen = dict(zip(both, ranks[0] - ranks[1], strict=True))
    for moved, way in ((got.up, 1), (got.down, -1)):
        assert [one.id for one in moved] == sorted(both, key=lambda n, way=way: (-way * risen[n], both.index(n)))[:7]
        for each in moved:
            row = both.index(each.id)
            assert each.weights == (a[row], b[row])
            assert each.ranks == (ranks[0][row], ranks[1][row])


@pytest.mark.parametrize("ties", [False, True])
def test_weights_agree_with_themselves(ties):
    one = weights(1, ties=ties)
    got = agreement(one, dict(reversed(one.items())))
    assert got.rank_correlation == pytest.approx(1)
    assert agreement(one, one).overlap == 1
    assert (got.moved, list(got.up), list(got.down), got.only) == (0, [], [], (0, 0))


def test_the_other_way_round():
    one = weights(2)
    other = dict(zip(sorted(one, key=one.get), sorted(one.values(), reverse=True), strict=True))
    got = agreement(one, other)
    assert got.rank_correlation == pytest.approx(-1)
    assert got.overlap == 0


def test_permuted_weights_agree_by_chance():
    one = weights(3, 20_000)
    values = np.random.default_rng(0).permutation(list(one.values())).tolist()
    got = agreement(one, dict(zip(one, values, strict=True)))
    assert abs(got.rank_correlation) < 4 / np.sqrt(20_000)
    assert got.overlap == pytest.approx(got.expected_overlap, abs=0.03)


def test_equal_weights_have_no_order():
    one = weights(4)
    uniform = dict.fromkeys(one, 1.0)
    for pair in ((one, uniform), (uniform, one), (uniform, uniform)):
        got = agreement(*pair)
        assert got.rank_correlation is None
        assert got.overlap is None
    assert agreement(uniform, uniform).moved == 0


def test_the_scale_does_not_matter():
    """Shares are those of the openings in both, whatever each mean is."""
    one, other = weights(5), weights(6)
    scaled = {name: 3 * value for name, value in other.items()}
    assert agreement(one, scaled).moved == pytest.approx(agreement(one, other).moved)


def test_no_id_in_both():
    assert [rows.tolist() for rows in in_both(["a"], ["b"])] == [[], []]
    with pytest.raises(ValueError, match="No id"):
        agreement({"a": 1.0}, {"b": 1.0})


def test_the_ends_of_weights():
    values = np.array([1, 3, 2, 2, 5, 0.5, 0.5], np.float32)
    heaviest, lightest = extremes(list("abcdefg"), values, shown=3)
    assert [(one.id, one.weight) for one in heaviest] == [("e", 5), ("b", 3), ("c", 2)]
    assert [one.id for one in lightest] == ["f", "g", "a"]
    assert extremes(["a", "b", "c"], np.ones(3, np.float32)) == ([], [])
    for n in range(2, 12):
        values = np.random.default_rng(n).uniform(1, 2, n)
        both = extremes([str(i) for i in range(n)], values)
        assert len({one.id for side in both for one in side}) == 2 * min(5, n // 2)
