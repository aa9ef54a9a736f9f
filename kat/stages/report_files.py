"""JSON files of a run as a report reads them: compared with their manifests, and objects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.artifacts import check_vouched
from kat.density.storage import check_weights
from kat.digests import read_file
from kat.errors import InputError, MismatchError
from kat.reports.forms import Form, first_fault
from kat.run_folder import LOG_DENSITY, WEIGHTS, RunFolder


def read_object(path: Path, form: Form, by: Path | None = None) -> dict[str, Any]:
    """Return the object of a form that a JSON file holds, for which the manifest of the output `by` vouches, or its
    own.

    Raises InputError for a file that cannot be read, MismatchError for one of another content or form.
    """
    check_vouched(path, by)
    try:
        value = orjson.loads(read_file(path))
    except orjson.JSONDecodeError as error:
        raise MismatchError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise MismatchError(f"{path} holds no object.")
    return _of_form(str(path), value, form)


def _of_form(where: str, value: dict[str, Any], form: Form) -> dict[str, Any]:
    """Return what a file holds. Raises MismatchError if it is of another form."""
    if (fault := first_fault(value, form)) is not None:
        raise MismatchError(
            f"{where} holds what this version of kat does not write: {fault}. Make what it belongs to again, with "
            "--overwrite."
        )
    return value


def check_arrays(run: RunFolder, ids: list[str]) -> None:
    """Raise MismatchError unless weights are positive with mean 1 and densities finite, one of each an id."""
    check_weights(run.load(WEIGHTS), ids, run.density / WEIGHTS)
    log_density = run.load(LOG_DENSITY)
    if log_density.shape != (len(ids),) or not np.isfinite(log_density).all():
        raise MismatchError(
            f"{run.density / LOG_DENSITY} does not hold {len(ids):,} finite numbers. Make the weights again with "
            "--overwrite."
        )


def read_lines(path: Path, form: Form, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, each of a form, of the first `most`.

    Raises InputError for a file that cannot be read, MismatchError for one of another content or form.
    """
    check_vouched(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(islice(file, most), 1):
                yield _line(path, number, line, form)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _line(path: Path, number: int, line: bytes, form: Form) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MismatchError(f"{path}:{number} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise MismatchError(f"{path}:{number} holds no object.")
    return _of_form(f"{path}:{number}", value, form)
