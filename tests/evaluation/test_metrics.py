"""Numbers of pairs against their definitions, and views against loops over openings."""

import math

import numpy as np
import pytest

from kat.errors import InputError, MismatchError
from kat.evaluation.evaluate import compare, compare_with_longer, evaluate
from kat.evaluation.metrics import ECE_BINS, confidences, ece_cells, log_losses, margins, wins
from kat.evaluation.pairs import EvalPairs


def test_margin_win_and_log_loss_of_a_pair():
    margin = margins(np.asarray([2.0, 0.5, -1.0]), np.asarray([1.0, 0.5, 3.0]))
    assert margin.tolist() == [1.0, 0.0, -4.0]
    assert wins(margin).tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(log_losses(margin), [-math.log(1 / (1 + math.exp(-m))) for m in margin])


def test_log_loss_holds_where_exp_does_not():
    found = log_losses(np.asarray([1e4, -1e4, 800.0, -800.0, 40.0]))
    assert found[:4].tolist() == [0.0, 1e4, 0.0, 800.0]
    assert found[4] == pytest.approx(math.exp(-40))
    assert confidences(np.asarray([1e4, -1e4])).tolist() == [1.0, 1.0]


def test_calibration_bins_are_tenths_of_a_half():
    wanted = [min(int((1 / (1 + math.exp(-abs(m))) - 0.5) / 0.05), 9) for m in (0, 0.1, -0.3, 1, -5, 50)]
    assert ece_cells(np.asarray([0, 0.1, -0.3, 1, -5, 50.0])).tolist() == wanted
    assert wanted[0] == 0
    assert wanted[-1] == ECE_BINS - 1


def drawn(
    seed: int = 0, openings: int = 40, pairs: int = 300, bins: bool = True
) -> tuple[EvalPairs, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.choice(openings, pairs, p=(p := rng.pareto(1.0, openings) + 0.1) / p.sum())
    where = rng.integers(0, 5, openings)
    made = EvalPairs(
        [f"p{i}" for i in range(pairs)],
        [f"o{i}" for i in x],
        [f"s{i % 3}" for i in range(pairs)],
        where[x] if bins else None,
        rng.integers(1, 90, pairs),
        rng.integers(1, 90, pairs),
    )
    rewards = np.round(rng.normal(0.3, 1, pairs), 1), np.round(rng.normal(0, 1, pairs), 1)  # rounded: some ties
    return made, *rewards


def by_hand(pairs: EvalPairs, chosen, rejected, rows, weight) -> dict[str, float]:
    """Every metric of some pairs by a loop, pair i counting weight[i]."""
    total = sum(weight[i] for i in rows)
    margin = {i: float(chosen[i] - rejected[i]) for i in rows}
    win = {i: 1.0 if margin[i] > 0 else 0.5 if margin[i] == 0 else 0.0 for i in rows}
    longer = {
        i: 1.0 if (d := pairs.chosen_chars[i] - pairs.rejected_chars[i]) > 0 else 0.5 if d == 0 else 0.0 for i in rows
    }
    sure = {i: 1 / (1 + math.exp(-abs(margin[i]))) for i in rows}
    cells: dict[int, list[int]] = {}
    for i in rows:
        cells.setdefault(min(int((sure[i] - 0.5) * 20), 9), []).append(i)
    ece = sum(abs(sum(weight[i] * (sure[i] - win[i]) for i in cell)) for cell in cells.values()) / total
    means = {"accuracy": win, "margin": margin, "longer_wins": longer}
    found = {name: sum(weight[i] * v[i] for i in rows) / total for name, v in means.items()}
    found["log_loss"] = sum(weight[i] * math.log1p(math.exp(-margin[i])) for i in rows) / total
    return found | {"ece": ece}


def balanced(pairs: EvalPairs, rows) -> dict[int, float]:
    m: dict[str, int] = {}
    for i in rows:
        m[pairs.opening[i]] = m.get(pairs.opening[i], 0) + 1
    return {i: 1 / m[pairs.opening[i]] for i in rows}


@pytest.mark.parametrize("seed", range(3))
def test_every_view_of_every_part_is_what_a_loop_finds(seed):
    pairs, chosen, rejected = drawn(seed)
    found = evaluate(pairs, chosen, rejected, replicates=50)
    parts = [(found.all, list(range(300)))]
    parts += [(found.bins[str(b)], [i for i in range(300) if pairs.bin[i] == b]) for b in range(5)]
    parts += [(found.sources[f"s{s}"], [i for i in range(300) if i % 3 == s]) for s in range(3)]
    macro: dict[str, list[float]] = {}
    for number, (part, rows) in enumerate(parts):
        assert part.pairs == len(rows)
        assert part.openings == len({pairs.opening[i] for i in rows})
        for view, weight in (("unweighted", dict.fromkeys(rows, 1.0)), ("balanced", balanced(pairs, rows))):
            wanted = by_hand(pairs, chosen, rejected, rows, weight)
            assert {n: e.value for n, e in part.estimates[view].items()} == pytest.approx(wanted)
            if view == "balanced" and 1 <= number <= 5:
                for name, value in wanted.items():
                    macro.setdefault(name, []).append(value)
    assert {n: e.value for n, e in found.macro.items()} == pytest.approx({n: sum(v) / 5 for n, v in macro.items()})


def test_order_changes_nothing_but_the_draw_of_openings():
    pairs, chosen, rejected = drawn()
    order = np.random.default_rng(1).permutation(300)
    shuffled = EvalPairs(
        *([getattr(pairs, name)[i] for i in order] for name in ("ids", "opening", "src")),
        *(getattr(pairs, name)[order] for name in ("bin", "chosen_chars", "rejected_chars")),
    )
    one, other = evaluate(pairs, chosen, rejected), evaluate(shuffled, chosen[order], rejected[order])
    for view in ("unweighted", "balanced"):
        for name, estimate in one.all.estimates[view].items():
            again = other.all.estimates[view][name]
            assert again.value == pytest.approx(estimate.value)
            assert again.interval == pytest.approx(estimate.interval)
    assert list(one.sources) == ["s0", "s1", "s2"]


def test_without_densities_or_lengths():
    pairs, chosen, rejected = drawn(bins=False)
    found = evaluate(pairs, chosen, rejected, replicates=20)
    assert found.macro is None
    assert found.bins == {}
    bare = EvalPairs(pairs.ids, pairs.opening, pairs.src)
    assert "longer_wins" not in evaluate(bare, chosen, rejected, replicates=20).all.estimates["unweighted"]
    assert compare_with_longer(bare, chosen, rejected) is None


def test_one_opening_has_no_interval():
    pairs = EvalPairs(["a", "b"], ["x", "x"], ["s", "s"])
    found = evaluate(pairs, np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0]))
    estimate = found.all.estimates["unweighted"]["accuracy"]
    assert (estimate.value, estimate.interval) == (0.5, None)
    plain = found.as_dict()["all"]["unweighted"]["accuracy"]
    assert plain == {"value": 0.5, "interval": None}


def test_differences_are_of_the_two_models():
    pairs, chosen, rejected = drawn()
    rng = np.random.default_rng(5)
    better = chosen + rng.normal(0.5, 0.5, 300), rejected
    found = compare(pairs, better, (chosen, rejected), replicates=100)
    one, other = evaluate(pairs, *better, replicates=10), evaluate(pairs, chosen, rejected, replicates=10)
    for view in ("unweighted", "balanced"):
        for name in ("accuracy", "log_loss"):
            wanted = one.all.estimates[view][name].value - other.all.estimates[view][name].value
            assert found.all[view][name].value == pytest.approx(wanted)
            low, high = found.all[view][name].interval
            assert low < wanted < high
        for b in range(5):
            wanted = (
                one.bins[str(b)].estimates[view]["accuracy"].value
                - other.bins[str(b)].estimates[view]["accuracy"].value
            )
            assert found.bins[str(b)][view]["accuracy"].value == pytest.approx(wanted)
    assert found.all["unweighted"]["log_loss"].p < 0.01
    same = compare(pairs, better, better, replicates=20).all["balanced"]["accuracy"]
    assert (same.value, same.p, same.interval) == (0.0, 1.0, (0.0, 0.0))
    assert same.as_dict()["minimum_detectable_effect"] is None  # nothing varied: nothing is known
    back = compare(pairs, (chosen, rejected), better, replicates=100).all["balanced"]["accuracy"]
    assert back.value == pytest.approx(-found.all["balanced"]["accuracy"].value)
    longer = compare_with_longer(pairs, chosen, rejected, replicates=10).all["unweighted"]["accuracy"].value
    estimates = other.all.estimates["unweighted"]
    assert longer == pytest.approx(estimates["accuracy"].value - estimates["longer_wins"].value)


def test_what_cannot_be_evaluated_is_refused():
    pairs, chosen, rejected = drawn(pairs=10)
    with pytest.raises(MismatchError, match=r"Rewards of rejected have shape \(9,\)"):
        evaluate(pairs, chosen, rejected[:9])
    chosen[3] = np.nan
    with pytest.raises(InputError, match="chosen of pair p3 is nan"):
        evaluate(pairs, chosen, rejected)
    with pytest.raises(InputError, match="no pairs"):
        EvalPairs([], [], [])
    with pytest.raises(MismatchError, match="opening has 1 values"):
        EvalPairs(["a", "b"], ["x"], ["s", "s"])
    with pytest.raises(MismatchError, match="ids repeat"):
        EvalPairs(["a", "a"], ["x", "y"], ["s", "s"])
