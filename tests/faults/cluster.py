"""Kills on a Ray cluster of two nodes: `python -m tests.faults.cluster --kills 50`.

Two real nodes are started on this machine by `ray start`, each with its own processes. `kat run --executor ray` works
on them while workers, the second node and the command itself are killed at random moments; a command that was killed is
given again. At the end of each round all files must be those of `--executor local`, byte for byte, and nothing may be
left behind. Prints a table; exit status 1 for a round that is not as promised.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

PORT = 6399
SECONDS = 300


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--pairs", type=int, default=4000, help="Of the demo: 4,000 are some 2,000 openings.")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="kat-cluster-") as folder:
        raise SystemExit(0 if rounds(given, Path(folder)) else 1)


def rounds(given: argparse.Namespace, folder: Path) -> bool:
    """Run rounds until enough was killed, and say how they ended."""
    pairs, draw = folder / "pairs.jsonl", np.random.default_rng(given.seed)
    finished(kat("demo-data", "--out", pairs, "--pairs", given.pairs))
    expected, begun = folder / "expected", time.monotonic()
    finished(kat("run", pairs, "--out", expected, "--no_report"))
    print(f"local run: {time.monotonic() - begun:.1f} s", flush=True)
    killed: Counter[str] = Counter()
    wrong, number = [], 0
    with Cluster(folder) as cluster:
        while killed.total() < given.kills:
            run, number = folder / f"run{number}", number + 1
            words = ("run", pairs, "--out", run, "--no_report", "--executor", "ray", "--ray_address", cluster.address)
            begun, before = time.monotonic(), killed.copy()
            again = until_done(words, cluster, draw, killed)
            same = files_of(run) == files_of(expected)
            left = [words for words in cluster.workers().values() if "Actor" in words]
            if not same or left:
                wrong.append(f"round {number}: same {same}, left {left}")
            tally = ", ".join(f"{name} {count}" for name, count in (killed - before).items())
            print(
                f"round {number}: {tally or 'none'}; given again {again} times; {time.monotonic() - begun:.0f} s; "
                f"{'same bytes' if same else 'OTHER BYTES'}",
                flush=True,
            )
            shutil.rmtree(run)
    left = [words for words in processes().values() if str(folder) in words or words.startswith("ray::")]
    wrong += [f"left behind: {words}" for words in left]
    wrong += [f"left in /dev/shm: {name}" for name in os.listdir("/dev/shm") if "ray" in name or "plasma" in name]
    print(f"killed {killed.total()}: {dict(killed)}; {number} rounds, {len(wrong)} not as promised", *wrong, sep="\n")
    return not wrong


def until_done(words: tuple, cluster: Cluster, draw: np.random.Generator, killed: Counter[str]) -> int:
    """Give a command until it ends well, killing what is drawn; return how often it was given again."""
    for again in range(20):
        process, end = kat(*words), time.monotonic() + SECONDS
        own = False
        while process.poll() is None:
            if time.monotonic() > end:
                process.kill()
                raise SystemExit("a command hangs: " + " ".join(map(str, words)))
            time.sleep(draw.uniform(1.0, 9.0))
            what = str(draw.choice(["worker", "worker", "worker", "driver", "node"]))
            if process.poll() is not None or (what == "driver" and again > 2):
                continue
            if what == "driver":
                process.kill()
                own = True
            elif not cluster.kill(what, draw):
                continue
            killed[what] += 1
        if process.returncode == 0:
            return again
        if not own:
            print(f"  ended with {process.returncode}: {said(process).splitlines()[-1:]}", flush=True)
    raise SystemExit("a command never ends well: " + " ".join(map(str, words)))


class Cluster:
    """A head and a second node, one core each, with a token of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = f"127.0.0.1:{PORT}"

    def __enter__(self) -> Cluster:
        self._ray("start", "--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}/ray")
        self._second()
        return self

    def __exit__(self, *_: object) -> None:
        self._ray("stop", "--force")
        end = time.monotonic() + 60
        while self.workers() and time.monotonic() < end:
            time.sleep(0.2)

    def workers(self) -> dict[int, str]:
        """Processes of Ray's that run kat's code."""
        return {pid: words for pid, words in processes().items() if words.startswith("ray::Actor")}

    def kill(self, what: str, draw: np.random.Generator) -> bool:
        """Kill a worker, or the second node, which is started again; False if there is none."""
        if what == "node":  # all of it at once, as a machine dies: Ray's own log monitors outlive their raylet
            os.killpg(os.getpgid(self.second), signal.SIGKILL)
            time.sleep(1)
            self._second()
            return True
        if not (workers := list(self.workers())):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(draw.choice(workers)), signal.SIGKILL)
        return True

    def _second(self) -> None:
        before = self._raylets()
        self._ray("start", f"--address={self.address}")
        (self.second,) = self._raylets() - before

    def _raylets(self) -> set[int]:
        own = (pid for pid, words in processes().items() if "raylet/raylet" in words and str(self.folder) in words)
        return set(own)

    def _ray(self, verb: str, *words: str) -> None:
        cores = ["--num-cpus=1", "--object-store-memory=200000000"] if verb == "start" else []
        ray = str(Path(sys.executable).with_name("ray"))
        done = subprocess.run(
            [ray, verb, *words, *cores], env=ENVIRONMENT, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode:
            raise SystemExit(f"ray {verb}: {done.stdout[-500:]}{done.stderr[-500:]}")


ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}


def kat(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "kat.cli", *map(str, words)]
    words_of = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop it
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=words_of, start_new_session=True
    )
    process.words_of = words_of
    return process


def finished(process: subprocess.Popen) -> None:
    if process.wait():
        raise SystemExit(said(process))


def said(process: subprocess.Popen) -> str:
    """What a command wrote to stderr."""
    process.words_of.seek(0)
    return process.words_of.read().strip()


def processes() -> dict[int, str]:
    """The words of every process of this machine, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def files_of(run: Path) -> dict[str, bytes]:
    """What a run holds, by name, but for its log, which tells times, and for locks."""
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and "log.jsonl" not in path.name]
    return {str(p.relative_to(run)): p.read_bytes() for p in paths if ".kat-lock" not in p.name}


if __name__ == "__main__":
    main()
