"""Run the campaigns and print what they count: `python -m tests.faults`, with FULL=1 for every case."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.faults import forks

forks.alone()

from tests.faults.campaign import Campaign, Result, World, make_world, run_campaigns  # noqa: E402
from tests.faults.damaged import damaged  # noqa: E402
from tests.faults.disturbed import disturbed  # noqa: E402
from tests.faults.full_disk import full_disk  # noqa: E402
from tests.faults.fuzzed import fuzzed_artefacts, fuzzed_data  # noqa: E402
from tests.faults.making import STAGES  # noqa: E402
from tests.faults.races import races  # noqa: E402

CAMPAIGNS: dict[str, Campaign] = {"disturbed": disturbed, "races": races, "full-disk": full_disk, "damaged": damaged}
CAMPAIGNS |= {"fuzzed-data": fuzzed_data, "fuzzed-artefacts": fuzzed_artefacts}
ROWS = ["kills", "ENOSPC", "EIO", "EACCES", "EROFS", "fsync", "signals", "races", "full disks"]


def table(results: Iterable[Result], shown: int = 5) -> str:
    """Return the table of results, a row for each kind, and the first failures of each."""
    kinds: dict[str, list[Result]] = defaultdict(list)
    for one in results:
        kinds[one.kind].append(one)
    lines = [f"{'':<24} {'cases':>8} {'as promised':>12} {'failures':>9}"]
    for kind in sorted(kinds, key=lambda name: (ROWS.index(name) if name in ROWS else len(ROWS), name)):
        of_kind = kinds[kind]
        bad = [one for one in of_kind if not one.ok]
        lines.append(f"{kind:<24} {len(of_kind):>8,} {len(of_kind) - len(bad):>12,} {len(bad):>9,}")
        lines += [f"    {one.stage} / {one.site} / {one.what}" for one in bad[:shown]]
    return "\n".join(lines)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="stages, joined by commas: " + ",".join(STAGES))
    parser.add_argument("--campaigns", default=",".join(CAMPAIGNS), help="which, joined by commas [default: all]")
    parser.add_argument("--cases", type=int, help="so many cases of each campaign at most, drawn by the seed")
    parser.add_argument("--minutes", type=float, help="after which no further case begins")
    parser.add_argument("--site", default="", help="a part of a failure's second field, to see it again (with FULL=1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--failures", type=Path, help="a file for every failure, a line each")
    return parser.parse_args(words)


def report(world: World, told: argparse.Namespace, campaigns: Iterable[Campaign], full: bool) -> int:
    """Run campaigns, print their table, and return the exit status."""
    began, results = time.monotonic(), []
    for result in run_campaigns(campaigns, world, told.seed, full):
        results.append(result)
        if told.failures and not result.ok:
            with told.failures.open("a") as file:
                file.write(f"{result.kind} / {result.stage} / {result.site} / {result.what}\n")
    print(table(results))
    print(f"seed {told.seed}, {'every case' if full else 'a sample'}, {time.monotonic() - began:,.0f} s")
    return 1 if not results or any(not one.ok for one in results) else 0


def main(words: list[str] | None = None) -> int:
    """Run all campaigns; the exit status is 1 if any case failed."""
    told, full = arguments(words), os.environ.get("FULL", "") not in ("", "0")
    world = make_world(
        [name for name in told.only.split(",") if name], full=full, jobs=told.jobs, cases=told.cases, site=told.site
    )
    try:
        world.begin()
        world.until = time.monotonic() + 60 * told.minutes if told.minutes else math.inf
        return report(world, told, [CAMPAIGNS[name] for name in told.campaigns.split(",")], full)
    finally:
        shutil.rmtree(world.root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
