"""What a second reward model says about answers to fixed prompts before and after training, by density bin.

    kat score SECOND ARM/completions.jsonl --out ARM.rewards.jsonl
    python benchmarks/answers_by_bin.py NAME=ARM/completions.jsonl=ARM.rewards.jsonl [NAME=…]

SECOND is a reward model that did not teach. Of each prompt the reward of the last answers less that of the first,
and of two arms the difference of these, on the same prompts with the same random numbers. Intervals of 95 % by openings
drawn with replacement. The table's unit is the deviation of its rewards of the first answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson

from kat.evaluation.intervals import interval, replicate


def main() -> None:
    arms = dict(read_arm(told) for told in sys.argv[1:])
    first = next(iter(arms.values()))
    bins = sorted({int(row["bin"]) for row in first.values()})
    print("| answers | prompts | " + " | ".join(f"{name}: after − before" for name in arms), end=" |")
    print("".join(f" {name} − {other} |" for name, other in pairs(list(arms))))
    print("|---|---:|" + "---:|" * (len(arms) + len(pairs(list(arms)))))
    for part in (None, *bins):
        keys = [key for key, row in first.items() if part is None or row["bin"] == part]
        gains = {name: np.asarray([rows[key]["gain"] for key in keys]) for name, rows in arms.items()}
        openings = [first[key]["opening"] for key in keys]
        cells = [said(gain, openings) for gain in gains.values()]
        cells += [said(gains[name] - gains[other], openings) for name, other in pairs(list(arms))]
        label = "all" if part is None else f"bin {part}" + (", rarest" if part == bins[0] else "")
        print(f"| {label} | {len(keys)} | " + " | ".join(cells) + " |")


def pairs(names: list[str]) -> list[tuple[str, str]]:
    return [(names[0], other) for other in names[1:]]


def read_arm(told: str) -> tuple[str, dict[str, dict[str, float | str]]]:
    """Return an arm's prompts: bin, opening, and the last answer's reward less the first one's."""
    name, answers, scored = told.split("=")
    rewards = {row["id"]: row["reward"] for row in map(orjson.loads, Path(scored).read_bytes().splitlines())}
    rows = [orjson.loads(line) for line in Path(answers).read_bytes().splitlines()]
    steps = sorted({row["step"] for row in rows})
    spread = float(np.std([rewards[row["id"]] for row in rows if row["step"] == steps[0]]))
    by_prompt: dict[str, dict[str, float | str]] = {}
    for row in rows:
        if row["step"] in (steps[0], steps[-1]):
            kept = by_prompt.setdefault(row["id"].rsplit("@", 1)[0], {"bin": row["bin"], "opening": row["opening_id"]})
            kept["first" if row["step"] == steps[0] else "last"] = rewards[row["id"]] / spread
    for kept in by_prompt.values():
        kept["gain"] = float(kept["last"]) - float(kept["first"])
    return name, by_prompt


def said(values: np.ndarray, openings: list[str]) -> str:
    """Return a mean and its interval."""
    _, cluster = np.unique(openings, return_inverse=True)
    sums = np.stack([np.bincount(cluster, values), np.bincount(cluster)], 1)
    drawn = replicate(sums, lambda totals: totals[:, :1] / totals[:, 1:])[:, 0]
    low, high = interval(drawn, len(sums)) or (float("nan"), float("nan"))
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
