"""Kept machine code that can be damaged, unreadable or impossible to write, and is compiled again then.

numba keeps an index and numbered files a function, trusts what it reads, and raises whatever it meets. Here each
version of a function is one file, named after the types of its arguments and the processor. It begins with a hash of
all the rest, for a flipped bit in machine code is no error but a wrong result, and with what it was compiled from.
Nothing that does not hash to what it says is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps, pickle

_HASH = 32
"""Bytes of a sha256."""
_said: list[str] = []


class _DamagedError(Exception):
    """A file that does not hash to what it says."""


class KernelFiles:
    """The files of one function: what numba's cache asks for its index and data.

    `base` is the beginning of their names, `stamp` says which state of the source they were compiled from.
    """

    def __init__(self, folder: Path, base: str, stamp: object) -> None:
        self.folder, self.base = folder, base
        self._stamp = f"{numba.__version__} {stamp!r}"

    def load(self, key: tuple) -> Any:
        """Return what was saved under a key; None if nothing was, or from another state of the source.

        Raises OSError for a file that cannot be read, _DamagedError for one that is not what was written.
        """
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        kept, rest = content[:_HASH], memoryview(content)[_HASH:]
        if hashlib.sha256(rest).digest() != kept:
            raise _DamagedError
        origin = self._origin(key)
        return pickle.loads(rest[_HASH:]) if rest[:_HASH] == origin else None

    def save(self, key: tuple, data: Any) -> None:
        """Write under a key, in the place of what is there. Raises OSError where it cannot be written."""
        path, rest = self._path(key), self._origin(key) + dumps(data)
        temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
        try:
            temporary.write_bytes(hashlib.sha256(rest).digest() + rest)
            with contextlib.suppress(OSError):  # an empty folder in its place, which no file replaces
                path.rmdir()
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def flush(self) -> None:
        """Remove what is kept of the function."""
        for path in self.folder.glob(f"{self.base}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: tuple) -> Path:
        signature, processor, *_ = key
        return self.folder / f"{self.base}.{_sha256((signature, processor)).hex()[:16]}.nbc"

    def _origin(self, key: tuple) -> bytes:
        return _sha256((self._stamp, key))


class KernelCache(FunctionCache):
    """numba's cache of a function, for which no state of its files is an error."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = KernelFiles(Path(self._cache_path), self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function for types; None to have it compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # numba and pickle raise whatever they meet
            what = "does not hold what was written" if isinstance(error, _DamagedError) else _reason(error)
            _say(f"Compiled code kept in {self._cache_path} {what}: it is compiled again, and kept if possible.")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function if that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # as above
            _say(f"Compiled code cannot be kept in {self._cache_path}: it {_reason(error)}. The next start compiles.")


def _reason(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return f"cannot be used ({words})"


def _sha256(value: object) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()


def _say(note: str) -> None:
    """Warn once a process: what befell one file of a folder befell others."""
    if not _said:
        _said.append(note)
        warnings.warn(f"{note} NUMBA_CACHE_DIR=DIR names another folder.", stacklevel=2)
