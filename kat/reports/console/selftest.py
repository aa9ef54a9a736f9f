"""The trials of `kat selftest`, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from kat.density.selftest import Trial


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """Lay out the trials as a table."""
    head = f"{'data':<26}{'estimator':<16}{'measure':<18}{'found':>7}{'bound':>8}   T"
    lines = [head, "-" * (len(head) + 24)]
    for t in trials:
        bound = "–" if t.bound is None else f"≥ {t.bound:.2f}"
        verdict = "" if t.passed else "   FAILS"
        lines.append(
            f"{t.data:<26}{t.estimator:<16}{t.measure:<18}{t.value:>7.3f}{bound:>8}"
            f"   {t.temperature:.3g}, stopped by {t.stopped_by}{verdict}"
        )
    failed = sum(not t.passed for t in trials)
    lines.append("every stated bound holds" if not failed else f"{failed} stated bounds fail")
    return lines
