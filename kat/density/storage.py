"""The weights of a folder as {id: weight}, joined by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kat.arrays import check_array, compare_ids, load_array
from kat.artifacts import readable_manifest
from kat.errors import MismatchError
from kat.inputs import Inputs, input_text
from kat.run_folder import IDS, WEIGHTS, load_ids

AGAIN = "Make it again: kat density EMBEDDINGS --out DIR --overwrite"


def load_weights(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the ids of a folder of weights, and the weights [N]. Raises MismatchError unless they belong together."""
    ids, values = load_ids(folder), np.asarray(load_array(folder / WEIGHTS))
    check_weights(values, ids, folder / WEIGHTS)
    return ids, values


def load_density_mapping(prompts_path: Inputs, weights_path: str | Path) -> dict[str, float]:
    """Read {id: weight} from `density_weights.npy`, checked by id against `ids.json` beside it and the prompts file.

    Raises MismatchError naming the first id that is missing, left over, or in another place.

    >>> weights = kat.load_density_mapping("run/prefixes_all.jsonl", "run/density/density_weights.npy")
    >>> round(sum(weights.values()) / len(weights), 3)
    1.0
    """
    from kat.data.columns import line_limit_of
    from kat.data.prompt_texts import inside_of
    from kat.data.prompts import PromptFile

    weights_path = Path(weights_path)
    values = np.asarray(load_array(weights_path))
    ids = load_ids(weights_path.parent)
    manifest = readable_manifest(weights_path.parent) or {}
    prompts = PromptFile(prompts_path, "all", inside=inside_of(manifest), max_line_bytes=line_limit_of(manifest))
    check_weights(values, ids, weights_path)
    compare_ids(ids, prompts.ids(), f"{weights_path.parent / IDS}", input_text(prompts_path))
    return dict(zip(ids, values.tolist(), strict=True))


def check_weight_file(folder: Path, ids: list[str]) -> str:
    """Check the weights of a folder against its ids; return what was proved. Raises MismatchError."""
    path = folder / WEIGHTS
    weights = load_array(path, vouched=False)
    check_array(path, weights, (len(ids),))
    check_weights(weights, ids, path)
    return f"  {len(weights):,} weights, finite, positive, of mean {np.mean(weights, dtype=np.float64):.6f}"


def check_weights(values: np.ndarray, ids: list[str], path: Path) -> None:
    """Raise MismatchError, naming the first wrong row, unless `values` are float32 weights, one an id: positive, of
    mean 1."""
    if values.shape != (len(ids),):
        raise MismatchError(f"{path} has shape {values.shape}, and there are {len(ids):,} ids. {AGAIN}")
    if values.dtype != np.float32:
        raise MismatchError(f"{path} is {values.dtype}; expected float32 weights.")
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MismatchError(f"{path}: row {row} (id {ids[row]}) is {values[row]}, not a positive number.")
    mean = float(np.mean(values, dtype=np.float64))
    if abs(mean - 1) > 1e-4:
        raise MismatchError(f"{path}: the mean weight is {mean:.6g}, not 1.")
