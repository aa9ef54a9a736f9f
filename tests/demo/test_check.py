"""What the demo proves, against numbers worked out by hand, and the files that it is read from."""

import json

import numpy as np
import pytest
from making import jsonl, md5_id, pair, turn, write

from kat.demo.check import check_demo, compare_topics, topics_of_openings
from kat.errors import InputError, MismatchError

TOPICS = {"a": "bread", "b": "bread", "c": "bread", "d": "bikes", "e": "bikes", "f": "chess"}
WEIGHTS = {"f": 2.0, "a": 0.25, "b": 0.5, "c": 0.75, "d": 1.0, "e": 1.5}


def test_topics_are_compared_with_their_sizes():
    check = compare_topics(TOPICS, WEIGHTS)
    assert check.topics == ("bread", "bikes", "chess")
    assert check.sizes == (3, 2, 1)
    assert check.mean_weights == (0.5, 1.25, 2.0)
    assert check.rank_correlation == 1
    assert check.recovered
    assert check.openings == 6
    assert check.ess_share == pytest.approx(6.0**2 / (4 + 0.0625 + 0.25 + 0.5625 + 1 + 2.25) / 6)


def test_weights_the_other_way_round_recover_nothing():
    check = compare_topics(TOPICS, {opening: 1 / weight for opening, weight in WEIGHTS.items()})
    assert check.rank_correlation == -1
    assert not check.recovered


def test_topics_of_one_size_stand_by_name_and_prove_nothing():
    check = compare_topics({"a": "y", "b": "x"}, {"a": 1.0, "b": 3.0})
    assert check.topics == ("x", "y")
    assert check.mean_weights == (3.0, 1.0)
    assert np.isnan(check.rank_correlation)
    assert not check.recovered


def test_all_openings_of_the_run_count_for_the_effective_sample_size():
    check = compare_topics(TOPICS, WEIGHTS | {"of no topic": 0.0})
    assert check.openings == 7
    assert check.ess_share == pytest.approx(compare_topics(TOPICS, WEIGHTS).ess_share * 6 / 7)


@pytest.mark.parametrize(
    ("weights", "rank", "recovered"),  # Spearman's 1 − 6·Σd² / (n(n² − 1)), with Σd² = 2 and 8 of five ranks
    [([1.0, 2.0, 3.0, 5.0, 4.0], 0.9, True), ([3.0, 2.0, 1.0, 4.0, 5.0], 0.6, False)],
)
def test_a_rank_correlation_of_four_fifths_is_a_success(weights, rank, recovered):
    openings = {f"{topic} {n}": topic for topic in range(5) for n in range(5 - topic)}
    check = compare_topics(
        {opening: str(topic) for opening, topic in openings.items()},
        {opening: weights[topic] for opening, topic in openings.items()},
    )
    assert check.rank_correlation == pytest.approx(rank)
    assert check.recovered is recovered


@pytest.fixture
def demo(tmp_path):
    """A demo file of three openings and a folder with their weights."""
    questions = {"How?": "bread", "Why?": "bread", "When?": "bikes"}
    rows = [pair(question, id=f"demo-{i}", topic=topic) for i, (question, topic) in enumerate(questions.items())]
    rows.append(pair("How?", after=(turn("assistant", "So."), turn("user", "And?")), id="demo-9", topic="bread"))
    (tmp_path / "run" / "density").mkdir(parents=True)
    ids = [md5_id(question) for question in questions]
    (tmp_path / "run" / "density" / "ids.json").write_text(json.dumps(ids))
    np.save(tmp_path / "run" / "density" / "density_weights.npy", np.asarray([0.5, 0.75, 1.75], np.float32))
    return write(tmp_path / "pairs.jsonl", jsonl(*rows)), tmp_path / "run"


def test_files(demo):
    assert topics_of_openings(demo[0]) == {md5_id("How?"): "bread", md5_id("Why?"): "bread", md5_id("When?"): "bikes"}
    check = check_demo(*demo)
    assert (check.topics, check.sizes, check.mean_weights) == (("bread", "bikes"), (2, 1), (0.625, 1.75))


def test_an_opening_without_weight_is_named_as_a_mismatch(demo):
    write(demo[0], demo[0].read_bytes() + jsonl(pair("Where?", topic="bikes")))
    with pytest.raises(MismatchError, match=r"no weight for 1 openings"):
        check_demo(*demo)


def test_a_file_without_topics_is_no_demo_file(demo):
    write(demo[0], demo[0].read_bytes() + jsonl(pair("How?")))
    with pytest.raises(InputError, match=r"pairs\.jsonl:5 has no topic"):
        check_demo(*demo)
