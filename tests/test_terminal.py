"""What is shown of text from files: nothing that drives a terminal, and everything that can be read as it is."""

import subprocess
from random import Random

import pytest

from kat.terminal import Voice, command_line, escaped, note, shell_word, show, show_fitted, speaking, waiting

HOSTILE = {
    "\x1b[2J": "\\x1b[2J",
    "\n": "\\n",
    "\r\t\0": "\\r\\t\\x00",
    "\x7f\x85\x9b": "\\x7f\\x85\\x9b",
    "\u202a\u202b\u202c\u202d\u202e": "\\u202a\\u202b\\u202c\\u202d\\u202e",
    "\u2066\u2067\u2068\u2069": "\\u2066\\u2067\\u2068\\u2069",
    "\u200b\u200e\ufeff\u00ad": "\\u200b\\u200e\\ufeff\\xad",
    "\u2028\u2029": "\\u2028\\u2029",
    "\ud800\udc80": "\\ud800\\udc80",
    "\U000e0041\ue000": "\\U000e0041\\ue000",
    "a\u200db, a\u200cb, a\ufe0fb": "a\\u200db, a\\u200cb, a\\ufe0fb",
    "\u3164\u115f": "\\u3164\\u115f",
}
READABLE = [
    "plain, back\\slash $x_1$",
    "é e\u0301 Việt ไทย שָׁלוֹם",
    "漢字\u3000かな 葛\U000e0100",
    "\u00a0\u202f",
    "👩\u200d💻 👩🏽\u200d🚀 🏳\ufe0f\u200d🌈 ❤\ufe0f 1\ufe0f\u20e3",
    "می\u200cخواهم क्\u200dष র\u200d্য ന്\u200d",
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=ascii)
def test_what_cannot_be_seen_is_escaped(text, shown):
    assert escaped(text) == shown


@pytest.mark.parametrize("text", READABLE, ids=ascii)
def test_what_can_be_read_stays(text):
    assert escaped(text) == text


def test_what_is_escaped_stays_the_same():
    rng = Random(0)
    pieces = [*"".join(HOSTILE), *"".join(READABLE)]
    for _ in range(3000):
        once = escaped("".join(rng.choices(pieces, k=8)))
        assert escaped(once) == once


def test_every_character_by_itself_is_of_one_safe_kind():
    """Oracle: the general categories that Unicode gives to what is not seen."""
    import sys
    import unicodedata

    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            assert escaped(f"a{chr(code)}b")[1] == "\\", hex(code)


def test_a_line_is_one_line(capsys):
    show("a\nb", "c")
    note("d\x1b")
    assert capsys.readouterr() == ("a\\nb\nc\n", "d\\x1b\n")


@pytest.mark.parametrize("text", ["plain", "a b", "it's", "a\nb", "\x1b'\\\u202e漢", "\udcff\t"], ids=ascii)
def test_a_word_that_is_shown_can_be_typed(text):
    word = shell_word(text)
    assert escaped(word) == word
    ran = subprocess.run(["bash", "-c", f"printf %s {word}".encode()], capture_output=True, check=True)
    assert ran.stdout == text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/usr/bin/kat", "run", "a b.jsonl"], "kat run 'a b.jsonl'"),
        (["/src/kat/cli/__main__.py", "verify", "run"], "kat verify run"),
        (["/src/kat/__main__.py", "verify", "run"], "kat verify run"),
        (["/src/scripts/kat_train_rm.py", "--epochs", "2"], "python -m scripts.kat_train_rm --epochs 2"),
        (["my program.py", "\x1b"], "'my program.py' $'\\x1b'"),
        ([], "''"),
    ],
)
def test_the_command_can_be_typed_again(monkeypatch, argv, typed):
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == typed


def on_a_terminal(monkeypatch):
    """Streams that say they are a terminal, of 60 columns; in the test itself, for a fixture has others."""
    import sys

    monkeypatch.setenv("COLUMNS", "60")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)


def test_long_lines_are_broken_on_a_terminal(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    words = " ".join(f"word{i}" for i in range(30))
    path = "/a/" + "long/" * 20 + "path"
    show_fitted("  short", f"  label here     {words}", f"  {words}", path, "  a    b" + " " * 80 + "c")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 60] == [path]
    assert " ".join(" ".join(lines).split()) == f"short label here {words} {words} {path} a b c"
    of_label = [line for line in lines if "label" in line or line.startswith(" " * 17)]
    assert len(of_label) >= 4
    assert all(line[17] == "w" for line in of_label)


def test_lines_of_a_pipe_stay_whole(capsys):
    line = "word " * 50
    show_fitted(line)
    assert capsys.readouterr().out == f"{line}\n"


def test_what_is_waited_for_is_said_on_a_terminal(monkeypatch, capsys):
    import time

    on_a_terminal(monkeypatch)
    with waiting("loads", seconds=0.01):
        time.sleep(0.5)
    assert capsys.readouterr().err == "loads\n"
    with waiting("loads", seconds=60):
        pass
    for quiet in (Voice(quiet=True), Voice(told=True)):
        with speaking(quiet), waiting("loads", seconds=0.01):
            time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_is_waited_for_is_no_part_of_a_pipe(capsys):
    import time

    with waiting("loads", seconds=0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
