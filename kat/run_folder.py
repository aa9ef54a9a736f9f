"""Names on disk, each once, and what belongs together: a run, its weights, its pair weights, and their manifests.

    RUN/
    ├── prefixes_all.jsonl                  kat prefixes; .stats.json and .manifest.json beside it
    ├── embeddings/                         kat embed
    ├── contexts.json                       kat run, where openings have several contexts: how far they lie apart
    ├── density/                            kat density, with neighbors/ inside
    ├── pair_weights[.CONTROL].parquet      kat weigh-pairs; .stats.json and .manifest.json beside it
    ├── try_weights/                        kat try-weights: weightings.json, weightings.png
    ├── report.html                         kat report; map.parquet and its manifest beside it
    ├── rm/, dpo/, grpo/                    kat train-rm, kat train-dpo, kat train-grpo
    ├── reference/                          what DPO's references think of completions: can be deleted
    ├── features/                           what its heads read, computed once a model: can be deleted
    └── log.jsonl                           what each stage took, a line each: can be deleted

A folder of weights alone (kat density, or the origin's kat_compute_embeddings_offline, which keeps embeddings/ inside)
is a run without pairs of its own: it may name the prefixes that it was made from.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from kat.arrays import check_ids, load_array
from kat.artifacts import MANIFEST, check_vouched, read_manifest, readable_manifest
from kat.digests import read_file
from kat.errors import InputError, MismatchError
from kat.folders import entries
from kat.inputs import Inputs, input_paths, input_text, is_there
from kat.records import CONTEXT, OPENING, Unit
from kat.terminal import shell_word

if TYPE_CHECKING:
    import numpy as np

PREFIXES = "prefixes_all.jsonl"
EMBEDDINGS = "embeddings"
DENSITY = "density"
NEIGHBORS = "neighbors"

VECTORS = "embeddings.npy"
IDS = "ids.json"
LENGTHS = "lengths.npy"
WEIGHTS = "density_weights.npy"
LOG_DENSITY = "log_density.npy"
METADATA = "embeddings_metadata.json"
CONTEXTS = "contexts.json"
EVALUATION = "evaluation.json"
TRAINING = "training.json"
TRAINING_LOG = "training_log.jsonl"
VALIDATION_SCORES = "validation_scores.jsonl"
ANSWERS = "completions.jsonl"
POLICY_EVALUATION, WINS = "policy.json", "wins.jsonl"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
FIGURE = "evaluation.png"
UNFINISHED = ".unfinished"
TRIED, TRIED_FIGURE = "weightings.json", "weightings.png"
FEATURES = "features"
REFERENCE = "reference"
DPO = "dpo"
RUN_LOG = "log.jsonl"
REPORT, MAP = "report.html", "map.parquet"
REPORTS = (METADATA, EVALUATION, POLICY_EVALUATION, TRAINING, TRIED)
"""Files of a folder that hold its figures as JSON."""

_WRITTEN = (".jsonl", ".pt", ".parquet")
_MANIFESTS = f"pair_weights*.parquet.{MANIFEST}"

EMBEDDING_FILES = (VECTORS, IDS, LENGTHS)
DENSITY_FILES = (VECTORS, WEIGHTS, IDS, METADATA, LOG_DENSITY, LENGTHS)
NEIGHBOR_FILES = ("indices.npy", "distances.npy", "multiplicity.npy")


def rejected_path(out: Path) -> Path:
    """Return where the bad rows of an output's input go: OUT.rejected.jsonl."""
    return out.with_name(out.name + ".rejected.jsonl")


def stats_path(out: Path) -> Path:
    """Return where the counts beside a file go: OUT with .stats.json for its last suffix."""
    return out.with_suffix(".stats.json")


def probabilities_path(out: Path) -> Path:
    """Return where the inclusion probabilities of a sample go: OUT.probabilities.jsonl."""
    return out.with_name(out.name + ".probabilities.jsonl")


def map_path(report: Path) -> Path:
    """Return where the map of a report goes, as a table: map.parquet beside report.html."""
    return report.with_name(MAP if report.name == REPORT else f"{report.stem}.{MAP}")


def checkpoint_path(out: Path) -> Path:
    """Return where the work on an output is kept until it is complete: OUT.unfinished."""
    return out.with_name(out.name + UNFINISHED)


def reference_cache(out: Path) -> Path:
    """Return the folder beside a DPO policy where log-probabilities of its reference are kept, for others of its kind
    too."""
    return out.parent / REFERENCE


def tensorboard_path(out: Path) -> Path:
    """Return where TensorBoard's files of a training go: OUT.tensorboard."""
    return out.with_name(out.name + ".tensorboard")


def search_checkpoint_path(neighbors: Path) -> Path:
    """Return where a search for neighbours keeps what it has."""
    return neighbors / "unfinished.npz"


def evaluation_path(scores: list[Path]) -> Path:
    """Return the default folder of an evaluation: beside the first file, named by what is evaluated, the second of two
    files of one name by its folder."""
    names = [path.name.split(".")[0] for path in scores]
    if len(names) == 2 and names[0] == names[1]:
        names[1] = scores[1].resolve().parent.name or names[1]
    return scores[0].with_name("-".join(names) + ".evaluation")


def pair_weights_name(control: str | None = None) -> str:
    """Return the name of a run's pair weights; those of a control carry its name."""
    return "pair_weights.parquet" if control is None else f"pair_weights.{control}.parquet"


def control_of(pair_weights: Path) -> str | None:
    """Return the control that a file of pair weights is named after, if it is named as `pair_weights_name` does."""
    name = pair_weights.name.removeprefix("pair_weights.").removesuffix(".parquet").rstrip(".")
    return name if name and pair_weights.name == pair_weights_name(name) else None


def weigh_again(pair_weights: Path) -> str:
    """Return the command that makes a file of pair weights, under its own name and of its own control."""
    kept = read_manifest(pair_weights)
    control = kept["options"].get("control") if kept else control_of(pair_weights)
    named = pair_weights.name == pair_weights_name(control)
    run, out = ("RUN", pair_weights) if not named else (shell_word(str(pair_weights.parent)), None)
    return (
        f"kat weigh-pairs {run}"
        + (f" --out {shell_word(str(out))}" if out else "")
        + (f" --control {control}" if control else "")
    )


def next_to(path: Path, usual: str, name: str) -> Path:
    """Return where to suggest that something made of `path` goes: beside it, as `name`.

    Of anything but what is `usual` there, its own name stands in it, so that no two of one folder share a place.
    """
    stem = path.name.removesuffix(path.suffix) if path.suffix in _WRITTEN else path.name
    if stem == usual:
        return path.with_name(name)
    return path.with_name(f"{name}.{stem.removeprefix(f'{usual}.')}")


def relative(path: Path | None, folder: Path) -> str | None:
    """Return a path as seen from a folder, so that both can move together; what is no UTF-8 in it is replaced."""
    if path is None:
        return None
    return os.fsencode(os.path.relpath(path.resolve(), folder.resolve())).decode("utf-8", "replace")


def relatives(named: Inputs, folder: Path) -> str | list[str] | None:
    """Return what was named as input as seen from a folder: a path, or a list where several were."""
    seen = [relative(path, folder) or "" for path in input_paths(named)]
    return seen[0] if len(seen) == 1 else seen


def named_inputs(folder: Path, where: str | list[str]) -> Path | tuple[Path, ...]:
    """Return what `relatives` wrote into a manifest in a folder, as paths."""
    return folder / where if isinstance(where, str) else tuple(folder / one for one in where)


def load_ids(folder: Path, *, vouched: bool = True) -> list[str]:
    """Read the ordered ids of a folder. Raises MismatchError if ids.json is no list of distinct strings, or if
    `vouched` and not what the folder's manifest says."""
    path = folder / IDS
    try:
        if vouched:
            check_vouched(path)
        ids = orjson.loads(read_file(path))
    except MismatchError:
        raise
    except ValueError as error:
        raise MismatchError(f"{path} cannot be read: {error}") from error
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise MismatchError(f"{path} is no list of strings.")
    check_ids(ids, len(ids), str(path))
    return ids


class RunFolder:
    """A run as a user names it: RUN, RUN/density, a folder of weights, or a file of pair weights.

    `path` is what was named, `root` the folder that holds what is made of it. Manifests are read once. Nothing is
    looked for before it is asked for.
    """

    def __init__(self, path: Path):
        self.path = path
        self._is_file = path.suffix == ".parquet" and not path.is_dir()
        self.root = path.parent if self._is_file else path
        self._manifests: dict[Path, dict[str, Any] | None] = {}

    def manifest(self, output: Path) -> dict[str, Any] | None:
        """Read the manifest of an output, once; None if it has none. Raises MismatchError for a damaged one."""
        if output not in self._manifests:
            self._manifests[output] = readable_manifest(output)
        return self._manifests[output]

    @property
    def is_run(self) -> bool:
        """Whether this is a folder of `kat run`, prefixes and weights both."""
        return (self.root / PREFIXES).is_file() and (self.root / DENSITY).is_dir()

    @property
    def embeddings(self) -> Path:
        """The folder of embeddings of a run."""
        return self.root / EMBEDDINGS

    @property
    def embeddings_manifest(self) -> dict[str, Any]:
        """The manifest of a run's embeddings, or of the folder or file of embeddings itself. Raises InputError."""
        for output in (self.root / EMBEDDINGS, self.path):
            if (manifest := self.manifest(output)) is not None and manifest.get("stage") == "embed":
                return manifest
        raise InputError(f"{self.path} holds no embeddings. Make them with: kat embed DATA --out {self.path}")

    @cached_property
    def density(self) -> Path:
        """The folder of weights: RUN/density, or the folder itself. Raises InputError if there is none.

        Weights without a manifest count too: those that the project's origin wrote have none.
        """
        for folder in (self.root / DENSITY, self.root):
            if (folder / WEIGHTS).is_file():
                return folder
        if self.path.is_file():
            raise InputError(f"{self.path} is no folder of weights. Make one with: kat run PAIRS --out RUN")
        where = shell_word(str(self.path))
        raise InputError(f"{self.path} holds no weights. Make them with: kat run PAIRS --out {where}")

    @property
    def read_apart(self) -> list[Path]:
        """Folders that are read as one thing when weights are read, and that nothing is written into: a run's own, not
        the folder that was named, which is where its outputs go."""
        return [folder for folder in (self.density, self.neighbors) if folder not in (self.root, self.path)]

    @property
    def neighbors(self) -> Path:
        """The folder of the neighbours that the weights were made from."""
        return self.density / NEIGHBORS

    @property
    def density_manifest(self) -> dict[str, Any]:
        """The manifest of the weights. Raises InputError if they have none: what they were made with is not known."""
        manifest = self.manifest(self.density)
        if manifest is None or manifest.get("stage") != "density":
            raise InputError(
                f"{self.density} has no manifest of weights: it does not say what they were made with. "
                f"Make them with: kat density EMBEDDINGS --out {self.density}"
            )
        return manifest

    @property
    def prefixes_manifest(self) -> dict[str, Any]:
        """The manifest of the prefixes; empty if there is none."""
        prefixes = self.prefixes
        return (self.manifest(prefixes) if prefixes is not None else None) or {}

    @property
    def unit(self) -> Literal["opening", "context"]:
        """What density was measured on, "opening" or "context", as the prefixes' manifest or the weights' own says."""
        prefixes = self.root / PREFIXES
        asked = (self.manifest(prefixes) or {}) if prefixes.is_file() else (self.manifest(self.density) or {})
        unit = asked.get("unit") or (asked.get("options") or {}).get("unit")
        return "context" if unit == "context" else "opening"

    @property
    def words(self) -> Unit:
        """What texts for people call the unit."""
        return CONTEXT if self.unit == "context" else OPENING

    @property
    def prefixes(self) -> Path | None:
        """The file that was embedded: the run's own, or the one that the weights name; None if it is not there."""
        if (self.root / PREFIXES).is_file():
            return self.root / PREFIXES
        items = named_items(self.density, self.manifest(self.density) or {})
        return items if isinstance(items, Path) else None

    def pair_weights(self, control: str | None = None) -> Path:
        """Return the file of pair weights: the one that was named, or the run's."""
        return self.path if self._is_file else self.root / pair_weights_name(control)

    def all_pair_weights(self) -> list[Path]:
        """Return the pair weights of a run, those of controls too: also those of which the manifest alone is left."""
        left = (path.with_name(path.name.removesuffix(f".{MANIFEST}")) for path in entries(self.root, _MANIFESTS))
        return sorted({*entries(self.root, "pair_weights*.parquet"), *left})

    def load(self, name: str) -> np.ndarray:
        """Map one of the arrays of the weights into memory."""
        return load_array(self.density / name)

    def pairs(self) -> tuple[Inputs, dict[str, Any]]:
        """Return the file or files of pairs that the run was made from, and the manifest that names it.

        Raises InputError if nothing names one, or the file is gone. Whether it changed is the caller's to ask.
        """
        prefixes = self.prefixes
        manifest = (self.manifest(prefixes) if prefixes else None) or {}
        if prefixes is None or not (where := manifest.get("pairs_path")):
            raise InputError(f"{self.path} does not say which pairs it was made from; name them with --pairs_path.")
        pairs = named_inputs(prefixes.parent, where)
        if not is_there(pairs):
            raise InputError(
                f"{self.path} was made from {input_text(pairs)}, which is not there; name the pairs with --pairs_path."
            )
        return pairs, manifest


def named_items(folder: Path, manifest: dict[str, Any]) -> Inputs | None:
    """Return the prefixes or prompts that a folder's manifest names, if they are still there."""
    where = manifest.get("items_path")
    return items if where and is_there(items := named_inputs(folder, where)) else None
