"""What `kat demo-check` prints."""

from __future__ import annotations

from kat.demo.check import RECOVERED, DemoCheck

BAR = 24  # characters of the longest bar


def demo_check_lines(check: DemoCheck) -> list[str]:
    """Return a table of topics, largest first, with a bar for each mean weight, and what it proves."""
    longest = max(check.mean_weights)
    rows = zip(check.topics, check.sizes, check.mean_weights, strict=True)
    return [
        "",
        f"{'topic':<28}{'openings':>9}{'mean weight':>13}",
        "-" * 50,
        *(f"{topic:<28}{size:>9,}{mean:>13.3f}  {'▇' * round(BAR * mean / longest)}" for topic, size, mean in rows),
        "-" * 50,
        f"rank correlation of mean topic weight with 1 / topic size: {check.rank_correlation:.3f} "
        f"(at least {RECOVERED} expected)",
        f"effective sample size: {check.ess_share:.1%} of {check.openings:,} openings",
    ]
