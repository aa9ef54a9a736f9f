"""Weights → openings drawn in proportion to them, and how likely each was."""

from __future__ import annotations

from pathlib import Path

import orjson

from kat.config import SampleOptions, recorded
from kat.density.sample_file import id_line
from kat.density.sampling import sample
from kat.density.storage import load_weights
from kat.reports.console.sample import sample_lines, sample_summary
from kat.run_folder import WEIGHTS, RunFolder, probabilities_path
from kat.stages.stage import stage


def sample_openings(folder: Path, out: Path, options: SampleOptions, overwrite: bool) -> None:
    """Write a text file of the ids drawn from a run or a folder of weights, and every id's inclusion probability."""
    run = RunFolder(folder)
    with stage(
        "sample",
        out,
        inputs={"weights": run.density / WEIGHTS},
        options=recorded(options),
        beside={"probabilities": probabilities_path},
        reads=run.density.iterdir(),
        apart=run.read_apart,
        overwrite=overwrite,
    ) as job:
        if job.done:
            return
        ids, weights = load_weights(run.density)
        rows, probabilities = sample(weights, options.budget, options.seed)
        for opening, probability in zip(ids, probabilities.tolist(), strict=True):
            job.beside("probabilities").write(orjson.dumps({"id": opening, "probability": probability}) + b"\n")
        job.file.writelines(id_line(ids[row]) for row in rows)
        job.say(sample_summary(len(rows), probabilities.tolist()), sample_lines(probabilities_path(out)))
