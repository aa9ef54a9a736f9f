"""Embeddings → the k nearest others of each: the part of `kat density` that other weights need not repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.config import DensityOptions, RunOptions
from kat.embedding.elsewhere import without_bad
from kat.embedding.storage import load_embeddings, vectors_path
from kat.neighbors.storage import STORED_NEIGHBORS, check_neighbors, save_neighbors
from kat.records import Embeddings
from kat.reports.console.density import neighbor_summary
from kat.run_folder import EMBEDDINGS, NEIGHBOR_FILES, RunFolder, search_checkpoint_path
from kat.stages.stage import stage

if TYPE_CHECKING:
    from kat.executors.base import Launcher


def find_neighbors(
    source: Path, out: Path, options: DensityOptions, run_options: RunOptions, launcher: Launcher | None = None
) -> None:
    """Write the neighbours of embeddings (a folder or a file) to a folder. Goes on where a stopped search was."""
    from kat.neighbors.find import find_neighbors as find

    k = max(options.k, STORED_NEIGHBORS)
    settings = {name: getattr(options, name) for name in ("metric", "center", "search", "least_recall")}
    with stage(
        "neighbors",
        out,
        inputs={"embeddings": vectors_path(source)},
        options={"k": k, **settings},
        files=NEIGHBOR_FILES,
        apart=apart_of(source, out),
        overwrite=run_options.overwrite,
    ) as job:
        if job.done:
            return
        embeddings, _ = load_usable(source, options, run_options)
        neighbors = find(
            embeddings,
            min(k, max(len(embeddings) - 1, 1)),
            device=run_options.device,
            progress=True,
            checkpoint=search_checkpoint_path(out),
            launcher=launcher,
            **settings,
        )
        save_neighbors(neighbors, job.folder)
        job.facts["recall"] = neighbors.recall
        job.say(neighbor_summary(neighbors.k, len(neighbors), neighbors.recall))


def apart_of(source: Path, out: Path) -> list[Path]:
    """Return what an output that is made of embeddings must not be, hold or lie inside: their folder.

    The origin's folder of weights holds its embeddings, and its neighbours stand beside them.
    """
    is_inside = (out / EMBEDDINGS).resolve() == source.resolve()
    return [source] if source.is_dir() and not is_inside else []


def load_usable(source: Path, options: DensityOptions, run_options: RunOptions) -> tuple[Embeddings, dict[str, Any]]:
    """Load embeddings without rows that have no density; their manifest says `left_out`, {id: reason}, if any were.

    Raises InputError, naming them, if they are more than `max_bad_rows`.
    """
    embeddings, origin = load_embeddings(source)
    zero = options.metric == "cosine"  # also of rows that are centred first: they are kept at unit length
    usable, left_out = without_bad(embeddings, source, run_options.max_bad_rows, zero=zero)
    return usable, origin | ({"left_out": left_out} if left_out else {})


def prove(output: Path, run: RunFolder, prompts: Path | None) -> list[str]:
    """Check a folder of neighbours: nearest first, self left out, all of them rows that there are."""
    return [check_neighbors(output)]
