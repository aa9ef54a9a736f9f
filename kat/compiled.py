"""Where compiled code is kept: flags for numba that hold on a machine where nothing can be written.

numba keeps compiled functions in the source's `__pycache__` or in a folder of the user's, and raises as it meets the
function where it can write neither: a read-only container without a home. Its index is a pickle, so whoever can write
where it is read runs code as this user. What is read here is therefore a folder that only this user (or root, or the
owner of the source itself) can write.
"""

from __future__ import annotations

import os
import stat
import tempfile
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_WAY_OUT = "NUMBA_CACHE_DIR=DIR names a folder of yours that can be written."


def kernel_flags(source: str) -> dict[str, Any]:
    """Return what `numba.njit` is told for the kernels in the file `source`: cached wherever that is possible and safe.

    numba's own choice of a place stands (`NUMBA_CACHE_DIR`, the source's `__pycache__`, the user's cache folder) if
    nobody else can write there; else it is a private folder in the temporary directory, which is said as it is made;
    else each process compiles for itself, which is said too. In the second case numba's place for what this process
    decorates from then on is that folder, for numba has one such setting.
    """
    return {"cache": _can_cache(Path(source)), "nogil": True, "error_model": "numpy"}


def kernel(signatures: list | None = None, **flags: Any) -> Callable[[Callable], Any]:
    """Return the decorator `numba.njit(signatures, **flags)`; what it keeps of compiled code is never an error.

    With `signatures` it compiles at once, and for these types alone.
    """
    import numba

    def decorate(function: Callable) -> Any:
        dispatcher = numba.njit(**flags | {"cache": False})(function)
        if not hasattr(dispatcher, "compile"):  # NUMBA_DISABLE_JIT: it stays Python
            return dispatcher
        if flags.get("cache"):
            _keep(dispatcher, function)
        if signatures is not None:
            from numba.core.typeinfer import register_dispatcher

            with register_dispatcher(dispatcher):
                for signature in signatures:
                    dispatcher.compile(signature)
                dispatcher.disable_compile()
        return dispatcher

    return decorate


def _keep(dispatcher: Any, function: Callable) -> None:
    """Have a function's compiled code kept, by numba itself where its version is made otherwise than kat's cache."""
    try:
        from kat.kernel_cache import KernelCache

        dispatcher._cache = KernelCache(function)
    except (ImportError, AttributeError, TypeError):
        dispatcher.enable_caching()
    except (OSError, RuntimeError):  # the place went since it was looked at
        _say_uncached()


def _can_cache(source: Path) -> bool:
    import numba

    place = _own_place(source)
    if place is not None and _is_trusted(place, source):
        return True
    if (private := private_folder()) is not None:
        numba.config.CACHE_DIR = str(private)
        if _numba_place(source) is not None:
            return True
    _say_uncached()
    return False


def _own_place(source: Path) -> Path | None:
    """Return numba's own choice of a folder; None where it has none, or takes one for lack of a home.

    Without `HOME` and without an entry in the list of users, "~" means nothing and numba would make, and read, a
    folder of that name in the working directory, wherever that is.
    """
    import numba

    named = numba.config.CACHE_DIR and _is_writable(Path(numba.config.CACHE_DIR))
    if named or os.environ.get("XDG_CACHE_HOME") or os.path.isabs(os.path.expanduser("~")):
        return _numba_place(source)
    near = source.parent / "__pycache__"
    return near if _is_writable(near) else None


def _numba_place(source: Path) -> Path | None:
    """Ask numba itself where it would cache a function of the file; None if nowhere. Compiles nothing."""
    import numba

    code = _probe.__code__.replace(co_filename=str(source))
    try:
        dispatcher = numba.njit(cache=True)(types.FunctionType(code, {}))
    except RuntimeError:  # "cannot cache function …: no locator available"
        return None
    stats = getattr(dispatcher, "stats", None)  # none with NUMBA_DISABLE_JIT: nothing is compiled nor read
    return source.parent if stats is None else Path(stats.cache_path)


def _probe() -> None:
    """Do nothing: what numba is asked about."""


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_trusted(folder: Path, source: Path) -> bool:
    """Tell whether only this user, root and the owner of the source, who could change that, put files in the folder."""
    if not hasattr(os, "geteuid"):  # Windows: numba's places are in the user's profile, guarded by its own rights
        return True
    try:
        state, owner = folder.stat(), source.stat().st_uid
    except OSError:  # in a folder that this user may not look into
        return False
    return state.st_uid in {os.geteuid(), 0, owner} and not state.st_mode & stat.S_IWOTH


def private_folder(parent: str | None = None) -> Path | None:
    """Return a folder of this user alone in the temporary directory (or `parent`), made if need be; None if none is.

    It is refused if it is a link, belongs to anybody else or has any right for others, and so is a parent in which
    others could put theirs in its place: one that they can write, without the sticky bit.
    """
    if not hasattr(os, "geteuid"):
        return None
    try:
        within = Path(parent or tempfile.gettempdir()).resolve()
        folder = within / f"kat-numba-{os.geteuid()}"
        if not all(_keeps_names(above) for above in (within, *within.parents)):
            return None
        is_new = _make_private(folder)
        state = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077:
        return None
    if not _is_writable(folder):
        return None
    if is_new:
        warnings.warn(
            f"Compiled code can be kept neither beside kat nor in a home: it is kept in {folder}. {_WAY_OUT}",
            stacklevel=2,
        )
    return folder


def _make_private(folder: Path) -> bool:
    """Make the folder, mode 700, and tell whether it was not there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _keeps_names(folder: Path) -> bool:
    """Tell whether nobody but this user and root can rename or remove what stands in the folder."""
    state = folder.stat()
    return state.st_uid in {os.geteuid(), 0} and (not state.st_mode & 0o022 or bool(state.st_mode & stat.S_ISVTX))


@cache
def _say_uncached() -> None:
    warnings.warn(
        f"Compiled code can be kept nowhere that is this user's alone: every process compiles again. {_WAY_OUT}",
        stacklevel=2,
    )
