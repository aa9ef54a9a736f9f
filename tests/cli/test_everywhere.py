"""What every command has: help by panels with examples, one form of errors, `--json`, `--quiet`, `--verbose`."""

import dataclasses
import inspect
import json
import shlex
import subprocess
import sys
import typing
from importlib import import_module
from pathlib import Path

import pytest
from making import jsonl, pair, write

from kat.cli.commands import COMMANDS as TABLE
from kat.cli.commands import overview
from kat.cli.main import app
from kat.errors import OptionError

COMMANDS = [name for name in app if not name.startswith("-")]
CONFIGS = [import_module(f"kat.{name}config") for name in ("", "pair_", "training_", "grpo_", "report_", "executor_")]
NEEDED = {"SampleOptions": {"budget": 3}, "ExportWeightsOptions": {"to": "trl"}, "OriginOptions": {"rm_source": "rm"}}


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"q{i % 3}", f"a{i}", f"b{i}") for i in range(9))))


class TestHelp:
    def test_panels_in_the_order_of_the_pipeline(self, kat_cli):
        text = kat_cli("--help").stdout
        order = ["run", "demo-data", "prefixes", "embed", "density", "weigh-pairs", "train-rm", "score", "evaluate-rm"]
        places = [text.index(f"\n  {name} ") for name in [*order, "show", "verify"]]
        assert places == sorted(places)
        assert text.index("Step by step") < text.index("Train:") < text.index("Evidence:")

    @pytest.mark.parametrize("columns", [60, 80, 100])
    def test_the_overview_fits_and_says_what_docstrings_say(self, columns):
        text = "\n".join(overview(columns))
        assert max(map(len, text.splitlines())) <= columns
        words = " ".join(text.split())
        for name in COMMANDS:
            told = inspect.getdoc(app[name].default_command).split("\n\n")[0]
            assert TABLE[name].does == " ".join(told.split())
            assert f"{name} {TABLE[name].does}" in words
        assert list(TABLE) == COMMANDS

    def test_the_overview_loads_nothing(self, python):
        code = (
            "import sys; sys.argv = ['kat', '--help']; from kat.cli.process import main; main(); "
            "assert not {'cyclopts', 'numpy', 'kat.config'} & set(sys.modules), sorted(sys.modules)"
        )
        assert python("-c", code).stdout == python("-m", "kat").stdout

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("columns", [60, 100])
    def test_what_each_command_shows(self, kat_cli, monkeypatch, command, columns):
        from rich.console import Console

        for one in (app, app.meta):  # which keep the console of this process's first help
            monkeypatch.setattr(one, "console", Console(width=columns))
        text = kat_cli(command, "--help").stdout
        for option in ("--config", "--json", "--quiet", "--verbose"):
            assert option in text
        for line in TABLE[command].examples:
            assert "".join(line.split()) in "".join(text.split())  # a line that is longer than the terminal is broken
        assert "Parameters" not in text  # every option has a panel that says what it is for
        assert "--empty-" not in text
        framed = [line for line in text.splitlines() if line[:1] in "╭│╰"]
        assert framed
        assert max(map(len, framed)) <= columns

    @pytest.mark.parametrize("command", COMMANDS)
    def test_examples_are_of_their_command_and_can_be_typed(self, command):
        assert len(TABLE[command].examples) == 2
        for line in TABLE[command].examples:
            program, name, *words = shlex.split(line)
            assert (program, name) == ("kat", command)
            words = [word for word in words if word != "--json"]
            app.parse_args([name, *words], exit_on_error=False, print_error=False)

    def test_help_as_a_command(self, kat_cli):
        assert kat_cli("help").stdout == kat_cli("--help").stdout == kat_cli().stdout
        assert kat_cli("help", "weigh_pairs").stdout == kat_cli("weigh-pairs", "-h").stdout
        assert kat_cli("--quiet", "help", "run").stdout == kat_cli("run", "--help").stdout

    def test_help_about_the_origins_commands(self, kat_cli):
        for name in ("kat_embed", "kat-train-rm"):
            assert kat_cli("help", name).stdout == kat_cli("origin", name, "--help").stdout
        assert kat_cli("help", "origin").stdout == kat_cli("origin", "--help").stdout

    def test_help_about_nothing(self, kat_cli):
        for argv in (["help", "densty"], ["densty", "--help"], ["densty"]):
            assert "Did you mean density?" in kat_cli(*argv).failed()

    def test_options_that_do_nothing_are_not_there(self, kat_cli):
        """A training reads what was weighed, so no row is bad there; counting openings is on no device."""
        for command in ("train-rm", "train-dpo", "train-grpo", "evaluate-policy"):
            assert "--max-bad-rows" not in kat_cli(command, "--help").stdout
            argv = shlex.split(TABLE[command].examples[0])[1:]
            assert "no option --max_bad_rows" in kat_cli(*argv, "--max_bad_rows", "3").failed()
        for command in ("prefixes", "evaluate-rm"):
            assert "--device" not in kat_cli(command, "--help").stdout

    def test_the_overview_is_the_same_behind_options(self, kat_cli):
        for argv in (["--json"], ["-q", "help"], ["-v", "--help"]):
            assert kat_cli(*argv).stdout == kat_cli().stdout
        assert kat_cli("-q", "--version").stdout == kat_cli("--version").stdout

    @pytest.mark.parametrize("argv", [[], ["run", "--help"], ["models"]], ids=str)
    def test_a_reader_that_goes_away_or_a_full_disk(self, argv):
        kat = [sys.executable, "-m", "kat", *argv]
        away = subprocess.Popen(kat, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        away.stdout.close()
        assert (away.communicate()[1], away.returncode) == (b"", 141)
        if Path("/dev/full").exists():
            with open("/dev/full", "w") as disk:
                full = subprocess.run(kat, stdout=disk, stderr=subprocess.PIPE, text=True, check=False)
            assert (full.returncode, full.stderr.count("\n")) == (2, 1)
            assert full.stderr.startswith("kat: ")

    def test_as_a_module(self, python):
        assert python("-m", "kat", "--version").stdout == python("-m", "kat.cli", "-V").stdout

    def test_a_shell_completes(self, kat_cli, tmp_path):
        for shell in ("bash", "zsh", "fish"):
            assert "weigh-pairs" in kat_cli("completion", shell).stdout
        assert kat_cli("-v", "completion", "bash").stdout == kat_cli("completion", "bash").stdout
        assert "expected bash, zsh, fish" in kat_cli("completion", "ksh").failed()
        script = tmp_path / "complete"
        script.write_text(kat_cli("completion", "bash").stdout)
        for words, expected in (
            ("train-", "train-rm train-dpo train-grpo"),
            ("density --metric ''", "cosine euclidean"),
        ):
            code = (
                f"source {script}; COMP_WORDS=(kat {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _kat; "
                'echo "${COMPREPLY[@]}"'
            )
            ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
            assert ran.stdout.strip() == expected


class TestErrors:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--k", "-3"], "k is -3; expected a whole number of 1 or more."),
            (["--k", "0"], "k is 0; expected a whole number of 1 or more."),
            (["--k", "1.5"], "k is '1.5'; expected a whole number."),
            (["--k", "9" * 19], f"k is '{'9' * 19}'; expected a whole number of 18 digits at most."),
            (["--max-bad-rows", "-1"], "max_bad_rows is -1; expected a whole number of 0 or more."),
            (["--max-bad-rows", "x"], "max_bad_rows is 'x'; expected a whole number, or \"all\"."),
            (["--metric", "taxi"], "metric is 'taxi'; expected cosine, euclidean."),
            (["--ess", "x"], "ess is 'x'; expected a number."),
            (["--ess", "3"], "ess is 3.0; expected a share of N above 0 and at most 1."),
            (["--center=maybe"], "center is 'maybe'; expected true or false."),
            (["--k"], "--k needs a value. See kat density --help"),
            (["--metrik", "cosine"], "density has no option --metrik. Did you mean --metric?"),
            (["--zzz"], "density has no option --zzz. See kat density --help"),
            (["--k", "3", "--k", "4"], "--k is given twice. See kat density --help"),
            (["more"], "density has no place for 'more'. See kat density --help"),
        ],
    )
    def test_one_form(self, kat_cli, argv, message):
        assert kat_cli("density", "vectors", "--out", "out", *argv).failed() == f"kat: {message}\n"

    def test_an_option_of_a_command_with_a_longer_name_names_that(self, kat_cli):
        told = kat_cli("export", "minilm", "out", "--to", "trl").failed()
        assert told == "kat: export has no option --to. kat export-weights has it.\n"
        assert "See kat export --help" in kat_cli("export", "minilm", "out", "--zzz").failed()

    def test_what_is_lacking_is_said_with_what_it_is(self, kat_cli):
        assert kat_cli("prefixes", "p").failed().startswith("kat: prefixes needs --out: The prefixes file to write.")
        assert kat_cli("verify").failed().startswith("kat: verify needs FOLDER: A folder of `kat run`")

    def test_how_to_ask_for_help_is_as_it_was_typed(self, python, kat_cli):
        assert "See python -m scripts.kat_embed --help" in python("-m", "scripts.kat_embed").failed()

    def test_of_a_configuration_the_file_is_named(self, kat_cli, tmp_path):
        config = tmp_path / "kat.toml"
        for text, message in (
            ('[density]\nmetric = "taxi"\n', f"metric is 'taxi' (in {config}); expected cosine, euclidean."),
            ("[density]\nk = 0\n", "k is 0; expected a whole number of 1 or more."),
            ("[density]\nk = [1, 2]\n", f"k is '[1, 2]' (in {config}); expected a whole number."),
            ("[density]\nk = {a = 1}\n", f"density has no option k.a (in {config}). See kat density --help"),
            ("[run]\nmetrik = 1\n", f"{config}: [run] has no option 'metrik'. Did you mean metric?"),
            ("[kat_embed]\nmodels = 1\n", f"{config}: [kat_embed] has no option 'models'. Did you mean model?"),
            ("[run]\njson = true\n", f"{config}: [run] has no option 'json'. It is typed: --json"),
            ("[densty]\nk = 3\n", f"{config}: [densty] is no table of a command. Did you mean density?"),
        ):
            config.write_text(text)
            assert kat_cli("density", "v", "--out", "o", "--config", config).failed() == f"kat: {message}\n"

    @pytest.mark.parametrize("module", CONFIGS, ids=lambda module: module.__name__)
    def test_no_whole_number_is_taken_unchecked(self, module):
        """The command line converts, and Python may be given anything: each option says itself what it takes."""
        asked = 0
        for name, kind in vars(module).items():
            if not dataclasses.is_dataclass(kind) or kind.__module__ != module.__name__:
                continue
            hints = typing.get_type_hints(kind, include_extras=True)
            for one in dataclasses.fields(kind):
                how = getattr(hints[one.name], "__metadata__", ())
                if not any(getattr(each, "converter", None) for each in how):
                    continue
                asked += 1
                for value in (-3, 1.5, True, "x"):
                    with pytest.raises(OptionError, match=f"{one.name} is {value!r}; expected"):
                        kind(**NEEDED.get(name, {}) | {one.name: value})
        assert asked


class TestJson:
    def test_one_object_with_every_figure(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "prefixes_all.jsonl"
        told = json.loads(kat_cli("prefixes", pairs, "--out", out, "--json").stdout)
        assert (told["status"], told["errors"], told["notes"]) == (0, [], [])
        [made] = told["outputs"]
        assert (made["stage"], made["path"], made["was_there"]) == ("prefixes", str(out), False)
        assert made["seconds"] >= 0
        assert made["manifest"]["options"] == {"max_bad_rows": 0}
        stats = json.loads((tmp_path / "prefixes_all.stats.json").read_bytes())
        assert made["reports"] == {"prefixes_all.stats.json": stats}
        printed = kat_cli("show", out).stdout.splitlines()
        assert told["lines"][1:] == printed[1:]
        assert told["next"][0].startswith("kat embed ")

    def test_of_what_was_there(self, kat_cli, pairs, tmp_path):
        argv = ["prefixes", pairs, "--out", tmp_path / "p.jsonl", "--json"]
        first, second = (json.loads(kat_cli(*argv).stdout)["outputs"][0] for _ in range(2))
        assert (second["was_there"], second["seconds"]) == (True, None)
        assert second["reports"] == first["reports"]

    def test_of_a_failure(self, kat_cli, tmp_path):
        ran = kat_cli("prefixes", tmp_path / "none.jsonl", "--out", tmp_path / "p.jsonl", "--json")
        told = json.loads(ran.stdout)
        assert told["status"] == ran.rc == 2
        assert ran.failed() == f"kat: {told['errors'][0]}\n"
        assert told["outputs"] == []
        misspelt = kat_cli("prefixes", "p", "--out", "o", "--json", "--k", "3")
        assert json.loads(misspelt.stdout)["errors"] == [misspelt.failed().removeprefix("kat: ").strip()]

    @pytest.mark.parametrize(
        "argv", [["--json", "run", "p", "--json"], ["run", "--config", "--json"], ["run", "--json", "--quiet=maybe"]]
    )
    def test_of_a_mistake_in_the_options_of_every_command(self, kat_cli, argv):
        ran = kat_cli(*argv)
        told = json.loads(ran.stdout)
        assert told["status"] == ran.rc == 2
        assert ran.failed() == f"kat: {told['errors'][0]}\n"

    def test_of_a_failed_check(self, kat_cli, pairs, tmp_path):
        out = tmp_path / "p.jsonl"
        kat_cli("prefixes", pairs, "--out", out)
        out.write_bytes(b"")
        ran = kat_cli("verify", out, "--json")
        assert json.loads(ran.stdout)["status"] == ran.rc == 1
        assert json.loads(ran.stdout)["notes"]

    def test_of_a_stop(self, kat_cli, pairs, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("kat.stages.prefixes.make_prefixes", stop)
        ran = kat_cli("prefixes", pairs, "--out", tmp_path / "o", "--json")
        assert json.loads(ran.stdout)["status"] == ran.rc == 130

    def test_commands_that_make_nothing(self, kat_cli, pairs, tmp_path):
        models = json.loads(kat_cli("models", "--json").stdout)["figures"]["models"]
        assert {one["name"] for one in models} >= {"minilm"}
        trials = json.loads(kat_cli("selftest", "--n", "200", "--k", "5", "--json").stdout)["figures"]["trials"]
        assert {one["data"] for one in trials}
        assert all(one["value"] is None or isinstance(one["value"], float) for one in trials)

    def test_it_is_ascii(self, kat_cli, tmp_path):
        """What a file holds drives no terminal here either."""
        name = tmp_path / "p\u202e\x9b.jsonl"
        ran = kat_cli("prefixes", name, "--out", tmp_path / "o.jsonl", "--json")
        assert ran.stdout.isascii()
        assert str(name) in json.loads(ran.stdout)["errors"][0]


class TestHowMuch:
    def test_quiet(self, kat_cli, pairs, tmp_path):
        for flag in ("--quiet", "-q"):
            ran = kat_cli("prefixes", pairs, "--out", tmp_path / f"{flag}.jsonl", flag)
            assert (ran.rc, ran.stdout, ran.stderr) == (0, "", "")
        kat_cli("prefixes", tmp_path / "none", "--out", tmp_path / "o.jsonl", "-q").failed()

    def test_quiet_holds_for_one_call(self, kat_cli, pairs, tmp_path):
        kat_cli("prefixes", pairs, "--out", tmp_path / "p.jsonl", "-q")
        assert "skipped:" in kat_cli("prefixes", pairs, "--out", tmp_path / "p.jsonl").stdout

    def test_verbose(self, kat_cli, pairs, tmp_path):
        plain = kat_cli("prefixes", pairs, "--out", tmp_path / "p.jsonl").stdout
        more = kat_cli("prefixes", pairs, "--out", tmp_path / "q.jsonl", "--verbose").stdout
        assert "MB at most" in more
        assert "MB at most" not in plain

    def test_verbose_shows_where_an_error_arose(self, kat_cli, tmp_path):
        ran = kat_cli("-v", "prefixes", tmp_path / "none", "--out", tmp_path / "o.jsonl")
        assert ran.rc == 2
        assert "Traceback" in ran.stderr
        assert ran.stderr.splitlines()[-1].startswith("kat: ")

    @pytest.mark.parametrize("how", [{}, {"quiet": True}, {"told": True}, {"env": "1"}])
    def test_bars_on_a_terminal(self, how, monkeypatch, tmp_path):
        """tqdm takes `disable=None` for a word of its own, whatever TQDM_DISABLE says: so what it is told decides."""
        import os
        import pty
        import termios

        from tqdm import tqdm

        from kat.terminal import Voice, bar_off, speaking

        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
        if (env := how.pop("env", None)) is not None:
            monkeypatch.setenv("TQDM_DISABLE", env)
        quiet = bool(how or env)
        with open(slave, "w") as screen, speaking(Voice(**how)):
            monkeypatch.setattr("sys.stderr", screen)
            list(tqdm(range(3), desc="shown", disable=bar_off()))
            list(tqdm(range(3), desc="never", disable=bar_off(False)))
            print("end", file=screen, flush=True)
        text = os.read(master, 100_000).decode()
        os.close(master)
        assert ("shown" in text) == (not quiet)
        assert "never" not in text
        assert "end" in text

    def test_every_bar_asks(self):
        import ast
        from pathlib import Path

        import kat

        told = {}
        for path in Path(kat.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm":
                    told[path.name, node.lineno] = {k.arg: ast.unparse(k.value) for k in node.keywords}.get(
                        "disable", ""
                    )
        assert len(told) >= 8
        assert [place for place, value in told.items() if not value.startswith("bar_off(")] == []

    def test_workers_show_no_bars_then(self):
        import os

        from kat.terminal import Voice, speaking

        before = os.environ.get("TQDM_DISABLE")
        for voice, expected in ((Voice(quiet=True), "1"), (Voice(told=True), "1"), (Voice(), before)):
            with speaking(voice):
                assert os.environ.get("TQDM_DISABLE") == expected
            assert os.environ.get("TQDM_DISABLE") == before


def test_what_an_object_is_made_of(capsys):
    import numpy as np

    from kat.terminal import print_object

    print_object({"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": Path("x"), "e": (1, None, True)})
    assert json.loads(capsys.readouterr().out) == {"a": 0.5, "b": [0, 1], "c": None, "d": "x", "e": [1, None, True]}
