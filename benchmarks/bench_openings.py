"""Seconds and memory of kat_make_prefixes on a made file of 170,000 pairs, 28,000 openings and about 240 MB.

    python benchmarks/bench_openings.py [--rounds 3] [--rows 170000] [--openings 28000]

Each round is a process of its own; the best one counts, because others may load the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

BYTES_A_ROW = 1_410
SECONDS, MEGABYTES = 5, 200

# Runs the command as a child and prints what the operating system counted for it.
WRAPPER = """
import resource, subprocess, sys, time
began = time.perf_counter()
rc = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(rc, time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
KIBIBYTES = 1024 if sys.platform == "darwin" else 1  # ru_maxrss counts bytes there


def make_pairs(path: Path, rows: int, openings: int) -> None:
    """Every opening at least once, the others drawn at random; a third of the pairs have two more turns."""
    rng = Random(0)
    words = [
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "is",
        "you",
        "that",
        "it",
        "he",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "his",
        "they",
        "at",
        "be",
        "this",
        "have",
        "from",
    ]
    noise = " ".join(rng.choice(words) for _ in range(40_000))
    which = [*range(openings), *(rng.randrange(openings) for _ in range(rows - openings))]
    rng.shuffle(which)

    def text(size: int) -> str:
        start = rng.randrange(len(noise) - size)
        return noise[start : start + size]

    with path.open("w", encoding="utf-8") as file:
        for n, opening in enumerate(which):
            first = f"Question {opening}: {noise[opening : opening + 180]}“?”"
            messages = [{"role": "user", "content": first}]
            if n % 3 == 0:
                messages += [{"role": "assistant", "content": text(150)}, {"role": "user", "content": text(100)}]
            row = {"prefix": {"messages": messages}, "chosen": text(440), "rejected": text(430), "src": f"part {n % 4}"}
            line = json.dumps(row, ensure_ascii=False)
            file.write(f'{line[:-1]}, "note": "{"." * max(0, BYTES_A_ROW - len(line) - 18)}"}}\n')


def run_once(pairs: Path, out: Path) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of processor and MB at the peak."""
    command = [sys.executable, "-m", "scripts.kat_make_prefixes", "--pairs_path", str(pairs), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER, *command], stdout=subprocess.PIPE, text=True, check=True, cwd=pairs.parent
    )
    rc, seconds, processor, peak = map(float, done.stdout.split())
    if rc:
        raise SystemExit(f"the command failed with exit status {rc:.0f}")
    return seconds, processor, peak / KIBIBYTES / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=170_000)
    parser.add_argument("--openings", type=int, default=28_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs_all.jsonl"
        make_pairs(pairs, options.rows, options.openings)
        size = pairs.stat().st_size / 1e6
        print(f"{options.rows:,} rows, {options.openings:,} openings, {size:.0f} MB; load {os.getloadavg()[0]:.1f}")
        rounds = []
        for n in range(options.rounds):
            out = Path(folder) / f"prefixes_{n}.jsonl"
            seconds, processor, peak = run_once(pairs, out)
            lines = sum(1 for _ in out.open("rb"))
            if lines != options.openings:
                raise SystemExit(f"{lines:,} openings found, {options.openings:,} made")
            print(f"round {n + 1}: {seconds:.2f} s ({processor:.2f} s of processor), {peak:.0f} MB at the peak")
            rounds.append((seconds, peak))
        seconds, peak = min(rounds)
        verdict = "met" if seconds < SECONDS and peak < MEGABYTES else "MISSED"
        print(f"best: {seconds:.2f} s, {peak:.0f} MB; target under {SECONDS} s and {MEGABYTES} MB: {verdict}")


if __name__ == "__main__":
    main()
