"""A local GGUF file."""

from __future__ import annotations

from kat.models.gguf import dequantised
from kat.models.sources import ModelSource, Source, local_path


def _accepts(name: str) -> bool:
    path = local_path(name)
    return path.is_file() and path.suffix == ".gguf"


def _find(name: str, allow_network: bool) -> ModelSource:
    return ModelSource(name, dequantised(local_path(name)))


PLUGIN = Source(name="gguf", help="a local GGUF file, de-quantised once", find=_find, accepts=_accepts)
