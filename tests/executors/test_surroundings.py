"""Signals around a library that must not be stopped half-way."""

import signal

import pytest

from kat.executors.surroundings import late_signals


@pytest.fixture
def stop():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_the_first_comes_at_the_end(stop):
    done = []
    with pytest.raises(KeyboardInterrupt), late_signals():  # noqa: PT012
        stop()
        done.append("all")
        signal.signal(signal.SIGTERM, lambda *_: None)  # a library's
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_comes_also_if_the_block_fails(stop):
    with pytest.raises(KeyboardInterrupt), late_signals():  # noqa: PT012
        stop()
        raise RuntimeError("a library that was disturbed")


def test_the_second_comes_at_once(stop):
    done = []
    with pytest.raises(KeyboardInterrupt), late_signals():  # noqa: PT012
        stop()
        done.append("half")
        stop()
        done.append("all")
    assert done == ["half"]


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with late_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
