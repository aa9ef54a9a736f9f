"""What a loader meets in the wild, one case each, and what the reader counts."""

import gzip
import json
from collections import Counter
from random import Random

import pytest
from making import hh, jsonl, md5_id, pair, random_text, turn, write

from kat.data.openings import collect_openings
from kat.data.pairs import SNIFFED, read_pairs
from kat.errors import BadRowsError, FormatError, InputError, OptionError

GOOD = [pair(f"opening {i}", f"good {i}", f"bad {i}") for i in range(3)]


def read(path, allowed="all"):
    reader = read_pairs(path, allowed)
    return list(reader), reader


def told(found):
    return [(p.prefix.messages, p.chosen, p.rejected) for p in found]


def rows_of(rows):
    return [(r["prefix"]["messages"], r["chosen"], r["rejected"]) for r in rows]


BAD = {
    "cut in the middle": (b'{"prefix": {"messages": [{"role": "us', "JSON"),
    "no JSON": (b"<html>", "JSON"),
    "a list": ([1, 2], "object"),
    "a string": ('"text"', "object"),
    "NaN": ('{"prefix": {"messages": []}, "score": NaN}', "NaN"),
    "Infinity": ('{"prefix": {"messages": []}, "score": -Infinity}', "Infinity"),
    "invalid UTF-8": (json.dumps(pair("MARK")).encode().replace(b"MARK", b"\xff\xfe"), "UTF-8"),
    "lone surrogate in the opening": (json.dumps(pair("\ud83d")), "surrogate"),
    "lone surrogate in an answer": (json.dumps(pair(chosen="x \udc00")), "surrogate"),
    "a surrogate as bytes": (json.dumps(pair("MARK")).encode().replace(b"MARK", b"\xed\xa0\xbd"), "UTF-8"),
    "NUL as a raw byte": (json.dumps(pair("MARK")).encode().replace(b"MARK", b"\0"), "JSON"),
    "no user message": ({"prefix": {"messages": [turn("assistant", "x")]}, "chosen": "a", "rejected": "b"}, "no user"),
    "no message at all": ({"prefix": {"messages": []}, "chosen": "a", "rejected": "b"}, "no user"),
    "no messages": ({"prefix": {}, "chosen": "a", "rejected": "b"}, "messages"),
    "no prefix": ({"chosen": "a", "rejected": "b"}, "shape"),
    "empty first message": (pair("", after=(turn("assistant", "?"), turn("user", "real"))), "opening"),
    "white first message": (pair(" \n\u00a0"), "opening"),
    "null content": (pair(after=({"role": "user", "content": None},)), "content"),
    "chosen empty": (pair(chosen=""), "chosen"),
    "chosen white": (pair(chosen=" \n"), "chosen"),
    "chosen null": (pair() | {"chosen": None}, "chosen"),
    "chosen missing": ({"prefix": pair()["prefix"], "rejected": "b"}, "chosen"),
    "chosen a number": (pair() | {"chosen": 4}, "chosen"),
    "rejected empty": (pair(rejected=""), "rejected"),
    "rejected white": (pair(rejected="\t"), "rejected"),
    "rejected null": (pair() | {"rejected": None}, "rejected"),
    "rejected a list": (pair() | {"rejected": ["b"]}, "rejected"),
    "equal": (pair(chosen="same", rejected="same"), "equals"),
    "a tie": (pair(score_chosen=0.5, score_rejected=0.5), "tie"),
}

KEPT = {
    "curly quotes": pair("“What’s up?”", "‘it’s…’", "—"),
    "NUL as an escape": pair("a\0b", "c\0", "d"),
    "a prompt of 394,465 characters": pair("x" * 394_465),
    "an answer of 65,477 characters": pair(rejected="é" * 65_477),
    "35 turns": pair(after=tuple(turn("assistant" if i % 2 else "user", f"t{i}") for i in range(1, 35))),
    "starts with system": GOOD[0] | {"prefix": {"messages": [turn("system", "be kind"), turn("user", "q")]}},
    "starts with assistant": GOOD[0] | {"prefix": {"messages": [turn("assistant", "hello"), turn("user", "q")]}},
    "scores as floats": pair(score_chosen=7.25, score_rejected=6.5),
    "scores null": pair(score_chosen=None, score_rejected=None),
    "white around text": pair("  q\n", " a ", "b\t"),
    "unknown keys": pair(topic="x", extra={"a": [1]}),
    "Human: inside": pair("Human: hi", "\n\nHuman: no turn here", "Assistant: x"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_bad_row_is_stepped_over_and_named(tmp_path, name, place):
    line, word = BAD[name]
    rows = [*GOOD[:place], line, *GOOD[place:]]
    path = write(tmp_path / "p.jsonl", jsonl(*rows))
    found, reader = read(path)
    assert told(found) == rows_of(GOOD)
    [(reason, (count, first))] = reader.bad_rows.counts.items()
    assert word in reason
    assert (count, first) == (1, f"{path}:{place + 1}")
    assert (reader.stats.pairs, reader.stats.bad) == (3, 1)
    with pytest.raises(BadRowsError, match=word):
        read(path, 0)


@pytest.mark.parametrize("name", KEPT)
def test_an_odd_row_is_kept_exactly(tmp_path, name):
    rows = [GOOD[0], KEPT[name], GOOD[1]]
    found, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows)), 0)
    assert told(found) == rows_of(rows)
    assert reader.stats.bad == 0


def test_odd_rows_are_counted(tmp_path):
    ends = GOOD[0] | {"prefix": {"messages": [turn("user", "q"), turn("assistant", "half an")]}}
    rows = [KEPT["starts with system"], KEPT["starts with assistant"], KEPT["NUL as an escape"], ends, ends]
    found, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows)), 0)
    assert found[3].prefix.messages == [turn("user", "q")]  # left out of the prefix
    kept = reader.stats.kept
    assert kept["starts with system"] == 1
    assert kept["starts with assistant"] == 1
    assert kept["holds NUL"] == 1
    assert sum(n for name, n in kept.items() if name.startswith("assistant turns after")) == 2


def test_a_cut_last_line(tmp_path):
    whole = jsonl(*GOOD)
    for cut in (2, 20, 60):
        found, reader = read(write(tmp_path / "p.jsonl", whole[:-cut]))
        assert told(found) == rows_of(GOOD[:2])
        assert reader.bad_rows.counts == {"cut last line": (1, f"{tmp_path / 'p.jsonl'}:3")}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_silent_bytes(tmp_path, suffix):
    data = b"\xef\xbb\xbf" + jsonl(*GOOD, end="\r\n\r\n \n")
    found, reader = read(write(tmp_path / f"p{suffix}", data), 0)
    assert told(found) == rows_of(GOOD)
    assert reader.stats.kept == Counter()


def test_duplicates_and_reversed_preferences_are_kept_and_counted(tmp_path):
    """Counts against a brute force over all pairs of rows."""
    rng = Random(4)
    rows = [pair(f"q{rng.randrange(4)}", *rng.sample(["a", "b", "c"], 2)) for _ in range(60)]
    found, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows)), 0)
    assert told(found) == rows_of(rows)
    keys = [(r["prefix"]["messages"][0]["content"], r["chosen"], r["rejected"]) for r in rows]
    duplicates = sum(keys[i] in keys[:i] for i in range(len(keys)))
    distinct = set(keys)
    reversed_ = sum((q, b, a) in distinct for q, a, b in distinct)
    assert reader.stats.kept["exact duplicates of an earlier pair"] == duplicates > 0
    assert reader.stats.kept["judgements that another pair reverses"] == reversed_ > 0


def test_ids_missing_repeated_or_integers(tmp_path):
    rows = [pair("a", id=7), pair("b", id="7"), pair("c"), pair("d", id=None), pair("c"), pair("e", id=2**62)]
    found, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows)), 0)
    ids = [p.id for p in found]
    assert ids[:2] == ["7", "7"]
    assert ids[5] == str(2**62)
    assert ids[2] == ids[4] != ids[3]  # computed from the content: the same pair, the same id
    assert all(isinstance(i, str) and i for i in ids)
    assert reader.stats.kept["ids used before"] == 2


def test_long_integer_ids_become_text(tmp_path):
    found, _ = read(write(tmp_path / "p.jsonl", jsonl(pair(id=2**100 + 1))))
    assert [p.id for p in found] == [str(2**100 + 1)]


def test_sources(tmp_path):
    rows = [pair(src="hh"), pair(source="tldr"), pair(), pair(src=None), pair(src="hh", source="x")]
    _, reader = read(write(tmp_path / "mine.jsonl", jsonl(*rows)), 0)
    assert reader.stats.sources == {"hh": 2, "tldr": 1, "mine.jsonl": 2}


def test_hh_rows(tmp_path):
    def row(chosen, rejected, *history):
        text = hh(*history)
        return {"chosen": text + hh(("Assistant", chosen)), "rejected": text + hh(("Assistant", rejected))}

    two = (("Human", "q"), ("Assistant", "one"))
    rows = [
        row("yes", "no", ("Human", "q")),
        row("yes", "no", *two),  # two Assistant turns in a row
        row("", "no", ("Human", "q")),
        row("yes", "  ", ("Human", "q")),
        row("yes", "no", ("Assistant", "hello"), ("Human", "q")),
        row("a\nHuman: b", "a\nAssistant: c", ("Human", "q")),
        {"chosen": hh(("Human", "q"), ("Assistant", "a")), "rejected": hh(("Human", "Q"), ("Assistant", "b"))},
        {"chosen": None, "rejected": hh(("Human", "Q"), ("Assistant", "b"))},
        {"chosen": "no turn", "rejected": "none"},
    ]
    found, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows)))
    assert reader.stats.format == "hh"
    q = [turn("user", "q")]
    assert told(found) == [
        (q, "yes", "no"),
        (q, "yes", "no"),
        ([turn("assistant", "hello"), *q], "yes", "no"),
        (q, "a\nHuman: b", "a\nAssistant: c"),
    ]
    assert [p.row for p in found] == [1, 2, 5, 6]
    assert reader.bad_rows.total == 5


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 4, "all"])
def test_the_number_of_bad_rows_allowed(tmp_path, allowed):
    rows = [GOOD[0], pair(chosen=""), b"{", pair(chosen=""), GOOD[1]]
    path = write(tmp_path / "p.jsonl", jsonl(*rows))
    reader = read_pairs(path, allowed)
    got = []
    if allowed == "all" or allowed >= 3:
        got.extend(reader)
    else:
        with pytest.raises(BadRowsError) as caught:
            got.extend(reader)
        assert {n: c for n, (c, _) in caught.value.counts.items()} == {"chosen is empty": 2, "not JSON": 1}
        assert f"{path}:2" in str(caught.value)
        assert f"{path}:3" in str(caught.value)
    assert told(got) == rows_of(GOOD[:2])  # the error comes at the end, when all bad rows are known


@pytest.mark.parametrize("allowed", [-1, "many", "5", 1.5, None])
def test_a_limit_that_is_none(tmp_path, allowed):
    with pytest.raises(OptionError, match="max_bad_rows"):
        read_pairs(write(tmp_path / "p.jsonl", jsonl(*GOOD)), allowed)


def test_two_formats_in_one_file_are_an_error_naming_both_lines(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl(GOOD[0], b"{", GOOD[1], {"prompt": "p", "chosen": "a", "rejected": "b"}))
    with pytest.raises(FormatError, match=r"line 1 is kat.*line 4 is trl-explicit"):
        read(path)


def test_another_format_after_the_first_hundred_is_a_bad_row(tmp_path):
    other = {"prompt": "p", "chosen": "a", "rejected": "b"}
    garbage = [b"{"] * 10
    path = write(tmp_path / "p.jsonl", jsonl(*garbage, *[GOOD[0]] * SNIFFED, other, GOOD[1]))
    found, reader = read(path)
    assert len(found) == SNIFFED + 1
    assert [(n, place) for r, (n, place) in reader.bad_rows.counts.items() if "shape" in r] == [(1, f"{path}:111")]
    path.write_bytes(jsonl(*garbage, *[GOOD[0]] * (SNIFFED - 1), other, GOOD[1]))
    with pytest.raises(FormatError):
        read(path)


def test_an_unknown_format_names_its_keys_and_what_was_expected(tmp_path):
    with pytest.raises(FormatError, match=r"line 1 has the keys question, answer") as caught:
        read(write(tmp_path / "p.jsonl", jsonl({"question": "q", "answer": "a"})))
    for name in ("hh", "trl-explicit", "trl-implicit", "ultrafeedback", "prefix"):
        assert name in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"{\n{\n", b"3\n"], ids=repr)
def test_a_file_without_rows_is_an_error(tmp_path, data):
    with pytest.raises(FormatError, match="no"):
        read(write(tmp_path / "p.jsonl", data))


def test_messages_hold_no_control_characters(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl({"key\x1b[2J": 1}))
    with pytest.raises(FormatError) as caught:
        read(path)
    path.write_bytes(jsonl(GOOD[0], GOOD[0] | {"prefix": {"messages": [turn("a\x1b[2J\nb", "x")]}}))
    _, reader = read(path)
    assert "\x1b" not in str(caught.value) + "".join(reader.bad_rows.counts)


def test_reasons_are_few(tmp_path):
    rows = [GOOD[0] | {"prefix": {"messages": [turn(f"speaker {i}", "x")]}} for i in range(50)]
    _, reader = read(write(tmp_path / "p.jsonl", jsonl(*rows, GOOD[0])))
    assert len(reader.bad_rows.counts) == 1


def test_a_file_of_bad_rows_alone_is_an_error_however_many_are_allowed(tmp_path):
    with pytest.raises(InputError, match="no usable pair"):
        read(write(tmp_path / "p.jsonl", jsonl(*[GOOD[0] | {"chosen": ""}] * 3)))


def test_parquet_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [pair(f"q{i}", after=(turn("assistant", "“a”"), turn("user", "b\0")), id=i) for i in range(50)]
    rows[7]["rejected"] = None
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found, reader = read(path)
    assert told(found) == rows_of(rows[:7] + rows[8:])
    assert [p.id for p in found][:3] == ["0", "1", "2"]
    assert list(reader.bad_rows.counts.values()) == [(1, f"{path}:8")]


def test_random_files_whose_truth_is_known(tmp_path):
    """Good, odd and bad rows in random order and format: exactly the good and odd ones come back, in order."""
    rng = Random(8)
    for trial in range(15):
        rows, want = [], []
        for _ in range(rng.randint(1, 80)):
            if rng.random() < 0.7:
                row = pair(random_text(rng), "a" + random_text(rng), "b" + random_text(rng))
            elif rng.random() < 0.5:
                row = KEPT[rng.choice([k for k in KEPT if "characters" not in k])]
            else:
                rows.append(BAD[rng.choice(list(BAD))][0])
                continue
            rows.append(row)
            want.append(row)
        rows.append(GOOD[0])
        want.append(GOOD[0])
        suffix = rng.choice([".jsonl", ".jsonl.gz", ".jsonl.zst"])
        found, reader = read(write(tmp_path / f"{trial}{suffix}", jsonl(*rows, end=rng.choice(["\n", "\r\n"]))))
        assert told(found) == rows_of(want)
        assert reader.bad_rows.total == len(rows) - len(want)
        assert [p.prefix.id for p in found] == [
            md5_id(next(m["content"] for m in r["prefix"]["messages"] if m["role"] == "user")) for r in want
        ]


class TestRealData:
    def test_hh_as_published_has_seven_bad_rows(self, real_data):
        found, reader = read(real_data / "raw.hh_harmless.dev.jsonl.gz")
        assert reader.stats.format == "hh"
        counts = {reason: n for reason, (n, _) in reader.bad_rows.counts.items()}
        assert sorted(counts.values()) == [2, 5]
        assert next(n for r, n in counts.items() if "chosen" in r and "empty" in r) == 2
        assert next(n for r, n in counts.items() if "histories" in r) == 5
        assert len(found) == 1162 - 7

    def test_hh_as_published_holds_all_parsed_pairs(self, real_data):
        raw, _ = read(real_data / "raw.hh_harmless.dev.jsonl.gz")
        parsed, reader = read(real_data / "pairs.hh_harmless.dev.jsonl.gz")
        assert (len(parsed), reader.stats.bad) == (1152, 2)
        assert not Counter(map(repr, told(parsed))) - Counter(map(repr, told(raw)))

    @pytest.mark.parametrize(
        ("name", "rows", "openings"), [("pairs.tldr.all", 10_000, 1_653), ("pairs.rmb.all", 15_728, 3_000)]
    )
    def test_counts(self, real_data, name, rows, openings):
        """Pairs, bad ones and openings against a plain count of the file."""
        path = real_data / f"{name}.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            plain = [json.loads(line) for line in file]
        good = [
            r
            for r in plain
            if isinstance(r["chosen"], str)
            and isinstance(r["rejected"], str)
            and r["chosen"].strip()
            and r["rejected"].strip()
            and r["chosen"] != r["rejected"]
        ]
        ids = {md5_id(next(m["content"] for m in r["prefix"]["messages"] if m["role"] == "user")) for r in good}
        prefixes, stats = collect_openings(read_pairs(path, "all"))
        assert len(plain) == rows
        assert (stats.pairs, stats.openings) == (len(good), openings)
        assert {p.id for p in prefixes} == ids
