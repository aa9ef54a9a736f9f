"""The protocol that all stages share: check outputs, skip what is done, time, write atomically, finalise, say so.

    with stage("sample", out, inputs={"weights": path}, options={"budget": 10}) as job:
        if job.done:
            return
        job.file.write(…)
        job.say("10 openings")

The body reads, makes one pure call, and writes to `job.file` (or into `job.folder`). When it ends well, the manifest is
written, everything appears under its name at once, and one line is printed; when it does not, nothing appears.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from kat.artifacts import (
    atomic_files,
    atomic_folder,
    file_manifest,
    is_done,
    manifest,
    manifest_path,
    write_folder_manifest,
)
from kat.errors import OutputError
from kat.inputs import Inputs, input_files, input_hash, input_paths, input_text, would_hold
from kat.run_folder import rejected_path

T = TypeVar("T")


@dataclass
class Job:
    """What a stage's body works with.

    `done` says that there is nothing to do. `manifest` is what the output is made from. `file` is the output, or
    `folder` the place for its files; `beside` are further files by name, `rejected` the file for bad rows. `facts` go
    into the manifest.
    """

    label: str
    out: Path
    manifest: dict[str, Any]
    done: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    bad_rows: int = 0
    _inputs: Mapping[str, Inputs] = field(default_factory=dict)
    _files: Mapping[str, IO[bytes]] = field(default_factory=dict)
    _folder: Path | None = None
    _summary: str = ""
    _details: list[str] = field(default_factory=list)

    @property
    def file(self) -> IO[bytes]:
        """The output, open for writing."""
        return self._files["out"]

    @property
    def rejected(self) -> IO[bytes]:
        """The file for bad rows, open for writing; it appears only if there are any."""
        return self._files["rejected"]

    def beside(self, name: str) -> IO[bytes]:
        """Return one of the files beside the output, open for writing."""
        return self._files[name]

    @property
    def folder(self) -> Path:
        """The scratch folder whose files become the output's."""
        assert self._folder is not None, "this output is a file"
        return self._folder

    def say(self, summary: str, details: Iterable[str] = ()) -> None:
        """Set what is printed when the output is complete: one line, and lines below it."""
        self._summary, self._details = summary, list(details)

    def changed_input(self) -> Inputs | None:
        """Return the first input that is not what it was when the stage began, if any is."""
        inputs = self.manifest["inputs"]
        return next((path for name, path in self._inputs.items() if input_hash(path) != inputs[name]), None)


@contextlib.contextmanager
def stage(
    name: str,
    out: Path,
    *,
    inputs: Mapping[str, Path | Sequence[Path] | str],
    options: Mapping[str, Any],
    overwrite: bool,
    files: Iterable[str] = (),
    beside: Mapping[str, Callable[[Path], Path]] | None = None,
    suffix: str = "",
    reads: Iterable[Path] = (),
    rejects: bool = False,
) -> Iterator[Job]:
    """Run the body that makes `out`: a folder with at least the `files`, or a file where none are named.

    `inputs` are files, or what else `kat.inputs` finds, which are hashed, or hashes; no output may be one of them, nor
    one of the further files that the stage `reads`. `beside` says where files go that are written with the output,
    `suffix` is that of the output's format if it needs one, and `rejects` says that bad rows are set aside in a file
    beside it.

    Raises OutputError for an output that is an input, or that was made from something else (unless `overwrite`),
    InputError for an input that is missing.
    """
    names = tuple(files)
    if names and out.name in ("", ".."):
        out = out.resolve()  # what stands beside it needs a name
    paths = {name: value for name, value in inputs.items() if not isinstance(value, str)}
    guarded = [*(path for value in paths.values() for path in _guarded(value)), *reads]
    if names:
        _check_places([out / name for name in names], guarded)
    else:
        check_output(out, guarded, suffix)
        check_output(manifest_path(out), guarded)
    others = {name: place(out) for name, place in (beside or {}).items()}
    for other in [*others.values(), *([rejected_path(out)] if rejects else [])]:
        check_output(other, guarded)
    for value in paths.values():
        if would_hold(value, out) if not names else _would_disturb(value, out):
            raise OutputError(f"{out} would become a part of its own input, {input_text(value)}. Write it elsewhere.")
    hashes = {name: value if isinstance(value, str) else input_hash(value) for name, value in inputs.items()}
    job = Job(name, out, manifest(name, hashes, options), _inputs=paths)
    if is_done(out, job.manifest, names, overwrite=overwrite):
        job.done = True
        say(name, f"skipped: {out} was made from the same input and options.")
        yield job
        return
    began = time.monotonic()
    with _folder_output(job, rejects) if names else _file_output(job, others, rejects):
        yield job
    if job.bad_rows:
        say("rejected", f"{job.bad_rows:,} bad rows → {rejected_path(out)}")
    say(name, f"{job._summary} → {out}   {time.monotonic() - began:.1f} s")
    for line in job._details:
        print(line)


@contextlib.contextmanager
def _file_output(job: Job, beside: Mapping[str, Path], rejects: bool) -> Iterator[None]:
    """Files appear in this order: bad rows, what stands beside, the output, its manifest."""
    paths = {"rejected": rejected_path(job.out)} if rejects else {}
    paths |= {**beside, "out": job.out, "manifest": manifest_path(job.out)}
    with atomic_files(*paths.values()) as opened:
        files = dict(zip(paths, opened, strict=True))
        job._files = files
        yield
        outputs = {paths[name].name: files[name] for name in ("out", *beside)}
        files["manifest"].write(file_manifest(job.manifest, outputs, **job.facts))


@contextlib.contextmanager
def _folder_output(job: Job, rejects: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        job._folder = stack.enter_context(atomic_folder(job.out))
        if rejects:
            # Bad rows get their name before the folder does: a folder that is complete lacks nothing.
            (bad,) = stack.enter_context(atomic_files(rejected_path(job.out)))
            job._files = {"rejected": bad}
        yield
        write_folder_manifest(job._folder, job.manifest, **job.facts)


def _guarded(named: Inputs) -> list[Path]:
    """The files of an input, no output may be one of; one file need not be there yet, which its hash will say."""
    paths = input_paths(named)
    return (
        list(paths)
        if all(not path.exists() or path.is_file() for path in paths)
        else [file.path for file in input_files(named)]
    )


def _would_disturb(named: Inputs, out: Path) -> bool:
    """Whether a folder written to `out` would stand among the shards of a folder that is read."""
    return any(path.is_dir() and out.resolve().parent == path.resolve() for path in input_paths(named))


def _check_places(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise OutputError for a file of a folder that is one of the inputs.

    By place, not by file: a folder may hold a hard link to what it was made from, and replaces the link alone.
    """
    places = {source.resolve() for source in inputs}
    for path in outputs:
        if path.resolve() in places:
            raise OutputError(f"{path} is the input, which is never overwritten. Name another output.")


def check_output(out: Path, inputs: Sequence[Path], suffix: str = "") -> None:
    """Raise OutputError for an output that is one of the inputs, or that is named like another format.

    `suffix` is that of the output's format, if it needs one.
    """
    if not out.name:
        raise OutputError(f"{out} is not a file that can be written. Name another output.")
    for source in inputs:
        if source.exists() and out.exists() and out.samefile(source):
            raise OutputError(f"{out} is the input, which is never overwritten. Name another output.")
    if suffix and out.suffix != suffix:
        raise OutputError(f"{out} is written as {suffix[1:]}; give it a name that ends in {suffix}.")
    if out.suffix in (".gz", ".zst", ".parquet") and out.suffix != suffix:
        raise OutputError(f"{out} would be written uncompressed; name it without {out.suffix}.")


def with_progress(items: Iterable[T], unit: str) -> Iterable[T]:
    """Give the same items, with a bar from the second second on."""
    from tqdm import tqdm

    return tqdm(items, desc="read", unit=f" {unit}", disable=None, delay=1)


def labelled(label: str, text: str) -> str:
    """Return a line that begins with who says it."""
    return f"{label:<14} {text}"


def say(label: str, text: str) -> None:
    """Print a line of a stage."""
    print(labelled(label, text))


def say_next(text: str) -> None:
    """Print what to do next; of several processes that train together, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        say("next", text)
