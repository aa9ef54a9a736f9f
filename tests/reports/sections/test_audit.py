"""The data audit, against counting."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from making_sections import (
    HOSTILE,
    cells,
    chart,
    column,
    metadata,
    pair_stats,
    pair_table,
    prefix_stats,
    prose,
    quotes,
    table,
)

from kat.data.contradictions import Contradictions
from kat.reports.sections.audit import GROUPS, SOURCES, audit, near_duplicate_groups

REJECTED = [
    {"file": "a.jsonl", "line": 3, "reason": "not JSON", "raw": HOSTILE},
    {"file": "a.jsonl", "line": 5, "reason": HOSTILE, "raw": "second"},
    {"file": "a.jsonl", "line": 9, "reason": "not JSON", "raw": "third"},
]


def of(prefixes=None, texts=None, **more):
    return audit(metadata([1.0, 1.0]), texts or {}, prefixes=prefixes, remedy="kat weigh-pairs RUN", **more)


def test_rows_read_and_skipped():
    stats = prefix_stats(bad_rows=4, dropped={"scores against the order": 6}, kept={"holds NUL": 2})
    stats |= {"columns_not_read": {"b": 1, HOSTILE: 40}}
    section = of(stats, rejected=REJECTED)
    assert "50 rows read: 40 are pairs, 10 were skipped." in prose(section)
    assert cells(section, "by reason") == {"not JSON": 2, HOSTILE: 1, "scores against the order": 6}
    assert quotes(section) == [("a.jsonl:3: not JSON", HOSTILE), (f"a.jsonl:5: {HOSTILE}", "second")]
    assert any(text.startswith("Of 1 bad row the reason is not told") for text in prose(section))
    assert cells(section, "Kept") == {"holds NUL": 2}
    assert table(section, "not read").rows == [(HOSTILE, 40), ("b", 1)]


def test_nothing_skipped_is_no_table():
    titles = [getattr(block, "title", "") for block in of(prefix_stats()).blocks]
    assert not {"Rows skipped, by reason", "Kept, but odd", "Columns not read"} & set(titles)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_near_duplicates_are_counted(seed):
    one = pair_table(150, 260, seed)
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 40, 150)  # one group an opening
    one = replace(one, group=groups[[int(i[1:]) for i in one.opening_id]])
    one.split[draw.integers(0, 260, 20)] = ""
    openings, pairs = defaultdict(dict), Counter()
    for i, g, split in zip(one.opening_id, one.group, one.split, strict=True):
        if split:
            openings[g][i] = True
            pairs[g] += 1
    kept = int((one.split != "").sum())
    several = sorted((g for g in openings if len(openings[g]) > 1), key=lambda g: (-len(openings[g]), -pairs[g], g))
    expected = [
        (len(openings[g]), pairs[g], pairs[g] / kept, " ⁄ ".join(f"text {i}" for i in list(openings[g])[:2]))
        for g in several
    ]
    rows, more = near_duplicate_groups(one, {i: f"text {i}" for i in one.opening_id})
    assert rows == expected[:GROUPS]
    assert more == len(expected) - GROUPS


def test_duplicates():
    one = pair_table()
    section = of(prefix_stats(), {"o0": HOSTILE}, table=one, pair_weights=pair_stats(one, exact_duplicates=5))
    assert "Exact duplicates: 5 (kept; --duplicates drop leaves them out)." in prose(section)
    assert "Near-duplicates: 30 openings in 10 groups that share 80% of their text." in prose(section)
    shown = table(section, "largest group first")
    assert column(shown, "openings") == [3] * 10
    assert any(HOSTILE in text for text in column(shown, "examples"))
    stats = pair_stats(one, exact_duplicates=5, left_out={"exact duplicate of an earlier pair": 5})
    stats["split"]["group_cosine"] = 0.95
    told = prose(of(table=one, pair_weights=stats))
    assert "Exact duplicates: 5 (left out)." in told
    assert "Near-duplicates: 30 openings in 10 groups at cosine 0.95." in told


def test_contradictions_with_their_texts():
    met = Contradictions(40, 2, 3, 4, 1, ((1, 7), (2, 9)), ((1, 7),))
    examples = {1: ("question", HOSTILE, "no"), 2: None}
    section = of(contradictions=met, examples=examples.get)
    told = " ".join(prose(section))
    assert "2 pairs of 40 are reversed by another pair" in told
    assert "3 completions in 4 pairs are chosen in one pair and rejected in another" in told
    assert "1 pair of two identical completions" in told
    assert quotes(section) == [
        ("rows 1 and 7", f"first user message: question\n\nchosen in row 1: {HOSTILE}\n\nchosen in row 7: no"),
        ("rows 2 and 9", "(not read)"),
    ]
    shown = table(section, "chosen and rejected")
    assert shown.rows == ((1, 7),)
    assert shown.more == 2
    assert any("Contradictory preferences are not known" in text for text in prose(of()))


def test_truncation_and_lengths():
    lengths = np.asarray([[10, 0], [300, 44], [-1, -1], [20, 0], [0, 0]])
    section = of(lengths=lengths)
    told = prose(section)
    assert "Texts cut: 1, 44 tokens lost (the model reads 256 tokens)." in told
    assert "The longest text has 300 tokens, 44 of them not read." in told
    one = chart(section, "lengths")
    assert one.series[0].y.sum() == 3  # 0 tokens have no place on a logarithmic axis, −1 is not known
    assert "Half of the 4 texts have 15 tokens or fewer." in one.told
    assert "1 text without a token" in one.told
    assert any("not made by kat" in text for text in prose(of(lengths=np.full((3, 2), -1))))


def test_which_completion_is_longer():
    one = pair_table()
    one.chosen_chars[:], one.rejected_chars[:] = 5, 5
    one.chosen_chars[:10], one.rejected_chars[10:15] = 9, 9
    [told] = [text for text in prose(of(table=one, pair_weights=pair_stats(one))) if "longer one" in text]
    assert f"in {(10 + 25 / 2) / 40:.1%} of the pairs" in told


def test_sources_by_rows():
    names = {f"s{i}": i + 1 for i in range(SOURCES + 5)} | {HOSTILE: 1000}
    shown = table(of(prefix_stats(rows_by_source=names)), "Rows by source")
    assert shown.rows[0] == (HOSTILE, 1000, 1000 / sum(names.values()))
    assert column(shown, "rows") == sorted(names.values(), reverse=True)[:SOURCES]
    assert shown.more == 6


def test_leakage_by_density_bin():
    one = pair_table()
    section = of(pair_weights=pair_stats(one))
    shown = table(section, "Leakage")
    assert column(shown, "leak by opening") == [0.1, 0.2, None, 0.4, 0.5]
    assert sum(column(shown, "validation pairs")) == int((one.split == "validation").sum())
    assert column(shown, "density bin")[0] == "bin 0, rarest"
    assert any("in training: 12.5%; a split by opening: 50.0%." in text for text in prose(section))
    stats = pair_stats(one)
    stats["split"]["leak"] = {}
    assert "No opening validates, so nothing can leak." in prose(of(pair_weights=stats))


def test_what_is_not_known_is_said_with_the_command():
    told = prose(of())
    assert sum("kat weigh-pairs RUN" in text for text in told) == 2
    assert any(text.startswith("Which rows were read is not known") for text in told)
