"""Proof that what kat wrote is complete and what it says: files, hashes, and each stage's own promises.

A stage's file may define `prove(output, run, prompts) -> lines`, which is called for what a manifest of that name
describes; what every stage shares, that files hash to what the manifest says, is checked here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from kat.artifacts import MANIFEST, first_damage, manifest_path, sha256_file
from kat.errors import InputError, MismatchError
from kat.inputs import Inputs
from kat.plugins import names
from kat.run_folder import DENSITY, DENSITY_FILES, EMBEDDINGS, PREFIXES, VECTORS, RunFolder, weigh_again


def verify(path: Path, prompts: Inputs | None = None) -> list[str]:
    """Check a folder of `kat run`, or whatever one stage wrote; return what was proved, a line each.

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
    _check_hashes(prefixes, _stage_manifest(prefixes, run, "prefixes"))
    lines = [f"{prefixes}: hashes to what its manifest says"]
    for output, name, source in ((embeddings, "embed", prefixes), (density, "density", embeddings / VECTORS)):
        manifest = _stage_manifest(output, run, name)
        lines += _verify_output(output, run, prefixes)
        if sha256_file(source) not in manifest["inputs"].values():
            raise MismatchError(f"{output} was not made from {source} as it is now. Run it again with --overwrite.")
    for path in run.all_pair_weights():
        if not path.is_file():
            raise MismatchError(
                f"{path} is not there, and its manifest is. Make it again: {weigh_again(path)} --overwrite"
            )
        if run.manifest(path) is None:
            raise MismatchError(
                f"{path} has no manifest: the run that wrote it did not finish. "
                f"Make it again: {weigh_again(path)} --overwrite"
            )
        _stage_manifest(path, run, "weigh-pairs")
        lines += [f"{path}", *_prove(path, run, prompts=None)]
    return lines


def _stage_manifest(output: Path, run: RunFolder, name: str) -> dict[str, Any]:
    """The manifest of a part of a run. Raises MismatchError if another stage wrote it."""
    manifest = run.manifest(output) or {}
    if manifest.get("stage") != name:
        raise MismatchError(f"{output} was written by kat {manifest.get('stage')}, not by kat {name}. Run it again.")
    return manifest


def _verify_output(path: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    manifest = run.manifest(path)
    if manifest is None:
        raise _no_manifest(path)
    # Rows before hashes: a hash cannot say which row is wrong.
    lines = [f"{path}", *_prove(path, run, prompts)]
    _check_hashes(path, manifest)
    return [*lines, f"  {len(manifest['outputs'])} files hash to what the manifest says"]


def _prove(path: Path, run: RunFolder, prompts: Inputs | None) -> list[str]:
    """What the stage that wrote an output promises beyond its hashes."""
    stage = (run.manifest(path) or {})["stage"]
    name = "export_model" if stage == "export" else stage.replace("-", "_")
    if name not in names("stages"):
        return [f"  kat {stage} is no command of this version; nothing but hashes is checked"]
    proof: Any = getattr(import_module(f"kat.stages.{name}"), "prove", None)
    return [] if proof is None else proof(path, run, prompts)


def _check_hashes(path: Path, manifest: dict[str, Any]) -> None:
    if damage := first_damage(path, manifest):
        raise MismatchError(f"{path}: {damage}. Make it again with --overwrite.")


def _no_manifest(path: Path) -> InputError | MismatchError:
    has_manifest = manifest_path(path).is_file()
    if path.is_dir() and any((path / file).exists() for file in DENSITY_FILES):
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
