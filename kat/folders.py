"""What is in a folder, or an error: a refused listing is never an empty folder, as it is to the globs of pathlib."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import NoReturn


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files below a folder whose names match, sorted; linked folders are not entered. Raises OSError."""
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=_raise)
        for name in fnmatch.filter(names, pattern)
        if Path(place, name).is_file()
    )


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what is in a folder, files and folders, whose names match, sorted. Raises OSError."""
    return sorted(folder / name for name in fnmatch.filter(os.listdir(folder), pattern))


def remove_file(path: Path) -> None:
    """Remove a file if it is there, also if a signal ends the command just then. Raises OSError."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _raise(error: OSError) -> NoReturn:
    raise error
