"""Proof that what kat wrote is complete and what it says: files, hashes, and each stage's own promises.

A stage's file may define `prove(output, run, prompts) -> lines`, which is called for what a manifest of that name
describes; what every stage shares, that files hash to what the manifest says, is checked here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from kat.artifacts import MANIFEST, first_damage
from kat.errors import InputError, MismatchError
from kat.plugins import names
from kat.run_folder import DENSITY, DENSITY_FILES, EMBEDDINGS, PREFIXES, RunFolder


def verify(path: Path, prompts: Path | None = None) -> list[str]:
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
    prefixes = run.root / PREFIXES
    manifest = run.manifest(prefixes)
    if manifest is None:
        raise MismatchError(f"{prefixes} has no manifest: the run that wrote it did not finish. Run it again.")
    _check_hashes(prefixes, manifest)
    lines = [f"{prefixes}: hashes to what its manifest says"]
    for folder in (run.root / EMBEDDINGS, run.root / DENSITY):
        lines += _verify_output(folder, run, prefixes)
    for path in run.all_pair_weights():
        if run.manifest(path) is None:
            raise MismatchError(
                f"{path} has no manifest: the run that wrote it did not finish. "
                "Make it again: kat weigh-pairs RUN --overwrite"
            )
        lines += [f"{path}", *_prove(path, run, prompts=None)]
    return lines


def _verify_output(path: Path, run: RunFolder, prompts: Path | None) -> list[str]:
    manifest = run.manifest(path)
    if manifest is None:
        raise _no_manifest(path)
    if "kat_version" not in manifest:
        raise InputError(f"{path} is nothing that kat wrote: the manifest there is somebody else's.")
    # Rows before hashes: a hash cannot say which row is wrong.
    lines = [f"{path}", *_prove(path, run, prompts)]
    _check_hashes(path, manifest)
    return [*lines, f"  {len(manifest['outputs'])} files hash to what the manifest says"]


def _prove(path: Path, run: RunFolder, prompts: Path | None) -> list[str]:
    """What the stage that wrote an output promises beyond its hashes."""
    name = str((run.manifest(path) or {}).get("stage")).replace("-", "_")
    if name not in names("stages"):
        return []
    proof: Any = getattr(import_module(f"kat.stages.{name}"), "prove", None)
    return [] if proof is None else proof(path, run, prompts)


def _check_hashes(path: Path, manifest: dict[str, Any]) -> None:
    if damage := first_damage(path, manifest):
        raise MismatchError(f"{path}: {damage}. Make it again with --overwrite.")


def _no_manifest(path: Path) -> InputError | MismatchError:
    if path.is_dir() and any((path / file).exists() for file in DENSITY_FILES):
        return MismatchError(
            f"{path}: its manifest is missing: the run that wrote it did not finish. "
            "Run the same command again with --overwrite."
        )
    kind = f"holds no {MANIFEST}" if path.is_dir() else "has no manifest beside it"
    return InputError(f"{path} is nothing that kat wrote: it {kind}.")
