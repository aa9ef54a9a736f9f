"""Values of a table's columns as JSON has them."""

from __future__ import annotations

import datetime
import math
import uuid
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """Return a value in JSON's types, also what is inside of it: numbers, times as ISO text, pairs of a map as lists.

    Raises TypeError for a value of a type that JSON has nothing for.
    """
    if value is None or isinstance(value, str | bool | int | float | bytes):
        return value
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "dtype"):  # NumPy's, which is not loaded to find that out
        return plain(value.item())
    raise TypeError(f"a value of type {type(value).__name__}")


def is_finite(value: Any) -> bool:
    """Tell whether a value is a number that a float can hold; a whole one may be too large for that."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
