"""Columns beside a pair's own: carried, renamed, dropped, or named as left behind; and scores against the order."""

import json
from random import Random

import pytest
from making import jsonl, pair, turn, write

from kat import read_pairs
from kat.config import ReadOptions
from kat.data.columns import reading_of, recorded_reading, score_columns
from kat.data.pairs import PairReader
from kat.errors import BadRowsError, InputError, OptionError

ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def read(tmp_path, *rows, allowed=0, **options):
    reader = read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows)), allowed, ReadOptions(**options))
    return list(reader), reader


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("row", [ROW, {"chosen": [turn("user", "q"), turn("assistant", "a")]}, pair("q", "a", "b")])
def test_a_system_column_is_the_first_message(tmp_path, name, row):
    rejected = [turn("user", "q"), turn("assistant", "b")] if isinstance(row["chosen"], list) else "b"
    [found], _ = read(tmp_path, row | {"rejected": rejected, name: "be kind"})
    assert found.context == found.prefix.messages == [turn("system", "be kind"), turn("user", "q")]


def test_a_system_column_that_says_what_the_conversation_says_is_not_said_twice(tmp_path):
    own = ROW | {"prompt": [turn("system", "s"), turn("user", "q")]}
    [found], _ = read(tmp_path, own | {"system": "s"})
    assert found.context == own["prompt"]
    for system, word in (("other", "differ"), (3, "not text")):
        with pytest.raises(BadRowsError, match=word):
            read(tmp_path, own | {"system": system})
    for empty in (None, ""):
        assert read(tmp_path, ROW | {"system": empty})[0][0].context == [turn("user", "q")]


def test_tools_and_margins_are_carried(tmp_path):
    rows = [ROW | {"tools": tools} for tools in ([TOOL], json.dumps([TOOL]), None, [], "")]
    assert [p.tools for p in read(tmp_path, *rows)[0]] == [[TOOL], [TOOL], None, None, None]
    for bad in ("{", 3, ["f"], "3"):
        with pytest.raises(BadRowsError, match="tools"):
            read(tmp_path, ROW | {"tools": bad})
    margins = [ROW | {"margin": margin} for margin in (0.5, 2, -1.0, None)]
    assert [p.margin for p in read(tmp_path, *margins)[0]] == [0.5, 2.0, -1.0, None]
    for bad in ("0.5", True, [1], 10**400):
        with pytest.raises(BadRowsError, match="margin"):
            read(tmp_path, ROW | {"margin": bad})


@pytest.mark.parametrize("name", ["images", "image", "video", "videos", "audio", "audios"])
def test_pictures_and_sound_are_an_error_that_names_the_option(tmp_path, name):
    rows = [ROW | {name: None}, ROW | {name: ["x.png"]}]
    with pytest.raises(BadRowsError, match=rf"column {name} .*--drop_columns {name}.*p\.jsonl:2"):
        read(tmp_path, *rows)
    found, reader = read(tmp_path, *rows, drop_columns=name)
    assert [p.context for p in found] == [[turn("user", "q")]] * 2
    assert not reader.stats.unread


def test_parts_of_a_content_that_are_no_text(tmp_path):
    parts = [{"type": "image"}, {"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "x"}}]
    row = ROW | {"prompt": [{"role": "user", "content": parts}]}
    with pytest.raises(BadRowsError, match=r"part of type image.*--drop_columns image"):
        read(tmp_path, row)
    assert read(tmp_path, row, drop_columns="image")[0][0].context == [turn("user", "q")]


def test_columns_left_behind_are_counted_and_named(tmp_path):
    rows = [ROW | {"topic": "x"}, ROW | {"topic": "y", "when": 3}, ROW | {"id": "z", "src": "s", "score_chosen": None}]
    _, reader = read(tmp_path, *rows)
    assert reader.stats.unread == {"topic": 2, "when": 1, "score_chosen": 1}
    assert not read(tmp_path, ROW, *rows[:2], drop_columns="topic,when")[1].stats.unread


def test_many_sets_of_keys_are_counted_right(tmp_path):
    rng = Random(3)
    rows = [ROW | {f"c{rng.randrange(40)}": 1 for _ in range(rng.randrange(4))} for _ in range(3_000)]
    want = {name: sum(name in row for row in rows) for name in {k for row in rows for k in row} - set(ROW)}
    assert read(tmp_path, *rows)[1].stats.unread == want


def test_names_of_columns(tmp_path):
    row = {"q": "x", "good": "a", "bad": "b", "more": 1}
    [found], reader = read(tmp_path, row, columns="prompt=q, chosen=good,rejected=bad")
    assert (found.context, found.chosen, found.rejected) == ([turn("user", "x")], "a", "b")
    assert reader.stats.unread == {"more": 1}
    [swapped], _ = read(tmp_path, ROW, columns="chosen=rejected,rejected=chosen")
    assert (swapped.chosen, swapped.rejected) == ("b", "a")
    [taken], reader = read(tmp_path, ROW | {"text": "t"}, columns="prompt=text")
    assert taken.prefix.opening == "t"
    assert reader.stats.unread == {"prompt (replaced)": 1}


@pytest.mark.parametrize("options", [{"columns": "prompt=quest"}, {"drop_columns": "quest"}], ids=str)
def test_a_column_that_is_not_there_is_an_error_naming_those_that_are(tmp_path, options):
    with pytest.raises(InputError, match="no column quest; its columns are prompt, chosen, rejected"):
        read(tmp_path, ROW, **options)


@pytest.mark.parametrize(
    "options",
    [{"columns": c} for c in ("prompt", "=q", "prompt=", "prompt=a,prompt=b", "a=b,,c=d")]
    + [{"drop_columns": "a,,b"}, {"columns": "prompt=a", "drop_columns": "a"}, {"score_conflict": "flip"}],
    ids=str,
)
def test_mistyped_options(tmp_path, options):
    with pytest.raises(OptionError):
        read(tmp_path, ROW, **options)


def test_a_manifest_holds_what_was_set_and_gives_it_back():
    assert recorded_reading(ReadOptions()) == {}
    for options in (ReadOptions(), ReadOptions(columns="a=b"), ReadOptions(drop_columns="x", score_conflict="swap")):
        assert reading_of({"options": {"max_bad_rows": 0} | recorded_reading(options)}) == options


def test_bytes_of_a_parquet_column_are_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{k: v.encode() for k, v in ROW.items()}, {"prompt": b"q", "chosen": b"\xff", "rejected": b"b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    reader = read_pairs(tmp_path / "p.parquet", "all")
    assert [(p.prefix.opening, p.chosen, p.rejected) for p in reader] == [("q", "a", "b")]
    assert list(reader.bad_rows.counts) == ["invalid UTF-8"]


PAIRS_OF_SCORES = ["score_chosen", "chosen_score", "chosen-rating", "chosen_rating", "scores_chosen", "rating_chosen"]
PAIRS_OF_SCORES += ["reward_chosen", "chosen_avg_rating"]


class TestScores:
    def scored(self, name, chosen, rejected, **more):
        return ROW | {name: chosen, name.replace("chosen", "rejected"): rejected} | more

    def test_names(self):
        assert score_columns(("a", *PAIRS_OF_SCORES)) == ()
        keys = (*PAIRS_OF_SCORES, *(name.replace("chosen", "rejected") for name in PAIRS_OF_SCORES), "chosen-model")
        found = score_columns(("chosen", "rejected", "rejected-model", *reversed(keys)))
        assert found[0] == ("score_chosen", "score_rejected")
        assert {chosen for chosen, _ in found} == set(PAIRS_OF_SCORES)

    @pytest.mark.parametrize("name", PAIRS_OF_SCORES)
    def test_opposition(self, tmp_path, name):
        rows = [self.scored(name, 1, 5), self.scored(name, 5, 1), self.scored(name, None, 1)]
        with pytest.raises(BadRowsError, match=f"1 row is .*\n.*{name} is below"):
            read(tmp_path, *rows)
        found, reader = read(tmp_path, *rows, score_conflict="keep")
        assert [p.chosen for p in found] == ["a"] * 3
        assert sum(n for what, n in reader.stats.kept.items() if f"{name} is below" in what) == 1
        found, reader = read(tmp_path, *rows, score_conflict="drop")
        assert [p.row for p in found] == [2, 3]
        assert list(reader.stats.dropped.values()) == [1]
        assert reader.stats.bad == 0
        found, _ = read(tmp_path, *rows, score_conflict="swap")
        assert [(p.chosen, p.rejected, p.chosen_messages[0]["content"]) for p in found] == [
            ("b", "a", "b"),
            ("a", "b", "a"),
            ("a", "b", "a"),
        ]

    @pytest.mark.parametrize("name", PAIRS_OF_SCORES[1:])
    def test_a_tie_beside_the_main_scores_is_counted(self, tmp_path, name):
        found, reader = read(tmp_path, self.scored(name, 5, 5.0), self.scored(name, "n/a", 1))
        assert len(found) == 2
        assert [n for what, n in reader.stats.kept.items() if name in what] == [1, 1]

    def test_a_tie_of_the_main_scores_is_a_bad_row(self, tmp_path):
        with pytest.raises(BadRowsError, match="tie"):
            read(tmp_path, self.scored("score_chosen", 5, 5))

    def test_scores_that_contradict_each_other_swap_nothing(self, tmp_path):
        row = self.scored("score_chosen", 5, 1) | self.scored("chosen_rating", 1, 5)
        with pytest.raises(BadRowsError, match="contradict each other"):
            read(tmp_path, row, score_conflict="swap")

    @pytest.mark.parametrize("name", PAIRS_OF_SCORES)
    def test_a_margin_that_is_the_difference_of_scores_stays_it(self, tmp_path, name):
        """Whatever order the rows are in, a pair's margin is what its chosen scores above its rejected."""
        scores = [(1, 5), (5, 1), (2.5, 4), (0, -3)]
        rows = [
            self.scored(name, x, y, margin=x - y) | {"chosen": f"scored {x}", "rejected": f"scored {y}"}
            for x, y in scores
        ]
        found, reader = read(tmp_path, *rows, score_conflict="swap")
        assert [p.margin for p in found] == [float(p.chosen.split()[1]) - float(p.rejected.split()[1]) for p in found]
        assert [p.margin for p in found] == [4, 4, 1.5, 3]
        assert not any("margin" in what for what in reader.stats.kept)

    def test_a_swap_leaves_a_margin_of_zero_or_none(self, tmp_path):
        rows = [self.scored("chosen_score", 1, 5, margin=margin) for margin in (0, None)]
        assert [str(p.margin) for p in read(tmp_path, *rows, score_conflict="swap")[0]] == ["0.0", "None"]

    def test_a_margin_that_contradicts_the_scores_is_counted_and_named(self, tmp_path):
        name = "margin has the other sign than the scores"
        agree, against = self.scored("chosen_score", 5, 1, margin=-4), self.scored("chosen_score", 1, 5, margin=4)
        for choice in ("error", "keep", "swap", "drop"):  # the order is as the scores say: nothing to decide
            found, reader = read(tmp_path, agree, score_conflict=choice)
            assert ([p.margin for p in found], reader.stats.kept[name]) == ([-4], 1)
        found, reader = read(tmp_path, against, score_conflict="keep")
        assert ([(p.chosen, p.margin) for p in found], reader.stats.kept[name]) == ([("a", 4)], 1)
        with pytest.raises(BadRowsError, match=rf"{name}, so that none .*--drop_columns margin"):
            read(tmp_path, against, score_conflict="swap")
        [found], _ = read(tmp_path, against, score_conflict="swap", drop_columns="margin")
        assert (found.chosen, found.margin) == ("b", None)
        for silent in (self.scored("chosen_score", 5, 5, margin=-4), ROW | {"margin": -4}):
            assert name not in read(tmp_path, silent)[1].stats.kept


def test_identity_is_all_that_a_pair_says(tmp_path):
    """Content ids and repeats: two rows that differ in anything that trains are two pairs."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    other = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "g"}}]}
    prompts = [
        [turn("user", "q"), *more]
        for more in ([], [call], [other], [call, turn("tool", "1")], [call, turn("tool", "2")])
    ]
    rows = [ROW | {"prompt": prompt} for prompt in prompts]
    rows += [ROW | {"prompt": prompts[1], "tools": [TOOL]}, ROW | {"system": "s"}, ROW | {"chosen": [call]}]
    rows += [ROW | {"chosen": [other]}, ROW | {"prompt": [turn("user", "q") | {"name": "Ann"}]}]
    found, reader = read(tmp_path, *rows)
    assert len({p.id for p in found}) == len(rows)
    assert not {k for k in reader.stats.kept if "duplicate" in k or "reverses" in k or "before" in k}
    found, reader = read(tmp_path, *rows, *rows)
    assert reader.stats.kept["exact duplicates of an earlier pair"] == len(rows)


def test_a_context_goes_on_after_the_last_user_message(tmp_path):
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": "é"}}}],
    }
    prompt = [turn("user", "q"), call, {"role": "tool", "name": "f", "content": "17"}]
    [found], reader = read(tmp_path, ROW | {"prompt": prompt})
    assert found.context == prompt
    assert found.prefix.messages == prompt[:1]
    assert found.prefix.text == "q"
    assert sum(n for what, n in reader.stats.kept.items() if "after the last user message" in what) == 1
    [found], _ = read(tmp_path, ROW | {"prompt": [*prompt, turn("user", "and?")]})
    assert found.prefix.text == 'q\nf({"a": "é", "b": 1})\n17\nand?'


PICTURE = {"bytes": None, "path": "x.png"}
INSIDE = {
    "a key": {"caption": "c", "image": "x.png"},
    "a file": PICTURE,
    "bytes of a file": {"bytes": "iVBORw0K", "path": None},
    "a list of files": [{"n": 1}, PICTURE],
    "deep": {"a": [[{"b": {"pixel_values": [[0.5]]}}]]},
    "a part": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}],
    "sound": [{"audio": {"array": [0.1]}}],
    "a data URL": "data:image/png;base64,iVBORw0K",
    "a data URL inside": {"src": ["data:audio/wav;base64,UklGR"]},
}
NO_PICTURE = {
    "none": {"image": None, "images": [], "audio": ""},
    "a file that is none": {"bytes": None, "path": None},
    "a flag": {"image": False, "video": 0},
    "words about pictures": {"note": "image", "type": "note", "imagery": "x.png", "path": "x.png"},
    "text": "an image: see data:image/png",
    "nothing": None,
}


class TestPicturesInside:
    @pytest.mark.parametrize("name", INSIDE)
    def test_a_column_that_holds_one_is_refused_by_name(self, tmp_path, name):
        rows = [ROW | {"extra": None}, ROW | {"extra": INSIDE[name]}]
        with pytest.raises(BadRowsError, match=r"1 × column extra .*--drop_columns extra.*p\.jsonl:2"):
            read(tmp_path, *rows)
        found, reader = read(tmp_path, *rows, drop_columns="extra")
        assert len(found) == 2
        assert not reader.stats.unread

    @pytest.mark.parametrize("name", NO_PICTURE)
    def test_a_column_without_one_is_left_behind_and_named(self, tmp_path, name):
        assert read(tmp_path, ROW | {"extra": NO_PICTURE[name]})[1].stats.unread == {"extra": 1}

    def test_what_is_carried_may_name_pictures(self, tmp_path):
        """A tool that takes a picture is no picture."""
        tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"image": {"type": "x"}}}}}
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"image": "i"}}}],
        }
        row = ROW | {"tools": [tool], "chosen": [call]}
        for options in ({}, {"drop_columns": "images"}):
            [found], _ = read(tmp_path, row, **options)
            assert (found.tools, found.chosen_messages) == ([tool], [call])

    @pytest.mark.parametrize("key", ["images", "audio"])
    def test_a_picture_of_a_message(self, tmp_path, key):
        row = ROW | {"prompt": [turn("user", "q") | {key: ["x.png"], "name": "Ann"}]}
        with pytest.raises(BadRowsError, match=rf"prompt holds a message with {key}.*--drop_columns {key}"):
            read(tmp_path, row)
        [found], _ = read(tmp_path, row, drop_columns=key)
        assert found.context == [turn("user", "q") | {"name": "Ann"}]
        assert read(tmp_path, ROW | {"prompt": [turn("user", "q") | {key: None}]})[0][0].context == [turn("user", "q")]

    def test_a_picture_beside_the_messages_of_a_prefix(self, tmp_path):
        row = pair("q", "a", "b")
        row["prefix"]["images"] = ["x.png"]
        with pytest.raises(BadRowsError, match=r"prefix holds images.*--drop_columns images"):
            read(tmp_path, row)
        assert read(tmp_path, row, drop_columns="images")[0][0].context == [turn("user", "q")]

    def test_deeper_than_python_walks(self, tmp_path):
        line = json.dumps(ROW)[:-1] + ', "extra": ' + "[" * 1000 + '{"image": "x.png"}' + "]" * 1000 + "}"
        with pytest.raises(BadRowsError, match="column extra"):
            read(tmp_path, line)

    @pytest.mark.parametrize("suffix", ["parquet", "arrow"])
    @pytest.mark.parametrize("picture", [b"\x89PNG" + b"x" * 2000, None])
    def test_columns_of_a_table(self, tmp_path, suffix, picture):
        import pyarrow as pa
        import pyarrow.feather
        import pyarrow.parquet as pq

        file = {"bytes": picture, "path": "x.png"}
        binary = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {
            "photo": (file, binary),
            "photos": ([file], pa.list_(binary)),
            "extra": ({"n": 1, "image": file}, pa.struct([("n", pa.int64()), ("image", binary)])),
            "shots": ([{"image": b"x"}], pa.list_(pa.struct([("image", pa.large_binary())]))),
            "paths": ({"image": "x.png"}, pa.struct([("image", pa.string())])),
        }
        for name, (value, kind) in columns.items():
            made = pa.Table.from_pylist([ROW] * 3).append_column(name, pa.array([value] * 3, kind))
            path = tmp_path / f"p.{suffix}"
            (pq.write_table if suffix == "parquet" else pyarrow.feather.write_feather)(made, path)
            with pytest.raises(BadRowsError, match=rf"3 × column {name} .*--drop_columns {name}"):
                list(read_pairs(path))
            assert len(list(read_pairs(path, options=ReadOptions(drop_columns=name)))) == 3

    def test_bytes_that_are_no_picture_are_left_behind_and_named(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        made = pa.Table.from_pylist([ROW]).append_column("digests", pa.array([[{"sha": b"x"}]]))
        pq.write_table(made, tmp_path / "p.parquet")
        reader = read_pairs(tmp_path / "p.parquet")
        assert len(list(reader)) == 1
        assert reader.stats.unread == {"digests": 1}


def test_labels_are_columns_under_the_files_own_names(tmp_path):
    rows = [ROW | {"task": task, "n": n} for task, n in (("safety", 1), (None, 2.5), ("", True), ("é\n", None))]
    path = write(tmp_path / "p.jsonl", jsonl(*rows, ROW | {"src": "web"}))
    reader = PairReader(path, labels=("task", "n", "src"))
    assert [p.labels for p in reader] == [
        {"task": "safety", "n": "1", "src": "p.jsonl"},
        {"task": "", "n": "2.5", "src": "p.jsonl"},
        {"task": "", "n": "true", "src": "p.jsonl"},
        {"task": "é\n", "n": "", "src": "p.jsonl"},
        {"task": "", "n": "", "src": "web"},
    ]
    assert not reader.stats.unread  # they were read
    assert read_pairs(path).__next__().labels == {}
    with pytest.raises(InputError, match=r"has no column topic; its columns are prompt, chosen, rejected, task, n"):
        next(PairReader(path, labels=("topic",)))
    bad = write(tmp_path / "b.jsonl", jsonl(ROW | {"task": ["a"]}))
    with pytest.raises(BadRowsError, match="column task holds no text, number or truth value"):
        list(PairReader(bad, labels=("task",)))


def test_a_renamed_column_is_a_label_under_the_name_that_the_file_gives_it(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl({"question": "q", "chosen": "a", "rejected": "b", "src": "s"}))
    reader = PairReader(path, options=ReadOptions(columns="prompt=question"), labels=("question",))
    assert [p.labels for p in reader] == [{"question": "q"}]
