"""The command line: exit statuses, messages, options from files and flags, and outputs that are whole or not there."""

import base64
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from making import hh, jsonl, md5_id, pair, read_jsonl, turn, write

GOOD = [pair(f"q{i % 3}", f"a{i}", f"b{i}", src=f"part {i % 2}") for i in range(9)]
KAT = ("-m", "kat.cli")
MAKE = ("-m", "scripts.kat_make_prefixes")


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", jsonl(*GOOD))


@pytest.fixture
def big(tmp_path):
    """A file that takes about a second, long enough to be interrupted in."""
    rows = [pair(f"q{i} {'x' * 150}", f"a{i}", f"b{i}") for i in range(1000)]
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        data = jsonl(*rows)
        for _ in range(60):
            file.write(data)
    return path


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def one_line(message):
    assert len(message.strip().splitlines()) == 1, message
    return message


class TestPrefixes:
    def test_what_it_writes_and_prints(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "new" / "prefixes_all.jsonl"
        ran = kat_cli("prefixes", pairs, "--out", out)
        assert (ran.rc, ran.stderr) == (0, "")
        assert read_jsonl(out) == [
            {"id": md5_id(f"q{i}"), "prefix": {"messages": [turn("user", f"q{i}")]}} for i in range(3)
        ]
        stats = json.loads((out.parent / "prefixes_all.stats.json").read_bytes())
        assert stats["pairs"] == 9
        assert stats["openings"] == 3
        assert stats["share_removed"] == pytest.approx(6 / 9)
        assert stats["openings_with_several_contexts"] == 0
        assert stats["rows_by_source"] == {"part 0": 5, "part 1": 4}
        for word in ("kat", "9", "3", "66.7", "part 0", "part 1", str(out)):
            assert word in ran.stdout
        assert sorted(p.name for p in out.parent.iterdir()) == [
            "prefixes_all.jsonl",
            "prefixes_all.jsonl.manifest.json",
            "prefixes_all.stats.json",
        ]

    @pytest.mark.parametrize(
        ("row", "shape"),
        [
            (GOOD[0], "kat"),
            ({"prompt": "p", "chosen": "a", "rejected": "b"}, "trl-explicit"),
            (
                {"chosen": hh(("Human", "q"), ("Assistant", "a")), "rejected": hh(("Human", "q"), ("Assistant", "b"))},
                "hh",
            ),
        ],
    )
    def test_the_shape_is_named(self, kat_cli, tmp_path, row, shape):
        ran = kat_cli("prefixes", write(tmp_path / "p.jsonl", jsonl(row)), "--out", tmp_path / "o.jsonl")
        assert shape in ran.stdout.split()

    def test_file_order_changes_nothing_but_line_order(self, kat_cli, tmp_path):
        rows = [pair(f"q{i % 5}", f"a{i}", f"b{i}", after=(turn("user", "x" * (i % 7)),) * (i % 3)) for i in range(60)]
        found = []
        for n, order in enumerate((rows, rows[::-1], rows[30:] + rows[:30])):
            folder = tmp_path / str(n)
            folder.mkdir()
            assert kat_cli("prefixes", write(folder / "p.jsonl", jsonl(*order)), "--out", folder / "o.jsonl").rc == 0
            lines = (folder / "o.jsonl").read_bytes().splitlines()
            found.append((sorted(lines), json.loads((folder / "o.stats.json").read_bytes())))
        assert found[0] == found[1] == found[2]

    def test_the_door_reads_and_writes_in_the_base_directory(self, python, base_dir):
        (base_dir / "data").mkdir()
        write(base_dir / "data" / "pairs_all.jsonl", jsonl(*GOOD))
        ran = python(*MAKE)
        assert ran.rc == 0, ran.stderr
        assert len(read_jsonl(base_dir / "data" / "prefixes_all.jsonl")) == 3
        assert (base_dir / "data" / "prefixes_all.stats.json").exists()

    def test_base_directories_in_their_order(self, monkeypatch, tmp_path):
        from kat.config import base_directory

        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NANOCHAT_BASE_DIR", "/n")
        monkeypatch.setenv("KAT_BASE_DIR", "/k")
        assert base_directory() == Path("/k")
        monkeypatch.setenv("KAT_BASE_DIR", "")
        assert base_directory() == Path("/n")
        monkeypatch.delenv("NANOCHAT_BASE_DIR")
        assert base_directory() == tmp_path / ".cache" / "nanochat"


class TestBadRows:
    CUT = b'{"prefix": {"messages": [{"role": "us'
    BAD = (pair(chosen=""), b"\xff\xfe{", '{"a": NaN}', pair(chosen=" "), '{"t": "\\ud800“”"}', CUT)

    @pytest.fixture
    def mixed(self, tmp_path):
        return write(tmp_path / "mixed.jsonl", jsonl(GOOD[0], *self.BAD[:3], GOOD[1], *self.BAD[3:])[:-1])

    def test_more_than_allowed_is_a_summary_and_no_output(self, kat_cli, mixed, tmp_path):
        for allowed in ([], ["--max_bad_rows", 5], ["--max-bad-rows=0"]):
            before = snapshot(tmp_path)
            message = kat_cli("prefixes", mixed, "--out", tmp_path / "o.jsonl", *allowed).failed()
            assert f"2 × chosen is empty, first at {mixed}:2" in message
            for place in (3, 4, 7, 8):
                assert f"{mixed}:{place}" in message
            lines = [line for line in message.splitlines() if str(mixed) in line]
            assert len(lines) == 5  # one for each reason
            assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("allowed", [6, 7, "all"])
    def test_allowed_ones_go_unchanged_to_a_file(self, kat_cli, mixed, tmp_path, allowed):
        out = tmp_path / "o.jsonl"
        ran = kat_cli("prefixes", mixed, "--out", out, "--max_bad_rows", allowed)
        assert ran.rc == 0, ran.stderr
        assert [r["id"] for r in read_jsonl(out)] == [md5_id("q0"), md5_id("q1")]
        rejected = read_jsonl(tmp_path / "o.jsonl.rejected.jsonl")
        assert [(r["file"], r["line"]) for r in rejected] == [(str(mixed), n) for n in (2, 3, 4, 6, 7, 8)]
        assert all(r["reason"] for r in rejected)
        raw = [base64.b64decode(r["raw"]) if r.get("raw_encoding") == "base64" else r["raw"].encode() for r in rejected]
        lines = mixed.read_bytes().split(b"\n")
        assert raw == [lines[r["line"] - 1] for r in rejected]
        assert json.loads((tmp_path / "o.stats.json").read_bytes())["bad_rows"] == 6
        assert "6" in ran.stdout

    def test_no_bad_rows_no_file(self, kat_cli, pairs, tmp_path):
        assert kat_cli("prefixes", pairs, "--out", tmp_path / "o.jsonl", "--max_bad_rows", "all").rc == 0
        assert not (tmp_path / "o.jsonl.rejected.jsonl").exists()

    def test_rejected_rows_of_an_earlier_run_do_not_stay(self, kat_cli, mixed, pairs, tmp_path):
        out = tmp_path / "o.jsonl"
        assert kat_cli("prefixes", mixed, "--out", out, "--max_bad_rows", "all").rc == 0
        assert (tmp_path / "o.jsonl.rejected.jsonl").exists()
        assert kat_cli("prefixes", pairs, "--out", out, "--overwrite").rc == 0
        assert not (tmp_path / "o.jsonl.rejected.jsonl").exists()

    @pytest.mark.parametrize("value", ["-1", "some", ""])
    def test_a_limit_that_is_none(self, kat_cli, pairs, tmp_path, value):
        message = kat_cli("prefixes", pairs, "--out", tmp_path / "o.jsonl", f"--max_bad_rows={value}").failed()
        assert "max" in message
        assert not (tmp_path / "o.jsonl").exists()

    def test_a_limit_with_a_fraction(self, kat_cli, pairs, tmp_path):
        kat_cli("prefixes", pairs, "--out", tmp_path / "o.jsonl", "--max_bad_rows", "1.5").failed()


class TestSkipAndOverwrite:
    def test_the_same_again_is_skipped_with_a_word(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "o.jsonl"
        assert "skipped:" not in kat_cli("prefixes", pairs, "--out", out).stdout
        before, when = snapshot(tmp_path), out.stat().st_mtime_ns
        for more in ([], ["--overwrite"]):
            ran = kat_cli("prefixes", pairs, "--out", out, *more)
            assert ran.rc == 0
            assert "skipped:" in ran.stdout
        assert (snapshot(tmp_path), out.stat().st_mtime_ns) == (before, when)

    @pytest.mark.parametrize("change", ["input", "options", "output", "stats", "manifest"])
    def test_anything_else_needs_overwrite(self, kat_cli, pairs, tmp_path, change):
        out = tmp_path / "o.jsonl"
        assert kat_cli("prefixes", pairs, "--out", out).rc == 0
        more = []
        if change == "input":
            write(pairs, jsonl(*GOOD[:4], pair("new")))
        elif change == "options":
            more = ["--max_bad_rows", "3"]
        elif change == "output":
            out.write_bytes(b"mine")
        elif change == "stats":
            (tmp_path / "o.stats.json").unlink()
        else:
            (tmp_path / "o.jsonl.manifest.json").unlink()
        before = snapshot(tmp_path)
        message = one_line(kat_cli("prefixes", pairs, "--out", out, *more).failed())
        assert str(out) in message
        assert "--overwrite" in message
        assert snapshot(tmp_path) == before
        assert kat_cli("prefixes", pairs, "--out", out, *more, "--overwrite").rc == 0
        assert [r["id"] for r in read_jsonl(out)][:3] == [md5_id(f"q{i}") for i in range(3)]
        assert "skipped:" in kat_cli("prefixes", pairs, "--out", out, *more).stdout

    def test_a_failed_overwrite_keeps_the_old_output(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "o.jsonl"
        assert kat_cli("prefixes", pairs, "--out", out).rc == 0
        before = {k: v for k, v in snapshot(tmp_path).items() if k.startswith("o.")}
        for data in (jsonl(*GOOD, b"{"), b"", jsonl({"unknown": 1})):
            write(pairs, data)
            kat_cli("prefixes", pairs, "--out", out, "--overwrite").failed()
            assert {k: v for k, v in snapshot(tmp_path).items() if k != pairs.name} == before

    def test_the_input_is_never_the_output(self, kat_cli, pairs):
        before = pairs.read_bytes()
        ran = kat_cli("prefixes", pairs, "--out", pairs, "--overwrite")
        assert pairs.read_bytes() == before
        ran.failed()

    def test_a_compressed_name_holds_compressed_bytes_or_is_refused(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "o.jsonl.gz"
        ran = kat_cli("prefixes", pairs, "--out", out)
        assert ran.rc == 2 or out.read_bytes()[:2] == b"\x1f\x8b"

    def test_demo_data(self, kat_cli, tmp_path):
        out = tmp_path / "demo.jsonl"
        assert kat_cli("demo-data", "--out", out, "--pairs", 30).rc == 0
        first = out.read_bytes()
        assert len(read_jsonl(out)) == 30
        assert "skipped:" in kat_cli("demo-data", "--out", out, "--pairs", 30).stdout
        one_line(kat_cli("demo-data", "--out", out, "--pairs", 30, "--seed", 1).failed())
        assert kat_cli("demo-data", "--out", out, "--pairs", 30, "--seed", 1, "--overwrite").rc == 0
        assert out.read_bytes() != first
        assert kat_cli("demo-data", "--out", tmp_path / "again.jsonl", "--pairs", 30).rc == 0
        assert (tmp_path / "again.jsonl").read_bytes() == first


class TestOptions:
    """Each command hands its options on as given; the work itself is replaced by a note of the call."""

    @pytest.fixture
    def calls(self, monkeypatch):
        import kat.stages.run  # noqa: F401 - first, for it holds on to the functions that it finds

        made = []
        functions = "prefixes.make_prefixes embed.embed_file embed.embed_folder density.weigh_openings"
        for place in f"{functions} density.compute_offline run.run".split():
            module, name = place.split(".")
            note = lambda *args, _name=name, **_: made.append((_name, *args))  # noqa: E731
            monkeypatch.setattr(f"kat.stages.{module}.{name}", note)
        return made

    @pytest.fixture(params=["scripts.NAME", "kat origin NAME"])
    def script(self, request, monkeypatch, capsys):
        from kat.cli.main import main, run_script

        def run(name, *argv):
            first = ["kat", "origin", name] if request.param.startswith("kat") else [f"scripts/{name}.py"]
            monkeypatch.setattr(sys, "argv", [*first, *map(str, argv)])
            try:
                main() if first[0] == "kat" else run_script(name)
            except SystemExit as end:
                return end.code or 0
            return 0

        return run

    def test_defaults_of_the_scripts(self, calls, script, base_dir):
        assert script("kat_make_prefixes") == 0
        assert script("kat_embed", "--data", "d.jsonl", "--out", "o.pt") == 0
        assert script("kat_compute_embeddings_offline") == 0
        (_, *paths, read), (_, data, out, embed, _), (_, prompts, folder, offline, density, _) = calls
        assert paths == [base_dir / "data" / "pairs_all.jsonl", base_dir / "data" / "prefixes_all.jsonl"]
        assert (read.max_bad_rows, read.overwrite) == (0, False)
        assert (data, out, embed.model, embed.batch_size) == (Path("d.jsonl"), Path("o.pt"), "sft", 32)
        assert (prompts, folder) == (base_dir / "data" / "prefixes_all.jsonl", base_dir / "data" / "embeddings_offline")
        assert (offline.model, offline.batch_size, density.k) == ("base", 16, 20)

    @pytest.mark.parametrize("dash", ["_", "-"])
    def test_underscores_and_dashes_alike(self, calls, script, kat_cli, dash):
        def flags(text):
            return [f"--{w[2:].replace('_', dash)}" if w.startswith("--") else w for w in text.split()]

        assert script("kat_make_prefixes", *flags("--pairs_path p --out o --max_bad_rows all --overwrite")) == 0
        assert script("kat_embed", *flags("--ckpt_source minilm --data d --out o.pt --batch_size 8")) == 0
        offline = "--prompts_path p --output_dir o --k 7 --batch_size 4 --base_model_source minilm --max_bad_rows 3"
        assert script("kat_compute_embeddings_offline", *flags(offline)) == 0
        assert kat_cli("run", "p", *flags("--out o --max_tokens 64 --long_text head --max_temperature 3")).rc == 0
        make, file, folder, run = calls
        assert make[1:3] == (Path("p"), Path("o"))
        assert (make[3].max_bad_rows, make[3].overwrite) == ("all", True)
        assert (file[3].model, file[3].batch_size) == ("minilm", 8)
        assert (folder[3].model, folder[3].batch_size, folder[4].k, folder[5].max_bad_rows) == ("minilm", 4, 7, 3)
        assert (run[3].max_tokens, run[3].long_text, run[4].max_temperature) == (64, "head", 3.0)

    def test_short_commands_take_minilm(self, calls, kat_cli):
        for argv in (["embed", "d", "--out", "o"], ["embed", "d", "--out", "o.pt"], ["run", "p", "--out", "o"]):
            assert kat_cli(*argv).rc == 0
        assert [c[0] for c in calls] == ["embed_folder", "embed_file", "run"]
        assert {c[3].model for c in calls} == {"minilm"}
        run = calls[2]
        assert (run[4].k, run[4].ess, run[4].cap, run[4].temperature, run[4].metric) == (20, 0.5, 10.0, None, "cosine")

    def test_reading_and_writing_commands_have_their_options(self, kat_cli):
        for name in ("prefixes", "embed", "run"):
            assert "--max-bad-rows" in kat_cli(name, "--help").stdout
        for name in ("prefixes", "embed", "run", "density", "demo-data"):
            assert "--overwrite" in kat_cli(name, "--help").stdout

    def test_config_fills_in_and_flags_win(self, calls, kat_cli, tmp_path):
        config = tmp_path / "kat.toml"
        config.write_text('[run]\nout = "from file"\nk = 5\ness = 0.7\nmax_bad_rows = "all"\noverwrite = true\n')
        assert kat_cli("run", "p", "--config", config).rc == 0
        assert kat_cli("run", "p", "--k", "9", f"--config={config}", "--out", "flag", "--max_bad_rows", "2").rc == 0
        (_, _, out, _, density, read), (_, _, out2, _, density2, read2) = calls
        assert (out, density.k, density.ess) == (Path("from file"), 5, 0.7)
        assert (read.max_bad_rows, read.overwrite) == ("all", True)
        assert (out2, density2.k, density2.ess) == (Path("flag"), 9, 0.7)
        assert (read2.max_bad_rows, read2.overwrite) == (2, True)

    def test_config_of_a_script(self, calls, script, tmp_path):
        config = tmp_path / "kat.toml"
        config.write_text('[kat_embed]\ndata = "d"\nout = "o.pt"\nckpt_source = "minilm"\n[run]\nk = 3\n')
        assert script("kat_embed", "--config", config, "--out", "flag.pt") == 0
        [(_, data, out, embed, _)] = calls
        assert (data, out, embed.model) == (Path("d"), Path("flag.pt"), "minilm")

    @pytest.mark.parametrize("key", ["max_bad_rows", "max-bad-rows"])
    def test_keys_with_underscores_and_dashes(self, calls, kat_cli, tmp_path, key):
        config = tmp_path / "kat.toml"
        config.write_text(f'[prefixes]\nout = "o"\n{key} = 4\n')
        assert kat_cli("prefixes", "p", "--config", config).rc == 0
        assert calls[0][3].max_bad_rows == 4

    def test_tables_with_underscores(self, kat_cli, tmp_path):
        config = tmp_path / "kat.toml"
        config.write_text("[demo_data]\npairs = 5\n")
        assert kat_cli("demo-data", "--out", tmp_path / "d.jsonl", "--config", config).rc == 0
        assert len(read_jsonl(tmp_path / "d.jsonl")) == 5

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("[prefixes]\nmax_bad_row = 3\n", "max_bad_row"),
            ("[prefixes.more]\nk = 3\n", "more"),
            ("[prefix]\nmax_bad_rows = 3\n", "prefix"),
            ("max_bad_rows = 3\n", "max_bad_rows"),
            ('[prefixes]\nmax_bad_rows = "many"\n', "many"),
            ("[prefixes]\nmax_bad_rows = \n", "kat.toml"),
            ("\x00", "kat.toml"),
        ],
    )
    def test_a_mistaken_config(self, calls, kat_cli, tmp_path, text, word):
        config = tmp_path / "kat.toml"
        config.write_text(text)
        assert word in kat_cli("prefixes", "p", "--out", "o", "--config", config).failed()
        assert calls == []

    def test_a_config_that_is_not_there(self, calls, kat_cli, tmp_path):
        for argv in (["--config", tmp_path / "none.toml"], ["--config", tmp_path], ["--config"]):
            one_line(kat_cli("prefixes", "p", "--out", "o", *argv).failed())
        assert calls == []

    def test_a_config_holds_for_one_call(self, python, pairs, tmp_path):
        (tmp_path / "kat.toml").write_text("[prefixes]\nmax_bad_rows = 5\n")
        code = (
            "from kat.cli.main import main\n"
            "for n, more in enumerate((['--config', 'kat.toml'], [])):\n"
            "    try:\n"
            "        main(['prefixes', 'pairs.jsonl', '--out', f'{n}.jsonl', *more])\n"
            "    except SystemExit as end:\n"
            "        assert not end.code\n"
        )
        assert python("-c", code).rc == 0
        found = [json.loads((tmp_path / f"{n}.jsonl.manifest.json").read_bytes())["options"] for n in range(2)]
        assert found == [{"max_bad_rows": 5}, {"max_bad_rows": 0}]


class TestMistakes:
    @pytest.mark.parametrize(
        ("argv", "word"),
        [
            (["prefixes", "none.jsonl", "--out", "o.jsonl"], "none.jsonl"),
            (["prefixes", "pairs.jsonl", "--out", "."], ". is not a file"),
            (["prefixes", "pairs.jsonl", "--out", "pairs.jsonl/o.jsonl"], "pairs.jsonl"),
            (["embed", "none.jsonl", "--out", "o"], "none.jsonl"),
            (["density", "none", "--out", "o"], "none"),
            (["verify", "none"], "none"),
            (["verify", "pairs.jsonl"], "pairs.jsonl"),
            (["verify", "."], "manifest"),
        ],
    )
    def test_one_line_that_names_the_place(self, kat_cli, pairs, tmp_path, monkeypatch, argv, word):
        monkeypatch.chdir(tmp_path)
        before = snapshot(tmp_path)
        assert word in one_line(kat_cli(*argv).failed())
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize(
        ("argv", "word"),
        [
            (["prefixes", "p", "--out", "o", "--max_bad_row", "3"], "max_bad_row"),
            (["prefixes", "p"], "out"),
            (["prefixes", "--out", "o"], "pairs"),
            (["prefix", "p", "--out", "o"], "prefix"),
            (["run", "p", "--out", "o", "--k", "many"], "many"),
            (["run", "p", "--out", "o", "--metric", "taxi"], "taxi"),
            (["weigh-pairs", "p", "q"], "q"),
        ],
    )
    def test_a_mistyped_option_is_status_two_on_stderr(self, kat_cli, argv, word):
        ran = kat_cli(*argv)
        assert word.lower() in ran.failed().lower()
        assert ran.stdout == ""

    @pytest.mark.parametrize(
        "rows",
        [
            [{"id": "a", "prefix": {"messages": [turn("user", "q")]}}],
            [{"id": "a", "prompt": "q"}, {"id": "b", "prompt": "r"}],
            [{"prompt": [turn("user", "q")], "topic": "x"}],
        ],
        ids=["prefixes", "prompts", "messages"],
    )
    def test_prompts_where_pairs_are_read(self, kat_cli, tmp_path, rows):
        path = write(tmp_path / "some prompts.jsonl", jsonl(*rows))
        message = kat_cli("run", path, "--out", tmp_path / "run").failed()
        assert "prompts without completions" in message
        assert f"kat embed '{path}' --out EMBEDDINGS" in message
        assert not (tmp_path / "run").exists()

    def test_a_bad_row_among_pairs_is_no_prompt(self, kat_cli, tmp_path):
        path = write(tmp_path / "p.jsonl", jsonl(*GOOD, {"prefix": GOOD[0]["prefix"]}))
        assert "without completions" not in kat_cli("prefixes", path, "--out", tmp_path / "o.jsonl").failed()
        nulls = write(tmp_path / "n.jsonl", jsonl({"prompt": "q", "chosen": None, "rejected": None}))
        assert "without completions" not in kat_cli("prefixes", nulls, "--out", tmp_path / "o.jsonl").failed()

    def test_weights_of_a_file_of_pairs(self, kat_cli, pairs):
        assert f"{pairs} is no folder of weights" in kat_cli("weigh-pairs", pairs).failed()

    def test_help_and_version(self, kat_cli):
        import kat

        text = kat_cli("--help").stdout
        for name in ("prefixes", "embed", "density", "run", "verify", "demo-data"):
            assert name in text
        assert kat.__version__ in kat_cli("--version").stdout

    def test_a_terminal_without_unicode(self, python, pairs):
        ran = python(*KAT, "prefixes", pairs, "--out", "o.jsonl", env={"PYTHONIOENCODING": "ascii"})
        assert ran.rc == 0, ran.stderr

    def test_a_file_name_that_is_no_utf8(self, python, pairs, tmp_path):
        name = os.fsdecode(b"p\xff.jsonl")
        (tmp_path / name).write_bytes(pairs.read_bytes().replace(b'"src"', b'"not"'))
        ran = python(*KAT, "prefixes", name, "--out", "o.jsonl")
        assert ran.rc == 0 or ran.failed()


class TestWholeOrNothing:
    OLD = jsonl({"id": "old", "prompt": "old"})

    def begun(self, process, big, tmp_path):
        """A run that is in the middle of writing o.jsonl."""
        (tmp_path / "o.jsonl").write_bytes(self.OLD)
        restore = "import signal; signal.signal(2, signal.default_int_handler); from kat.cli.main import main; "
        child = process("-c", restore + "main()", "prefixes", big, "--out", "o.jsonl", "--overwrite")
        until = time.monotonic() + 30
        while not list(tmp_path.glob(".kat-tmp-*")):
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(0.05)
        return child

    def test_killed(self, process, python, big, tmp_path):
        child = self.begun(process, big, tmp_path)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert (tmp_path / "o.jsonl").read_bytes() == self.OLD
        assert list(tmp_path.glob(".kat-tmp-*"))
        ran = python(*KAT, "prefixes", big, "--out", "o.jsonl", "--overwrite")  # the next run mends and sweeps
        assert ran.rc == 0, ran.stderr
        assert len(read_jsonl(tmp_path / "o.jsonl")) == 1000
        assert not list(tmp_path.glob(".kat-tmp-*"))

    def test_interrupted(self, process, big, tmp_path):
        child = self.begun(process, big, tmp_path)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
        assert child.returncode == 130
        assert b"Traceback" not in err
        assert (tmp_path / "o.jsonl").read_bytes() == self.OLD
        assert sorted(p.name for p in tmp_path.iterdir()) == ["big.jsonl", "o.jsonl"]

    @pytest.mark.parametrize("step", range(1, 5))
    def test_killed_after_every_renaming(self, python, pairs, tmp_path, step):
        """Old or new, and never taken for done while the manifest is not there."""
        out = tmp_path / "o.jsonl"
        out.write_bytes(self.OLD)
        code = (
            "import os, pathlib, sys\n"
            "from kat.cli.main import main\n"
            "real, seen = pathlib.Path.replace, []\n"
            "def replace(path, target):\n"
            "    real(path, target)\n"
            "    seen.append(target)\n"
            f"    if len(seen) == {step}: os.kill(os.getpid(), 9)\n"
            "pathlib.Path.replace = replace\n"
            "main()\n"
        )
        argv = ["prefixes", pairs, "--out", out]
        assert python("-c", code, *argv, "--overwrite").rc == -signal.SIGKILL
        ids = [r["id"] for r in read_jsonl(out)]
        assert ids in (["old"], [md5_id(f"q{i}") for i in range(3)])
        again = python(*KAT, *argv)
        if step == 4:
            assert "skipped:" in again.stdout
        else:
            assert "--overwrite" in again.failed()
            assert python(*KAT, *argv, "--overwrite").rc == 0
            assert [r["id"] for r in read_jsonl(out)] == [md5_id(f"q{i}") for i in range(3)]

    @pytest.mark.parametrize("limit", [0, 60, 100, 240])
    def test_a_full_disk(self, python, pairs, tmp_path, limit):
        """A limit on file sizes stands for the disk: the openings, the statistics or the manifest do not fit."""
        rows = [pair("q", "a", "b"), b"{" * 200, pair("q", "c", "d")]
        write(pairs, jsonl(*rows))
        out = tmp_path / "o.jsonl"
        out.write_bytes(b"old")
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "from kat.cli.main import main; main()"
        )
        argv = ["-c", code, "prefixes", pairs, "--out", out, "--overwrite", "--max_bad_rows", "all"]
        message = one_line(python(*argv, env={"PYTHONDONTWRITEBYTECODE": "1"}).failed())
        assert "cannot be written" in message
        assert str(tmp_path) in message
        assert not list(tmp_path.glob(".kat-tmp-*"))
        assert not (tmp_path / "o.jsonl.manifest.json").exists()  # it does not count as done
        new = json.dumps({"id": md5_id("q"), "prefix": {"messages": [turn("user", "q")]}}, separators=(",", ":")) + "\n"
        assert out.read_bytes() in (b"old", new.encode())
        if len(new) > limit:
            assert out.read_bytes() == b"old"
            assert sorted(p.name for p in tmp_path.iterdir()) == ["o.jsonl", "pairs.jsonl"]

    def test_a_full_disk_replaces_nothing(self, python, pairs, tmp_path):
        write(pairs, jsonl(pair("q"), b"{" * 200))
        (tmp_path / "o.jsonl").write_bytes(b"old")
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        code = limit + "from kat.cli.main import main; main()"
        argv = ["prefixes", pairs, "--out", "o.jsonl", "--overwrite", "--max_bad_rows", "all"]
        python("-c", code, *argv, env={"PYTHONDONTWRITEBYTECODE": "1"}).failed()
        assert (tmp_path / "o.jsonl").read_bytes() == b"old"

    @pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of root, which Linux has")
    def test_an_unwritable_folder(self, python, pairs, tmp_path):
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        code = (  # root may write anywhere; without its capabilities it may not
            "import ctypes, struct\n"
            "head, none = struct.pack('=II', 0x20080522, 0), bytes(24)\n"
            "ctypes.CDLL(None).capset(head, none)\n"
            "from kat.cli.main import main; main()"
        )
        for out in (folder / "o.jsonl", folder / "deep" / "o.jsonl"):
            message = one_line(python("-c", code, "prefixes", pairs, "--out", out).failed())
            assert str(out) in message
            assert "ermission denied" in message
        assert list(folder.iterdir()) == []

    def test_a_reader_that_went_away(self, process, pairs, tmp_path):
        read, write_end = os.pipe()
        os.close(read)
        try:
            child = process(*KAT, "prefixes", pairs, "--out", "o.jsonl", stdout=write_end)
            _, err = child.communicate(timeout=60)
        finally:
            os.close(write_end)
        assert err == b""
        assert child.returncode != 0
        assert len(read_jsonl(tmp_path / "o.jsonl")) == 3

    def stopped(self, monkeypatch, error):
        def stop(*args, **_):
            raise error

        monkeypatch.setattr("kat.stages.prefixes.make_prefixes", stop)

    def test_ctrl_c_is_130(self, kat_cli, pairs, monkeypatch, tmp_path):
        self.stopped(monkeypatch, KeyboardInterrupt())
        ran = kat_cli("prefixes", pairs, "--out", tmp_path / "o")
        assert ran.rc == 130
        assert "Traceback" not in ran.stderr

    def test_ctrl_c_is_said(self, kat_cli, pairs, monkeypatch, tmp_path):
        self.stopped(monkeypatch, KeyboardInterrupt())
        assert "interrupted" in kat_cli("prefixes", pairs, "--out", tmp_path / "o").stderr

    @pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "x")], ids=repr)
    def test_the_machine_gives_out(self, kat_cli, pairs, monkeypatch, tmp_path, error):
        self.stopped(monkeypatch, error)
        one_line(kat_cli("prefixes", pairs, "--out", tmp_path / "o").failed())
