"""What lists show of conversations: enough to tell them apart."""

from making import md5_id, turn

from kat.data.headings import Heading, headings
from kat.data.openings import unit_id
from kat.records import Prefix
from kat.reports.console.text import heading_text


def context(*turns):
    return Prefix(unit_id(list(turns), "context"), list(turns))


def test_an_opening_is_its_own_heading():
    prefix = Prefix(md5_id("Hello"), [turn("user", "Hello"), turn("assistant", "Hi"), turn("user", "Why?")])
    assert headings([prefix]) == {prefix.id: Heading("Hello")}


def test_contexts_show_their_last_question():
    greeting = turn("user", "Hello"), turn("assistant", "Hi")
    contexts = [context(*greeting, turn("user", f"Why {i}?")) for i in range(3)] + [context(turn("user", "Alone"))]
    shown = headings(contexts)
    assert [shown[c.id] for c in contexts] == [*(Heading("Hello", f"Why {i}?") for i in range(3)), Heading("Alone")]


def test_contexts_of_one_opening_and_last_question_show_where_they_differ():
    contexts = [context(turn("user", "a"), turn("assistant", f"b {i}"), turn("user", "go on")) for i in range(2)]
    contexts += [context(turn("system", f"s {i}"), turn("user", "q")) for i in range(2)]
    shown = headings(contexts)
    assert [shown[c.id].later for c in contexts] == ["b 0", "b 1", "s 0", "s 1"]


def test_a_heading_fits_its_line():
    for opening, later in (("Hello", "Why?"), ("o" * 300, "l" * 300), ("Hello\n", "l" * 300), ("o" * 300, "")):
        line = heading_text(opening, later, 70)
        assert len(line) <= 70
        assert "\n" not in line
        assert line.startswith(opening[0])
    assert heading_text("Hello", "Why?", 70) == "Hello … Why?"
    assert heading_text("o" * 300, "l" * 20, 70).endswith("l" * 20)
