"""Data of known density, and data without structure, weighed as real ones would be."""

from __future__ import annotations

from kat.evidence_config import SelftestOptions
from kat.reports.console.selftest import trial_lines
from kat.terminal import show, tell_figures


def selftest(options: SelftestOptions) -> bool:
    """Print the trials; return whether every stated bound holds."""
    from kat.density.selftest import selftest as run_trials

    trials = run_trials(options.n, options.d, options.k, options.seed)
    show(*trial_lines(trials))
    tell_figures(trials=trials)
    return all(trial.passed for trial in trials)
