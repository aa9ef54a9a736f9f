"""Everything that docs/results.md tells of weights, from a folder of public preference data.

    python -m experiments.results DATA --out results

DATA holds the files that FILES and INTENTS name. Each part is a JSON file in OUT with its table beside it, and is not
computed again while that file is there; features of completions are kept in OUT/run. Parts:
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import transformers

from experiments import flipped, natural, planted, real_model, simulated
from experiments.problems import Problem, of_run, semi_synthetic
from kat.artifacts import json_bytes
from kat.atomic import atomic_file
from kat.data.pairs import read_pairs

FILES = (
    "pairs.tldr.all",
    "pairs.rmb.all",
    "pairs.finegrained_qa.dev",
    "pairs.hh_harmless.dev",
    "pairs.hh_mixed.dev",
    "pairs.hh_singleturn.train",
    "pairs.hh_singleturn.test",
    "pairs.shp.test",
    "pairs.ultrafeedback.train_1k",
    "pairs.ultrafeedback.eval_200",
    "pairs.webgpt.test",
    "pairs.pandalm.test",
)
UNTOUCHED = {"RM-Bench, chat and code": "pairs.rmbench_chat_code.all", "PandaLM": "pairs.pandalm.test"}
"""Sets that the reward model that trains is measured on and nothing trains on."""
INTENTS = "prompts.intents.labelled"
SETS = {
    "tldr-": "TL;DR",
    "rmb-": "RMB",
    "fgqa-": "FineGrained QA",
    "hh-": "HH",
    "or-hh_": "HH",
    "hh_": "HH",
    "or-shp": "SHP",
    "uf-": "UltraFeedback",
    "webgpt_": "WebGPT",
    "pandalm-": "PandaLM",
}
"""The set that a pair is of, by how its id begins."""
LARGE = ("TL;DR", "RMB", "FineGrained QA", "HH", "UltraFeedback", "SHP")
"""Sets with pairs enough to be thinned to a sixteenth."""
FAMILIES = ("ATIS", "BANKING77", "CLINC150", "HWU64", "SNIPS")
"""Where intents are from."""


def main() -> None:
    """Compute the parts that are not there yet, and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__ + "\n    " + ", ".join(PARTS), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=list(PARTS), metavar="PART")
    options = parser.parse_args()
    work = Work(options.data, options.out)
    for name in options.parts:
        print(f"\n## {name}\n\n{work.part(name)}", flush=True)
    print(f"\nwrote {options.out}: a .json and a .md for each part", file=sys.stderr)


class Work:
    """The data, the folder of results, and what several parts share."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self._mixture: Problem | None = None

    def part(self, name: str) -> str:
        """Return the table of a part, computed if it is not there."""
        path, compute, shown = self.out / f"{name}.json", *PARTS[name]
        if not path.is_file():
            began = time.monotonic()
            told = compute(self)
            told |= {"seconds": time.monotonic() - began, "made_with": versions()}
            self._write(path, json_bytes(told))
        told = orjson.loads(path.read_bytes())
        table = shown(told)
        self._write(path.with_suffix(".md"), f"{table}\n".encode())
        return f"{table}\n\n{told['seconds']:.0f} s"

    def mixture(self) -> Problem:
        """Return the pairs of all files, each named by its set."""
        if self._mixture is None:
            run = self.out / "run"
            kat("run", *self._files(), "--out", run, "--max_bad_rows", 100)
            kat("weigh-pairs", run, "--validation_share", 0, "--duplicates", "drop", "--max_bad_rows", 100)
            problem = of_run(run)
            self._mixture = replace(problem, source=np.asarray([set_of(one) for one in problem.ids.tolist()]))
        return self._mixture

    def one_set(self, name: str) -> Problem:
        """Return the pairs of one set; their sources are what its own file tells apart."""
        problem = self.mixture().of_sources([name])
        return replace(problem, source=problem.topic)

    def rmb(self) -> Problem:
        """Return RMB: a pair's topic is its scenario, its source the task that the scenario is of."""
        problem = self.mixture().of_sources(["RMB"])
        names = [one.split("/")[1:] for one in problem.topic.tolist()]
        topics = np.asarray(["/".join(parts) for parts in names])
        return replace(problem, topic=topics, source=np.asarray([parts[0] for parts in names]))

    def by_source(self) -> Problem:
        """Return the mixture; a pair's topic is its set."""
        problem = self.mixture()
        return replace(problem, topic=problem.source)

    def trains_blocks(self) -> dict[str, Any]:
        """Return what weightings of a reward model gain on TL;DR and half of RMB."""
        problem = self.mixture().of_sources(["TL;DR", "RMB"])
        draw = np.random.default_rng(0)
        half = (draw.random(len(problem.vectors)) < 0.5)[problem.opening]
        problem = problem.rows(np.flatnonzero(half | (problem.source == "TL;DR")))
        files = [self._path(name) for name in FILES[:2]]
        pairs = {pair.id: pair for path in files for pair in read_pairs(path, "all")}
        extra = {name: list(read_pairs(self._path(file), "all")) for name, file in UNTOUCHED.items()}
        return real_model.cross_fitted(problem, pairs, extra, self.out / "activations")

    def intents(self) -> Problem:
        """Return prompts of known intents, with pairs whose rules are drawn."""
        rows = [orjson.loads(line) for line in read_lines(self._path(INTENTS))]
        return semi_synthetic([row["prompt"] for row in rows], [row["cluster"] for row in rows])

    def _files(self) -> list[Path]:
        return [self._path(name) for name in FILES]

    def _path(self, name: str) -> Path:
        path = self.data / f"{name}.jsonl.gz"
        if not path.is_file():
            raise SystemExit(f"{path} does not exist. DATA is the folder of the files that `FILES` names.")
        return path

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(content)


def set_of(pair_id: str) -> str:
    """Return the name of the set that a pair is of."""
    return next(name for begin, name in SETS.items() if pair_id.startswith(begin))


def read_lines(path: Path) -> list[bytes]:
    """Return the lines of a compressed file."""
    import gzip

    return gzip.decompress(path.read_bytes()).splitlines()


def kat(*words: object) -> None:
    """Run a command of kat's."""
    subprocess.run([sys.executable, "-m", "kat.cli", *map(str, words)], check=True)


def versions() -> dict[str, str]:
    """Return what results were made with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }


def thin_one_source(number: int, _: np.random.Generator) -> list[str]:
    """Return the set that is thinned in a draw: each in its turn."""
    return [LARGE[number % len(LARGE)]]


def thin_one_family(number: int, _: np.random.Generator) -> list[str]:
    """Return the family of intents that is thinned in a draw: each in its turn."""
    return [FAMILIES[number % len(FAMILIES)]]


def _natural(problem: Callable[[Work], Problem], work: Work) -> dict[str, Any]:
    return natural.natural(problem(work), seeds=5)


def _flipped(problem: Callable[[Work], Problem], work: Work) -> dict[str, Any]:
    return flipped.flipped(problem(work), seeds=5)


def _of(name: str) -> Callable[[Work], Problem]:
    return lambda work: work.one_set(name)


Part = tuple[Callable[[Work], dict[str, Any]], Callable[[dict[str, Any]], str]]
PARTS: Mapping[str, Part] = {
    "simulated-one-rule": (lambda _: simulated.simulated(simulated.Simulated(1000, 0.0), 400), simulated.shown),
    "simulated-two-rules": (lambda _: simulated.simulated(simulated.Simulated(4000, 50.0), 100), simulated.shown),
    "planted-rmb": (lambda work: planted.planted(work.rmb(), 20), planted.shown),
    "planted-sources": (
        lambda work: planted.planted(work.by_source(), 3 * len(LARGE), choose=thin_one_source),
        planted.shown,
    ),
    "planted-intents": (
        lambda work: planted.planted(work.intents(), 4 * len(FAMILIES), choose=thin_one_family),
        planted.shown,
    ),
    "flipped-tldr": (partial(_flipped, _of("TL;DR")), flipped.shown),
    "flipped-rmb": (partial(_flipped, Work.rmb), flipped.shown),
    "flipped-mixture": (partial(_flipped, Work.by_source), flipped.shown),
    "natural-tldr": (partial(_natural, _of("TL;DR")), natural.shown),
    "natural-rmb": (partial(_natural, Work.rmb), natural.shown),
    "natural-mixture": (partial(_natural, Work.by_source), natural.shown),
    "natural-hh": (partial(_natural, _of("HH")), natural.shown),
    "natural-finegrained": (partial(_natural, _of("FineGrained QA")), natural.shown),
    "last-blocks": (Work.trains_blocks, real_model.shown),
}


if __name__ == "__main__":
    main()
