"""The fault-injection campaign: what kat leaves behind when the system fails it. `python -m tests.faults` runs it."""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.append(_TESTS)  # what the tests make their files with
