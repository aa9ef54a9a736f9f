"""Proof that what kat wrote is complete and what it says: files, hashes, inputs, and each stage's own promises.

A stage's file may define `prove(output, run, prompts) -> lines`, which is called for what a manifest of that name
describes. What every stage shares is checked here: that files hash to what the manifest says, and that the inputs that
are still in their places are those that the output was made from. What can no longer be compared is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from kat.artifacts import MANIFEST, first_damage, manifest_path
from kat.digests import sha256_file
from kat.errors import InputError, MismatchError
from kat.inputs import Inputs, input_hash, input_paths, input_text, is_there
from kat.locks import is_lock
from kat.models.digests import digest_now
from kat.plugins import names
from kat.run_folder import (
    DENSITY,
    DENSITY_FILES,
    EMBEDDING_FILES,
    EMBEDDINGS,
    FEATURES,
    NEIGHBOR_FILES,
    NEIGHBORS,
    PREFIXES,
    REFERENCE,
    RUN_LOG,
    UNFINISHED,
    VECTORS,
    RunFolder,
    named_inputs,
    weigh_again,
)

_DEPTH = 2
"""Folders below a run in which outputs are looked for."""


def verify(path: Path, prompts: Inputs | None = None) -> list[str]:
    """Check a folder of `kat run` with all that was made in it, or what one stage wrote; return what was proved.

    `prompts` is the file that was embedded; by default the one that the folder names.

    Raises InputError if kat wrote no such thing, MismatchError naming the first wrong file or row.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    run = RunFolder(path)
    if path.is_dir() and run.is_run:
        return _verify_run(run)
    return _verify_output(path, run, prompts)


def _verify_run(run: RunFolder) -> list[str]:
    prefixes, embeddings, density = (run.root / name for name in (PREFIXES, EMBEDDINGS, DENSITY))
    for output in (prefixes, embeddings, density):
        if run.manifest(output) is None:
            raise MismatchError(f"{output} has no manifest: the run that wrote it did not finish. Run it again.")
    lines = []
    for output, name in ((prefixes, "prefixes"), (embeddings, "embed"), (density, "density")):
        if (run.manifest(output) or {}).get("stage") != name:
            stage = (run.manifest(output) or {}).get("stage")
            raise MismatchError(f"{output} was written by kat {stage}, not by kat {name}. Run it again.")
        lines += _verify_output(output, run, None if output == prefixes else prefixes)
    if sha256_file(embeddings / VECTORS) not in (run.manifest(density) or {})["inputs"].values():
        raise MismatchError(f"{density} was not made from {embeddings / VECTORS} as it is now. Run it again.")
    for path in run.all_pair_weights():
        check_weights_file(path, run)
    proved = {prefixes, embeddings, density, density / NEIGHBORS}
    for output in outputs_in(run.root):
        if output not in proved:
            lines += _verify_output(output, run, None)
            proved.add(output)
    return lines + not_covered(run.root, proved)


def check_weights_file(path: Path, run: RunFolder) -> None:
    """Raise MismatchError for pair weights without a manifest, the other way round, or by another stage."""
    lacking = "is not there, and its manifest is" if not path.is_file() else ""
    if not lacking and run.manifest(path) is None:
        lacking = "has no manifest: the run that wrote it did not finish"
    if lacking:
        raise MismatchError(f"{path} {lacking}. Make it again: {weigh_again(path)} --overwrite")
    if (stage := (run.manifest(path) or {}).get("stage")) != "weigh-pairs":
        raise MismatchError(f"{path} was written by kat {stage}, not by kat weigh-pairs. Run it again.")


def outputs_in(folder: Path, depth: int = _DEPTH, *, damaged: bool = False) -> Iterator[Path]:
    """Yield what has a manifest of kat's own in a folder, or in folders below, in order.

    Raises MismatchError for a folder whose manifest is damaged, which is yielded too if `damaged`.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.name.endswith(f".{MANIFEST}"):
            yield path.with_name(path.name.removesuffix(f".{MANIFEST}"))
        elif path.is_dir() and not path.is_symlink():
            # A checkpoint's manifest says what its work is of, and vouches for no file.
            if (path / MANIFEST).is_file() and _is_output(path, damaged=damaged):
                yield path
            if depth:
                yield from outputs_in(path, depth - 1, damaged=damaged)


def _is_output(folder: Path, *, damaged: bool) -> bool:
    """Whether the manifest of a folder vouches for files, or is `damaged` if those count."""
    try:
        return bool((RunFolder(folder).manifest(folder) or {}).get("outputs"))
    except MismatchError:
        if not damaged:
            raise
        return True


def not_covered(root: Path, proved: set[Path]) -> list[str]:
    """Say which names in a run's folder belong to nothing that has a manifest."""
    covered = {
        root / FEATURES,
        root / REFERENCE,
        root / RUN_LOG,
    }  # can be deleted; features are checked where they are read
    for output in proved:
        covered |= {output, manifest_path(output)}
        manifest = RunFolder(output).manifest(output) or {}
        folder = output if output.is_dir() else output.parent
        covered |= {folder / name for name in manifest.get("outputs", {})}
        covered |= {output.parent / name for name in manifest.get("beside", {})}
    names = (path for path in root.iterdir() if not is_lock(path.name))
    others = sorted(p.name for p in names if not any(p == c or p in c.parents for c in covered))
    stopped = [name for name in others if name.endswith(UNFINISHED)]
    lines = [f"{root}: {name} is of work that was stopped, or goes on; the same command ends it" for name in stopped]
    unknown = [name for name in others if name not in stopped]
    return [*lines, *([f"{root}: no manifest speaks of {', '.join(unknown)}"] if unknown else [])]


def _verify_output(path: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    manifest = run.manifest(path)
    if manifest is None:
        raise no_manifest(path)
    _check_lists(path, manifest)
    # Rows before hashes: a hash cannot say which row is wrong.
    lines = [f"{path}", *_prove(path, run, prompts)]
    if damage := first_damage(path, manifest):
        raise MismatchError(f"{path}: {damage}. Make it again with --overwrite.")
    hashed = len(manifest["outputs"])
    lines.append(f"  {hashed} {'file hashes' if hashed == 1 else 'files hash'} to what the manifest says")
    return [*lines, *_compare_beside(path, manifest), *_compare_inputs(path, manifest, prompts)]


def _check_lists(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise MismatchError for a manifest that vouches for nothing, or not for the file that it is of."""
    outputs = manifest.get("outputs")
    if not isinstance(outputs, dict) or not outputs or (not path.is_dir() and path.name not in outputs):
        raise MismatchError(f"{path}: its manifest does not list its files. Make it again with --overwrite.")


def _compare_beside(path: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Compare what stands beside an output and may be deleted: bad rows that were set aside."""
    for name, digest in (manifest.get("beside") or {}).items():
        other = path.with_name(name)
        if not other.is_file():
            yield f"  {name} is not there any more"
        elif sha256_file(other) != digest:
            raise MismatchError(f"{other} does not hash to what the manifest of {path} says. Make it again.")


def _compare_inputs(path: Path, manifest: Mapping[str, Any], prompts: Inputs | None) -> Iterator[str]:
    """Compare the inputs that a manifest names with what is in their places now. Raises MismatchError."""
    folder = path if path.is_dir() else path.parent
    hashes, compared = manifest["inputs"], 0
    for name, where in _inputs_at(manifest).items():
        if name not in hashes or (name == "items" and prompts is not None):
            continue
        named = _plain(named_inputs(folder, where))
        is_model = isinstance(named, Path) and named.is_dir() and (named / "config.json").is_file()
        if not is_model and not is_there(named):
            yield f"  its input {input_text(named)} is not there now, and was not compared"
            continue
        now = digest_now(name, named) if is_model and isinstance(named, Path) else input_hash(named)
        if now != hashes[name]:
            raise MismatchError(
                f"{path} was not made from {input_text(named)} as it is now: its {name} changed. "
                "Make it again with --overwrite, or bring the old ones back."
            )
        compared += 1
    if compared:
        yield "  its input is what it was" if compared == 1 else f"  its {compared} inputs are what they were"


def _plain(named: Inputs) -> Inputs:
    """The same paths without the steps back of a path that was seen from elsewhere."""
    paths = tuple(Path(os.path.normpath(path)) for path in input_paths(named))
    return paths[0] if isinstance(named, Path) else paths


def _inputs_at(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where the inputs are, as seen from the output; manifests of older versions tell of some."""
    told = {"pairs": manifest.get("pairs_path"), "items": manifest.get("items_path")}
    return {name: where for name, where in told.items() if where} | (manifest.get("inputs_at") or {})


def _prove(path: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    """What the stage that wrote an output promises beyond its hashes."""
    stage = (run.manifest(path) or {})["stage"]
    name = "export_model" if stage == "export" else stage.replace("-", "_")
    if name not in names("stages"):
        return [f"  kat {stage} is no command of this version; nothing but hashes is checked"]
    proof: Any = getattr(import_module(f"kat.stages.{name}"), "prove", None)
    return [] if proof is None else proof(path, run, prompts)


def no_manifest(path: Path) -> InputError | MismatchError:
    """Return the error of what has no manifest of kat's."""
    has_manifest = manifest_path(path).is_file()
    if path.is_dir() and any((path / file).exists() for file in (*DENSITY_FILES, *EMBEDDING_FILES, *NEIGHBOR_FILES)):
        state = "damaged" if has_manifest else "missing"
        return MismatchError(
            f"{path}: its manifest is {state}: the run that wrote it did not finish, or somebody changed it. "
            "Run the same command again with --overwrite."
        )
    if (path / PREFIXES).is_file():
        return MismatchError(f"{path} holds prefixes and no weights: its run did not finish. Run it again.")
    if has_manifest:
        return InputError(f"{path} is nothing that kat wrote: {manifest_path(path)} is damaged or somebody else's.")
    kind = f"holds no {MANIFEST}" if path.is_dir() else "has no manifest beside it"
    return InputError(f"{path} is nothing that kat wrote: it {kind}.")
