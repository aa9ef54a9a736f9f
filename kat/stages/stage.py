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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import orjson

from kat.artifacts import (
    MANIFEST,
    check_vouched,
    is_done,
    manifest,
    manifest_bytes,
    manifest_path,
    open_hashes,
    read_manifest,
    write_folder_manifest,
)
from kat.atomic import as_output_error, new_folder
from kat.digests import Watch, watching
from kat.errors import InputError, KatError, OutputError
from kat.inputs import ComputedInput, HashedInput, Inputs, input_files, input_hash, input_paths, input_text, would_hold
from kat.locks import locked
from kat.outputs import (
    check_alone,
    check_inputs,
    check_strangers,
    is_midway,
    output_files,
    output_folder,
    own_names,
    tidy,
)
from kat.places import check_place, guarded_files, would_disturb
from kat.run_folder import REPORTS, rejected_path, relatives, stats_path
from kat.run_log import Clock, peak_memory
from kat.terminal import bar_off, show, show_fitted, show_more, voice, waiting

T = TypeVar("T")
_Input: TypeAlias = "Path | Sequence[Path] | str | HashedInput | ComputedInput"


@dataclass
class Job:
    """What a stage's body works with.

    `done` says that there is nothing to do. `manifest` is what the output is made from. `file` is the output, or
    `folder` the place for its files; `beside` are further files by name, `rejected` the file for bad rows. `facts` go
    into the manifest, and so does `inputs_at`, where the inputs are as seen from the output.
    """

    label: str
    out: Path
    manifest: dict[str, Any]
    done: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    bad_rows: int = 0
    inputs_at: Mapping[str, Any] = field(default_factory=dict)
    _watch: Watch = field(default_factory=Watch)
    _all_read: bool = False
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

    def changed_input(self) -> Path | None:
        """Return the first file that was read and is not what it was, if any is."""
        return self._watch.first_changed()

    def all_read(self, error: KatError | None = None) -> None:
        """Say that all input is in memory: what changes from now on does no harm. Without it that is the body's end.

        Raises InputError for a file that changed while it was read, which explains an `error`.
        """
        if not self._all_read and (changed := self.changed_input()) is not None:
            raise InputError(
                f"{changed} changed while it was read; nothing was written. Give the same command again."
            ) from error
        self._all_read = True


@contextlib.contextmanager
def stage(
    name: str,
    out: Path,
    *,
    inputs: Mapping[str, _Input],
    options: Mapping[str, Any],
    overwrite: bool,
    files: Iterable[str] = (),
    beside: Mapping[str, Callable[[Path], Path]] | None = None,
    suffix: str = "",
    reads: Iterable[Path] = (),
    apart: Iterable[Path] = (),
    alone: bool = False,
    rejects: bool = False,
) -> Iterator[Job]:
    """Run the body that makes `out`: a folder with at least the `files`, or a file where none are named.

    `inputs` are files, or what else `kat.inputs` finds, which are hashed, or hashes, or what computes one; no output
    may be one of them, nor one of the further files that the stage `reads`, nor be, hold or lie inside a folder that it
    is to be `apart` from: a model, which is read as one thing. With `alone`, a folder whose names are not all known
    before holds nothing of anybody else's. `beside` says where files go that are written with the output, `suffix` is
    that of the output's format if it needs one, and `rejects` says that bad rows are set aside in a file beside it.

    The output is locked while it is made. Every file that is read under a hash is watched: one that changes before the
    body ends, or before it calls `all_read`, is an InputError.

    Raises OutputError for an output that is an input, that another process writes, that was made from something else
    (unless `overwrite`), or whose name is taken by what nothing says is kat's (unless `overwrite`); InputError for an
    input that is missing; MismatchError for one that is not what its manifest says.
    """
    names = tuple(files)
    if names and out.name in ("", ".."):
        out = out.resolve()  # what stands beside it needs a name
    if not names and not out.name:
        raise OutputError(f"{out} is not a file that can be written. Name another output.")
    paths = {name: path for name, value in inputs.items() if (path := _paths_of(value)) is not None}
    models = {name: one.folder for name, one in inputs.items() if isinstance(one, ComputedInput) and one.folder}
    guarded = [*(path for value in paths.values() for path in guarded_files(value)), *reads]
    others = {name: place(out) for name, place in (beside or {}).items()}
    others |= {"rejected": rejected_path(out)} if rejects else {}
    check_place(out, others, guarded, apart=apart, is_folder=bool(names), suffix=suffix)
    for value in paths.values():
        if would_hold(value, out) if not names else would_disturb(value, out):
            raise OutputError(f"{out} would become a part of its own input, {input_text(value)}. Write it elsewhere.")
    with contextlib.ExitStack() as held:
        held.enter_context(waiting(labelled(name, "reads its input, and loads what it needs")))
        watch = held.enter_context(watching())
        made_from = manifest(name, {one: _hash(inputs[one]) for one in inputs}, options)
        folder = out if names else out.parent
        inputs_at = {one: relatives(place, folder) for one, place in {**paths, **models}.items()}
        job = Job(name, out, made_from, inputs_at=inputs_at, _watch=watch)
        if not (done := _is_done(job, names, overwrite=overwrite)):
            held.enter_context(as_output_error(out))
            held.enter_context(new_folder(out.parent))
            held.enter_context(locked(out))
            done = _is_done(job, names, overwrite=overwrite)  # another process may have ended since that was asked
        if done:
            tidy(out)
            job.done = True
            say(name, f"skipped: {out} was made from the same input and options.")
            tell_output(name, out)
            yield job
            return
        _check_names(out, names, others, guarded, overwrite=overwrite)
        if alone and not overwrite:
            check_alone(out)
        clock = Clock()
        output = _folder_output if names else _file_output
        with output(job, others, guarded, overwrite=overwrite):
            try:
                yield job
            except KatError as error:
                job.all_read(error)
                raise
            job.all_read()
    _say_made(job, clock)


def _say_made(job: Job, clock: Clock) -> None:
    """Say what was made, in the log of the run too."""
    if job.bad_rows:
        say("rejected", f"{job.bad_rows:,} bad rows → {rejected_path(job.out)}")
    seconds = clock.seconds
    say(job.label, f"{job._summary} → {job.out}   {seconds:.1f} s")
    clock.log(job.label, job.out)
    show_fitted(*job._details)
    if (most := peak_memory()) is not None:
        show_more(labelled("memory", f"{most / 1e6:,.0f} MB at most since {job.label} began, without workers"))
    tell_output(job.label, job.out, seconds)


def tell_output(label: str, out: Path, seconds: float | None = None) -> None:
    """Add an output to the object that is printed at the end, if one is: its manifest, and the reports that are in it.

    `seconds` are those that it took, None of one that was there.
    """
    if not voice().told:
        return
    reports = [out / name for name in REPORTS] if out.is_dir() else [stats_path(out)]
    voice().outputs.append(
        {
            "stage": label,
            "path": out,
            "was_there": seconds is None,
            "seconds": seconds and round(seconds, 3),
            "manifest": read_manifest(out),
            "reports": {path.name: orjson.loads(path.read_bytes()) for path in reports if path.is_file()},
        }
    )


def _paths_of(value: _Input) -> Inputs | None:
    """The files of an input; None of a hash, or what computes one."""
    if isinstance(value, HashedInput):
        return input_paths(value.named)
    return None if isinstance(value, str | ComputedInput) else value


def _hash(value: _Input) -> str:
    """The hash of an input, compared with what a manifest says of its files."""
    if isinstance(value, str):
        return value
    if isinstance(value, ComputedInput):
        return value.compute()
    named = value.named if isinstance(value, HashedInput) else value
    digest = input_hash(named)
    for file in input_files(named):
        check_vouched(file.path)
    if isinstance(value, HashedInput) and digest != value.digest:
        raise InputError(f"{input_text(named)} changed while it was read. Give the same command again.")
    return digest


def _is_done(job: Job, names: Sequence[str], *, overwrite: bool) -> bool:
    # A command that was killed midway had leave to replace what is there.
    return not is_midway(job.out) and is_done(job.out, job.manifest, names, overwrite=overwrite)


def _check_names(
    out: Path, names: Sequence[str], others: Mapping[str, Path], inputs: Sequence[Path], *, overwrite: bool
) -> None:
    """Raise OutputError for a name that will be written and is taken, before any work is done; what else a folder will
    hold is looked at when it is there."""
    own = own_names(out, [path.name for path in others.values()])
    written = [MANIFEST, *names] if names else [out.name, manifest_path(out).name]
    check_strangers(out if names else out.parent, written, own.files, overwrite=overwrite)
    check_inputs(out if names else out.parent, {*written, *own.files}, inputs)
    check_strangers(out.parent, [path.name for path in others.values()], own.beside, overwrite=overwrite)


@contextlib.contextmanager
def _file_output(job: Job, others: Mapping[str, Path], inputs: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """Files appear in this order: what stands beside, the output, its manifest."""
    with output_files(job.out, others, inputs, overwrite=overwrite) as files:
        job._files = files
        yield
        outputs = {path.name: files[name] for name, path in others.items() if name != "rejected"}
        hashes = open_hashes({job.out.name: files["out"]}, empty=True) | open_hashes(outputs)
        files["manifest"].write(manifest_bytes({**job.manifest, "outputs": hashes, **_told(job, others)}))


@contextlib.contextmanager
def _folder_output(job: Job, others: Mapping[str, Path], inputs: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    with output_folder(job.out, others, inputs, overwrite=overwrite) as (job._folder, job._files):
        yield
        write_folder_manifest(job._folder, job.manifest, **_told(job, others))


def _told(job: Job, others: Mapping[str, Path]) -> dict[str, Any]:
    """What a manifest says beyond what its output is made from: the stage's facts, and files that may be deleted."""
    rejected = {others[name].name: job._files[name] for name in others if name == "rejected"}
    hashes = open_hashes(rejected)
    told = {"inputs_at": job.inputs_at, "beside": hashes}
    return job.facts | {name: value for name, value in told.items() if value}


def with_progress(items: Iterable[T], unit: str) -> Iterable[T]:
    """Give the same items, with a bar from the second second on."""
    from tqdm import tqdm

    return tqdm(items, desc="read", unit=f" {unit}", disable=bar_off(), delay=1)


def labelled(label: str, text: str) -> str:
    """Return a line that begins with who says it."""
    return f"{label:<14} {text}"


def say(label: str, text: str) -> None:
    """Print a line of a stage."""
    show(labelled(label, text))


def say_next(text: str) -> None:
    """Print what to do next; of several processes that train together, the first one does."""
    if voice().told:
        voice().next.append(text)
    elif os.environ.get("RANK", "0") == "0":
        say("next", text)
