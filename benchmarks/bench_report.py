"""What a report costs: time, memory and bytes by part, and what others write for the same points.

    python benchmarks/bench_report.py [--n 28000 --dim 384 --repeats 3 --texts FILE.jsonl --keep DIR]

A run of N openings is made: vectors of a mixture of 300 topics, texts of their topics' words, or the openings of a
prefixes file. `kat report` makes the page, each time in a process of its own that says what each part took. Peers that
are installed write their interactive page of the same points and texts: Plotly (scattergl, its script inside),
datamapplot (offline, and as it writes by default), embedding-atlas (the folder that it exports). Bytes are those that
have to travel: of one file, or of a folder, without compression by a server.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from encode_machine import header

PEERS = ("plotly", "datamapplot", "embedding-atlas")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=28_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=Path, help="a prefixes file whose openings are the texts")
    parser.add_argument("--keep", type=Path, help="a folder for the run and what is written, to look at")
    parser.add_argument("--only", default="kat," + ",".join(PEERS))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.part:
        print(json.dumps(_part(told.part, told.place)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = told.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        make_run(place / "run", told.n, told.dim, told.texts)
        rows = _rows(told, place)
    print(f"\n{header()}\n\n{told.n:,} openings × {told.dim}, medians of {told.repeats} processes\n")
    print("| what | seconds | peak memory, MB | bytes, MB |")
    print("|---|---:|---:|---:|")
    for name, seconds, memory, size in rows:
        print(f"| {name} | {seconds:.1f} | {memory:,.0f} | {'' if size is None else f'{size / 1e6:.2f}'} |")


def _rows(told: argparse.Namespace, place: Path) -> list[tuple]:
    rows = []
    for name in told.only.split(","):
        runs = []
        for _ in range(told.repeats):
            command = [sys.executable, __file__, "--part", name, "--place", str(place)]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                print(f"{name}: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                break
            runs.append(json.loads(ran.stdout.strip().splitlines()[-1]))
        for part in runs[0]["seconds"] if runs else ():
            memory = np.median([run["memory"][part] for run in runs]) / 1e6
            seconds = float(np.median([run["seconds"][part] for run in runs]))
            rows.append((f"{name}: {part}", seconds, memory, runs[0]["bytes"].get(part)))
    return rows


def make_run(run: Path, n: int, dim: int, texts: Path | None) -> None:
    """Write a folder of weights as `kat density` does, from vectors that are drawn, beside their texts."""
    if (run / "manifest.json").is_file():
        return
    from kat.cli.main import main as kat

    rng = np.random.default_rng(0)
    topic = rng.choice(300, n, p=_shares(300))
    centres = rng.normal(size=(300, dim))
    vectors = centres[topic] + rng.normal(size=(n, dim)) * rng.uniform(0.2, 0.9, 300)[topic, None]
    words = [[f"{a}{b}{i % 7}" for a in "bdfklm" for b in ("aro", "ine", "ost")] for i in range(300)]
    lines = [" ".join(rng.choice(words[t], 40)) for t in topic.tolist()] if texts is None else _openings(texts, n)
    embeddings, prefixes = run.with_name("embeddings"), run.with_name("prefixes.jsonl")
    embeddings.mkdir(parents=True, exist_ok=True)
    ids = [f"{i:016x}" for i in range(n)]
    with open(prefixes, "wb") as file:
        for one, text in zip(ids, lines, strict=True):
            file.write(orjson.dumps({"id": one, "prefix": {"messages": [{"role": "user", "content": text}]}}) + b"\n")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(embeddings / "embeddings.npy", vectors.astype(np.float32))
    (embeddings / "ids.json").write_bytes(orjson.dumps(ids))
    with contextlib.redirect_stdout(io.StringIO()):
        kat(["density", str(embeddings), "--out", str(run), "--prompts_path", str(prefixes)])


def _shares(topics: int) -> np.ndarray:
    shares = 1 / np.arange(1, topics + 1)
    return shares / shares.sum()


def _openings(path: Path, n: int) -> list[str]:
    import kat

    prefixes = kat.open_prefixes(path)
    texts = [prefixes[one].opening for one, _ in zip(prefixes, range(n), strict=False)]
    return [texts[i % len(texts)] for i in range(n)]


def _part(name: str, place: Path) -> dict:
    took = Took()
    {"kat": _kat, "plotly": _plotly, "datamapplot": _datamapplot, "embedding-atlas": _atlas}[name](place, took)
    return {"seconds": took.seconds, "memory": took.memory, "bytes": took.bytes}


class Took:
    """Seconds, peak bytes of memory, and bytes written, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    @contextlib.contextmanager
    def part(self, name: str):
        from kat.run_log import Clock, peak_memory

        clock = Clock()
        yield
        self.seconds[name] = clock.seconds
        self.memory[name] = peak_memory() or 0


def _kat(place: Path, took: Took) -> None:
    """The parts of `kat report`, one after the other, and then the command itself."""
    from kat.projection.map_file import write_map
    from kat.reports.blocks import Report
    from kat.reports.html.page import render
    from kat.run_folder import RunFolder
    from kat.stages.report_contents import ReportContents
    from kat.stages.report_inputs import ReportInputs

    held = ReportInputs(RunFolder(place / "run"))
    contents = ReportContents(held, 0)
    with took.part("reading"):
        assert held.texts
        assert held.neighbors
    with took.part("map"):
        points = contents.points
    with took.part("sections"):
        sections = contents.sections
    with took.part("page"):
        page = render(Report("benchmark", sections, points))
    took.bytes["page"] = len(page)
    with took.part("map.parquet"), open(place / "map.parquet", "wb") as file:
        write_map(file, points.ids, points.texts, points.xy, neighbors=held.neighbors, columns=contents.columns)
    took.bytes["map.parquet"] = os.path.getsize(place / "map.parquet")
    np.save(place / "xy.npy", points.xy)
    for name in ("report.html", "report.html.manifest.json", "map.parquet"):
        (place / "run" / name).unlink(missing_ok=True)  # what is done would be skipped
    command = [sys.executable, "-m", "kat.cli", "report", str(place / "run")]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    took.seconds["the command"] = time.monotonic() - started
    took.memory["the command"] = _children()
    took.bytes["the command"] = os.path.getsize(place / "run" / "report.html")


def _children() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _points(place: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Coordinates as kat's map has them, texts of 300 characters at most, and weights."""
    import pyarrow.parquet as pq

    table = pq.read_table(place / "map.parquet")
    xy = np.stack([table["projection_x"].to_numpy(), table["projection_y"].to_numpy()], 1)
    return xy, [text[:300] for text in table["text"].to_pylist()], table["weight"].to_numpy()


def _plotly(place: Path, took: Took) -> None:
    import plotly.graph_objects as go

    xy, texts, weights = _points(place)
    with took.part("page"):
        marker = {"color": weights, "size": 4, "colorscale": "Viridis"}
        figure = go.Figure(go.Scattergl(x=xy[:, 0], y=xy[:, 1], mode="markers", text=texts, marker=marker))
        figure.write_html(place / "plotly.html", include_plotlyjs=True)
    took.bytes["page"] = os.path.getsize(place / "plotly.html")


def _datamapplot(place: Path, took: Took) -> None:
    import datamapplot

    xy, texts, _ = _points(place)
    labels = np.where(xy[:, 0] > np.median(xy[:, 0]), "right", "left").astype(object)
    for name, more in (("page, from a CDN", {}), ("page, offline", {"inline_data": True, "offline_mode": True})):
        with took.part(name):
            figure = datamapplot.create_interactive_plot(xy, labels, hover_text=texts, enable_search=True, **more)
            figure.save(str(place / "datamapplot.html"))
        took.bytes[name] = os.path.getsize(place / "datamapplot.html")


def _atlas(place: Path, took: Took) -> None:
    names = ["--text", "text", "--x", "projection_x", "--y", "projection_y", "--neighbors", "neighbors"]
    out = place / "atlas"
    shutil.rmtree(out, ignore_errors=True)
    with took.part("folder"):
        command = [sys.executable, "-m", "embedding_atlas.cli", str(place / "map.parquet"), *names]
        subprocess.run([*command, "--export-application", str(out)], check=True, capture_output=True)
    took.memory["folder"] = _children()
    took.bytes["folder"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
