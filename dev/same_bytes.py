"""Compare what two checkouts write: run the commands of one on the same input, then compare the trees byte by byte.

    python dev/same_bytes.py make CHECKOUT OUT --pairs FILE     every command, once on the demo and once on FILE
    python dev/same_bytes.py compare BEFORE AFTER               files that differ, and which manifests differ in what

A restructuring is right when only manifests differ, and those only in what was meant to change.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

EXPORTS = ("trl", "openrlhf", "verl", "llamafactory", "axolotl", "swift", "parquet", "jsonl")


def commands(folder: str, pairs: str) -> list[list[str]]:
    """Every command that writes, for one file of pairs, in a folder of its own."""
    run, k = f"{folder}/run", ["-m", "kat.cli"]
    rows = ["--max_bad_rows", "all"]
    lines = [
        [*k, "run", pairs, "--out", run, *rows],
        [*k, "weigh-pairs", run],
        [*k, "weigh-pairs", run, "--control", "permuted"],
        *([*k, "export-weights", run, "--to", to, "--out", f"{folder}/{to}"] for to in EXPORTS),
        [*k, "sample", f"{run}/density", "--budget", "50", "--out", f"{folder}/sampled.txt"],
        ["-m", "scripts.kat_make_prefixes", "--pairs_path", pairs, "--out", f"{folder}/origin/prefixes.jsonl", *rows],
        ["-m", "scripts.kat_embed", "--ckpt_source", "minilm", "--data", f"{folder}/origin/prefixes.jsonl",
         "--out", f"{folder}/origin/embeddings.pt"],
        ["-m", "scripts.kat_compute_embeddings_offline", "--base_model_source", "minilm",
         "--prompts_path", f"{folder}/origin/prefixes.jsonl", "--output_dir", f"{folder}/origin/offline"],
        [*k, "density", f"{folder}/origin/embeddings.pt", "--out", f"{folder}/origin/density", "--ess", "0.7"],
        *([*k, "evaluate-rm", *files, "--out", f"{folder}/evaluation{len(files)}",
           "--pair_weights", f"{run}/pair_weights.parquet", "--split", "all", "--missing_scores", "all"]
          for files in ([f"{folder}/a.jsonl"], [f"{folder}/a.jsonl", f"{folder}/b.jsonl"])),
        [*k, "verify", run],
        [*k, "verify", f"{folder}/origin/offline"],
    ]  # fmt: skip
    return lines


def write_scores(weights: Path, out: Path, salt: str) -> None:
    """Rewards that follow from a pair's id alone."""
    import pyarrow.parquet as pq

    table = pq.read_table(weights, columns=["pair_id", "split"]).to_pylist()
    with out.open("w") as file:
        for row in table:
            if row["split"]:
                a, b = (int(hashlib.md5(f"{salt}{side}{row['pair_id']}".encode()).hexdigest()[:6], 16) for side in "cr")
                file.write(json.dumps({"pair_id": row["pair_id"], "chosen": a / 2**23, "rejected": b / 2**24}) + "\n")


def make(checkout: Path, out: Path, pairs: Path | None) -> None:
    """Run everything; what is printed goes to printed.txt, times and the checkout's own path taken out."""
    out.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "NO_COLOR": "1"}
    said = []

    def call(words: list[str]) -> None:
        done = subprocess.run([sys.executable, *words], cwd=out, env=env, capture_output=True, text=True)
        text = re.sub(r"\d+\.\d s\b", "… s", done.stdout + done.stderr)
        said.append(f"$ {' '.join(words)}\n{text}exit {done.returncode}\n")
        print(said[-1], flush=True)

    call(["-m", "kat.cli", "demo-data", "--out", "demo/pairs_all.jsonl", "--pairs", "1500"])
    call(["-m", "kat.cli", "export", "minilm", "minilm"])
    inputs = [("demo", "demo/pairs_all.jsonl")]
    if pairs is not None:
        (out / "real").mkdir(exist_ok=True)
        copy = out / "real" / pairs.name
        if not copy.is_file():
            shutil.copyfile(pairs, copy)
        inputs.append(("real", f"real/{pairs.name}"))
    for folder, source in inputs:
        for words in commands(folder, source):
            if "evaluate-rm" in words and not (out / folder / "b.jsonl").is_file():
                for salt in "ab":
                    write_scores(out / folder / "run/pair_weights.parquet", out / folder / f"{salt}.jsonl", salt)
            call(words)
    (out / "printed.txt").write_text("\n".join(said))


def compare(before: Path, after: Path) -> bool:
    """Print what differs; True if nothing but manifests does."""
    old, new = ({p.relative_to(d): p for d in [top] for p in d.rglob("*") if p.is_file()} for top in (before, after))
    same, manifests, wrong = 0, {}, []
    for name in sorted(old.keys() | new.keys()):
        if name.name == "printed.txt":
            continue
        if name not in old or name not in new:
            wrong.append(f"{name}: only in {'after' if name in new else 'before'}")
        elif old[name].read_bytes() == new[name].read_bytes():
            same += 1
        elif name.name.endswith("manifest.json"):
            a, b = (json.loads(p[name].read_bytes()) for p in (old, new))
            keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
            manifests.setdefault(tuple(f"{k}: {a.get(k)!r:.60} → {b.get(k)!r:.60}" for k in keys), []).append(str(name))
        else:
            wrong.append(f"{name}: {len(gzip.compress(old[name].read_bytes()))} other bytes")
    print(f"{same} files are identical")
    for what, names in manifests.items():
        print(f"{len(names)} manifests differ in {'; '.join(what)}\n  " + "\n  ".join(names))
    print("\n".join(wrong) or "nothing else differs")
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make")
    making.add_argument("checkout", type=Path)
    making.add_argument("out", type=Path)
    making.add_argument("--pairs", type=Path)
    comparing = actions.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.action == "make":
        make(given.checkout, given.out, given.pairs)
    else:
        raise SystemExit(not compare(given.before, given.after))
