"""The journal: what was done is read back, a line that was cut off says nothing, and two never hold one."""

import zlib

import numpy as np
import pytest

from kat.errors import OutputError
from kat.journal import Journal, checksum, read_journal


def test_lines_are_read_back_and_the_later_one_counts(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    assert journal.read() == {}
    journal.add(0, 12, 0xAB)
    journal.add(0, "whole", 7)
    journal.add(0, 12, 0xFFFFFFFF)
    journal.close()
    assert path.read_bytes() == b"\n0 12 000000ab\n0 whole 00000007\n0 12 ffffffff\n"
    assert read_journal(path) == {("0", "12"): 0xFFFFFFFF, ("0", "whole"): 7}


@pytest.mark.parametrize("cut", range(len(b"1 2 00000009\n")))
def test_a_line_that_was_cut_off_says_nothing_and_spoils_nothing(tmp_path, cut):
    path = tmp_path / "journal"
    path.write_bytes(b"0 0 00000001\n" + b"1 2 00000009\n"[:cut])
    journal = Journal(path)
    assert journal.read() == {("0", "0"): 1}
    journal.add(3, 4, 5)
    journal.close()
    # A line that lacked only its end has one now; its checksum decides.
    whole = {("1", "2"): 9} if cut == 12 else {}
    assert read_journal(path) == {("0", "0"): 1, ("3", "4"): 5} | whole


@pytest.mark.parametrize("line", [b"\xff 1 00000000\n", b"1 00000000\n", b"0 1 2 00000000\n", b"0 1 0000000g\n", b"\n"])
def test_other_lines_say_nothing(tmp_path, line):
    (tmp_path / "journal").write_bytes(line)
    assert read_journal(tmp_path / "journal") == {}


def test_it_is_one_process_s_and_can_be_cleared(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.add(0, 0, 1)
    with pytest.raises(OutputError, match="another process"):
        Journal(path)
    journal.clear()
    journal.add(1, 1, 2)
    journal.close()
    assert path.read_bytes() == b"1 1 00000002\n"
    Journal(path).close()


def test_the_checksum_is_that_of_the_bytes_in_order():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4)[::2]
    assert checksum(a.T, b) == zlib.crc32(a.T.tobytes() + b.tobytes())


def test_who_waits_says_so_and_gets_what_the_first_wrote(tmp_path, capfd):
    import threading

    first, second = Journal(tmp_path / "journal"), []
    first.add("row", 1, 2)
    waiter = threading.Thread(target=lambda: second.append(Journal(tmp_path / "journal", waiting="waits for it")))
    waiter.start()
    waiter.join(0.5)
    assert second == []
    assert capfd.readouterr().err == "waits for it\n"
    with pytest.raises(OutputError, match="being written by another process"):
        Journal(tmp_path / "journal")
    first.add("row", 2, 3)
    first.close()
    waiter.join(30)
    assert second[0].read() == {("row", "1"): 2, ("row", "2"): 3}
    second[0].close()
    Journal(tmp_path / "journal", waiting="nobody holds it").close()
    assert capfd.readouterr().err == ""
